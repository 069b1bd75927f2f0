"""Networks whose box counts or dimension are known in closed form: counts match them, and fits recover what was made.

What this cannot show: that a dimension fitted to an unknown network is right; the interval holds scatter, not bias.
"""

from __future__ import annotations

import itertools
import math
import warnings

import networkx as nx
import numpy as np
import pytest
from scipy import sparse

from selfsim import (
    BoxCounts,
    box_bound,
    box_counts,
    box_cover,
    check_cover,
    fractal_dimension,
    multifractal,
    renormalization_flow,
    renormalize,
)
from selfsim.boxes.exact import BoxBound
from selfsim.boxes.fractals import flower, lattice, shm_tree, sierpinski
from selfsim.boxes.renormalization import degree_tail
from tests import reference_boxes


def fewest(graph, name, size) -> int:
    return int(box_counts(graph, method="exact", **{name: [size]}).counts[0])


class TestClosedForms:
    """Seven families, four sizes each, with the exact optimum (and MEMB on the flowers)."""

    @pytest.mark.parametrize("n", [2, 7, 12, 25])
    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_path(self, n, size):
        assert fewest(nx.path_graph(n), "l_B", size) == math.ceil(n / size)
        assert fewest(nx.path_graph(n), "r_B", size) == math.ceil(n / (2 * size + 1))

    @pytest.mark.parametrize("n", [5, 9, 14, 22])
    def test_cycle(self, n):
        assert fewest(nx.cycle_graph(n), "l_B", 2) == math.ceil(n / 2)
        assert fewest(nx.cycle_graph(n), "l_B", n // 2 + 1) == 1
        for r_B in (1, 2, 3):
            assert fewest(nx.cycle_graph(n), "r_B", r_B) == math.ceil(n / (2 * r_B + 1))

    @pytest.mark.parametrize("leaves", [1, 4, 9, 20])
    def test_star(self, leaves):
        counts = box_counts(nx.star_graph(leaves), method="exact", l_B=[1, 2, 3]).counts
        assert counts.tolist() == [leaves + 1, leaves, 1]
        assert fewest(nx.star_graph(leaves), "r_B", 1) == 1

    @pytest.mark.parametrize("n", [1, 2, 6, 15])
    def test_complete(self, n):
        assert box_counts(nx.complete_graph(n), method="exact", l_B=[1, 2]).counts.tolist() == [n, 1]
        assert fewest(nx.complete_graph(n), "r_B", 1) == 1

    @pytest.mark.parametrize("sides", [(3, 4), (5, 5), (6, 3), (2, 2, 3)])
    def test_lattice(self, sides):
        # Boxes of size 2 are edges, and a lattice has a matching that leaves at most one node alone.
        assert fewest(lattice(*sides), "l_B", 2) == math.ceil(math.prod(sides) / 2)
        assert fewest(lattice(*sides), "l_B", sum(sides) - len(sides) + 1) == 1

    @pytest.mark.parametrize("generation", [2, 3, 4, 5, 6])
    def test_memb_on_a_flower_finds_the_earlier_generations(self, generation):
        sizes = [4, 12, 44, 172, 684, 2732][: generation - 1][::-1]
        graph = flower(2, 2, generation)
        radii = 2 ** np.arange(len(sizes))
        for method in ("memb", "fast"):
            assert box_counts(graph, method=method, r_B=radii).counts.tolist() == sizes
        cover = box_cover(graph, r_B=2, method="memb")
        check_cover(graph, cover, r_B=2)

    @pytest.mark.parametrize(("m", "generation"), [(2, 1), (2, 2), (3, 1), (3, 2), (2, 3)])
    def test_shm_tree_needs_one_box_per_node_of_the_generation_before(self, m, generation):
        assert fewest(shm_tree(generation, m=m), "r_B", 1) == len(shm_tree(generation - 1, m=m))

    @pytest.mark.parametrize("generation", [0, 1, 2, 3])
    def test_sierpinski_of_whole_triangles(self, generation):
        # The smallest triangles pointing up are cliques; the corners that they share can each be left to one of them.
        triangles = 3**generation
        assert fewest(sierpinski(generation), "l_B", 2) >= math.ceil(len(sierpinski(generation)) / 3)
        assert fewest(sierpinski(generation), "l_B", 2) <= triangles


class TestFractals:
    @pytest.mark.parametrize(("u", "v"), [(2, 2), (2, 3), (3, 3)])
    @pytest.mark.parametrize("generation", [1, 2, 3, 4])
    def test_flower(self, u, v, generation):
        graph, w = flower(u, v, generation), u + v
        assert graph.number_of_edges() == w**generation
        assert len(graph) * (w - 1) == (w - 2) * w**generation + w
        assert nx.is_connected(graph)
        assert graph.graph["dimension"] == pytest.approx(math.log(w) / math.log(u))
        if generation == 1:
            assert nx.is_isomorphic(graph, nx.cycle_graph(w))

    @pytest.mark.parametrize("generation", [1, 2, 3, 4])
    def test_distances_in_a_flower_grow_by_u(self, generation):
        old, new = flower(2, 3, generation), flower(2, 3, generation + 1)
        for node in range(0, len(old), 7):
            far, near = (nx.single_source_shortest_path_length(g, node) for g in (new, old))
            assert all(far[other] == 2 * hops for other, hops in near.items())

    @pytest.mark.parametrize("generation", [0, 1, 2, 3])
    def test_shm_tree(self, generation):
        graph = shm_tree(generation, m=3)
        assert nx.is_tree(graph)
        assert graph.number_of_edges() == 7**generation
        assert nx.diameter(graph) == 3**generation + 2 * sum(3**k for k in range(generation))
        assert max(d for _, d in graph.degree()) == 3**generation

    def test_lattice_and_sierpinski(self):
        assert nx.is_isomorphic(lattice(4, 6), nx.grid_2d_graph(4, 6))
        assert nx.is_isomorphic(lattice(3, 2, 4), nx.grid_graph([3, 2, 4]))
        for generation in range(5):
            graph = sierpinski(generation)
            assert len(graph) == (3 ** (generation + 1) + 3) // 2
            assert graph.number_of_edges() == 3 ** (generation + 1)
            assert nx.diameter(graph) == 2**generation

    @pytest.mark.parametrize(
        "make",
        [
            lambda s: flower(2, 3, 3, as_sparse=s),
            lambda s: shm_tree(2, as_sparse=s),
            lambda s: lattice(4, 3, as_sparse=s),
            lambda s: sierpinski(3, as_sparse=s),
        ],
    )
    def test_sparse_is_the_same(self, make):
        assert (make(True) != nx.to_scipy_sparse_array(make(False))).nnz == 0

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: flower(1, 2, 3), "u: got 1"),
            (lambda: flower(3, 2, 3), "v: got 2, need an integer of at least 3"),
            (lambda: flower(2, 2, 0), "generation: got 0"),
            (lambda: shm_tree(-1), "generation: got -1"),
            (lambda: shm_tree(1, m=0), "m: got 0"),
            (lambda: lattice(), "sides: got none"),
            (lambda: lattice(3, 0), "sides: got 0"),
            (lambda: sierpinski(1.5), "generation: got 1.5"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestAgainstPlainTranscriptions:
    graph = flower(2, 2, 4)
    plain = reference_boxes.all_pairs(graph)

    def test_greedy_coloring_is_the_same(self):
        order = np.random.default_rng(5).permutation(len(self.graph)).tolist()
        counts = box_counts(self.graph, method="greedy-coloring", seeds=[5])
        assert counts.counts.tolist() == reference_boxes.greedy_coloring(self.plain, counts.l_B, order)

    def test_memb_is_the_same(self):
        counts = box_counts(self.graph, method="memb")
        assert counts.counts.tolist() == reference_boxes.memb(self.plain, counts.r_B)

    def test_memb_on_a_random_graph_is_the_same(self):
        graph = nx.gnm_random_graph(60, 70, seed=8)
        counts = box_counts(graph, method="memb")
        assert counts.counts.tolist() == reference_boxes.memb(reference_boxes.all_pairs(graph), counts.r_B)

    def test_compact_box_burning_has_the_same_distribution(self):
        seeds = range(60)
        ours = box_counts(self.graph, method="cbb", l_B=[3, 5], seeds=seeds)
        plain = np.array([reference_boxes.compact_box(self.plain, [3, 5], seed) for seed in seeds])
        error = np.hypot(ours.spread, plain.std(0)) / math.sqrt(len(seeds))
        assert (np.abs(ours.counts - plain.mean(0)) < 4 * error).all()
        assert ours.spread == pytest.approx(plain.std(0), rel=0.5)


def shuffled(graph: nx.Graph, seed: int = 0) -> nx.Graph:
    """The same graph with its nodes in a random order."""
    order = np.random.default_rng(seed).permutation(len(graph)).tolist()
    copy = nx.empty_graph(len(graph))
    place = dict(zip(graph, order, strict=True))
    copy.add_edges_from((place[a], place[b]) for a, b in graph.edges)
    return copy


GRAPHS_WITHOUT_HUBS = {
    "path": nx.path_graph(500),
    "ring": nx.cycle_graph(401),
    "ladder": nx.ladder_graph(200),
    "lattice": nx.grid_2d_graph(22, 22),
    "lattice of three dimensions": nx.grid_graph([8, 8, 8]),
    "torus": nx.grid_2d_graph(20, 20, periodic=True),
    "hexagons": nx.hexagonal_lattice_graph(10, 20),
    "regular": nx.random_regular_graph(3, 500, seed=1),
    "dense regular": nx.random_regular_graph(8, 500, seed=1),
    "small world": nx.watts_strogatz_graph(500, 4, 0.1, seed=1),
    "geometric": nx.random_geometric_graph(500, 0.08, seed=1),
    "streets": nx.Graph(nx.minimum_spanning_edges(nx.random_geometric_graph(400, 0.1, seed=2), data=False)),
    "random tree": nx.random_labeled_tree(500, seed=1),
    "binary tree": nx.balanced_tree(2, 7),
    "ternary tree": nx.balanced_tree(3, 5),
    "spider": nx.Graph((0 if j == 0 else 20 * i + j, 20 * i + j + 1) for i in range(25) for j in range(20)),
}


class TestFast:
    @pytest.mark.parametrize("name", GRAPHS_WITHOUT_HUBS)
    def test_without_hubs_about_as_few_boxes_as_memb(self, name):
        for graph in (GRAPHS_WITHOUT_HUBS[name], shuffled(GRAPHS_WITHOUT_HUBS[name])):
            memb = box_counts(graph, method="memb")
            fast = box_counts(graph, method="fast", r_B=memb.r_B)
            assert fast.counts.sum() <= 1.3 * memb.counts.sum()
            assert (fast.counts <= 2 * memb.counts + 1).all()

    def test_fewest_boxes_on_a_path(self):
        counts = box_counts(nx.path_graph(2000), method="fast", r_B=[1, 2, 4, 8, 16, 32]).counts
        assert (counts <= 1.1 * np.array([667, 400, 223, 118, 61, 31])).all()

    def test_sizes_of_a_long_path_are_some_hundred(self):
        counts = box_counts(nx.path_graph(4000), method="fast")
        assert counts.r_B[:63].tolist() == list(range(1, 64))
        assert len(counts.r_B) < 200
        assert (counts.counts <= 1.3 * np.ceil(4000 / (2 * counts.r_B + 1)) + 1).all()
        assert counts.counts[-1] == 1

    def test_dimension_of_a_lattice(self):
        fit = fractal_dimension(box_counts(nx.grid_2d_graph(50, 50), method="fast"))
        assert 1.3 < fit.d_B < 2

    def test_on_hubs_about_as_few_boxes_as_memb(self):
        graph = nx.barabasi_albert_graph(1500, 3, seed=1)
        fast, memb = (box_counts(graph, method=m, r_B=[1, 2, 3]).counts for m in ("fast", "memb"))
        assert fast[0] <= 1.02 * memb[0]
        assert (fast <= 1.35 * memb).all()

    @pytest.mark.parametrize("make", [nx.barabasi_albert_graph, nx.gnm_random_graph])
    def test_valid(self, make):
        graphs = (
            [make(400, 3, seed=0)] if make is nx.barabasi_albert_graph else [make(400, 420, seed=s) for s in (0, 1)]
        )
        for graph in graphs:
            for r_B in (0.5, 1, 2, 3, 6, 50):
                check_cover(graph, box_cover(graph, r_B=r_B, method="fast"), r_B=r_B)


class TestDimension:
    def test_flower_within_two_percent(self):
        fit = fractal_dimension(box_counts(flower(2, 2, 6), method="memb"))
        assert fit.d_B == pytest.approx(2, rel=0.02)
        assert fit.low <= 2 <= fit.high
        assert fit.window == (1, 4)
        assert fit.verdict == "power law"
        assert fit.size_name == "r_B"

    def test_recovers_an_exact_power_and_an_exact_decay(self):
        sizes = np.arange(1.0, 12)
        power = fractal_dimension(BoxCounts(sizes, 5000 * sizes**-1.7, 0 * sizes, 10_000, "memb", "r_B"))
        assert power.d_B == pytest.approx(1.7)
        assert power.high - power.low < 1e-6
        assert (power.verdict, power.r_squared) == ("power law", pytest.approx(1))
        decay = fractal_dimension(BoxCounts(sizes, 5000 * np.exp(-0.4 * sizes), 0 * sizes, 10_000, "memb", "r_B"))
        assert (decay.verdict, decay.r_squared_exponential) == ("exponential", pytest.approx(1))

    def test_noise_is_in_the_interval(self):
        sizes, rng, held = np.geomspace(1, 40, 15), np.random.default_rng(0), 0
        for _ in range(100):
            counts = 40_000 * sizes**-1.5 * np.exp(0.1 * rng.standard_normal(15))
            fit = fractal_dimension(BoxCounts(sizes, counts, 0 * sizes, 10**6, "memb", "r_B"), window=(1, 40))
            held += fit.low <= 1.5 <= fit.high
        assert held >= 90

    @pytest.mark.parametrize("seed", range(2))
    def test_small_world_is_not_fractal(self, seed):
        graph = nx.watts_strogatz_graph(2500, 4, 0.1, seed=seed)
        assert fractal_dimension(box_counts(graph, method="memb")).verdict == "exponential"

    def test_lattice_is_fractal_and_ordered_by_dimension(self):
        fits = [fractal_dimension(box_counts(g, method="greedy-coloring")) for g in (lattice(900), lattice(30, 30))]
        assert [fit.verdict for fit in fits] == ["power law", "power law"]
        assert fits[0].high < fits[1].low

    def test_plateaus_are_one_point(self):
        sizes = np.arange(1.0, 9)
        counts = BoxCounts(sizes, np.array([800, 200, 200, 50, 50, 50, 50, 12.5]), 0 * sizes, 999, "memb", "r_B")
        fit = fractal_dimension(counts, fewest_boxes=10)
        assert fit.sizes.tolist() == [1, 2, 4, 8]
        assert fit.d_B == pytest.approx(2)
        assert "below 999" in fit.chosen
        assert fractal_dimension(counts, window=(2, 8)).sizes.tolist() == [2, 4, 8]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"window": (1, 2)}, ValueError, "got 2 sizes in the fit window"),
            ({"level": 1.0}, ValueError, "level: got 1.0"),
            ({"counts": [1, 2]}, TypeError, "counts: got list"),
        ],
    )
    def test_bad_input(self, options, error, message):
        counts = options.pop("counts", box_counts(flower(2, 2, 4), method="memb"))
        with pytest.raises(error, match=message):
            fractal_dimension(counts, **options)


