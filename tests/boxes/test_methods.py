"""Every method of the tables, on every graph of networkx's atlas: a method that is added is tested by being there.

What this cannot show: how good covers of large graphs are. See test_known.py for that.
"""

from __future__ import annotations

import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
from scipy import sparse

from selfsim import box_bound, box_counts, box_cover, check_cover
from selfsim.boxes.cover import BY_L_B, BY_R_B, SEEDED
from selfsim.boxes.hops import all_pairs_hops
from selfsim.boxes.inputs import as_distances
from selfsim.boxes.overlapping import _needed

METHODS = [("l_B", method) for method in BY_L_B] + [("r_B", method) for method in BY_R_B]


def number(cover) -> int:
    return len({box for boxes in cover.values() for box in (boxes if isinstance(boxes, tuple) else (boxes,))})


def distance_matrix(graph: nx.Graph) -> np.ndarray:
    place = {node: k for k, node in enumerate(graph)}
    matrix = np.full((len(graph), len(graph)), np.inf)
    for a, row in nx.all_pairs_shortest_path_length(graph):
        for b, hops in row.items():
            matrix[place[a], place[b]] = hops
    return matrix


def covers_at(graph: nx.Graph, name: str, size: float, seed: int | None = None) -> dict[str, dict]:
    """The cover of every method by the named size, as a mapping."""
    covers = {}
    for method in BY_L_B if name == "l_B" else BY_R_B:
        if method == "complete-linkage":
            labels = box_cover(distance_matrix(graph), **{name: size}, method=method)
            covers[method] = dict(zip(graph, labels.tolist(), strict=True))
        else:
            covers[method] = box_cover(graph, **{name: size}, method=method, seed=seed)
    return covers


def check_every_scale(graph: nx.Graph) -> None:
    """All covers are valid at every scale, and none has fewer boxes than the exact one."""
    matrix = distance_matrix(graph)
    diameter = int(matrix.max(where=np.isfinite(matrix), initial=0))
    for name in ("l_B", "r_B"):
        for size in range(1, diameter + 2):
            covers = covers_at(graph, name, size, seed=1)
            for cover in covers.values():
                check_cover(graph, cover, **{name: size})
            counts = {method: number(cover) for method, cover in covers.items()}
            assert counts["exact"] >= (nx.number_connected_components(graph) if len(graph) else 0)
            assert counts["exact"] == min(counts.values()), (graph.edges, name, size, counts)
            assert max(counts.values()) <= len(graph), (graph.edges, name, size, counts)


@pytest.mark.parametrize("start", range(3))
def test_a_part_of_the_atlas(start):
    for graph in nx.graph_atlas_g()[start :: 3 * 16]:
        check_every_scale(graph)


@pytest.mark.long
@pytest.mark.parametrize("start", range(16))
def test_the_whole_atlas(start):
    graphs = nx.graph_atlas_g()
    assert len(graphs) == 1253
    for graph in graphs[start::16]:
        check_every_scale(graph)


@pytest.mark.parametrize(("name", "method"), METHODS)
class TestEveryMethod:
    def space(self, method):
        return np.zeros((0, 0)) if method == "complete-linkage" else nx.Graph()

    def test_no_nodes(self, name, method):
        assert len(box_cover(self.space(method), **{name: 1}, method=method)) == 0

    def test_no_edges(self, name, method):
        graph = nx.empty_graph(4)
        assert number(covers_at(graph, name, 9)[method]) == 4

    def test_self_loops_do_not_count(self, name, method):
        graph = nx.path_graph(6)
        looped = graph.copy()
        looped.add_edges_from([(0, 0), (3, 3)])
        assert covers_at(looped, name, 2)[method] == covers_at(graph, name, 2)[method]

    def test_components_are_covered_apart(self, name, method):
        graph = nx.disjoint_union_all([nx.path_graph(4), nx.complete_graph(3), nx.empty_graph(2)])
        cover = covers_at(graph, name, 100)[method]
        check_cover(graph, cover, **{name: 100})
        assert number(cover) == 4

    def test_graph_and_sparse_matrix_agree(self, name, method):
        if method == "complete-linkage":
            pytest.skip("complete linkage covers distances, not graphs")
        graph = nx.gnm_random_graph(60, 70, seed=3)
        matrix = nx.to_scipy_sparse_array(graph)
        for size in (1, 2, 4):
            named = box_cover(graph, **{name: size}, method=method)
            plain = box_cover(matrix, **{name: size}, method=method)
            if plain.ndim == 2:
                assert list(named.values()) == [tuple(np.flatnonzero(row)) for row in plain]
            else:
                assert list(named.values()) == plain.tolist()

    def test_weighted(self, name, method):
        if method in ("fast", "complete-linkage"):
            pytest.skip("made for hops, or for distances only")
        graph = nx.random_geometric_graph(40, 0.3, seed=1)
        rng = np.random.default_rng(0)
        for edge in graph.edges:
            graph.edges[edge]["length"] = rng.random()
        for size in (0.1, 0.5, 1.3):
            cover = box_cover(graph, **{name: size}, method=method, weight="length")
            check_cover(graph, cover, **{name: size}, weight="length")

    def test_seeds(self, name, method):
        graph = nx.gnm_random_graph(150, 200, seed=0)
        if method == "complete-linkage":
            graph = distance_matrix(graph)
        first, again, other = (box_cover(graph, **{name: 3}, method=method, seed=s) for s in (1, 1, 2))
        same = first.tolist() == other.tolist() if isinstance(first, np.ndarray) else first == other
        assert np.array_equal(first, again) if isinstance(first, np.ndarray) else first == again
        assert same is (method not in SEEDED)

    def test_counts_are_those_of_the_covers(self, name, method):
        graph = nx.gnm_random_graph(40, 45, seed=5)
        space = distance_matrix(graph) if method == "complete-linkage" else graph
        counts = box_counts(space, method=method, **{name: [1, 2, 3]}, seeds=[7])
        assert getattr(counts, name).tolist() == [1, 2, 3]
        assert counts.components == nx.number_connected_components(graph)
        expected = [number(covers_at(graph, name, size, seed=7)[method]) for size in (1, 2, 3)]
        assert counts.counts.tolist() == expected


