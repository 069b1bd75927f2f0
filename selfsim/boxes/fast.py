"""Covers by r_B of graphs with millions of nodes, without distances between all pairs.

Three ideas. The candidates for centres are few: the best-connected node within reach of each node, and for a radius
of one edge all nodes. Among them the next centre is the one with the most uncovered nodes around it, found lazily:
gains only fall, so an old gain is a bound, and a candidate whose gain is still what the bound says is the best.
Last, centres all of whose nodes lie near another centre too are dropped.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ..compiled import compiled
from .inputs import Distances

SHARE = 4


def cover(distances: Distances, limit: float, rng: np.random.Generator | None) -> np.ndarray:
    """Box of every node ``(n,)``: that of a nearest centre, the nodes of a box being connected.

    Notes
    -----
    Time O(edges) times some evaluations per candidate and edge, in practice seconds for a million nodes; memory O(n)
    beside the graph.
    """
    adjacency = distances.adjacency
    centres = choose_centres(adjacency, int(min(limit, distances.n)))
    return _assign(adjacency.indptr, adjacency.indices, centres)


def choose_centres(adjacency: sparse.csr_array, radius: int) -> np.ndarray:
    """Nodes ``(boxes,)`` such that every node is at most `radius` edges from one of them."""
    n = adjacency.shape[0]
    indptr, indices = adjacency.indptr, adjacency.indices
    degree = np.diff(indptr).astype(np.int32)
    order = np.argsort(degree, kind="stable").astype(np.int32)
    if radius <= 1:
        candidates, bounds = order, degree[order] + 1
    else:
        rank = np.empty(n, dtype=np.int32)
        rank[order] = np.arange(n, dtype=np.int32)
        candidates = order[np.unique(_best_within(indptr, indices, rank, radius))]
        bounds = np.full(len(candidates), n, dtype=np.int32)
    centres = _choose(indptr, indices, radius, candidates, bounds)
    return _needed(indptr, indices, centres) if radius == 1 else centres


@compiled
def _best_within(indptr, indices, rank, radius):
    """The highest rank within `radius` edges of every node."""
    best, following = rank.copy(), np.empty_like(rank)
    for _ in range(radius):
        changed = False
        for node in range(len(rank)):
            top = best[node]
            for k in range(indptr[node], indptr[node + 1]):
                top = max(top, best[indices[k]])
            following[node] = top
            changed |= top != best[node]
        best, following = following, best
        if not changed:
            break
    return best


@compiled
def _choose(indptr, indices, radius, candidates, bounds):
    n, count = len(indptr) - 1, len(candidates)
    uncovered = np.int32(n)  # a distance longer than any
    distance = np.full(n, uncovered, dtype=np.int32)  # to the nearest centre so far, where that is within reach
    seen = np.full(n, -1, dtype=np.int32)
    queue = np.empty(n, dtype=np.int32)
    levels = np.zeros(radius + 2, dtype=np.int32)  # queue[levels[k] : levels[k + 1]] are k edges away
    # Candidates by the bound of their gain: head[gain] is the first, following[k] the one after k.
    head = np.full(n + 1, -1, dtype=np.int32)
    following = np.empty(count, dtype=np.int32)
    for k in range(count):
        following[k] = head[bounds[k]]
        head[bounds[k]] = k
    chosen = np.empty(count, dtype=np.int32)
    boxes, left, gain, stamp = 0, n, n, 0
    while left:
        while head[gain] < 0:
            gain -= 1
        k = head[gain]
        head[gain] = following[k]
        centre = candidates[k]
        # Breadth-first, but not through nodes that are as near to a centre already: whatever is within reach beyond
        # them is covered. queue[:tail] are the nodes that this centre is nearer to than any so far.
        depth, start, tail, fresh = 0, 0, 1, 0
        levels[1] = 1
        queue[0], seen[centre] = centre, stamp
        fresh += distance[centre] == uncovered
        while start < tail and depth < radius:
            depth += 1
            stop = tail
            for place in range(start, stop):
                node = queue[place]
                for edge in range(indptr[node], indptr[node + 1]):
                    other = indices[edge]
                    if seen[other] != stamp and distance[other] > depth:
                        seen[other] = stamp
                        queue[tail] = other
                        tail += 1
                        fresh += distance[other] == uncovered
            start = stop
            levels[depth + 1] = tail
        stamp += 1
        # In the first round, from the best connected candidate to the worst, no bound is known yet. Those that cover
        # some times an equal share of what is left are taken at once: it spares the others a search of their nodes.
        if fresh == gain or (gain == n and fresh * (count - stamp) >= SHARE * left and fresh):
            chosen[boxes] = centre
            boxes += 1
            left -= fresh
            for level in range(depth + 1):
                for place in range(levels[level], levels[level + 1]):
                    distance[queue[place]] = level
        elif fresh:
            following[k] = head[fresh]
            head[fresh] = k
    return chosen[:boxes].copy()


@compiled
def _needed(indptr, indices, centres):
    """The centres without those all of whose neighbours lie next to another centre too, for a radius of one edge."""
    times = np.zeros(len(indptr) - 1, dtype=np.int32)
    for centre in centres:
        times[centre] += 1
        for edge in range(indptr[centre], indptr[centre + 1]):
            times[indices[edge]] += 1
    kept = np.ones(len(centres), dtype=np.bool_)
    for place in range(len(centres) - 1, -1, -1):
        centre = centres[place]
        fewest = times[centre]
        for edge in range(indptr[centre], indptr[centre + 1]):
            fewest = min(fewest, times[indices[edge]])
        if fewest > 1:
            kept[place] = False
            times[centre] -= 1
            for edge in range(indptr[centre], indptr[centre + 1]):
                times[indices[edge]] -= 1
    return centres[kept]


@compiled
def _assign(indptr, indices, centres):
    n = len(indptr) - 1
    labels = np.full(n, -1, dtype=np.int64)
    queue = np.empty(n, dtype=np.int32)
    tail = 0
    for box in range(len(centres)):
        labels[centres[box]] = box
        queue[tail] = centres[box]
        tail += 1
    for place in range(n):
        node = queue[place]
        for edge in range(indptr[node], indptr[node + 1]):
            other = indices[edge]
            if labels[other] < 0:
                labels[other] = labels[node]
                queue[tail] = other
                tail += 1
    return labels
