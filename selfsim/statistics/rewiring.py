"""Random and ring-like graphs with given degrees, by swapping the ends of edges."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

import networkx as nx
import numpy as np
from networkx.algorithms.threshold import is_threshold_sequence
from numpy.typing import NDArray
from scipy import sparse

from ..boxes.inputs import as_distances
from ..checks import check_choice, check_flag, check_integer, check_number
from ..compiled import compiled
from ..rate.network import FeatureNetwork

TOWARDS = ("random", "ring")
_THRESHOLDS = ("distance", "quantile", "neighbours")
# A swap draws pairs of edges until two have no node in common. Nearly all pairs have one in a star.
_DRAWS_PER_SWAP = 100


def rewired(
    graph: nx.Graph | FeatureNetwork,
    *,
    swaps: float = 10,
    connected: bool = False,
    towards: Literal["random", "ring"] = "random",
    seed: int = 0,
    **threshold: float,
) -> nx.Graph:
    """Return a graph with the same nodes and degrees, otherwise random.

    Parameters
    ----------
    graph : networkx.Graph or FeatureNetwork
        A graph is undirected, without parallel edges.
    swaps : float
        Attempted swaps per edge. A swap turns the edges a-b and c-d into a-d and c-b, unless this makes a self-loop or
        a parallel edge. Failed attempts count, so that in the limit all graphs of these degrees are equally likely.
    connected : bool
        Whether to undo swaps that disconnect the graph. The graph must be connected.
    towards : {"random", "ring"}
        "ring" accepts a swap only if the new edges are not longer along a ring of the nodes in their order. This gives
        a lattice, as far as the degrees allow.
    seed : int
        Non-negative.
    distance, quantile, neighbours : float, float, int
        For a feature network, exactly one of these, as in `FeatureNetwork.to_networkx`.

    Returns
    -------
    networkx.Graph
        The same nodes, without edge attributes. Equal to `graph` if no swap is possible.

    Raises
    ------
    TypeError, ValueError
        A directed graph or multigraph, a disconnected graph with ``connected=True``, options out of range.

    Notes
    -----
    Time at least O(swaps edges degree). For connectedness, each swap costs a search that usually ends after a few
    steps. Memory O(nodes²) bytes.

    References
    ----------
    .. [1] S. Maslov, K. Sneppen, Specificity and stability in topology of protein networks, Science 296 (2002).
    .. [2] O. Sporns, J. D. Zwi, The small world of the cerebral cortex, Neuroinformatics 2 (2004): the ring.

    Examples
    --------
    >>> graph = nx.barabasi_albert_graph(50, 3, seed=1)
    >>> dict(rewired(graph).degree) == dict(graph.degree)
    True
    """
    nodes, adjacency = nodes_and_adjacency(graph, **threshold)
    check_choice(towards, TOWARDS, name="towards")
    swaps = check_number(swaps, name="swaps", within="[0, 1e9]")
    connected = check_flag(connected, name="connected")
    rng = np.random.default_rng(check_integer(seed, name="seed", least=0))
    if connected and sparse.csgraph.connected_components(adjacency, directed=False)[0] > 1:
        raise ValueError("graph: is not connected, need connected=False, or one of its components")
    result = nx.Graph()
    result.add_nodes_from(nodes)
    i, j = rewired_adjacency(adjacency, swaps, connected, towards, rng, retry=towards == "ring").nonzero()
    result.add_edges_from((nodes[a], nodes[b]) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b)
    return result


def nodes_and_adjacency(
    graph: nx.Graph | FeatureNetwork, **threshold: float
) -> tuple[list[Hashable], sparse.csr_array]:
    """Return the nodes and the symmetric pattern, without self-loops, of a graph or a thresholded feature network."""
    if unknown := set(threshold) - set(_THRESHOLDS):
        raise TypeError(f"{min(unknown)}: is no parameter of this function")
    if isinstance(graph, FeatureNetwork):
        if len(threshold) != 1:
            got = " and ".join(threshold) or "none"
            raise ValueError(f"threshold: got {got}, need one of distance, quantile and neighbours")
        graph = graph.to_networkx(**threshold)  # type: ignore[arg-type] # which of them is an integer, it checks
    elif threshold:
        raise ValueError(f"{next(iter(threshold))}: is for a FeatureNetwork, got a {type(graph).__name__}")
    if not isinstance(graph, nx.Graph):
        raise TypeError(f"graph: got {type(graph).__name__}, need a networkx.Graph or a FeatureNetwork")
    return list(graph), as_distances(graph).adjacency


def has_swap(adjacency: sparse.csr_array) -> bool:
    """Whether two edges can be swapped. If not, no other graph has these degrees (a threshold graph)."""
    return not is_threshold_sequence(np.diff(adjacency.indptr).tolist())


def rewired_adjacency(
    adjacency: sparse.csr_array,
    swaps: float,
    connected: bool,
    towards: str,
    rng: np.random.Generator,
    *,
    retry: bool = True,
) -> sparse.csr_array:
    """Return a rewired pattern ``(n, n)``, as `rewired` does for graphs.

    With `retry`, a failed swap is tried again with other edges, as often as in networkx. This favours graphs with many
    possible swaps; the difference is visible in small graphs only.
    """
    if not has_swap(adjacency):
        return adjacency
    indptr, heads = adjacency.indptr.astype(np.int64), adjacency.indices.astype(np.int64)
    n, edges = len(indptr) - 1, len(heads) // 2
    tails = np.repeat(np.arange(n), np.diff(indptr))
    # Each edge has a slot at either end; sorted by the other end, the slots are in the order of their partners.
    partner = np.empty_like(heads)
    partner[np.lexsort((tails, heads))] = np.lexsort((heads, tails))
    joined = np.zeros((n, n), dtype=np.bool_)
    joined[tails, heads] = True
    tries = max(1, 2 * edges // (n - 1)) if retry else 1
    ring = towards == "ring"
    _swap(indptr, tails, heads, partner, joined, int(float(swaps) * edges), tries, retry, connected, ring, rng)
    return sparse.csr_array((np.ones(len(heads), np.int8), heads, indptr), shape=(n, n))


@compiled
def _swap(
    indptr: NDArray[np.int64],
    tails: NDArray[np.int64],
    heads: NDArray[np.int64],
    partner: NDArray[np.int64],
    joined: NDArray[np.bool_],
    swaps: int,
    tries: int,
    retry: bool,
    connected: bool,
    ring: bool,
    rng: np.random.Generator,
) -> None:
    """Swap the ends of edges in place. Slot p holds the edge from `tails[p]` to `heads[p]`; tails never change."""
    n, slots = len(indptr) - 1, len(heads)
    queue, seen = np.empty(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    search = 0
    left = _DRAWS_PER_SWAP * swaps
    for _ in range(swaps):
        failed = 0
        while failed < tries and left > 0:
            left -= 1
            p, q = int(rng.random() * slots), int(rng.random() * slots)
            a, b, c, d = tails[p], heads[p], tails[q], heads[q]
            if a in (c, d) or b in (c, d):
                failed += not retry  # a common node does not count as a try in networkx
                continue
            if joined[a, d] or joined[c, b]:
                failed += 1
                continue
            if ring:
                length = min(abs(a - b), n - abs(a - b)) + min(abs(c - d), n - abs(c - d))
                if min(abs(a - d), n - abs(a - d)) + min(abs(c - b), n - abs(c - b)) > length:
                    failed += 1
                    continue
            r, s = partner[p], partner[q]
            heads[p], heads[q], heads[r], heads[s] = d, b, c, a
            joined[a, b] = joined[b, a] = joined[c, d] = joined[d, c] = False
            joined[a, d] = joined[d, a] = joined[c, b] = joined[b, c] = True
            accepted = not connected
            if connected:
                # The graph is connected if b can still be reached from a. Search from the one with fewer neighbours
                # until a neighbour of the other is met.
                few, many = (a, b) if indptr[a + 1] - indptr[a] < indptr[b + 1] - indptr[b] else (b, a)
                search += 1
                seen[few] = search
                queue[0] = few
                first, last = 0, 1
                while first < last and not accepted:
                    node = queue[first]
                    first += 1
                    for k in range(indptr[node], indptr[node + 1]):
                        other = heads[k]
                        if joined[other, many]:
                            accepted = True
                            break
                        if seen[other] != search:
                            seen[other] = search
                            queue[last] = other
                            last += 1
            if accepted:
                partner[p], partner[s], partner[q], partner[r] = s, p, r, q
                break
            heads[p], heads[q], heads[r], heads[s] = b, d, a, c
            joined[a, b] = joined[b, a] = joined[c, d] = joined[d, c] = True
            joined[a, d] = joined[d, a] = joined[c, b] = joined[b, c] = False
            failed += 1
