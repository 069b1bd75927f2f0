"""The fewest boxes possible, by set cover, and a lower bound where that takes too long.

By r_B the sets are the balls around all nodes; by l_B, all largest sets of nodes that are close to each other. The
fewest sets that hold every node come from scipy's solver for integer programs, unless a simple argument settles them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..checks import check_integer
from .inputs import Coverable, Distances, as_distances
from .memb import nearest
from .sizes import check_sizes

MOST_SETS = 20_000


def cover_by_size(distances: Distances, limit: float, rng: np.random.Generator | None) -> NDArray:
    """Return the box of every node ``(n,)`` in a cover with the fewest boxes: at most `limit` between two nodes.

    Raises
    ------
    ValueError
        More than 20,000 largest boxes to choose from.

    Notes
    -----
    Time and memory can grow exponentially with n; some hundred nodes are usual.
    """
    near = distances.square <= distances.reach(limit)
    sets = _largest_boxes(near)
    if sets is None:
        raise ValueError(
            f"method: 'exact' has more than {MOST_SETS:,} largest boxes to choose from on these {len(near)} nodes; "
            "need a smaller graph or another size, or box_bound for a lower bound"
        )
    # A node in several chosen boxes goes to the first: any subset of a box is a box.
    return sets[:, minimum_cover(sets)].argmax(1) if len(near) else np.zeros(0, dtype=np.int64)


def cover_by_radius(distances: Distances, limit: float, rng: np.random.Generator | None) -> NDArray:
    """Return the box of every node ``(n,)`` in a cover with the fewest boxes: at most `limit` from a centre.

    Notes
    -----
    Time and memory can grow exponentially with n; some hundred nodes are usual.
    """
    return nearest(distances, minimum_cover(distances.square <= distances.reach(limit)))


def _largest_boxes(near: NDArray) -> NDArray | None:
    """Return all largest boxes as columns ``(nodes, boxes)``; None for more than `MOST_SETS`."""
    import networkx as nx

    graph = nx.from_numpy_array(near & ~np.eye(len(near), dtype=bool))
    cliques = list(itertools.islice(nx.find_cliques(graph), MOST_SETS + 1))
    if len(cliques) > MOST_SETS:
        return None
    sets = np.zeros((len(near), len(cliques)), dtype=bool)
    for number, clique in enumerate(cliques):
        sets[clique, number] = True
    return sets


def minimum_cover(sets: NDArray) -> NDArray:
    """Return the indices of the fewest columns of a boolean matrix ``(nodes, sets)`` that have a True in every row.

    Examples
    --------
    >>> minimum_cover(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=bool))
    array([1, 2])
    """
    chosen = _greedy(sets)
    if len(chosen) == packing_bound(sets):
        return chosen
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes a third of a second to import

    covers = LinearConstraint(sets.astype(float), lb=1)
    solved = milp(np.ones(sets.shape[1]), constraints=covers, integrality=1, bounds=Bounds(0, 1))
    if not solved.success:
        raise RuntimeError(f"exact cover: the solver stopped without an answer: {solved.message}")
    return np.flatnonzero(solved.x > 0.5)


def _greedy(sets: NDArray) -> NDArray:
    chosen: list[int] = []
    left = np.ones(len(sets), dtype=bool)
    while left.any():
        chosen.append(int(sets[left].sum(0).argmax()))
        left &= ~sets[:, chosen[-1]]
    return np.sort(np.array(chosen, dtype=np.int64))


def packing_bound(sets: NDArray[np.bool_]) -> int:
    """Return how many rows a greedy choice finds no two of which share a column: each needs a set of its own."""
    return _apart(sets.sum(1), lambda row: np.asarray(sets[:, sets[row]].any(1)))


def _apart(sizes: NDArray, conflicts: Callable[[int], NDArray[np.bool_]]) -> int:
    """Return how many rows can be picked, smallest first, when each pick rules out those that it conflicts with."""
    free, picked = np.ones(len(sizes), dtype=bool), 0
    for row in np.argsort(sizes, kind="stable"):
        if free[row]:
            picked += 1
            free &= ~conflicts(row)
    return picked


@dataclass(frozen=True)
class BoxBound:
    """The number of boxes that no cover can go below.

    Attributes
    ----------
    boxes : int
    exact : bool
        Whether a cover with so many boxes exists; else this is a lower bound.
    """

    boxes: int
    exact: bool


def box_bound(
    graph: Coverable,
    *,
    l_B: float | None = None,
    r_B: float | None = None,
    weight: str | None = None,
    exact_up_to: int = 100,
) -> BoxBound:
    """Return the fewest boxes that any cover needs, or a lower bound, to judge a heuristic's cover.

    Parameters
    ----------
    graph, l_B, r_B, weight
        As for `box_cover`: exactly one of `l_B` and `r_B`.
    exact_up_to : int
        Up to this many nodes the optimum is computed, unless it has too many boxes to choose from. Else nodes are
        counted no two of which fit in one box.

    Returns
    -------
    BoxBound

    Raises
    ------
    TypeError, ValueError
        As for `box_cover`.

    Notes
    -----
    Above `exact_up_to`: time O(n² boxes), memory O(n²).

    References
    ----------
    .. [1] C. Song et al., How to calculate the fractal dimension of a complex network, J. Stat. Mech. (2007).

    Examples
    --------
    >>> import networkx as nx
    >>> box_bound(nx.cycle_graph(10), r_B=1)
    BoxBound(boxes=4, exact=True)
    >>> box_bound(nx.cycle_graph(1000), r_B=1, exact_up_to=100)
    BoxBound(boxes=333, exact=False)
    """
    name, size = check_sizes(l_B, r_B)
    check_integer(exact_up_to, name="exact_up_to", least=0)
    distances = as_distances(graph, weight=weight)
    near = distances.square <= distances.reach(distances.limit(name, size))
    if distances.n <= exact_up_to:
        sets = near if name == "r_B" else _largest_boxes(near)
        if sets is not None:
            return BoxBound(len(minimum_cover(sets)), True)
    # By l_B two nodes fit in one box when they are near each other, by r_B when they are near a common centre.
    bound = packing_bound(near) if name == "r_B" else _apart(near.sum(1), lambda node: near[node])
    return BoxBound(bound, False)
