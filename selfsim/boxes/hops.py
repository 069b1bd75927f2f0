"""Distances between all pairs of nodes, counted in edges.

Breadth-first search starts only from a vertex cover. Every other node has all its neighbours in the cover, so its
distances are one more than the smallest of theirs: one pass over rows of small integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..compiled import compiled


def all_pairs_hops(adjacency: sparse.csr_array) -> NDArray[np.unsignedinteger]:
    """Return the numbers of edges on the shortest paths between all pairs of nodes.

    Parameters
    ----------
    adjacency : csr_array, shape (n, n)
        Symmetric pattern without a diagonal; the values do not matter.

    Returns
    -------
    ndarray, shape (n, n)
        uint8 where all paths have fewer than 255 edges, else uint16 or uint32. The largest value of the type
        stands for "no path".

    Notes
    -----
    Time O(cover (n + edges) + n edges), memory n² bytes for the narrow type.

    Examples
    --------
    >>> path = sparse.csr_array(np.eye(3, k=1) + np.eye(3, k=-1))
    >>> all_pairs_hops(path)
    array([[0, 1, 2],
           [1, 0, 1],
           [2, 1, 0]], dtype=uint8)
    """
    n = adjacency.shape[0]
    indptr, indices = adjacency.indptr, adjacency.indices
    order = np.argsort(np.diff(indptr), kind="stable")
    for dtype in (np.uint8, np.uint16, np.uint32):
        hops = np.full((n, n), np.iinfo(dtype).max, dtype=dtype)
        if _fill(indptr, indices, order, hops, hops.dtype.type(np.iinfo(dtype).max)):
            return hops
    raise OverflowError("graph: a path of 2^32 edges")  # n² entries of such a graph fit in no memory


@compiled
def _fill(indptr: NDArray, indices: NDArray, order: NDArray, hops: NDArray, far: np.number[Any]) -> bool:
    """Fill the rows of `hops`, or return False when a path is too long for their type."""
    n = len(order)
    # Nodes that are not in the cover, taken greedily by degree: no two of them are neighbours.
    covered = np.zeros(n, dtype=np.bool_)
    for node in order:
        if not covered[node]:
            for k in range(indptr[node], indptr[node + 1]):
                covered[indices[k]] = True
    queue = np.empty(n, dtype=np.int32)
    longest = np.int64(0)
    for source in range(n):
        if not covered[source]:
            continue
        row = hops[source]
        row[source] = 0
        queue[0] = source
        head, tail = 0, 1
        while head < tail:
            node = queue[head]
            head += 1
            further = np.int64(row[node]) + 1
            for k in range(indptr[node], indptr[node + 1]):
                other = indices[k]
                if row[other] == far:
                    if further >= np.int64(far):
                        return False
                    row[other] = further
                    queue[tail] = other
                    tail += 1
        longest = max(longest, np.int64(row[queue[tail - 1]]))
    if longest + 1 >= np.int64(far):
        return False
    for node in range(n):
        if covered[node]:
            continue
        row = hops[node]
        for k in range(indptr[node], indptr[node + 1]):
            other_row = hops[indices[k]]
            for j in range(n):
                row[j] = min(row[j], other_row[j])
        for j in range(n):
            row[j] += row[j] != far
        row[node] = 0
    return True


@compiled
def nearest_start(indptr: NDArray, indices: NDArray, starts: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Search breadth-first from all `starts` at once, with one or more in each component.

    Returns
    -------
    nearest : ndarray, shape (n,)
        For each node, the place in `starts` of the one nearest to it.
    order : ndarray, shape (n,)
        The nodes, from the starts to those farthest away.
    """
    n = len(indptr) - 1
    nearest = np.full(n, -1, dtype=np.int64)
    order = np.empty(n, dtype=np.int32)
    found = len(starts)
    nearest[starts] = np.arange(found)
    order[:found] = starts
    for node in order:
        for edge in range(indptr[node], indptr[node + 1]):
            other = indices[edge]
            if nearest[other] < 0:
                nearest[other] = nearest[node]
                order[found] = other
                found += 1
    return nearest, order
