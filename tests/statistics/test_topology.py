"""Graph statistics against networkx, the invariants of rewired graphs, and small-world coefficients.

Not shown here: the speed (benchmarks/small_world.py), and the values for networks of neurons (the chapter).
"""

from __future__ import annotations

import itertools
import math
import re
import tracemalloc

import networkx as nx
import numpy as np
import pytest
import torch

from selfsim import FeatureNetwork, null_band, rewired, small_world_omega, small_world_sigma, topology
from selfsim.statistics.rewiring import has_swap, nodes_and_adjacency
from selfsim.statistics.small_world import mean_path_length

GRAPHS = {
    "karate": nx.karate_club_graph(),
    "hubs": nx.barabasi_albert_graph(80, 3, seed=1),
    "sparse, in parts": nx.gnm_random_graph(70, 60, seed=2),
    "ring": nx.connected_watts_strogatz_graph(60, 6, 0.1, seed=3),
    "tree": nx.balanced_tree(2, 5),
    "long path": nx.path_graph(120),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_statistics_equal_networkx(name):
    graph = GRAPHS[name]
    found = topology(graph)
    parts = sorted(nx.connected_components(graph), key=len)
    degrees = np.array([degree for _, degree in graph.degree])
    assert (found.nodes, found.edges) == (len(graph), graph.number_of_edges())
    assert found.components == len(parts)
    assert found.largest_share == len(parts[-1]) / len(graph)
    assert found.density == pytest.approx(nx.density(graph))
    assert (found.mean_degree, found.largest_degree) == (pytest.approx(degrees.mean()), degrees.max())
    assert found.degree_spread == pytest.approx(degrees.std())
    assert found.clustering == pytest.approx(nx.average_clustering(graph))
    assert found.transitivity == pytest.approx(nx.transitivity(graph))
    assert found.path_length == pytest.approx(nx.average_shortest_path_length(graph.subgraph(parts[-1])))
    assert found.assortativity == pytest.approx(nx.degree_pearson_correlation_coefficient(graph), abs=1e-9)
    best = nx.community.modularity(graph, nx.community.greedy_modularity_communities(graph), weight=None)
    assert found.modularity == pytest.approx(best, abs=0.06)
    assert not found.reasons


def test_the_largest_component_need_not_be_the_first_and_the_seed_counts():
    graph = nx.disjoint_union(nx.path_graph(3), nx.cycle_graph(9))
    found = topology(graph)
    assert (found.largest_share, found.path_length) == (0.75, 2.5)
    assert len({topology(GRAPHS["hubs"], seed=seed).modularity for seed in range(6)}) > 1


def test_feature_network_at_a_threshold():
    network = FeatureNetwork(torch.randn(40, 30, generator=torch.Generator().manual_seed(0)))
    for threshold in ({"quantile": 0.2}, {"neighbours": 3}, {"distance": float(np.median(network.distances))}):
        assert topology(network, **threshold).edges == network.to_networkx(**threshold).number_of_edges()
    for wrong in ({}, {"quantile": 0.2, "neighbours": 3}):
        with pytest.raises(ValueError, match="threshold: got .*, need one of distance, quantile and neighbours"):
            topology(network, **wrong)
    with pytest.raises(ValueError, match="quantile: is for a FeatureNetwork, got a Graph"):
        topology(GRAPHS["karate"], quantile=0.5)


def test_missing_statistics_are_nan_with_a_reason():
    found = topology(nx.empty_graph(5))
    absent = {"clustering", "transitivity", "path_length", "assortativity", "modularity"}
    assert set(found.reasons) == absent
    assert all(math.isnan(getattr(found, name)) for name in absent)
    assert (found.components, found.density) == (5, 0.0)
    assert topology(nx.cycle_graph(6)).reasons == {"assortativity": "all edges join nodes of the same degree"}
    assert topology(nx.empty_graph(1)).reasons["density"] == "a single node"
    assert set(topology(nx.path_graph(2)).reasons) == {"clustering", "transitivity", "assortativity"}


@pytest.mark.parametrize("function", [topology, rewired, small_world_sigma, small_world_omega])
def test_bad_graphs(function):
    for graph in (nx.DiGraph([(0, 1)]), nx.MultiGraph([(0, 1)]), np.eye(3), None):
        with pytest.raises(TypeError, match="graph: got"):
            function(graph)


def test_no_nodes():
    with pytest.raises(ValueError, match="graph: got no nodes"):
        topology(nx.Graph())
    assert len(rewired(nx.Graph())) == 0
    assert small_world_sigma(nx.Graph()).reason == "got 0 nodes and 0 edges, need at least 4 and 2"


@pytest.mark.parametrize("towards", ["random", "ring"])
@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("name", ["karate", "hubs", "ring", "tree", "long path"])
def test_rewired_keeps_degrees_and_connectedness(name, connected, towards):
    graph = GRAPHS[name]
    result = rewired(graph, connected=connected, towards=towards, swaps=5, seed=4)
    assert dict(result.degree) == dict(graph.degree)
    assert nx.number_of_selfloops(result) == 0
    assert nx.is_connected(result) or not connected
    assert not nx.utils.edges_equal(result.edges, graph.edges) or (name == "long path" and towards == "ring")
    assert nx.utils.graphs_equal(result, rewired(graph, connected=connected, towards=towards, swaps=5, seed=4))


def test_all_graphs_of_the_same_degrees_are_equally_likely():
    # Six nodes of degree 2 are a hexagon (60 labelled graphs) or two triangles (10).
    triangles = [
        nx.number_connected_components(rewired(nx.cycle_graph(6), swaps=20, seed=seed)) == 2 for seed in range(800)
    ]
    assert np.mean(triangles) == pytest.approx(10 / 70, abs=0.04)
    connected = [rewired(nx.cycle_graph(6), swaps=20, connected=True, seed=seed) for seed in range(50)]
    assert all(nx.is_connected(graph) for graph in connected)


def test_ring_shortens_edges():
    graph = nx.gnm_random_graph(60, 180, seed=1)

    def length(graph):
        return sum(min(abs(a - b), 60 - abs(a - b)) for a, b in graph.edges)

    ring = rewired(graph, towards="ring", swaps=20)
    assert length(ring) < 0.4 * length(graph)
    assert nx.average_clustering(ring) > 3 * nx.average_clustering(graph)


def test_a_ring_lattice_stays_one():
    graph = nx.circulant_graph(40, [1, 2])
    for seed in range(5):
        lattice = rewired(graph, swaps=10, towards="ring", seed=seed)
        assert sum(min(abs(i - j), 40 - abs(i - j)) for i, j in lattice.edges) == 40 + 80


def test_references_of_omega_are_swapped_to_the_end():
    ring = nx.circulant_graph(90, [1, 2, 3])
    random = [rewired(ring, swaps=20, connected=True, seed=seed) for seed in range(20)]
    expected = np.mean([nx.average_shortest_path_length(graph) for graph in random])
    assert small_world_omega(ring, draws=20).reference_path_length.mean() == pytest.approx(expected, rel=0.02)


def test_graphs_without_a_swap_are_returned():
    for graph in (nx.star_graph(9), nx.complete_graph(6), nx.empty_graph(4), nx.path_graph(3)):
        assert nx.utils.graphs_equal(rewired(graph), nx.Graph(graph))
        assert nx.utils.graphs_equal(rewired(graph, towards="ring"), nx.Graph(graph))


def test_has_swap_by_trying_all_pairs_of_edges():
    def swappable(graph):
        return any(
            len({a, b, c, d}) == 4 and not graph.has_edge(a, d) and not graph.has_edge(c, b)
            for (a, b), edge in itertools.combinations(graph.edges, 2)
            for c, d in (edge, edge[::-1])
        )

    graphs = [graph for graph in nx.graph_atlas_g() if len(graph) < 7]
    found = [has_swap(nodes_and_adjacency(graph)[1]) for graph in graphs]
    assert found == [swappable(graph) for graph in graphs]
    assert 20 < sum(found) < len(graphs)


def test_a_star_is_refused_before_any_work():
    star = nx.star_graph(20_000)
    for coefficient in (small_world_sigma, small_world_omega):
        assert coefficient(star).reason == "no two edges can be swapped: it is the only graph with these degrees"
    nearly = nx.star_graph(1500)
    nearly.add_edge(1, 1501)  # one swap in a thousand pairs of edges
    assert small_world_sigma(nearly, swaps=2, draws=1).reason == "none of 1 random graphs has a triangle"


def test_memory_of_path_lengths_is_quadratic():
    n = 1200
    _, adjacency = nodes_and_adjacency(nx.gnp_random_graph(n, 0.5, seed=0))
    tracemalloc.start()
    try:
        length = mean_path_length(adjacency)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert length == pytest.approx(2 - adjacency.nnz / (n * (n - 1)))
    assert peak < 6 * n**2


def test_nodes_of_any_type():
    graph = nx.Graph(GRAPHS["karate"])
    names = dict(enumerate([np.int64(77), ("item", 3), "text", 2.5, frozenset({1}), np.float64(0.1), (np.int64(1), 2)]))
    named = nx.relabel_nodes(graph, names)
    assert topology(named) == topology(graph)
    for coefficient in (small_world_sigma, small_world_omega):
        assert coefficient(named, swaps=2, draws=2) == coefficient(graph, swaps=2, draws=2)
    plain, other = rewired(graph, seed=1), rewired(named, seed=1)
    assert list(other) == list(named)
    assert {frozenset(edge) for edge in other.edges} == {
        frozenset(names.get(node, node) for node in edge) for edge in plain.edges
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"towards": "rings"}, "towards: got 'rings'.*did you mean 'ring'"),
        ({"swaps": -1}, "swaps: got -1"),
        ({"swaps": math.inf}, "swaps: got inf"),
        ({"swaps": "3"}, "swaps: got '3'"),
        ({"quantile": 0.5}, "quantile: is for a FeatureNetwork, got a Graph"),
        ({"seed": -1}, "seed: got -1"),
        ({"connected": True}, "graph: is not connected"),
    ],
)
def test_rewired_messages(options, message):
    with pytest.raises(ValueError, match=message):
        rewired(GRAPHS["sparse, in parts"], **options)


