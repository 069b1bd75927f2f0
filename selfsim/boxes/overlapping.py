"""Overlapping box covering (OBCA: Sun and Zhao, Phys. Rev. E 89, 2014).

A box grows around a node that is in none yet. It takes nodes that are in no box first, then nodes of other boxes.
Boxes all of whose nodes are in another box too are dropped at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .inputs import Distances


def cover(distances: Distances, limit: float, rng: np.random.Generator | None) -> NDArray[np.bool_]:
    """Return which node lies in which box ``(n, boxes)``, boolean, when distances inside a box are at most `limit`.

    Nodes are taken by the number of others within `limit`, fewest first, where the original takes them by degree:
    the same idea, defined for weighted distances too.

    Notes
    -----
    Time O(n² + sum of n box sizes), memory O(n boxes) bytes beside the distances.
    """
    square, reach = distances.square, distances.reach(limit)
    order = np.argsort((square <= reach).sum(1), kind="stable")
    members = _grow(square, reach, order)
    return members[_needed(members)].T.copy()


@compiled
def _grow(distances: NDArray, reach: np.number[Any], order: NDArray) -> NDArray[np.bool_]:
    n = len(order)
    members = np.empty((n, n), dtype=np.bool_)
    covered = np.zeros(n, dtype=np.bool_)
    takes = np.empty(n, dtype=np.bool_)
    boxes = 0
    for seed in order:
        if covered[seed]:
            continue
        row = members[boxes]
        row[:] = False
        row[seed] = covered[seed] = True
        for other in range(n):
            takes[other] = distances[seed, other] <= reach
        for overlap in (False, True):
            for node in order:
                if takes[node] and not row[node] and (overlap or not covered[node]):
                    row[node] = covered[node] = True
                    for other in range(n):
                        takes[other] &= distances[node, other] <= reach
        boxes += 1
    return members[:boxes]


def _needed(members: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the indices of the boxes that stay when redundant ones are dropped, the earliest first."""
    times = members.sum(0)
    kept = []
    for box, inside in enumerate(members):
        if (times[inside] > 1).all():
            times -= inside
        else:
            kept.append(box)
    return np.array(kept, dtype=np.int64)
