"""One door to all box-covering algorithms: `box_cover`."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import numpy as np
from scipy.sparse import csgraph

from ..validation import check_choice
from . import complete_linkage, greedy_coloring
from .inputs import Distances, as_distances

# Each takes the distances of one connected component, the size and a random generator (or None), and returns the
# box of every node, numbered from 0.
BY_L_B: dict[str, Callable[[Distances, float, np.random.Generator | None], np.ndarray]] = {
    "complete-linkage": lambda d, l_B, rng: complete_linkage.labels_at(d.condensed, l_B),
    "greedy-coloring": lambda d, l_B, rng: greedy_coloring.labels_at(
        d.square, l_B, order=None if rng is None else rng.permutation(d.n)
    ),
}


def box_cover(
    graph, *, l_B: float, method: str, weight: str | None = None, seed: int | None = None
) -> dict[Hashable, int] | np.ndarray:
    """Cover a graph or point set with boxes.

    Parameters
    ----------
    graph
        A networkx graph or scipy sparse matrix (shortest paths), a square matrix of distances, condensed
        distances, or anything with ``.distances`` and ``.n`` such as a `FeatureNetwork`.
    l_B : float
        Box size: nodes in one box are at pairwise distances *less than* this (Song et al. 2005). For hop
        distances, ``l_B=1`` gives one box per node.
    method : {"complete-linkage", "greedy-coloring"}
        Agglomeration (the paper's exact procedure; distances only, not graphs), or greedy colouring.
    weight : str, optional
        Edge attribute with the lengths of edges; by default distances are numbers of edges.
    seed : int, optional
        Greedy colouring takes the nodes in a random order drawn from this seed; without one, in a fixed order.

    Returns
    -------
    dict or ndarray
        For a networkx graph, node → box; else an array of boxes ``(n,)``. Boxes are numbered from 0.

    Raises
    ------
    TypeError, ValueError
        A graph that cannot be covered, a size that is not positive, an unknown method.

    Notes
    -----
    No box spans two components. Time O(n²) for each method, after the distances; memory O(n²).

    References
    ----------
    .. [1] C. Song, S. Havlin, H. A. Makse, Self-similarity of complex networks, Nature 433 (2005).
    .. [2] C. Song et al., How to calculate the fractal dimension of a complex network, J. Stat. Mech. (2007).

    Examples
    --------
    >>> import networkx as nx
    >>> cover = box_cover(nx.path_graph(6), l_B=2, method="greedy-coloring")
    >>> sorted(len([n for n in cover if cover[n] == box]) for box in set(cover.values()))
    [2, 2, 2]
    """
    check_choice(method, BY_L_B, name="method")
    check_size(l_B, name="l_B")
    distances = as_distances(graph, weight=weight)
    if method == "complete-linkage" and distances.nodes is not None:
        raise ValueError("method: 'complete-linkage' covers distances, not graphs; need 'greedy-coloring'")
    labels = _by_component(distances, l_B, method, seed)
    return labels if distances.nodes is None else dict(zip(distances.nodes, labels.tolist(), strict=True))


def check_size(size: float, *, name: str) -> None:
    """Raise unless `size` is a positive number."""
    if isinstance(size, bool) or not isinstance(size, (int, float, np.number)) or not size > 0:
        raise ValueError(f"{name}: got {size!r}, need a number above 0")
    if math.isinf(size):
        raise ValueError(f"{name}: got {size!r}, need a finite number")


def _by_component(distances: Distances, l_B: float, method: str, seed: int | None) -> np.ndarray:
    rng = None if seed is None else np.random.default_rng(seed)
    labels = np.full(distances.n, -1, dtype=np.int64)
    boxes = 0
    for component in _components(distances.square):
        part = Distances(distances.square[np.ix_(component, component)], None, distances.hops)
        inside = BY_L_B[method](part, l_B, rng) if len(component) > 1 else np.zeros(1, dtype=np.int64)
        labels[component] = inside + boxes
        boxes += int(inside.max()) + 1
    return labels


def _components(square: np.ndarray) -> list[np.ndarray]:
    if np.isfinite(square).all():
        return [np.arange(len(square))] if len(square) else []
    number, member = csgraph.connected_components(np.isfinite(square), directed=False)
    return [np.flatnonzero(member == k) for k in range(number)]
