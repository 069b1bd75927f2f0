"""Covers by r_B of graphs with millions of nodes, without distances between all pairs.

For a radius of one edge the next centre is the node with the most uncovered neighbours, as in MEMB. It is found
lazily: gains only fall, so an old gain is a bound. Centres that became redundant are dropped.

For longer radii hubs come first: a node that covers far more than an average ball is taken at once. The rest is swept
from the end of a breadth-first order. The uncovered node that stands last there is covered next, by the candidate
near it that covers most. On paths and trees without hubs this leaves no gaps, and hardly a cover has fewer boxes.
Candidates are all nodes, or a net of well-connected ones if all would cost more than some passes over the edges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .hops import nearest_start
from .inputs import Distances

# A hub has this many times the average number of neighbours, …
HUB = 4.0
# … and covers this many times what an average ball covers of the nodes that are left.
COVER = 1.5
# Passes over all edges that the evaluation of candidates may cost, by its estimate.
PASSES = 8
# A small graph may cost this many edges.
FREE_EDGES = 200_000
SAMPLED_BALLS = 16
# Candidates tried for one box, spread evenly over those within reach.
MOST_TRIED = 64


def cover(distances: Distances, limit: float, rng: np.random.Generator | None) -> NDArray[np.int64]:
    """Return the box of every node ``(n,)``: that of its nearest centre. Boxes are connected.

    Notes
    -----
    Time O(n + edges), times some ten passes over the edges; memory O(n) beside the graph.
    """
    adjacency = distances.adjacency
    return nearest_start(adjacency.indptr, adjacency.indices, choose_centres(distances, limit))[0]


def choose_centres(distances: Distances, limit: float) -> NDArray[np.int32]:
    """Return centres ``(boxes,)`` such that every node is at most `limit` edges from one of them."""
    indptr, indices, n = distances.adjacency.indptr, distances.adjacency.indices, distances.n
    radius = int(min(limit, n))
    if radius < 1 or not len(indices):
        return np.arange(n, dtype=np.int32)
    if radius == 1:
        return _without_redundant(indptr, indices, _most_neighbours(indptr, indices, distances.breadth_first))
    distance = np.full(n, n, dtype=np.int32)
    # What covers half of the rest needs no comparison with an average ball.
    degree = np.diff(indptr)[distances.by_degree]
    hubs = distances.by_degree[degree > HUB * degree.mean()][::-1]
    first = _take_hubs(indptr, indices, radius, hubs, 0.5, 0, distance)
    if distance.max(initial=0) < n:
        return first
    nodes, edges = _average_ball(indptr, indices, radius)
    share = min(COVER * nodes / n, 0.5)
    further = _take_hubs(indptr, indices, radius, hubs, share, len(indices), distance)
    most = max(PASSES * (len(indices) + n), FREE_EDGES) / edges
    candidates = _net(indptr, indices, distances.by_degree, most, radius)
    rest = _sweep(indptr, indices, radius, distances.breadth_first, candidates, MOST_TRIED, distance)
    return np.concatenate([first, further, rest])


def _average_ball(indptr: NDArray, indices: NDArray, radius: int) -> tuple[float, float]:
    """Estimate the mean number of nodes and of edges in a ball, from a few of them."""
    n = len(indptr) - 1
    distance, seen, queue = np.full(n, n, np.int32), np.full(n, -1, np.int64), np.empty(n, np.int32)
    nodes: list[int] = []
    edges: list[int] = []
    centres = np.random.default_rng(n).integers(n, size=SAMPLED_BALLS)
    while len(nodes) < SAMPLED_BALLS and sum(edges) < len(indices):
        stamp = len(nodes) * (radius + 1)
        _, size, looked = _walk(indptr, indices, centres[len(nodes)], radius, distance, seen, queue, stamp)
        nodes.append(size)
        edges.append(looked)
    return float(np.mean(nodes)), max(float(np.mean(edges)), 1.0)


def _net(indptr: NDArray, indices: NDArray, by_degree: NDArray, most: float, radius: int) -> NDArray[np.bool_]:
    """Mark at most about `most` nodes: the best connected within 0, 1, 2, … edges of each node."""
    n = len(by_degree)
    best = np.empty(n, dtype=np.int32)
    best[by_degree] = np.arange(n, dtype=np.int32)
    marked = np.ones(n, dtype=np.bool_)
    for _ in range(radius):
        if marked.sum() <= most:
            break
        best = _best_neighbour(indptr, indices, best)
        marked[:] = False
        marked[by_degree[best]] = True
    return marked


@compiled
def _best_neighbour(indptr: NDArray, indices: NDArray, best: NDArray) -> NDArray:
    following = best.copy()
    for node in range(len(best)):
        for edge in range(indptr[node], indptr[node + 1]):
            following[node] = max(following[node], best[indices[edge]])
    return following


@compiled
def _most_neighbours(indptr: NDArray, indices: NDArray, order: NDArray) -> NDArray[np.int32]:
    """Centres for a radius of one edge; among equals the first in `order`."""
    n = len(order)
    covered = np.zeros(n, dtype=np.bool_)
    # Nodes by the bound of their gain: head[gain] is the first, following[node] the one after it.
    head, following = np.full(n + 2, -1, dtype=np.int32), np.empty(n, dtype=np.int32)
    for node in order:
        gain = indptr[node + 1] - indptr[node] + 1
        following[node] = head[gain]
        head[gain] = node
    centres = np.empty(n, dtype=np.int32)
    boxes, left, gain = 0, n, n
    while left:
        while head[gain] < 0:
            gain -= 1
        node = head[gain]
        head[gain] = following[node]
        fresh = int(not covered[node])
        for edge in range(indptr[node], indptr[node + 1]):
            fresh += not covered[indices[edge]]
        if fresh == gain:
            centres[boxes] = node
            boxes += 1
            left -= fresh
            covered[node] = True
            for edge in range(indptr[node], indptr[node + 1]):
                covered[indices[edge]] = True
        elif fresh:
            following[node] = head[fresh]
            head[fresh] = node
    return centres[:boxes].copy()


@compiled
def _walk(
    indptr: NDArray,
    indices: NDArray,
    centre: int,
    radius: int,
    distance: NDArray,
    seen: NDArray,
    queue: NDArray,
    stamp: int,
) -> tuple[int, int, int]:
    """Walk over the nodes that `centre` is nearer to than any centre so far: ``queue[:nodes]``.

    `distance` is that to the nearest centre so far, n where none is within reach. The walk need not pass nodes that
    are as near to a centre already: whatever is within reach beyond them is covered. ``seen - stamp`` becomes the
    distance from `centre`; stamps of two walks differ by more than the radius. Returns the number of uncovered nodes,
    of all nodes, and of the edges looked at.
    """
    n = len(distance)
    queue[0], seen[centre] = centre, stamp
    fresh = int(distance[centre] == n)
    start, tail, depth, edges = 0, 1, 0, 0
    while start < tail and depth < radius:
        depth += 1
        stop = tail
        for place in range(start, stop):
            node = queue[place]
            edges += indptr[node + 1] - indptr[node]
            for edge in range(indptr[node], indptr[node + 1]):
                other = indices[edge]
                if seen[other] < stamp and distance[other] > depth:
                    seen[other] = stamp + depth
                    queue[tail] = other
                    tail += 1
                    fresh += distance[other] == n
        start = stop
    return fresh, tail, edges


@compiled
def _take_hubs(
    indptr: NDArray, indices: NDArray, radius: int, hubs: NDArray, share: float, most: int, distance: NDArray
) -> NDArray[np.int32]:
    """Take nodes that cover `share` of what is left, best connected first, until others have cost `most` edges."""
    n = len(distance)
    seen, queue, centres = np.full(n, -1, np.int64), np.empty(n, np.int32), np.empty(n, np.int32)
    boxes, cost, left = 0, 0, (distance == n).sum()
    for tried in range(len(hubs)):
        if not left or cost > most:
            break
        centre, stamp = hubs[tried], tried * (radius + 1)
        fresh, nodes, edges = _walk(indptr, indices, centre, radius, distance, seen, queue, stamp)
        if fresh and fresh >= share * left:
            for node in queue[:nodes]:
                distance[node] = seen[node] - stamp
            centres[boxes] = centre
            boxes += 1
            left -= fresh
        else:
            cost += edges + 1
    return centres[:boxes].copy()


@compiled
def _sweep(
    indptr: NDArray, indices: NDArray, radius: int, order: NDArray, candidates: NDArray, most: int, distance: NDArray
) -> NDArray[np.int32]:
    """Cover the nodes in `order`, each that is uncovered yet by the best of at most `most` candidates around it."""
    n = len(distance)
    seen, queue = np.full(n, -1, np.int64), np.empty(n, np.int32)
    around, centres = np.empty(n, np.int32), np.empty(n, np.int32)
    nowhere = np.full(n, n, np.int32)
    boxes, stamp = 0, 0
    for node in order:
        if distance[node] < n:
            continue
        nodes = _walk(indptr, indices, node, radius, nowhere, seen, queue, stamp)[1]
        stamp += radius + 1
        found = 0
        for place in range(nodes):
            if candidates[queue[place]]:
                around[found] = queue[place]
                found += 1
        best, gain = node, 0
        for place in range(found - 1, -1, -((found + most - 1) // most)):  # the farthest first
            fresh = _walk(indptr, indices, around[place], radius, distance, seen, queue, stamp)[0]
            stamp += radius + 1
            if fresh > gain:
                best, gain = around[place], fresh
        nodes = _walk(indptr, indices, best, radius, distance, seen, queue, stamp)[1]
        for other in queue[:nodes]:
            distance[other] = seen[other] - stamp
        stamp += radius + 1
        centres[boxes] = best
        boxes += 1
    return centres[:boxes].copy()


@compiled
def _without_redundant(indptr: NDArray, indices: NDArray, centres: NDArray) -> NDArray[np.int32]:
    """Drop centres all of whose neighbours lie next to another centre too, the last chosen first."""
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