def test_rewired_is_a_null_model():
    graph = GRAPHS["ring"]
    band = null_band(lambda g: topology(g).clustering, null=lambda seed: rewired(graph, seed=seed), draws=19)
    assert band.p_value(topology(graph).clustering) == 2 / 20


@pytest.mark.parametrize("name", ["karate", "hubs", "ring", "long path"])
def test_path_length(name):
    expected = nx.average_shortest_path_length(GRAPHS[name])
    assert mean_path_length(nodes_and_adjacency(GRAPHS[name])[1]) == pytest.approx(expected)


@pytest.mark.parametrize("n", [2, 63, 64, 65, 128])
def test_path_length_at_the_ends_of_words(n):
    assert mean_path_length(nodes_and_adjacency(nx.complete_graph(n))[1]) == 1.0


@pytest.mark.parametrize("name", ["hubs", "ring"])
def test_coefficients_from_their_parts(name):
    graph = GRAPHS[name]
    sigma = small_world_sigma(graph, swaps=10, draws=4)
    assert (sigma.clustering, sigma.path_length) == (
        pytest.approx(nx.transitivity(graph)),
        pytest.approx(nx.average_shortest_path_length(graph)),
    )
    ratio = sigma.clustering / sigma.reference_clustering.mean()
    assert sigma.value == pytest.approx(ratio / (sigma.path_length / sigma.reference_path_length.mean()))
    alone = sigma.clustering / sigma.reference_clustering / (sigma.path_length / sigma.reference_path_length)
    assert np.corrcoef(sigma.by_draw, alone)[0, 1] > 0.99
    omega = small_world_omega(graph, draws=4)
    assert omega.clustering == pytest.approx(nx.average_clustering(graph))
    (lattice,) = omega.reference_clustering
    paths = omega.reference_path_length.mean() / omega.path_length
    assert omega.value == pytest.approx(paths - omega.clustering / lattice)