class TestMultifractal:
    def test_monofractals_have_one_dimension(self):
        spectrum = multifractal(nx.cycle_graph(400), q=[-3, 0, 1, 2, 5], r_B=[10, 20, 40, 80])
        assert np.ptp(spectrum.D) < 1e-9
        assert spectrum.D[0] == pytest.approx(math.log(161 / 21) / math.log(8), rel=0.01)

    def test_square_of_random_points(self):
        rng = np.random.default_rng(0)
        points = rng.random((1500, 2))
        distances = np.linalg.norm(points[:, None] - points, axis=-1)
        spectrum = multifractal(distances, q=[0, 2], r_B=np.geomspace(0.05, 0.2, 6), centres=300)
        assert pytest.approx([2, 2], abs=0.2) == spectrum.D
        assert (spectrum.low < spectrum.D).all()
        assert (spectrum.high > spectrum.D).all()
        assert spectrum.tau == pytest.approx((spectrum.q - 1) * spectrum.D)

    def test_known_spectrum_of_a_binomial_cascade(self):
        # Each half gets the share .7 or .3 of the points: tau(q) = -log2(.7^q + .3^q).
        rng = np.random.default_rng(1)
        x = ((rng.random((3000, 14)) < 0.3) * 0.5 ** np.arange(1, 15)).sum(1) + rng.random(3000) * 0.5**14
        spectrum = multifractal(np.abs(x[:, None] - x), q=[0.5, 2, 3], r_B=0.5 ** np.arange(3, 7.0)[::-1])
        exact = [-math.log2(0.7**q + 0.3**q) / (q - 1) for q in spectrum.q]
        assert pytest.approx(exact, abs=0.12) == spectrum.D
        assert (np.diff(spectrum.D) < 0).all()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"q": []}, "q: got"),
            ({"r_B": [1, 2]}, "r_B: got 2 radii"),
            ({"centres": 1}, "centres: got 1"),
            ({"level": 0}, "level: got 0"),
            ({"graph": nx.empty_graph(3)}, "several components"),
        ],
    )
    def test_bad_input(self, options, message):
        graph = options.pop("graph", nx.path_graph(50))
        with pytest.raises(ValueError, match=message):
            multifractal(graph, **options)


