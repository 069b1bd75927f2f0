"""Covering by burning: box after box is filled with nodes that are not in one yet.

Compact box burning fills each box until no further node fits (Song, Gallos, Havlin and Makse, J. Stat. Mech. 2007,
P03006). Random sequential burning takes all that is near a random centre (Kim, Goh, Kahng and Kim, Chaos 17, 2007).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .inputs import Distances


def compact_box(distances: Distances, limit: float, rng: np.random.Generator | None) -> NDArray[np.int64]:
    """Return the box of every node ``(n,)`` by compact box burning: distances inside a box are at most `limit`.

    Notes
    -----
    Time O(n² + n boxes), memory O(n) beside the distances.
    """
    return _burn(distances.square, distances.reach(limit), rng or np.random.default_rng(0))


@compiled
def _burn(distances: NDArray, reach: np.number[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    n = len(distances)
    labels = np.full(n, -1, dtype=np.int64)
    uncovered, place = np.arange(n), np.arange(n)  # uncovered[place[node]] is the node
    candidates = np.empty(n, dtype=np.int64)
    takes = np.empty(n, dtype=np.bool_)  # whether a node is near everyone in the box so far
    left, box = n, 0
    while left:
        node = uncovered[int(rng.random() * left)]
        fitting = -1  # the candidates are gathered once the box has its first node
        while True:
            labels[node] = box
            left -= 1
            last = uncovered[left]
            uncovered[place[node]], place[last] = last, place[node]
            near = distances[node]
            if fitting >= 0:
                for other in range(n):
                    takes[other] &= near[other] <= reach
            else:
                for other in range(n):
                    takes[other] = near[other] <= reach
                fitting = 0
                for k in range(left):
                    candidates[fitting] = uncovered[k]
                    fitting += takes[uncovered[k]]
            # A candidate that fits no longer leaves the list when it is drawn.
            node = -1
            while fitting and node < 0:
                pick = int(rng.random() * fitting)
                fitting -= 1
                drawn = candidates[pick]
                candidates[pick] = candidates[fitting]
                if takes[drawn]:
                    node = drawn
            if node < 0:
                break
        box += 1
    return labels


def random_sequential(distances: Distances, limit: float, rng: np.random.Generator | None) -> NDArray[np.int64]:
    """Return the box of every node ``(n,)`` by random sequential burning.

    A box takes all nodes within `limit` of its centre that are in no box yet. The centre is a random one of these, so
    that it lies in its own box.

    Notes
    -----
    Time O(n boxes), memory O(n) beside the distances.
    """
    square, reach = distances.square, distances.reach(limit)
    labels = np.full(distances.n, -1, dtype=np.int64)
    box = 0
    for centre in (rng or np.random.default_rng(0)).permutation(distances.n):
        if labels[centre] < 0:
            labels[(square[centre] <= reach) & (labels < 0)] = box
            box += 1
    return labels