@pytest.mark.parametrize("k", [4, 6, 10])
def test_the_lattice_clusters_as_a_ring_in_closed_form(k):
    n = 100
    closed_form = 3 * (k - 2) / (4 * (k - 1))
    ring = nx.watts_strogatz_graph(n, k, 0)
    shuffled = nx.Graph()  # the same ring, but its nodes have lost their order
    shuffled.add_nodes_from(range(n))
    shuffled.add_edges_from(nx.relabel_nodes(ring, dict(enumerate(np.random.default_rng(0).permutation(n)))).edges)
    random = nx.connected_watts_strogatz_graph(n, k, 1.0, seed=1)
    assert small_world_omega(ring, draws=1).reference_clustering == pytest.approx(closed_form)
    for graph in (shuffled, random):
        (lattice,) = small_world_omega(graph, draws=1).reference_clustering
        assert lattice == pytest.approx(closed_form, rel=0.06 if graph is shuffled else 0.15)
        assert lattice >= 0.96 * nx.average_clustering(rewired(graph, towards="ring", swaps=500, connected=True))


def test_omega_depends_on_the_order_of_the_nodes_as_documented():
    def shuffled(graph: nx.Graph, seed: int) -> nx.Graph:
        other = nx.Graph()
        other.add_nodes_from(np.random.default_rng(seed).permutation(list(graph)).tolist())
        other.add_edges_from(graph.edges)
        return other

    karate, ring = GRAPHS["karate"], nx.connected_watts_strogatz_graph(100, 8, 0.0)
    assert small_world_omega(karate).value == pytest.approx(0.0, abs=0.03)
    assert np.mean([small_world_omega(shuffled(karate, seed)).value for seed in range(4)]) == pytest.approx(
        0.1, abs=0.04
    )
    assert small_world_omega(ring).value < -0.5 and not small_world_omega(shuffled(ring, 0)).estimable


