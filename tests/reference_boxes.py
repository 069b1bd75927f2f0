"""Plain box coverings over dicts of dicts, as one writes them with networkx: what the package is checked against.

Written from the published descriptions (Song, Gallos, Havlin and Makse 2007), one box, node and pair at a time. All
take ``distances[a][b]`` with no entry where there is no path, and return the number of boxes at each size.
"""

from __future__ import annotations

import random

import networkx as nx


def all_pairs(graph: nx.Graph) -> dict[int, dict[int, int]]:
    return dict(nx.all_pairs_shortest_path_length(graph))


def greedy_coloring(distances: dict, sizes: list[int], order: list[int]) -> list[int]:
    """Every node takes the lowest colour that no earlier node at distance l_B or more has."""
    counts = []
    for l_B in sizes:
        color: dict[int, int] = {}
        for node in order:
            near = distances[node]
            taken = {color[other] for other in color if near.get(other, l_B) >= l_B}
            choice = 0
            while choice in taken:
                choice += 1
            color[node] = choice
        counts.append(len(set(color.values())))
    return counts


def compact_box(distances: dict, sizes: list[int], seed: int) -> list[int]:
    """Random candidates join a box until none is left that is near all of it; then the next box."""
    counts = []
    for l_B in sizes:
        draw = random.Random(seed)
        uncovered = set(distances)
        boxes = 0
        while uncovered:
            candidates = list(uncovered)
            while candidates:
                node = draw.choice(candidates)
                uncovered.remove(node)
                near = distances[node]
                candidates = [other for other in candidates if other != node and near.get(other, l_B) < l_B]
            boxes += 1
        counts.append(boxes)
    return counts


def memb(distances: dict, sizes: list[int], *, keep_balls: bool = True) -> list[int]:
    """The next centre is the node with the most uncovered nodes within r_B, the first one among equals.

    Kept balls (the nodes within r_B, for each node) save looking through all its distances for every new centre.
    """
    counts = []
    for r_B in sizes:
        balls = {}
        if keep_balls:
            balls = {node: [other for other, d in near.items() if d <= r_B] for node, near in distances.items()}
        uncovered = set(distances)
        centres: set[int] = set()
        while uncovered:
            best, mass = None, -1
            for node in distances:
                if node not in centres:
                    if keep_balls:
                        excluded = sum(1 for other in balls[node] if other in uncovered)
                    else:
                        excluded = sum(1 for other, d in distances[node].items() if d <= r_B and other in uncovered)
                    if excluded > mass:
                        best, mass = node, excluded
            centres.add(best)
            uncovered.difference_update(other for other, d in distances[best].items() if d <= r_B)
        counts.append(len(centres))
    return counts
