"""Agglomerative box covering: complete linkage, the paper's exact procedure (arXiv 2507.17785).

Going through the edges from short to long, two boxes become one when every edge between them has been passed.
That is complete-linkage clustering: a box of size l_B is a cluster in which all distances are less than l_B.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy

from ..compiled import compiled
from .inputs import Distances


def merge_tree(distances: NDArray) -> NDArray:
    """Return scipy's linkage matrix ``(n - 1, 4)`` of the condensed `distances`; heights ascend.

    Time O(n²), memory O(n²) (scipy's nearest-neighbour chain).
    """
    return hierarchy.linkage(np.asarray(distances, dtype=np.float64), method="complete")


def merge_heights(distances: NDArray) -> NDArray:
    """Return the heights ``(n - 1,)`` of the merges, ascending, from the shortest distance to the longest.

    Examples
    --------
    >>> merge_heights(np.array([1.0, 3.0, 2.0]))  # three points on a line at 0, 1, 3
    array([1., 3.])
    """
    return merge_tree(distances)[:, 2]


def counts_at(heights: NDArray, l_B: NDArray) -> NDArray:
    """Return the number of boxes at each size: n minus the merges with a height strictly below `l_B`."""
    return len(heights) + 1 - np.searchsorted(heights, l_B, side="left")


def cover(distances: Distances, limit: float, rng: np.random.Generator | None) -> NDArray:
    """Return the box of every node ``(n,)``, numbered from 0, when distances inside a box are at most `limit`.

    Notes
    -----
    Time O(n²), memory O(n²).
    """
    lengths = np.asarray(distances.condensed, dtype=np.float64)
    if distances.n < 2:
        return np.zeros(distances.n, dtype=np.int64)
    finite = np.isfinite(lengths)
    if not finite.all():
        # Components must not merge at any size: put them further apart than any limit that is left.
        longest = lengths.max(where=finite, initial=0.0)
        lengths, limit = np.where(finite, lengths, 2 * longest + 1), min(limit, longest)
    labels = hierarchy.fcluster(merge_tree(lengths), t=limit, criterion="distance")
    return np.unique(labels, return_inverse=True)[1]


def merge_pairs(distances: NDArray) -> NDArray:
    """Return the pair that realises each merge, as an index ``(n - 1,)`` into the condensed `distances`.

    A merge's height is the longest distance between its two boxes. In the order of the tree's leaves every box is
    a run of neighbours, so the pair is the largest entry of one block; the blocks tile the upper triangle, and
    every pair is read once. Needs no tie-free data.
    """
    distances = np.asarray(distances, dtype=np.float64)
    tree = merge_tree(distances)
    return _longest_pairs(distances, tree[:, :2].astype(np.int64), hierarchy.leaves_list(tree).astype(np.int64))


@compiled
def _longest_pairs(distances: NDArray, children: NDArray, leaves: NDArray) -> NDArray[np.int64]:
    n = len(leaves)
    # Box k covers leaves[start[k] : stop[k]]; the first n boxes are the single nodes.
    start = np.empty(2 * n - 1, dtype=np.int64)
    stop = np.empty(2 * n - 1, dtype=np.int64)
    for place in range(n):
        start[leaves[place]], stop[leaves[place]] = place, place + 1
    pairs = np.empty(n - 1, dtype=np.int64)
    for merge in range(n - 1):
        a, b = children[merge]
        if start[a] > start[b]:
            a, b = b, a
        longest = -1.0
        for left in leaves[start[a] : stop[a]]:
            for right in leaves[start[b] : stop[b]]:
                i, j = min(left, right), max(left, right)
                pair = n * i - i * (i + 1) // 2 + j - i - 1
                if distances[pair] > longest:
                    longest = distances[pair]
                    pairs[merge] = pair
        start[n + merge], stop[n + merge] = start[a], stop[b]
    return pairs
