"""Box counts over all scales: N_B against l_B."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..validation import check_choice
from . import complete_linkage, greedy_coloring
from .correlation_sum import surrogate_count
from .inputs import Distances, as_distances

METHODS = ("complete-linkage", "greedy-coloring", "surrogate")


@dataclass(frozen=True)
class BoxCounts:
    """Box counts over sizes.

    Attributes
    ----------
    l_B : ndarray, shape (sizes,)
        Box sizes, ascending: distances inside a box are less than l_B.
    counts : ndarray, shape (sizes,)
        Number of boxes N_B, averaged over seeds.
    spread : ndarray, shape (sizes,)
        Standard deviation of N_B over seeds; 0 for deterministic methods.
    n : int
        Number of nodes.
    method : str
        How the boxes were counted.
    """

    l_B: np.ndarray
    counts: np.ndarray
    spread: np.ndarray
    n: int
    method: str


def box_counts(
    graph,
    *,
    method: str,
    l_B: Sequence[float] | np.ndarray | None = None,
    scales: int = 64,
    weight: str | None = None,
    seeds: Sequence[int] = (0,),
) -> BoxCounts:
    """Number of boxes that cover a graph or point set, over box sizes.

    Parameters
    ----------
    graph
        As for `box_cover`: a networkx graph, a sparse or distance matrix, condensed distances, a `FeatureNetwork`.
    method : {"complete-linkage", "greedy-coloring", "surrogate"}
        Real boxes by agglomeration (the paper's exact procedure) or by greedy colouring, or the paper's
        correlation-sum formula. The three differ, by a factor of up to 16 where it was measured.
    l_B : sequence of float, optional
        Box sizes. By default, for hop distances every size from 1 to the diameter + 1; else `scales` sizes
        evenly spaced in ln(1 + l) from the shortest distance to just above the longest.
    scales : int
        How many sizes, where `l_B` is not given and distances are not hops.
    weight : str, optional
        Edge attribute with lengths.
    seeds : sequence of int
        Greedy colouring is repeated in one random order of nodes per seed, and averaged.

    Returns
    -------
    BoxCounts

    Raises
    ------
    TypeError, ValueError
        A graph that cannot be covered, an unknown method, sizes that are not positive, no seeds; infinite
        distances (several components) with "complete-linkage" or "surrogate".

    Notes
    -----
    Time O(n²) for complete linkage and the surrogate, O(sizes seeds n boxes) for greedy colouring; memory O(n²).

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785.
    .. [2] C. Song et al., How to calculate the fractal dimension of a complex network, J. Stat. Mech. (2007).

    Examples
    --------
    >>> import networkx as nx
    >>> box_counts(nx.path_graph(8), method="greedy-coloring", l_B=[1, 9]).counts
    array([8., 1.])
    >>> box_counts(np.array([1.0, 3.0, 2.0]), method="complete-linkage", l_B=[1.0, 1.5, 4.0]).counts
    array([3., 2., 1.])
    """
    check_choice(method, METHODS, name="method")
    seeds = list(seeds)
    if not seeds:
        raise ValueError("seeds: got none, need at least one")
    distances = as_distances(graph, weight=weight)
    sizes = _sizes(distances, l_B, scales)
    runs = _runs(distances, sizes, method, seeds)
    return BoxCounts(sizes, runs.mean(0), runs.std(0), distances.n, method)


def _runs(distances: Distances, sizes: np.ndarray, method: str, seeds: list[int]) -> np.ndarray:
    """Counts ``(runs, sizes)``, one run per seed where the method depends on it."""
    if distances.n < 2:
        return np.full((1, len(sizes)), float(distances.n))
    if method == "greedy-coloring":
        orders = (np.random.default_rng(seed).permutation(distances.n) for seed in seeds)
        return np.array([greedy_coloring.counts_at(distances.square, sizes, order=o) for o in orders], float)
    lengths = distances.condensed
    if not np.isfinite(lengths).all():
        raise ValueError(f"graph: has several components, which method={method!r} cannot count; need a connected one")
    if method == "complete-linkage":
        return complete_linkage.counts_at(complete_linkage.merge_heights(lengths), sizes)[None].astype(float)
    below = np.searchsorted(np.sort(lengths), sizes, side="left") / len(lengths)
    return surrogate_count(below, distances.n)[None]


def _sizes(distances: Distances, l_B, scales: int) -> np.ndarray:
    if l_B is not None:
        sizes = np.asarray(l_B, dtype=np.float64)
        if sizes.ndim != 1 or not len(sizes) or not (sizes > 0).all() or not np.isfinite(sizes).all():
            raise ValueError(f"l_B: got {l_B!r}, need one or more finite sizes above 0")
        return np.sort(sizes)
    finite = distances.square[np.isfinite(distances.square)]
    longest = float(finite.max(initial=0.0))
    if distances.hops:
        return np.arange(1.0, longest + 2.0)
    if scales < 2:
        raise ValueError(f"scales: got {scales!r}, need at least 2")
    positive = finite[finite > 0]
    if not len(positive):
        return np.array([1.0])
    sizes = np.expm1(np.linspace(np.log1p(positive.min()), np.log1p(longest), scales))
    # Sizes are limits that distances stay below: the ends, free of rounding, and one step beyond the longest.
    sizes[0], sizes[-1] = positive.min(), np.nextafter(longest, np.inf)
    return sizes