def test_omega_is_not_estimable_where_the_lattice_clusters_less():
    # Cliques in a ring, in any order: no ring-like graph of these degrees has as many triangles.
    cliques = nx.connected_caveman_graph(20, 7)
    order = np.random.default_rng(0).permutation(len(cliques)).tolist()
    shuffled = nx.Graph()
    shuffled.add_nodes_from(order)
    shuffled.add_edges_from(cliques.edges)
    found = small_world_omega(shuffled, draws=2)
    assert re.fullmatch(r"a lattice of these degrees clusters less than the graph \(0\.\d\d < 0\.87\)", found.reason)
    assert found.clustering == pytest.approx(nx.average_clustering(cliques))
    assert found.reference_clustering.max() < found.clustering
    assert math.isnan(found.value)


def test_intervals_over_random_graphs_hold_the_mean_over_many():
    graph = GRAPHS["ring"]
    for coefficient in (small_world_sigma, small_world_omega):
        many = coefficient(graph, swaps=5, draws=400, seed=1)
        assert many.by_draw.mean() == pytest.approx(many.value)
        # The lattice is taken as given: the same for all.
        given = coefficient is small_world_omega
        covered = 0
        for seed in range(60):
            few = coefficient(graph, swaps=5, draws=8, seed=100 + seed)
            moved = few.clustering / few.reference_clustering[0] - many.clustering / many.reference_clustering[0]
            covered += few.interval.low <= many.value - given * moved <= few.interval.high
        assert covered >= 52
    with pytest.raises(ValueError, match="not estimable"):
        _ = small_world_sigma(nx.path_graph(2)).interval