class TestCheckCover:
    path = nx.path_graph(4)

    @pytest.mark.parametrize(
        "cover",
        [
            {0: "a", 1: "a", 2: "b", 3: "b"},
            {0: (0,), 1: (0, 1), 2: (1, 2), 3: (2,)},
            [{0, 1}, {1, 2}, {3}],
            np.array([5, 5, 2, 2]),
            [5, 5, 2, 2],
            np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=bool),
        ],
    )
    def test_valid_in_every_form(self, cover):
        check_cover(self.path, cover, l_B=2)
        check_cover(self.path, cover, r_B=1)
        with pytest.raises(ValueError, match="at distance 1, need less than l_B=1"):
            check_cover(self.path, cover, l_B=1)

    @pytest.mark.parametrize(
        ("cover", "size", "message"),
        [
            ({0: 0, 1: 0, 2: 1}, {"l_B": 2}, "node 3 is in no box"),
            ({0: 0, 1: 0, 2: 1, 3: 1, 9: 1}, {"l_B": 2}, "node 9 is not in the graph"),
            ({0: 0, 1: 0, 2: 1, 3: 1, 9: ()}, {"l_B": 2}, "node 9 is not in the graph"),
            ({0: 0, 1: 0, 2: 0, 3: 1}, {"l_B": 2}, "box 0 holds nodes 0 and 2 at distance 2, need less than l_B=2"),
            ({0: 0, 1: 0, 2: 0, 3: 0}, {"r_B": 1}, "box 0 of 4 nodes has a node at distance 2 or more"),
            ({0: 0, 1: 1, 2: 0, 3: 1}, {"r_B": 1}, "box 0 of 2 nodes has a node at distance 2"),
            ([{0, 1}, set(), {2, 3}], {"l_B": 2}, "box 1 is empty"),
            (np.array([[1, 0], [1, 0], [1, 0], [1, 0]], dtype=bool), {"l_B": 9}, "box 1 is empty"),
            (np.array([0, 0, 0]), {"l_B": 2}, "got 3 rows, need one for each of the 4 nodes"),
        ],
    )
    def test_first_fault(self, cover, size, message):
        with pytest.raises(ValueError, match=message):
            check_cover(self.path, cover, **size)

    def test_box_across_components(self):
        graph = nx.disjoint_union(nx.path_graph(2), nx.path_graph(2))
        with pytest.raises(ValueError, match="nodes 1 and 2 of different components"):
            check_cover(graph, [{0}, {1, 2}, {3}], l_B=9)

    def test_centre_must_lie_in_its_box(self):
        # Two leaves of a star are within 1 of the hub, but the hub is in the other box.
        with pytest.raises(ValueError, match="need a centre with at most r_B=1"):
            check_cover(nx.star_graph(3), [{0, 1}, {2, 3}], r_B=1)

    def test_form(self):
        with pytest.raises(TypeError, match="cover: got str"):
            check_cover(self.path, "abcd", l_B=2)
        with pytest.raises(TypeError, match="need booleans"):
            check_cover(self.path, np.eye(4, dtype=int), l_B=2)

    def test_each_wrong_move_of_a_valid_cover_is_found(self):
        graph = nx.path_graph(12)
        cover = box_cover(graph, l_B=3, method="exact")
        for node in graph:
            moved = {**cover, node: next(box for box in cover.values() if abs(box - cover[node]) > 1)}
            with pytest.raises(ValueError, match="at distance"):
                check_cover(graph, moved, l_B=3)


