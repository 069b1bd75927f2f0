"""Random and ring-like graphs with the degrees of a given one, by swapping the ends of edges."""

from __future__ import annotations

import math
from numbers import Real

import networkx as nx
import numpy as np
from scipy import sparse

from ..boxes.inputs import as_distances
from ..checks import check_choice, check_integer
from ..compiled import compiled


def rewired(
    graph: nx.Graph, *, swaps: float = 10, connected: bool = False, towards: str = "random", seed: int = 0
) -> nx.Graph:
    """The null model of a graph: the same nodes with the same degrees, else random.

    Parameters
    ----------
    graph : networkx.Graph
        Undirected, without parallel edges. Such as a feature network's ``to_networkx(quantile=0.05)``.
    swaps : float
        Swaps tried for each edge. Two edges a-b and c-d become a-d and c-b, where that makes neither a loop nor a
        parallel edge. A try that fails counts too: only so are all graphs of these degrees equally likely in the end.
    connected : bool
        Whether swaps that would cut the graph in two are undone; the graph must be connected.
    towards : {"random", "ring"}
        "ring" accepts a swap only where the new edges are not longer, along a ring in the order of the nodes: what
        comes of it is a lattice, as far as the degrees allow.
    seed : int

    Returns
    -------
    networkx.Graph
        With the same nodes, without attributes of edges.

    Raises
    ------
    TypeError, ValueError
        A directed graph or multigraph, a graph that is not connected where it has to be, options out of range.

    Notes
    -----
    Time O(swaps * edges * degree) at least: connectedness costs a search for each swap, which mostly ends after a few
    steps. Memory O(nodes²) bytes. A graph for which no swap is possible comes back as it is.

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
    adjacency = undirected(graph)
    check_choice(towards, TOWARDS, name="towards")
    if not isinstance(swaps, Real) or not 0 <= swaps < math.inf:
        raise ValueError(f"swaps: got {swaps!r}, need a finite number of at least 0")
    check_integer(seed, name="seed", least=0)
    if connected and sparse.csgraph.connected_components(adjacency, directed=False)[0] > 1:
        raise ValueError("graph: is not connected, need connected=False, or one of its components")
    nodes = list(graph)
    result = nx.empty_graph(nodes)
    retry = towards == "ring"
    made = rewired_adjacency(adjacency, swaps, connected, towards, np.random.default_rng(seed), retry=retry)
    i, j = made.nonzero()
    result.add_edges_from((nodes[a], nodes[b]) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b)
    return result


TOWARDS = ("random", "ring")


def undirected(graph: nx.Graph) -> sparse.csr_array:
    """The pattern of an undirected graph, symmetric and without self-loops; or an error that says what it is."""
    if not isinstance(graph, nx.Graph):
        raise TypeError(f"graph: got {type(graph).__name__}, need a networkx.Graph")
    return as_distances(graph).adjacency


def rewired_adjacency(
    adjacency: sparse.csr_array,
    swaps: float,
    connected: bool,
    towards: str,
    rng: np.random.Generator,
    *,
    retry: bool = True,
) -> sparse.csr_array:
    """The same as `rewired`, from pattern to pattern ``(n, n)``.

    With `retry` a swap that fails is tried again with other edges, as often as networkx does it. That favours graphs
    of which much can be swapped, which tells for small ones only.
    """
    pattern = adjacency.tocsr()
    indptr, heads = pattern.indptr.astype(np.int64), pattern.indices.astype(np.int64)
    n = len(indptr) - 1
    tails = np.repeat(np.arange(n), np.diff(indptr))
    # Each edge has a slot at either end; sorted by the other end, the slots are in the order of their partners.
    partner = np.empty_like(heads)
    partner[np.lexsort((tails, heads))] = np.lexsort((heads, tails))
    joined = np.zeros((n, n), dtype=np.bool_)
    joined[tails, heads] = True
    edges = len(heads) // 2
    if n > 3 and edges > 1:
        tries = max(1, 2 * edges // (n - 1)) if retry else 1
        # Pairs of edges that share a node do not count as tries in networkx, but a star has no others.
        draws = 1000 * tries if retry else 1
        ring = towards == "ring"
        _swap(indptr, tails, heads, partner, joined, int(swaps * edges), tries, draws, connected, ring, rng)
    return sparse.csr_array((np.ones(len(heads), np.int8), heads, indptr), shape=(n, n))


@compiled
def _swap(indptr, tails, heads, partner, joined, swaps, tries, draws, connected, ring, rng):
    """Swap the ends of edges in place. Slot p holds the edge from `tails[p]` to `heads[p]`; tails never change."""
    n, slots = len(indptr) - 1, len(heads)
    queue, seen = np.empty(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    search = 0
    for _ in range(swaps):
        failed, drawn = 0, 0
        while failed < tries and drawn < draws:
            drawn += 1
            p, q = int(rng.random() * slots), int(rng.random() * slots)
            a, b, c, d = tails[p], heads[p], tails[q], heads[q]
            if a in (c, d) or b in (c, d):
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
            held = not connected
            if connected:
                # The graph is whole if a still reaches b: search from the one with fewer neighbours until a
                # neighbour of the other is met.
                few, many = (a, b) if indptr[a + 1] - indptr[a] < indptr[b + 1] - indptr[b] else (b, a)
                search += 1
                seen[few] = search
                queue[0] = few
                first, last = 0, 1
                while first < last and not held:
                    node = queue[first]
                    first += 1
                    for k in range(indptr[node], indptr[node + 1]):
                        other = heads[k]
                        if joined[other, many]:
                            held = True
                            break
                        if seen[other] != search:
                            seen[other] = search
                            queue[last] = other
                            last += 1
            if held:
                partner[p], partner[s], partner[q], partner[r] = s, p, r, q
                break
            heads[p], heads[q], heads[r], heads[s] = b, d, a, c
            joined[a, b] = joined[b, a] = joined[c, d] = joined[d, c] = True
            joined[a, d] = joined[d, a] = joined[c, b] = joined[b, c] = False
            failed += 1
