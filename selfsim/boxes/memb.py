"""Maximum excluded mass burning (Song, Gallos, Havlin and Makse, J. Stat. Mech. 2007, P03006).

The next centre is always the node with the most uncovered nodes around it. Covered nodes may be centres too, which
keeps hubs in the middle of their boxes and finds the known covers of fractal networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .inputs import Distances


def cover(distances: Distances, limit: float, rng: np.random.Generator | None) -> NDArray[np.int64]:
    """Return the box of every node ``(n,)``: that of its nearest centre, among equals the one chosen first.

    With this assignment the nodes on a shortest path to the centre are in the same box, so boxes are connected; with
    lengths that are not whole numbers, only up to rounding.

    Notes
    -----
    Masses are counted once, and then go down for each node that becomes covered. Time O(n² + n boxes) instead of
    O(n² boxes), memory O(n boxes) bytes beside the distances.
    """
    centres = _centres(distances.square, distances.reach(limit), np.uint16 if distances.n < 2**16 else np.uint32)
    return nearest(distances, centres)


def nearest(distances: Distances, centres: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the position in `centres` of the nearest one to every node ``(n,)``."""
    if not len(centres):
        return np.zeros(distances.n, dtype=np.int64)
    return distances.square[centres].argmin(0)


@compiled
def _centres(distances: NDArray, reach: np.number[Any], mass_type: type[np.unsignedinteger]) -> NDArray[np.int64]:
    n = len(distances)
    mass = np.zeros(n, dtype=mass_type)
    for node in range(n):
        near = distances[node]
        for other in range(n):
            mass[other] += near[other] <= reach
    covered = np.zeros(n, dtype=np.bool_)
    centres = np.empty(n, dtype=np.int64)
    burned = np.empty(n, dtype=np.int64)
    left, boxes = n, 0
    while left:
        centre = mass.argmax()
        centres[boxes] = centre
        boxes += 1
        fresh = 0
        for node in range(n):
            if not covered[node] and distances[centre, node] <= reach:
                covered[node] = True
                burned[fresh] = node
                fresh += 1
        left -= fresh
        if left:
            for k in range(fresh):
                near = distances[burned[k]]
                for other in range(n):
                    mass[other] -= near[other] <= reach
    return centres[:boxes].copy()