class TestHops:
    @pytest.mark.parametrize("seed", range(4))
    def test_as_networkx(self, seed):
        graph = nx.gnm_random_graph(50, 60, seed=seed)
        hops = all_pairs_hops(as_distances(graph).adjacency).astype(float)
        hops[hops == 255] = np.inf
        assert np.array_equal(hops, distance_matrix(graph))

    @pytest.mark.parametrize(("n", "dtype"), [(254, np.uint8), (255, np.uint8), (256, np.uint16), (300, np.uint16)])
    def test_long_paths_take_a_wider_type(self, n, dtype):
        hops = all_pairs_hops(as_distances(nx.path_graph(n)).adjacency)
        assert hops.dtype == dtype
        assert np.array_equal(hops, np.abs(np.subtract.outer(np.arange(n), np.arange(n))))

    def test_size_beyond_the_type(self):
        graph = nx.disjoint_union(nx.path_graph(200), nx.path_graph(3))
        for method in ("greedy-coloring", "cbb", "overlapping"):
            assert number(box_cover(graph, l_B=10_000, method=method)) == 2
        assert number(box_cover(graph, r_B=10_000, method="memb")) == 2

    def test_breadth_first_starts_at_the_first_node_with_the_fewest_neighbours(self):
        parts = [nx.barabasi_albert_graph(40, 2, seed=1), nx.cycle_graph(7), nx.path_graph(5), nx.empty_graph(2)]
        graph = nx.disjoint_union_all(parts)
        distances, expected = as_distances(graph), {}
        for component in nx.connected_components(graph):
            start = min(sorted(component), key=graph.degree)
            expected |= nx.single_source_shortest_path_length(graph, start)
        order = distances.breadth_first.tolist()
        assert sorted(order) == sorted(graph)
        assert [expected[node] for node in order] == sorted(expected.values(), reverse=True)


class TestExact:
    @pytest.mark.parametrize("n", [9, 10, 20])
    def test_bound_is_below_the_optimum(self, n):
        graph = nx.gnm_random_graph(n, 2 * n, seed=n)
        for name, methods in (("l_B", ("greedy-coloring", "cbb")), ("r_B", ("memb", "random-sequential"))):
            for size in (1, 2, 3):
                bound = box_bound(graph, **{name: size}, exact_up_to=0)
                optimum = box_bound(graph, **{name: size})
                assert (bound.exact, optimum.exact) == (False, True)
                assert bound.boxes <= optimum.boxes
                for method in methods:
                    assert optimum.boxes <= number(box_cover(graph, **{name: size}, method=method))

    def test_optimum_that_no_greedy_choice_finds(self):
        # Two sets of four suffice, but the greedy choice starts with the one of five across them.
        from selfsim.boxes.exact import minimum_cover

        sets = np.zeros((8, 3), dtype=bool)
        sets[:4, 0] = sets[4:, 1] = True
        sets[[1, 2, 3, 5, 6], 2] = True
        assert minimum_cover(sets).tolist() == [0, 1]

    def test_too_many_boxes_to_choose_from(self, monkeypatch):
        monkeypatch.setattr("selfsim.boxes.exact.MOST_SETS", 10)
        with pytest.raises(ValueError, match="'exact' has more than 10 largest boxes"):
            box_cover(nx.gnm_random_graph(30, 60, seed=0), l_B=2, method="exact")


def test_overlapping_boxes_take_nodes_of_no_box_first():
    # As the source does; on lattices and streets that saves boxes, and greedy colouring needs no fewer.
    streets = nx.minimum_spanning_edges(nx.random_geometric_graph(300, 0.12, seed=2), data=False)
    for graph in (nx.grid_2d_graph(15, 15), nx.Graph(streets)):
        ours, coloring = (
            box_counts(graph, method=m, l_B=[3, 5, 9, 15]).counts for m in ("overlapping", "greedy-coloring")
        )
        assert ours.sum() <= coloring.sum()


def test_redundant_overlapping_boxes_are_dropped():
    boxes = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=bool)
    assert _needed(boxes).tolist() == [0, 2]