class TestRenormalize:
    def test_flower_becomes_its_earlier_generation(self):
        flow = renormalization_flow(flower(2, 2, 4), r_B=1, method="memb")
        assert [len(g) for g in flow[:3]] == [172, 44, 12]
        assert nx.is_isomorphic(flow[1], flower(2, 2, 3))
        assert nx.number_of_edges(flow[-1]) == 0

    def test_sparse_as_networkx(self):
        graph = nx.gnm_random_graph(60, 90, seed=0)
        cover = box_cover(graph, l_B=3, method="greedy-coloring")
        boxes = renormalize(graph, cover)
        matrix = renormalize(nx.to_scipy_sparse_array(graph), np.array(list(cover.values())))
        expected = nx.to_scipy_sparse_array(boxes, nodelist=sorted(boxes), weight="edges")
        assert (matrix != expected).nnz == 0
        assert sum(size for _, size in boxes.nodes(data="nodes")) == 60

    def test_sparse_is_read_as_by_box_cover(self):
        matrix = sparse.csr_array(([1.0, 1.0, 0.0, 0.0], ([0, 1, 1, 2], [1, 0, 2, 1])), shape=(3, 3))
        assert renormalize(matrix, np.arange(3)).nnz == 2  # a stored 0 is no edge
        with pytest.raises(ValueError, match="asymmetric sparse matrix"):
            renormalize(sparse.csr_array([[0, 1.0], [0, 0]]), np.arange(2))

    def test_components_stay_apart(self):
        graph = nx.disjoint_union(nx.path_graph(20), nx.cycle_graph(15))
        for step in renormalization_flow(graph, l_B=3, method="cbb"):
            assert nx.number_connected_components(step) == 2

    def test_degree_tail(self):
        degrees, tail = degree_tail(nx.path_graph(4))
        assert (degrees.tolist(), tail.tolist()) == ([1, 2], [1, 0.5])

    @pytest.mark.parametrize(
        ("graph", "cover", "error", "message"),
        [
            (nx.path_graph(2), {0: 0}, ValueError, "node 1 is in no box"),
            (nx.path_graph(2), {0: (0,), 1: (0, 1)}, ValueError, "need one box per node"),
            (nx.path_graph(2), np.zeros(2, int), TypeError, "need a mapping"),
            (nx.DiGraph([(0, 1)]), {0: 0, 1: 0}, TypeError, "graph: got DiGraph"),
            (sparse.eye_array(3).tocsr(), np.zeros(2, int), ValueError, "need 3 integers"),
        ],
    )
    def test_bad_input(self, graph, cover, error, message):
        with pytest.raises(error, match=message):
            renormalize(graph, cover)


