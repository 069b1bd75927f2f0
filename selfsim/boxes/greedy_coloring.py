"""Box covering by greedy colouring (Song, Gallos, Havlin and Makse, J. Stat. Mech. 2007, P03006).

Two nodes may share a box of size l_B if their distance is less than l_B. Covering with few boxes is colouring
the network of all other pairs with few colours; greedy colouring gives each node the first box that takes it.
"""

from __future__ import annotations

import numpy as np


def labels_at(distances: np.ndarray, l_B: float, *, order: np.ndarray | None = None) -> np.ndarray:
    """Box of every node ``(n,)``, numbered from 0.

    Parameters
    ----------
    distances : ndarray, shape (n, n)
        Infinite between components.
    l_B : float
        Distances inside a box are less than this.
    order : ndarray, shape (n,), optional
        The order in which nodes choose; by default those with the most conflicts first (Welsh and Powell).

    Notes
    -----
    Time O(n * boxes) in vectorised steps, memory O(n²) bits of the threshold network.

    Examples
    --------
    >>> path = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    >>> labels_at(path, 2, order=np.arange(5))
    array([0, 0, 1, 1, 2])
    """
    near = np.asarray(distances) < l_B
    n = len(near)
    if order is None:
        order = np.argsort(near.sum(1), kind="stable")
    takes = np.ones((n, n), dtype=bool)  # takes[box, node]: node is near everyone in the box so far
    labels = np.empty(n, dtype=np.int64)
    boxes = 0
    for node in order:
        fitting = takes[:boxes, node]
        box = int(fitting.argmax()) if boxes else 0
        if not boxes or not fitting[box]:
            box = boxes
            boxes += 1
        takes[box] &= near[node]
        labels[node] = box
    return labels


def counts_at(distances: np.ndarray, l_B: np.ndarray, *, order: np.ndarray | None = None) -> np.ndarray:
    """Number of boxes at each size in `l_B`."""
    return np.array([labels_at(distances, size, order=order).max(initial=-1) + 1 for size in np.asarray(l_B)])
