"""Box covering against scipy's linkage, brute force, networkx and closed forms."""

from __future__ import annotations

import math
import warnings

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist, squareform

import selfsim
from selfsim import (
    FeatureNetwork,
    box_bound,
    box_counts,
    box_cover,
    check_cover,
    fractal_dimension,
    multifractal,
    renormalization_flow,
    renormalize,
)
from selfsim.boxes import complete_linkage
from selfsim.boxes.correlation_sum import surrogate_count
from selfsim.boxes.inputs import as_distances
from tests import reference

METHODS = ("complete-linkage", "greedy-coloring")


def points(n: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return pdist(np.random.default_rng(seed).normal(size=(n, dimensions)))


def assert_valid(distances: np.ndarray, labels: np.ndarray, l_B: float) -> None:
    """A partition into boxes whose distances are all less than l_B."""
    assert labels.shape == (len(distances),)
    assert set(labels) == set(range(labels.max() + 1))
    for box in range(labels.max() + 1):
        inside = distances[np.ix_(labels == box, labels == box)]
        assert (inside[~np.eye(len(inside), dtype=bool)] < l_B).all()


class TestCompleteLinkage:
    @pytest.mark.parametrize("seed", range(4))
    def test_heights_are_those_of_the_papers_procedure(self, seed):
        d = points(17, 3, seed)
        assert complete_linkage.merge_heights(d).tolist() == reference.agglomerate(d)

    @pytest.mark.parametrize("l_B", [0.2, 0.9, 1.7, 3.0, 9.0])
    def test_counts_are_merges_strictly_below(self, l_B):
        d = points(60, 4)
        expected = 60 - int((linkage(d, "complete")[:, 2] < l_B).sum())
        assert box_counts(d, method="complete-linkage", l_B=[l_B]).counts.tolist() == [expected]
        assert box_cover(d, l_B=l_B, method="complete-linkage").max() + 1 == expected

    def test_size_equal_to_a_distance_does_not_reach_it(self):
        line = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
        counts = box_counts(line, method="complete-linkage", l_B=[1.0, 1.5, 3.0, 3.5]).counts
        assert counts.tolist() == [4, 2, 2, 1]

    def test_pair_of_each_merge_has_its_height(self):
        d = points(40, 3)
        assert np.array_equal(d[complete_linkage.merge_pairs(d)], complete_linkage.merge_heights(d))

    def test_pair_of_each_merge_joins_its_boxes_with_ties(self):
        d = np.round(points(30, 2), 1)  # many ties
        tree, pairs = complete_linkage.merge_tree(d), complete_linkage.merge_pairs(d)
        members = {k: {k} for k in range(30)}
        i, j = np.triu_indices(30, 1)
        for k, (a, b, height, _) in enumerate(tree):
            ends = {int(i[pairs[k]]), int(j[pairs[k]])}
            assert d[pairs[k]] == height
            assert len(ends & members[int(a)]) == len(ends & members[int(b)]) == 1
            members[30 + k] = members[int(a)] | members[int(b)]


class TestCovers:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("dimensions", [1, 3, 20])
    def test_valid_at_every_size(self, method, dimensions):
        d = points(40, dimensions)
        for l_B in np.quantile(d, [0, 0.01, 0.2, 0.7, 1.0]):
            assert_valid(squareform(d), box_cover(d, l_B=l_B, method=method), l_B)

    @pytest.mark.parametrize("seed", range(3))
    def test_greedy_is_never_below_the_optimum(self, seed):
        d = squareform(points(8, 2, seed))
        for l_B in np.quantile(d, [0.3, 0.6, 0.9]):
            graph = nx.Graph((i, j) for i in range(8) for j in range(i) if d[i, j] >= l_B)
            graph.add_nodes_from(range(8))
            optimum = next(k for k in range(1, 9) if k_colourable(graph, k))
            assert optimum <= box_cover(d, l_B=l_B, method="greedy-coloring").max() + 1 <= 8

    def test_greedy_coloring_is_networkx_greedy_coloring_of_the_complement(self):
        d = squareform(points(40, 3))
        order = np.random.default_rng(0).permutation(40)
        l_B = np.quantile(d, 0.4)
        conflicts = nx.Graph((i, j) for i in range(40) for j in range(i) if d[i, j] >= l_B)
        conflicts.add_nodes_from(range(40))
        expected = nx.greedy_color(conflicts, strategy=lambda graph, colors: order.tolist())
        got = box_counts(d, method="greedy-coloring", l_B=[l_B], seeds=[0]).counts
        assert got.tolist() == [max(expected.values()) + 1]

    @pytest.mark.parametrize("n", [1, 2, 7, 30])
    @pytest.mark.parametrize("l_B", [1, 2, 3, 5])
    def test_path(self, n, l_B):
        cover = box_cover(nx.path_graph(n), l_B=l_B, method="greedy-coloring")
        assert_valid(np.abs(np.subtract.outer(np.arange(n), np.arange(n))), np.array(list(cover.values())), l_B)
        assert max(cover.values()) + 1 >= math.ceil(n / l_B)

    def test_complete_and_star(self):
        assert box_counts(nx.complete_graph(9), method="greedy-coloring").counts.tolist() == [9, 1]
        assert box_counts(nx.star_graph(8), method="greedy-coloring").counts.tolist() == [9, 8, 1]

    def test_no_box_spans_two_components(self):
        graph = nx.disjoint_union_all([nx.path_graph(4), nx.complete_graph(3), nx.empty_graph(2)])
        cover = box_cover(graph, l_B=100, method="greedy-coloring")
        parts = [{cover[node] for node in part} for part in nx.connected_components(graph)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 4

    def test_without_edges_or_nodes(self):
        assert box_cover(nx.Graph(), l_B=2, method="greedy-coloring") == {}
        assert sorted(box_cover(nx.empty_graph(3), l_B=2, method="greedy-coloring").values()) == [0, 1, 2]
        assert box_cover(np.zeros((0, 0)), l_B=1, method="greedy-coloring").shape == (0,)

    def test_weighted_against_hops(self):
        graph = nx.path_graph(4)
        nx.set_edge_attributes(graph, {(0, 1): 0.1, (1, 2): 5.0, (2, 3): 0.1}, "length")
        weighted = box_cover(graph, l_B=1, method="greedy-coloring", weight="length")
        assert weighted[0] == weighted[1] != weighted[2] == weighted[3]
        assert len(set(box_cover(graph, l_B=1, method="greedy-coloring").values())) == 4

    def test_edges_of_length_zero_join(self):
        graph = nx.path_graph(3)
        nx.set_edge_attributes(graph, 0.0, "length")
        assert set(box_cover(graph, l_B=0.5, method="greedy-coloring", weight="length").values()) == {0}

    def test_self_loops_do_not_count(self):
        graph = nx.path_graph(5)
        graph.add_edge(2, 2)
        expected = box_cover(nx.path_graph(5), l_B=2, method="greedy-coloring")
        assert box_cover(graph, l_B=2, method="greedy-coloring") == expected

    def test_sparse_matrix_as_its_graph(self):
        graph = nx.random_geometric_graph(30, 0.3, seed=0)
        got = box_counts(nx.to_scipy_sparse_array(graph), method="greedy-coloring").counts
        assert np.array_equal(got, box_counts(graph, method="greedy-coloring").counts)

    def test_seed_gives_the_same_cover_again(self):
        d = points(50, 5)
        first, again, other = (box_cover(d, l_B=3, method="greedy-coloring", seed=s) for s in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


class TestCounts:
    def test_ends(self):
        d = points(30, 3)
        for method in (*METHODS, "surrogate"):
            counts = box_counts(d, method=method)
            assert counts.counts[0] == pytest.approx(30)
            assert counts.counts[-1] == pytest.approx(1)
            assert (np.diff(counts.counts) <= 1e-9).all() or method == "greedy-coloring"

    def test_greedy_coloring_over_all_sizes_needs_fewer_boxes_than_complete_linkage(self):
        # Not at each size: a random order of nodes can cost a box more.
        d = points(80, 10)
        greedy = box_counts(d, method="greedy-coloring", seeds=range(5))
        linked = box_counts(d, method="complete-linkage")
        assert greedy.counts.sum() < linked.counts.sum()
        assert greedy.spread.max() > 0

    def test_surrogate_formula(self):
        d = points(25, 3)
        l_B = np.quantile(d, 0.3)
        expected = 25 - 24 * math.log(1 + 24 * np.mean(d < l_B)) / math.log(25)
        assert box_counts(d, method="surrogate", l_B=[l_B]).counts[0] == pytest.approx(expected)
        assert surrogate_count(np.array([0.0, 1.0]), 25) == pytest.approx([25, 1])

    def test_torch_and_feature_network(self):
        x = torch.randn(20, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        network = FeatureNetwork(x)
        matrix = torch.from_numpy(network.matrix())
        for graph in (network.distances, network.matrix(), matrix):
            assert np.array_equal(
                box_counts(graph, method="complete-linkage").counts,
                box_counts(network, method="complete-linkage").counts,
            )


def k_colourable(graph: nx.Graph, k: int, colours: dict | None = None) -> bool:
    colours = colours or {}
    free = [node for node in graph if node not in colours]
    if not free:
        return True
    node = free[0]
    return any(
        k_colourable(graph, k, {**colours, node: c})
        for c in range(k)
        if all(colours.get(other) != c for other in graph[node])
    )


class TestBadInput:
    @pytest.mark.parametrize(
        ("graph", "options", "error", "message"),
        [
            (nx.DiGraph([(0, 1)]), {}, TypeError, "graph: got a DiGraph"),
            (nx.MultiGraph([(0, 1)]), {}, TypeError, "graph: got a MultiGraph"),
            ("abc", {}, TypeError, "graph: got str"),
            (nx.path_graph(3), {"l_B": None}, ValueError, "l_B, r_B: got neither, need exactly one"),
            (nx.path_graph(3), {"r_B": 1}, ValueError, "l_B, r_B: got both, need exactly one"),
            (nx.path_graph(3), {"l_B": None, "r_B": 0, "method": "memb"}, ValueError, "r_B: got 0, need"),
            (nx.path_graph(3), {"method": "memb"}, ValueError, "'memb' covers by r_B, got l_B; need r_B, or one of"),
            (nx.path_graph(3), {"l_B": None, "r_B": 1}, ValueError, "'greedy-coloring' covers by l_B, got r_B"),
            (nx.path_graph(3), {"l_B": None, "r_B": 1, "method": "mbme"}, ValueError, "did you mean 'memb'"),
            (np.ones(3), {"l_B": None, "r_B": 1, "method": "fast"}, ValueError, "'fast' covers graphs in hops"),
            (sparse.csr_array([[0, -1.0], [-1.0, 0]]), {}, ValueError, "negative, infinite or NaN"),
            (sparse.csr_array([[0, math.nan], [math.nan, 0]]), {}, ValueError, "negative, infinite or NaN"),
            (sparse.csr_array([[0, 1.0, 0], [1.0, 0, 1.0]]), {}, ValueError, r"shape \(2, 3\)"),
            (nx.Graph([(0, 1, {"w": -1})]), {"weight": "w"}, ValueError, "has w=-1"),
            (nx.Graph([(0, 1, {"w": math.nan})]), {"weight": "w"}, ValueError, "has w=nan"),
            (nx.Graph([(0, 1, {"w": "far"})]), {"weight": "w"}, ValueError, "has w='far'"),
            (np.ones(3), {"weight": "w"}, ValueError, "weight: got 'w' for distances"),
            (np.array([1.0]), {"l_B": True}, ValueError, "l_B: got True"),
            (np.array([["a"]]), {}, TypeError, "graph: got <U1"),
            (np.ones((2, 3)), {}, ValueError, "shape"),
            (np.ones(4), {}, ValueError, "got 4 condensed distances"),
            (np.array([[0, 1.0], [2.0, 0]]), {}, ValueError, r"asymmetric distance matrix: .* differ by 1, .*d \+ d.T"),
            (np.array([[1, 1.0], [1.0, 0]]), {}, ValueError, "non-zero diagonal"),
            (np.array([[0, -1.0], [-1.0, 0]]), {}, ValueError, "negative or NaN"),
            (np.array([math.nan]), {}, ValueError, "negative or NaN"),
            (sparse.csr_array([[0, 1.0], [0, 0]]), {}, ValueError, "asymmetric sparse"),
            (nx.path_graph(3), {"weight": "length"}, ValueError, "has length=None"),
            (nx.path_graph(3), {"method": "complete-linkage"}, ValueError, "covers distances"),
            (np.array([1.0]), {"l_B": 0}, ValueError, "l_B: got 0"),
            (np.array([1.0]), {"l_B": -2.0}, ValueError, "l_B: got -2.0"),
            (np.array([1.0]), {"l_B": math.nan}, ValueError, "l_B: got nan"),
            (np.array([1.0]), {"l_B": math.inf}, ValueError, "l_B: got inf"),
            (np.array([1.0]), {"seed": 0.5}, ValueError, "seed: got 0.5"),
            (np.array([1.0]), {"method": "greedy"}, ValueError, "did you mean 'greedy-coloring'"),
        ],
    )
    def test_messages(self, graph, options, error, message):
        with pytest.raises(error, match=message):
            box_cover(graph, **{"l_B": 1, "method": "greedy-coloring"} | options)


class TestDistancesAsPeopleHaveThem:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_rounding_is_no_asymmetry(self, dtype):
        exact = squareform(points(30, 3))
        noise = np.random.default_rng(0).normal(size=exact.shape) * 0.1 * np.finfo(dtype).eps ** 0.5
        given = (exact + noise).astype(dtype)  # asymmetric, with a diagonal that is not quite 0
        before = given.copy()
        cover = box_cover(given, l_B=1.5, method="greedy-coloring")
        assert np.array_equal(cover, box_cover(exact, l_B=1.5, method="greedy-coloring"))
        assert np.array_equal(given, before)

    def test_rounding_below_zero(self):
        counts = box_counts(np.array([-1e-17, 1.0, 1.0]), method="complete-linkage", l_B=[0.5]).counts
        assert counts.tolist() == [2]

    def test_infinite_distances_may_stand_beside_rounding(self):
        distances = np.array([[0, 1, np.inf], [1 + 1e-12, 0, np.inf], [np.inf, np.inf, 0]])
        assert box_cover(distances, l_B=9, method="greedy-coloring").tolist() in ([0, 0, 1], [1, 1, 0])

    def test_adjacency_passed_as_distances_is_warned_of(self):
        for graph in (nx.path_graph(5), nx.gnm_random_graph(12, 20, seed=0)):
            with pytest.warns(UserWarning, match=r"triangle inequality.*scipy\.sparse.*networkx"):
                box_cover(nx.to_numpy_array(graph), l_B=2, method="greedy-coloring")

    def test_weights_of_edges_passed_as_distances_are_found(self):
        doubled = 2 * nx.to_numpy_array(nx.path_graph(6))
        with pytest.warns(UserWarning, match=r"zeros that break the triangle inequality: .* up to 2 apart"):
            box_cover(doubled, l_B=2, method="greedy-coloring")
        edges = nx.to_numpy_array(nx.path_graph(6), nonedge=np.inf)
        np.fill_diagonal(edges, 0)
        with pytest.raises(ValueError, match="infinite distances between nodes that finite ones connect"):
            box_cover(edges, l_B=2, method="greedy-coloring")
        with pytest.raises(ValueError, match="infinite distances between nodes that finite ones connect"):
            box_cover(squareform(edges, checks=False), l_B=2, method="greedy-coloring")
        assert box_cover(np.array([1, np.inf, np.inf]), l_B=2, method="greedy-coloring").max() == 1
        matrix = (np.ones((3, 3)) - np.eye(3)).view(np.matrix)
        assert box_cover(matrix, l_B=2, method="exact").tolist() == [0, 0, 0]

    def test_a_sparse_matrix_may_be_asymmetric_by_rounding(self):
        lengths = sparse.csr_array(np.array([[0, 0.1 + 0.2, 0], [0.3, 0, 1], [0, 1, 0]]))
        exact = sparse.csr_array(np.array([[0, 0.3, 0], [0.3, 0, 1], [0, 1, 0]]))
        covers = [box_cover(m, l_B=1, weight="data", method="greedy-coloring").tolist() for m in (lengths, exact)]
        assert covers[0] == covers[1]
        with pytest.raises(ValueError, match="asymmetric sparse matrix"):
            box_cover(sparse.csr_array(exact.toarray() + np.eye(3, k=1)), l_B=1, weight="data", method="exact")

    def test_zeros_and_ones_that_are_distances_are_not(self, recwarn):
        labels = np.array([0, 0, 1, 2, 2])
        rounded = squareform(pdist(np.random.default_rng(0).normal(size=(200, 2))).round(1))
        assert (rounded == 0).sum() > 200
        for distances in ((labels[:, None] != labels) * 1.0, nx.to_numpy_array(nx.complete_graph(4)), rounded):
            box_cover(distances, l_B=1, method="greedy-coloring")
        assert not [warning for warning in recwarn if "triangle" in str(warning.message)]

    def test_size_of_numpy_is_a_size_of_double_precision(self):
        for size in (np.float32(2), np.float16(2), np.int64(2)):
            assert box_cover(np.array([1.99999995]), l_B=size, method="greedy-coloring").tolist() == [0, 0]
            assert box_cover(np.array([2.0]), r_B=size, method="memb").tolist() == [0, 0]

    def test_nodes_that_cannot_be_compared(self):
        graph = nx.Graph([(np.int64(7), ("item", 3)), (("item", 3), "a"), (np.int64(7), np.int64(7))])
        cover = box_cover(graph, l_B=2, method="greedy-coloring")
        check_cover(graph, cover, l_B=2)
        named = {node: node for node in graph}
        named[("item", 3)] = frozenset({1})
        assert renormalize(graph, named).number_of_edges() == 2

    @pytest.mark.parametrize("name", ["l_B", "r_B"])
    def test_edge_of_length_zero_gives_sensible_sizes(self, name):
        graph = nx.Graph([(0, 1, {"w": 0.0}), (1, 2, {"w": 1.0}), (2, 3, {"w": 3.0})])
        counts = box_counts(graph, method="greedy-coloring" if name == "l_B" else "memb", weight="w")
        assert (counts.sizes[0], round(counts.sizes[-1], 9)) == (1.0, 4.0)
        assert counts.counts[0] == (3 if name == "l_B" else 2)
        assert counts.counts[-1] == 1

    def test_integers_of_numpy(self):
        graph = nx.cycle_graph(40)
        one = np.int64(1)
        box_cover(graph, l_B=2 * one, method="cbb", seed=one)
        box_counts(graph, method="cbb", l_B=[2], seeds=np.arange(2))
        assert box_bound(graph, r_B=one, exact_up_to=50 * one).boxes == 14
        multifractal(graph, r_B=[2, 4, 8], centres=10 * one, resamples=20 * one, seed=one)
        renormalization_flow(graph, l_B=3, method="cbb", most_steps=2 * one)
        fractal_dimension(box_counts(graph, method="memb"), fewest_boxes=2 * one)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32])
def test_sparse_matrices_with_self_loops_of_any_type(dtype):
    path = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_distances(sparse.csr_array(path))
    assert (found.square == as_distances(nx.path_graph(4)).square).all()


def test_radii_that_repeat_are_too_few_for_a_slope():
    for radii in ([2, 2, 2], [1, 1, 2]):
        with pytest.raises(ValueError, match=f"r_B: got {len(set(radii))} radii, need at least 3"):
            selfsim.multifractal(nx.cycle_graph(60), r_B=radii)