def test_without_numba_the_same(monkeypatch):
    from selfsim.boxes import burning, fast, greedy_coloring, hops, memb, overlapping
    from selfsim.compiled import compiled

    graph = nx.gnm_random_graph(30, 40, seed=2)
    kernels = [(burning, "_burn"), (greedy_coloring, "_color"), (hops, "_fill"), (memb, "_centres")]
    kernels += [
        (overlapping, "_grow"),
        *((fast, name) for name, loop in vars(fast).items() if isinstance(loop, compiled)),
    ]
    covers = {name: [covers_at(graph, name, size, seed=3) for size in (1, 2, 3)] for name in ("l_B", "r_B")}
    for module, kernel in kernels:
        monkeypatch.setattr(module, kernel, getattr(module, kernel).plain)
    for name, expected in covers.items():
        assert [covers_at(graph, name, size, seed=3) for size in (1, 2, 3)] == expected


class TestCountsInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "memb", "l_B": [1]}, "'memb' covers by r_B, got l_B"),
            ({"method": "cbb", "r_B": [1]}, "'cbb' covers by l_B, got r_B"),
            ({"method": "cbb", "l_B": [1], "r_B": [1]}, "l_B, r_B: got both"),
            ({"method": "cbb", "l_B": [0, 1]}, "need sizes above 0"),
            ({"method": "cbb", "l_B": []}, "need one or more finite numbers"),
            ({"method": "cbb", "l_B": ["a"]}, "need one or more finite numbers"),
            ({"method": "cbb", "seeds": []}, "seeds: got none"),
            ({"method": "surrogate", "r_B": [1]}, "'surrogate' counts by l_B"),
            ({"method": "surogate"}, "did you mean 'surrogate'"),
        ],
    )
    def test_messages(self, options, message):
        with pytest.raises(ValueError, match=message):
            box_counts(nx.path_graph(4), **options)

    def test_sizes_have_one_name(self):
        counts = box_counts(nx.path_graph(5), method="memb")
        assert counts.r_B.tolist() == [1, 2]
        with pytest.raises(AttributeError, match="these counts are over r_B"):
            counts.l_B  # noqa: B018
        assert box_counts(nx.path_graph(5), method="cbb").l_B.tolist() == [1, 2, 3, 4, 5]
        assert box_counts(nx.path_graph(5), method="fast").r_B.tolist() == [1, 2]

    def test_radii_reach_one_box_per_component(self):
        graph = nx.disjoint_union(nx.path_graph(9), nx.star_graph(4))
        for method in ("memb", "fast"):
            counts = box_counts(graph, method=method)
            assert counts.r_B.tolist() == [1, 2, 3, 4]
            assert counts.counts[-1] == 2


def test_importing_brings_no_numba_and_covering_a_graph_no_torch():
    code = """
import sys, networkx, selfsim
selfsim.box_counts, selfsim.box_cover, selfsim.check_cover, selfsim.fractal_dimension
print("numba" in sys.modules, end=" ")
selfsim.box_cover(networkx.path_graph(9), l_B=3, method="greedy-coloring")
print("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_missing_numba_is_said_once_and_does_no_harm(monkeypatch):
    from selfsim import compiled

    monkeypatch.setitem(sys.modules, "numba", None)  # what import then raises is an ImportError
    monkeypatch.setattr(compiled, "_numba", compiled._numba.__wrapped__)
    double = compiled.compiled(lambda x: 2 * x)
    with pytest.warns(UserWarning, match=r'pip install "\.\[boxes\]"'):
        assert double(4) == 8
    assert double(5) == 10


@pytest.mark.parametrize("method", ["fast", "memb", "greedy-coloring", "random-sequential", "exact"])
def test_edges_that_a_sparse_matrix_stores_twice_are_one(method):
    n = 12  # a path
    rows = [sorted(2 * [j for j in (i - 1, i + 1) if 0 <= j < n]) for i in range(n)]
    starts = np.r_[0, np.cumsum([len(row) for row in rows])]
    twice = sparse.csr_array((np.ones(starts[-1]), np.concatenate(rows).astype(int), starts), shape=(n, n))
    assert not twice.has_canonical_format
    size = {"l_B": 3} if method in ("greedy-coloring", "exact") else {"r_B": 1}
    boxes = box_cover(twice, method=method, **size)
    assert np.array_equal(boxes, box_cover(nx.to_scipy_sparse_array(nx.path_graph(n)), method=method, **size))
    assert not twice.has_canonical_format  # the matrix of the caller stays as it is


def test_sizes_ascend_and_counts_do_not_rise_where_distances_are_nearly_equal():
    random = np.random.default_rng(0)
    for trial in range(60):
        length = 1 + random.random()
        lengths = np.full(10, length) if trial % 2 else length * (1 + 1e-14 * random.random(10))
        found = box_counts(lengths, method="complete-linkage", scales=8)
        assert (np.diff(found.l_B) >= 0).all() and (np.diff(found.counts) <= 0).all()
