"""The feature network as a complex network: what it looks like once the long edges are dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
from scipy import sparse

from ..rate.network import FeatureNetwork
from .rewiring import undirected
from .small_world import local_clustering, mean_path_length, transitivity


@dataclass(frozen=True)
class Topology:
    """Statistics of one graph; those that it does not have are NaN, and `reasons` says why.

    Attributes
    ----------
    nodes, edges : int
    density : float
        Share of all pairs of nodes that are joined.
    components : int
        Number of connected parts; a node without edges is one.
    largest_share : float
        Share of the nodes in the largest part.
    mean_degree, largest_degree, degree_spread : float
        Mean, maximum and standard deviation of the number of neighbours.
    clustering : float
        Mean over nodes of the share of a node's pairs of neighbours that are joined.
    transitivity : float
        The same share over all such pairs.
    path_length : float
        Mean number of edges on the shortest path between two nodes of the largest part.
    assortativity : float
        Correlation of the degrees at the two ends of an edge, from -1 to 1.
    modularity : float
        Of the communities that Louvain's method finds, from -0.5 to 1.
    degrees : ndarray, shape (nodes,)
    reasons : dict of str to str
        For each statistic that is NaN, why.
    """

    nodes: int
    edges: int
    density: float
    components: int
    largest_share: float
    mean_degree: float
    largest_degree: int
    degree_spread: float
    clustering: float
    transitivity: float
    path_length: float
    assortativity: float
    modularity: float
    degrees: np.ndarray = field(repr=False, compare=False)
    reasons: dict[str, str] = field(default_factory=dict)


def topology(graph: nx.Graph | FeatureNetwork, *, seed: int = 0, **threshold) -> Topology:
    """Statistics of a graph, or of a feature network at one threshold.

    Parameters
    ----------
    graph : networkx.Graph or FeatureNetwork
        A graph is undirected, without parallel edges; self-loops and lengths do not count.
    seed : int
        Of Louvain's method, which goes through the nodes in random order.
    distance, quantile, neighbours : float, float, int
        For a feature network, exactly one of these: as `FeatureNetwork.to_networkx` takes them.

    Returns
    -------
    Topology

    Raises
    ------
    TypeError, ValueError
        Something else, a directed graph, a graph without nodes, a threshold out of range or for a graph that has none.

    Notes
    -----
    Modularity is networkx's; clustering, path length and assortativity equal networkx's and are computed on matrices.
    Time O(nodes³) with the speed of a matrix product, plus Louvain's, which has most of it; memory O(nodes²).

    References
    ----------
    .. [1] M. E. J. Newman, Networks, 2nd ed., Oxford University Press (2018), ch. 7.
    .. [2] V. D. Blondel, J.-L. Guillaume, R. Lambiotte, E. Lefebvre, Fast unfolding of communities in large networks,
       J. Stat. Mech. 2008, P10008.

    Examples
    --------
    >>> found = topology(nx.karate_club_graph())
    >>> shown = found.clustering, found.path_length, found.assortativity
    >>> found.components, *(round(value, 3) for value in shown)
    (1, 0.571, 2.408, -0.476)
    >>> topology(nx.empty_graph(5)).reasons["path_length"]
    'no edges'
    """
    if isinstance(graph, FeatureNetwork):
        if len(threshold) != 1:
            got = " and ".join(threshold) or "none"
            raise ValueError(f"threshold: got {got}, need one of distance, quantile and neighbours")
        graph = graph.to_networkx(**threshold)
    elif threshold:
        raise ValueError(f"{next(iter(threshold))}: is for a FeatureNetwork, got a {type(graph).__name__}")
    adjacency = undirected(graph)
    n, degrees = adjacency.shape[0], np.diff(adjacency.indptr)
    if not n:
        raise ValueError("graph: got no nodes, need at least 1")
    edges = len(adjacency.indices) // 2
    parts, part = sparse.csgraph.connected_components(adjacency, directed=False)
    largest = part == np.bincount(part).argmax()
    values, reasons = {}, {}

    def put(name: str, why_not: str, value) -> None:
        """The value, or NaN and the reason."""
        if why_not:
            reasons[name] = why_not
        values[name] = math.nan if why_not else float(value())

    none = "" if edges else "no edges"
    no_pairs = "" if degrees.max() > 1 else "no node has two neighbours"
    put("density", "" if n > 1 else "a single node", lambda: 2 * edges / (n * (n - 1)))
    put("clustering", no_pairs, lambda: local_clustering(adjacency).mean())
    put("transitivity", no_pairs, lambda: transitivity(adjacency))
    put("path_length", none, lambda: mean_path_length(adjacency[largest][:, largest]))
    ends = np.repeat(degrees, degrees), degrees[adjacency.indices]
    alike = "" if none or np.ptp(ends[0]) else "all edges join nodes of the same degree"
    put("assortativity", none or alike, lambda: np.corrcoef(*ends)[0, 1])
    put("modularity", none, lambda: _modularity(adjacency, seed))
    return Topology(
        nodes=n,
        edges=edges,
        components=int(parts),
        largest_share=float(largest.mean()),
        mean_degree=float(degrees.mean()),
        largest_degree=int(degrees.max()),
        degree_spread=float(degrees.std()),
        degrees=degrees,
        reasons=reasons,
        **values,
    )


def _modularity(adjacency: sparse.csr_array, seed: int) -> float:
    plain = nx.from_scipy_sparse_array(adjacency.astype(np.int8))
    return nx.community.modularity(plain, nx.community.louvain_communities(plain, weight=None, seed=seed), weight=None)