def test_the_order_of_the_nodes_breaks_ties_as_documented():
    path = lattice(500, as_sparse=True)
    counts = [box_counts(path, method="memb", r_B=[1]).counts[0]]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(500)
        counts.append(box_counts(path[order][:, order], method="memb", r_B=[1]).counts[0])
    assert counts[0] == 167 and all(190 <= count <= 210 for count in counts[1:])


def test_a_seed_twice_is_refused():
    with pytest.raises(ValueError, match=r"seeds: got \[0, 0\], need different ones"):
        box_counts(flower(2, 2, 2), method="cbb", seeds=[0, 0])


def test_seeds_of_a_method_without_chance_are_run_once():
    counts = box_counts(flower(2, 2, 3), method="memb", seeds=range(5))
    assert not counts.spread.any()
    assert all(a >= b for a, b in itertools.pairwise(counts.counts))


def test_components_that_bend_the_counts_are_warned_of():
    graph = nx.gnm_random_graph(1000, 1500, seed=0)
    with pytest.warns(UserWarning, match="65 components need at least as many boxes.*take the largest component"):
        fractal_dimension(box_counts(graph, method="greedy-coloring"))
    largest = graph.subgraph(max(nx.connected_components(graph), key=len))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fractal_dimension(box_counts(largest, method="greedy-coloring")).verdict == "exponential"


def test_a_bound_where_the_best_cover_cannot_be_searched():
    graph = nx.complement(nx.Graph([(2 * i, 2 * i + 1) for i in range(16)]))  # 2 ** 16 largest boxes
    assert box_bound(graph, l_B=2) == BoxBound(boxes=2, exact=False)
    with pytest.raises(ValueError, match="or box_bound for a lower bound"):
        box_cover(graph, l_B=2, method="exact")


def test_a_side_of_one_is_no_dimension():
    assert lattice(1, 100).graph["dimension"] == 1.0
