"""Box counts: the number of boxes that a method needs, over box sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..checks import check_choice, check_integer
from . import complete_linkage, fast
from .correlation_sum import surrogate_count
from .cover import BY_L_B, BY_R_B, SEEDED, check_method, check_suits, labels_at
from .inputs import Coverable, Distances, as_distances
from .sizes import check_size_list, default_sizes


@dataclass(frozen=True)
class BoxCounts:
    """Box counts over sizes.

    Attributes
    ----------
    sizes : ndarray, shape (sizes,)
        Box sizes, ascending; also under their own name, as ``.l_B`` or ``.r_B``.
    counts : ndarray, shape (sizes,)
        Number of boxes N_B, averaged over seeds.
    spread : ndarray, shape (sizes,)
        Standard deviation of N_B over seeds; 0 for the methods that run once, whose counts can still depend on the
        order of the nodes (`box_cover`).
    n : int
        Number of nodes.
    method : str
        The method that covered.
    size_name : {"l_B", "r_B"}
        What the sizes limit: distances inside a box (less than), or distances to its centre (at most).
    components : int
        Number of connected components: no count can be lower.
    """

    sizes: NDArray
    counts: NDArray
    spread: NDArray
    n: int
    method: str
    size_name: str = "l_B"
    components: int = 1

    @property
    def l_B(self) -> NDArray:
        """The sizes, if they are l_B."""
        return self._sizes_as("l_B")

    @property
    def r_B(self) -> NDArray:
        """The sizes, if they are r_B."""
        return self._sizes_as("r_B")

    def _sizes_as(self, name: str) -> NDArray:
        if name != self.size_name:
            raise AttributeError(f"{name}: these counts are over {self.size_name}, and the two cannot be converted")
        return self.sizes


def box_counts(
    graph: Coverable,
    *,
    method: str,
    l_B: Sequence[float] | NDArray | None = None,
    r_B: Sequence[float] | NDArray | None = None,
    scales: int = 64,
    weight: str | None = None,
    seeds: Sequence[int] = (0,),
) -> BoxCounts:
    """Return the number of boxes that cover a graph or point set, over box sizes.

    Parameters
    ----------
    graph
        As for `box_cover`: a networkx graph, a sparse or distance matrix, condensed distances, a `FeatureNetwork`.
    method : str
        Any of `box_cover`, or "surrogate", the paper's correlation-sum formula (by l_B). For feature networks,
        "complete-linkage" (the paper's exact procedure), "greedy-coloring" and "surrogate" differ by a factor of up
        to 16 where it was measured.
    l_B, r_B : sequence of float, optional
        Box sizes, under the name that the method covers by. By default ("exact": by l_B) for hop distances every
        size from 1 to the one that allows one box per component ("fast": all up to 63, then in steps of 3%);
        else `scales` sizes evenly spaced in ln(1 + size) from the shortest distance to just above the longest.
    scales : int
        How many sizes, where none are given and distances are not hops.
    weight : str, optional
        Edge attribute with lengths.
    seeds : sequence of int
        "greedy-coloring", "cbb" and "random-sequential" are repeated with each seed and averaged; the other methods
        run once. All different.

    Returns
    -------
    BoxCounts

    Raises
    ------
    TypeError, ValueError
        A graph that cannot be covered, an unknown method or one of the other convention, sizes that are not
        positive, no seeds; infinite distances (several components) with "surrogate".

    Notes
    -----
    Time O(n²) for complete linkage and the surrogate, else as for one cover of `box_cover` per size and seed; the
    distances are computed once. Memory as for `box_cover`.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785.
    .. [2] C. Song et al., How to calculate the fractal dimension of a complex network, J. Stat. Mech. (2007).

    Examples
    --------
    >>> import networkx as nx
    >>> box_counts(nx.path_graph(8), method="greedy-coloring", l_B=[1, 9]).counts
    array([8., 1.])
    >>> box_counts(nx.path_graph(9), method="memb").r_B
    array([1., 2., 3., 4.])
    >>> distances = np.array([1.0, 3.0, 2.0])
    >>> box_counts(distances, method="complete-linkage", l_B=[1.0, 1.5, 4.0]).counts
    array([3., 2., 1.])
    """
    if l_B is not None and r_B is not None:
        raise ValueError("l_B, r_B: got both, need one of them, or neither for sizes of all scales")
    check_choice(method, {**BY_L_B, **BY_R_B, "surrogate": None}, name="method")
    name = "r_B" if r_B is not None or (l_B is None and method in BY_R_B and method not in BY_L_B) else "l_B"
    if method != "surrogate":
        check_method(method, name)
    elif name != "l_B":
        raise ValueError("method: 'surrogate' counts by l_B, got r_B; need l_B")
    try:
        seeds = [check_integer(seed, name="seeds", least=0) for seed in seeds]
    except TypeError as error:
        raise TypeError(f"seeds: got {type(seeds).__name__}, need a sequence of integers") from error
    if not seeds:
        raise ValueError("seeds: got none, need at least one")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: got {seeds}, need different ones")
    distances = as_distances(graph, weight=weight)
    check_suits(distances, method)
    components = int(distances.components().max(initial=-1)) + 1
    given = r_B if name == "r_B" else l_B
    if given is not None:
        sizes = check_size_list(given, name=name)
    elif method == "fast":
        sizes = _until_one_box(distances, components)
    else:
        sizes = default_sizes(distances, name=name, scales=scales)
    runs = _runs(distances, sizes, method, name, seeds)
    return BoxCounts(sizes, runs.mean(0), runs.std(0), distances.n, method, name, components)


def _runs(distances: Distances, sizes: NDArray, method: str, name: str, seeds: list[int]) -> NDArray:
    """Return counts ``(runs, sizes)``, one run per seed where the method depends on it."""
    if distances.n < 2:
        return np.full((1, len(sizes)), float(distances.n))
    if method in ("complete-linkage", "surrogate") and np.isfinite(lengths := distances.condensed).all():
        if method == "complete-linkage":
            return complete_linkage.counts_at(complete_linkage.merge_heights(lengths), sizes)[None].astype(float)
        below = np.searchsorted(np.sort(lengths), sizes, side="left") / len(lengths)
        return surrogate_count(below, distances.n)[None]
    if method == "surrogate":
        raise ValueError(f"graph: got several components, which method={method!r} cannot count; need a connected graph")
    seeds = seeds if method in SEEDED else seeds[:1]
    # The same seed at every size: the order of nodes is the same throughout.
    return np.array([[float(_count(distances, method, name, size, seed)) for size in sizes] for seed in seeds])


def _count(distances: Distances, method: str, name: str, size: float, seed: int) -> int:
    if method == "fast":  # its centres alone cost less than its boxes
        return len(fast.choose_centres(distances, distances.limit(name, size)))
    boxes = labels_at(distances, method, name, size, np.random.default_rng(seed))
    return boxes.shape[1] if boxes.ndim == 2 else int(boxes.max(initial=-1)) + 1


def _until_one_box(distances: Distances, components: int) -> NDArray:
    """Radii until the fast method needs one box per component: all up to 63, then in steps of a thirty-second."""
    radii = [1]
    while len(fast.choose_centres(distances, radii[-1])) > components:
        radii.append(radii[-1] + max(1, radii[-1] // 32))
    return np.array(radii, dtype=np.float64)
