"""Statistics of a feature network as a complex network, without its long edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..checks import check_integer
from ..rate.network import FeatureNetwork
from .rewiring import nodes_and_adjacency
from .small_world import average_clustering, mean_path_length, transitivity


@dataclass(frozen=True)
class Topology:
    """Statistics of one graph. A statistic that the graph does not have is NaN, with its reason in `reasons`.

    Attributes
    ----------
    nodes, edges : int
    density : float
        Share of joined pairs among all pairs of nodes.
    components : int
        Number of connected components; a node without edges is one.
    largest_share : float
        Share of the nodes in the largest component.
    mean_degree, largest_degree, degree_spread : float
        Mean, maximum and standard deviation of the degrees.
    clustering : float
        Mean over nodes of the share of joined pairs among the neighbours of a node.
    transitivity : float
        Share of joined pairs among the neighbours of all nodes.
    path_length : float
        Mean number of edges on the shortest path between two nodes of the largest component.
    assortativity : float
        Correlation of the degrees at the two ends of an edge, from -1 to 1.
    modularity : float
        Modularity of the communities found by Louvain's method, from -0.5 to 1.
    degrees : ndarray, shape (nodes,)
    reasons : dict of str to str
        Why a statistic is NaN, by its name.
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
    degrees: NDArray[np.integer] = field(repr=False, compare=False)
    reasons: dict[str, str] = field(default_factory=dict)


def topology(graph: nx.Graph | FeatureNetwork, *, seed: int = 0, **threshold: float) -> Topology:
    """Return statistics of a graph, or of a feature network at one threshold.

    Parameters
    ----------
    graph : networkx.Graph or FeatureNetwork
        A graph is undirected, without parallel edges. Self-loops and lengths are ignored.
    seed : int
        Seed of Louvain's method, which visits the nodes in random order; non-negative.
    distance, quantile, neighbours : float, float, int
        For a feature network, exactly one of these, as in `FeatureNetwork.to_networkx`.

    Returns
    -------
    Topology

    Raises
    ------
    TypeError, ValueError
        Neither of these, a directed graph, a graph without nodes, or a threshold that is out of range or not for a
        feature network.

    Notes
    -----
    networkx computes the modularity. Clustering, path length and assortativity equal those of networkx and are computed
    on matrices. Time O(nodes³) at the speed of a matrix product, and more for Louvain's method. Memory O(nodes²).

    References
    ----------
    .. [1] M. E. J. Newman, Networks, 2nd ed., Oxford University Press (2018), ch. 7.
    .. [2] V. D. Blondel, J.-L. Guillaume, R. Lambiotte, E. Lefebvre, Fast unfolding of communities in large networks,
       J. Stat. Mech. 2008, P10008.

    Examples
    --------
    >>> club = topology(nx.karate_club_graph())
    >>> club.components, round(club.clustering, 3), round(club.path_length, 3), round(club.assortativity, 3)
    (1, 0.571, 2.408, -0.476)
    >>> topology(nx.empty_graph(5)).reasons["path_length"]
    'no edges'
    """
    seed = check_integer(seed, name="seed", least=0)
    _, adjacency = nodes_and_adjacency(graph, **threshold)
    n, degrees = adjacency.shape[0], np.diff(adjacency.indptr)
    if not n:
        raise ValueError("graph: got no nodes, need at least 1")
    edges = len(adjacency.indices) // 2
    components, component = sparse.csgraph.connected_components(adjacency, directed=False)
    largest = component == np.bincount(component).argmax()
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}

    def put(name: str, reason: str, value: Callable[[], float]) -> None:
        """Compute a statistic, unless there is a reason why the graph does not have it."""
        if reason:
            reasons[name] = reason
        values[name] = math.nan if reason else float(value())

    no_edges = "" if edges else "no edges"
    no_pairs = "" if degrees.max() > 1 else "no node has two neighbours"
    ends = np.repeat(degrees, degrees), degrees[adjacency.indices]
    equal_degrees = "" if no_edges or np.ptp(ends[0]) else "all edges join nodes of the same degree"
    put("density", "" if n > 1 else "a single node", lambda: 2 * edges / (n * (n - 1)))
    put("clustering", no_pairs, lambda: average_clustering(adjacency))
    put("transitivity", no_pairs, lambda: transitivity(adjacency))
    put("path_length", no_edges, lambda: mean_path_length(adjacency[largest][:, largest]))
    put("assortativity", no_edges or equal_degrees, lambda: np.corrcoef(*ends)[0, 1])
    put("modularity", no_edges, lambda: _modularity(adjacency, seed))
    return Topology(
        nodes=n,
        edges=edges,
        components=int(components),
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