def networkx_reference(graph: nx.Graph, kind: str, draws: int) -> np.ndarray:
    """Clustering and path length of networkx's references, with its slow test for connectedness done by a search."""
    from networkx.algorithms import smallworld

    class Quick:
        @staticmethod
        def local_edge_connectivity(graph, a, b):
            return int(nx.has_path(graph, a, b))

    plain, nx.connectivity.local_edge_connectivity = (
        nx.connectivity.local_edge_connectivity,
        Quick.local_edge_connectivity,
    )
    try:
        make = smallworld.random_reference if kind == "random" else smallworld.lattice_reference
        made = [make(graph, niter=5, seed=seed) for seed in range(draws)]
    finally:
        nx.connectivity.local_edge_connectivity = plain
    return np.array([(nx.transitivity(g), nx.average_clustering(g), nx.average_shortest_path_length(g)) for g in made])


@pytest.mark.parametrize(("kind", "towards"), [("random", "random"), ("lattice", "ring")])
def test_references_equal_networkx_in_the_mean(kind, towards):
    graph, draws = GRAPHS["ring"], 24
    theirs = networkx_reference(graph, kind, draws)
    made = [rewired(graph, swaps=5, connected=True, towards=towards, seed=seed) for seed in range(100)]
    ours = np.array([(nx.transitivity(g), nx.average_clustering(g), nx.average_shortest_path_length(g)) for g in made])
    error = np.sqrt(theirs.var(0, ddof=1) / draws + ours.var(0, ddof=1) / len(ours))
    assert (np.abs(theirs.mean(0) - ours.mean(0)) < 3.5 * error).all()


def test_coefficients_know_a_ring_a_random_graph_and_a_small_world():
    ring, small, random = (nx.connected_watts_strogatz_graph(150, 8, p, seed=1) for p in (0.0, 0.08, 1.0))
    omegas = [float(small_world_omega(g)) for g in (ring, small, random)]
    assert omegas[0] < -0.5 < omegas[1] < 0.3 < omegas[2]
    sigmas = [float(small_world_sigma(g, swaps=20)) for g in (ring, small, random)]
    assert sigmas[1] > max(sigmas[0], 4)
    assert sigmas[2] < 2


def test_small_world_not_estimable():
    for coefficient in (small_world_sigma, small_world_omega):
        assert coefficient(GRAPHS["sparse, in parts"]).reason.startswith("the graph has")
        assert coefficient(nx.path_graph(2)).reason == "got 2 nodes and 1 edges, need at least 4 and 2"
        assert "no two edges can be swapped" in coefficient(nx.star_graph(8)).reason
        assert "no two edges can be swapped" in coefficient(nx.complete_graph(6)).reason
        assert "triangle" in coefficient(GRAPHS["tree"], draws=2).reason
        for name, value in (("draws", 0), ("draws", 2.5), ("swaps", True), ("seed", -1)):
            with pytest.raises(ValueError, match=f"^{name}: got {value}"):
                coefficient(GRAPHS["karate"], **{name: value})
        counted = coefficient(GRAPHS["ring"], draws=np.int64(2), swaps=np.int32(1))
        assert counted.value == coefficient(GRAPHS["ring"], draws=2, swaps=1).value
        with pytest.raises(ValueError, match="SmallWorld: not estimable"):
            float(coefficient(nx.path_graph(2)))


def test_feature_networks_are_thresholded_as_in_topology():
    network = FeatureNetwork(torch.randn(40, 30, generator=torch.Generator().manual_seed(0)))
    for threshold in ({"quantile": 0.4}, {"neighbours": 8}, {"distance": float(np.median(network.distances))}):
        graph = network.to_networkx(**threshold)
        for coefficient in (small_world_sigma, small_world_omega):
            assert coefficient(network, draws=2, **threshold) == coefficient(graph, draws=2)
        assert nx.utils.graphs_equal(rewired(network, **threshold), rewired(graph))
    for function in (topology, rewired, small_world_sigma, small_world_omega):
        with pytest.raises(ValueError, match="threshold: got none, need one of distance, quantile and neighbours"):
            function(network)
        with pytest.raises(TypeError, match="neighbors"):
            function(network, neighbors=3)
