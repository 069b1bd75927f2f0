"""A check of any cover, from any tool. It shares no algorithm with the methods that cover."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra

from .inputs import Coverable, Distances, as_distances
from .sizes import check_sizes


def check_cover(
    graph: Coverable,
    cover: Mapping[Hashable, int | tuple[int, ...]] | Sequence[Set] | NDArray,
    *,
    l_B: float | None = None,
    r_B: float | None = None,
    weight: str | None = None,
) -> None:
    """Raise if `cover` is not a valid cover of `graph` with boxes of the given size; else return nothing.

    Parameters
    ----------
    graph, weight
        As for `box_cover`.
    cover : mapping, sequence of sets, or ndarray
        Node → box, node → tuple of boxes, a list of sets of nodes, boxes ``(n,)``, or a boolean matrix
        ``(n, boxes)``. The nodes of a graph without names are 0 to n - 1. Boxes may be numbered in any way.
    l_B, r_B : float, optional
        Exactly one: distances inside a box are less than `l_B`, or some node of each box, its centre, is at most
        `r_B` from all others in it.

    Raises
    ------
    TypeError
        A cover of another form.
    ValueError
        The first fault: a node without a box or unknown to the graph, an empty box, a box with nodes of different
        components, or one that is too large. Also as for `box_cover`.

    Notes
    -----
    Distances come from scipy's shortest paths, for the nodes of one box at a time: time O(n (edges + n) log n), memory
    O(n times the largest box).

    References
    ----------
    .. [1] C. Song et al., How to calculate the fractal dimension of a complex network, J. Stat. Mech. (2007).

    Examples
    --------
    >>> import networkx as nx
    >>> check_cover(nx.path_graph(4), {0: 0, 1: 0, 2: 1, 3: 1}, l_B=2)
    >>> check_cover(nx.path_graph(4), [{0, 1, 2}, {3}], l_B=2)
    Traceback (most recent call last):
        ...
    ValueError: cover: box 0 holds nodes 0 and 2 at distance 2, need less than l_B=2
    """
    name, size = check_sizes(l_B, r_B)
    distances = as_distances(graph, weight=weight)
    nodes = distances.nodes if distances.nodes is not None else range(distances.n)
    place = {node: i for i, node in enumerate(nodes)}
    boxes = _boxes(cover, distances.n)
    for node in cover if isinstance(cover, Mapping) else itertools.chain.from_iterable(boxes.values()):
        if node not in place:
            raise ValueError(f"cover: node {node!r} is not in the graph")
    covered = np.zeros(distances.n, dtype=bool)
    for box, members in boxes.items():
        if not members:
            raise ValueError(f"cover: box {box!r} is empty, need at least one node in each")
        covered[[place[node] for node in members]] = True
    if not covered.all():
        raise ValueError(f"cover: node {nodes[int(covered.argmin())]!r} is in no box")
    for box, members in boxes.items():
        places = sorted(place[node] for node in members)
        _check_box(_distances_between(distances, np.array(places)), [nodes[i] for i in places], box, name, size)


def _boxes(cover: Any, n: int) -> dict[Any, list[Any]]:
    """Return the nodes in each box, by the name of the box."""
    is_list = isinstance(cover, (list, tuple))
    if is_list and all(isinstance(box, (set, frozenset)) for box in cover):
        return dict(enumerate(map(list, cover)))
    if is_list and all(isinstance(box, Integral) for box in cover):
        cover = np.array(cover, dtype=np.int64)
    if isinstance(cover, np.ndarray) and cover.ndim in (1, 2) and cover.dtype.kind in "iub":
        if len(cover) != n:
            raise ValueError(f"cover: got {len(cover)} rows, need one for each of the {n} nodes")
        if cover.ndim == 2 and cover.dtype != bool:
            raise TypeError(f"cover: got a matrix of {cover.dtype}, need booleans (nodes, boxes)")
        if cover.ndim == 2:
            return {box: np.flatnonzero(column).tolist() for box, column in enumerate(cover.T)}
        cover = dict(enumerate(cover.astype(np.int64).tolist()))
    if not isinstance(cover, Mapping):
        raise TypeError(
            f"cover: got {type(cover).__name__}, need node → box, node → tuple of boxes, a list of sets of nodes, an "
            "integer array (n,) or a boolean array (n, boxes)"
        )
    boxes: dict[Any, list[Any]] = {}
    for node, names in cover.items():
        for box in names if isinstance(names, (tuple, list, set, frozenset)) else (names,):
            boxes.setdefault(box, []).append(node)
    return boxes


def _distances_between(distances: Distances, members: NDArray) -> NDArray:
    if distances.given is not None:
        return distances.square[np.ix_(members, members)]
    between = dijkstra(distances.adjacency, directed=False, indices=members, unweighted=distances.hops)[:, members]
    # The two directions of a path add up its lengths in two orders, which can differ in the last bit.
    return np.minimum(between, between.T)


def _check_box(between: NDArray, members: Sequence[Hashable], box: Hashable, name: str, size: float) -> None:
    """Raise unless `members`, at the distances `between` them, fit in one box."""
    if not np.isfinite(between).all():
        a, b = np.argwhere(~np.isfinite(between))[0]
        raise ValueError(f"cover: box {box!r} holds nodes {members[a]!r} and {members[b]!r} of different components")
    if name == "l_B":
        if (between >= size).any():
            a, b = np.argwhere(between >= size)[0]
            raise ValueError(
                f"cover: box {box!r} holds nodes {members[a]!r} and {members[b]!r} at distance "
                f"{between[a, b]:.10g}, need less than l_B={size:g}"
            )
    elif between.max(1).min() > size:
        raise ValueError(
            f"cover: box {box!r} of {len(members)} nodes has a node at distance {between.max(1).min():.10g} or more "
            f"from each of its nodes, need a centre with at most r_B={size:g}"
        )
