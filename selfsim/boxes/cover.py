"""`box_cover`: all box-covering algorithms under one name."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal, TypeAlias, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from ..checks import check_choice, check_integer
from . import burning, complete_linkage, exact, fast, greedy_coloring, memb, overlapping
from .inputs import Coverable, Distances, Networkx, Points, as_distances
from .sizes import check_sizes

# From distances, the longest distance allowed and a random generator (or None) to the box of every node (n,), numbered
# from 0; for boxes that overlap, to a boolean matrix (n, boxes).
Method: TypeAlias = Callable[[Distances, float, np.random.Generator | None], NDArray]
BY_L_B: dict[str, Method] = {
    "greedy-coloring": greedy_coloring.cover,
    "cbb": burning.compact_box,
    "overlapping": overlapping.cover,
    "complete-linkage": complete_linkage.cover,
    "exact": exact.cover_by_size,
}
BY_R_B: dict[str, Method] = {
    "memb": memb.cover,
    "random-sequential": burning.random_sequential,
    "fast": fast.cover,
    "exact": exact.cover_by_radius,
}
# The methods whose covers depend on a seed.
SEEDED = {"greedy-coloring", "cbb", "random-sequential"}


class _Options(TypedDict, total=False):
    l_B: float | None
    r_B: float | None
    weight: str | None
    seed: int | None


# "overlapping" is a str too, and its covers differ.
@overload
def box_cover(  # type: ignore[overload-overlap]
    graph: Networkx, *, method: Literal["overlapping"], **options: Unpack[_Options]
) -> dict[Hashable, tuple[int, ...]]: ...
@overload
def box_cover(graph: Networkx, *, method: str, **options: Unpack[_Options]) -> dict[Hashable, int]: ...
@overload
def box_cover(  # type: ignore[overload-overlap]
    graph: Points, *, method: Literal["overlapping"], **options: Unpack[_Options]
) -> NDArray[np.bool_]: ...
@overload
def box_cover(graph: Points, *, method: str, **options: Unpack[_Options]) -> NDArray[np.int64]: ...
def box_cover(
    graph: Coverable,
    *,
    l_B: float | None = None,
    r_B: float | None = None,
    method: str,
    weight: str | None = None,
    seed: int | None = None,
) -> dict[Hashable, int] | dict[Hashable, tuple[int, ...]] | NDArray[np.int64] | NDArray[np.bool_]:
    """Cover a graph or point set with boxes.

    Parameters
    ----------
    graph
        A networkx graph or scipy sparse matrix (shortest paths), a square matrix of distances, condensed
        distances, or anything with ``.distances`` and ``.n`` such as a `FeatureNetwork`. Self-loops do not count.
    l_B : float, optional
        Box size: nodes in one box are at pairwise distances *less than* this. In hops, ``l_B=1`` gives one box per
        node.
    r_B : float, optional
        Box radius: nodes are *at most* this far from the centre of their box. Exactly one of the two is needed.
    method : str
        By l_B: "greedy-coloring", "cbb" (compact box burning), "overlapping" (OBCA), "complete-linkage" (the paper's
        exact procedure; distances only, not graphs), "exact" (small graphs). By r_B: "memb" (maximum excluded mass
        burning), "random-sequential" (burning), "fast" (graphs of millions of nodes, hops only), "exact".
    weight : str, optional
        Edge attribute with the lengths of edges ("data" for the entries of a sparse matrix); by default distances
        are numbers of edges.
    seed : int, optional
        Seeds the order in which "greedy-coloring", "cbb" and "random-sequential" take the nodes. Without one, greedy
        colouring starts with the nodes that conflict with most others, and the other two draw as with seed 0.

    Returns
    -------
    dict or ndarray
        For a networkx graph, node → box, or node → tuple of boxes for "overlapping"; else boxes ``(n,)``, or a
        boolean matrix ``(n, boxes)``. Boxes are numbered from 0.

    Raises
    ------
    TypeError, ValueError
        A graph that cannot be covered, not exactly one size, a size that is not positive, an unknown method or one
        of the other convention, a method that does not suit the graph.

    Notes
    -----
    No box spans two components. Time and memory: after the distances (O(n (n + edges)) time and n² bytes in hops), at
    most O(n²) time and O(n boxes) bytes; "fast" needs no distances, some passes over the
    edges and O(n) memory; "exact" is exponential.

    The order of the nodes breaks ties. Where many nodes are alike, as on paths and lattices, another order gives other
    counts: a path of 500 nodes takes "memb" 167 boxes of radius 1, and 190 to 210 if its nodes are shuffled.

    References
    ----------
    .. [1] C. Song, S. Havlin, H. A. Makse, Self-similarity of complex networks, Nature 433 (2005).
    .. [2] C. Song et al., How to calculate the fractal dimension of a complex network, J. Stat. Mech. (2007).
    .. [3] Y. Sun, Y. Zhao, Overlapping-box-covering method for the fractal dimension of complex networks,
       Phys. Rev. E 89 (2014).

    Examples
    --------
    >>> import networkx as nx
    >>> cover = box_cover(nx.path_graph(6), l_B=2, method="greedy-coloring")
    >>> sorted(len([n for n in cover if cover[n] == box]) for box in set(cover.values()))
    [2, 2, 2]
    >>> box_cover(nx.star_graph(3), r_B=1, method="memb")
    {0: 0, 1: 0, 2: 0, 3: 0}
    """
    name, size = check_sizes(l_B, r_B)
    check_method(method, name)
    distances = as_distances(graph, weight=weight)
    check_suits(distances, method)
    rng = None if seed is None else np.random.default_rng(check_integer(seed, name="seed", least=0))
    boxes = labels_at(distances, method, name, size, rng)
    if distances.nodes is None:
        return boxes
    if boxes.ndim == 1:
        return dict(zip(distances.nodes, boxes.tolist(), strict=True))
    return {node: tuple(np.flatnonzero(row).tolist()) for node, row in zip(distances.nodes, boxes, strict=True)}


def labels_at(
    distances: Distances, method: str, name: str, size: float, rng: np.random.Generator | None
) -> NDArray[np.int64] | NDArray[np.bool_]:
    """Return the cover by a method that `check_method` has accepted, as the tables' functions do."""
    table = BY_L_B if name == "l_B" else BY_R_B
    return table[method](distances, distances.limit(name, size), rng)


def check_method(method: str, name: str) -> None:
    """Raise unless `method` covers by `name`, l_B or r_B."""
    here, other = (BY_L_B, "r_B") if name == "l_B" else (BY_R_B, "l_B")
    if check_choice(method, {**BY_L_B, **BY_R_B}, name="method") not in here:
        listed = ", ".join(map(repr, here))
        raise ValueError(f"method: {method!r} covers by {other}, got {name}; need {other}, or one of {listed}")


def check_suits(distances: Distances, method: str) -> None:
    """Raise if `method` does not suit this kind of graph."""
    if method == "complete-linkage" and distances.adjacency is not None:
        raise ValueError("method: 'complete-linkage' covers distances, not graphs; need another method, or a matrix")
    if method == "fast" and not distances.hops:
        raise ValueError("method: 'fast' covers graphs in hops, got lengths; need 'memb', or a graph without weight")
