"""Box covering by greedy colouring (Song, Gallos, Havlin and Makse, J. Stat. Mech. 2007, P03006).

Two nodes may share a box if they are close enough. Covering with few boxes is colouring the network of all other
pairs with few colours; greedy colouring gives each node the first box that takes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .inputs import Distances


def cover(distances: Distances, limit: float, rng: np.random.Generator | None) -> NDArray[np.int64]:
    """Return the box of every node ``(n,)``, numbered from 0, when distances inside a box are at most `limit`.

    Without a generator, the nodes with the most conflicts choose first (Welsh and Powell); else in a random order.

    Notes
    -----
    Time O(n² + n boxes), memory O(n boxes) bytes beside the distances.
    """
    square, reach = distances.square, distances.reach(limit)
    if rng is None:
        order = np.argsort((square <= reach).sum(1), kind="stable")
    else:
        order = rng.permutation(distances.n)
    return _color(square, reach, order)


@compiled
def _color(distances: NDArray, reach: np.number[Any], order: NDArray) -> NDArray[np.int64]:
    n = len(order)
    labels = np.empty(n, dtype=np.int64)
    # takes[box, node]: the node is near everyone in the box so far. Only the rows of boxes in use are touched.
    takes = np.empty((n, n), dtype=np.bool_)
    boxes = 0
    for node in order:
        near = distances[node]
        box = 0
        while box < boxes and not takes[box, node]:
            box += 1
        row = takes[box]
        if box == boxes:
            boxes += 1
            for other in range(n):
                row[other] = near[other] <= reach
        else:
            for other in range(n):
                row[other] &= near[other] <= reach
        labels[node] = box
    return labels
