"""`scaling` of networks: by the hops between their nodes, and of their box counts."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

import selfsim
from selfsim import scaling
from selfsim.boxes.counts import BoxCounts
from selfsim.boxes.fractals import lattice, sierpinski


@pytest.mark.parametrize(
    ("graph", "dimension"), [(lattice(200), 1), (lattice(40, 40), 2), (sierpinski(6), math.log(3, 2))]
)
def test_networks_by_hops(graph, dimension):
    found = scaling(graph)
    assert float(found.dimension) == pytest.approx(dimension, rel=0.1)
    assert found.scales


def test_a_lattice_by_hops_in_closed_form():
    """On a ring, 2k nodes are within k hops of each, so the mass 1 + 2k is twice the radius k + 1/2."""
    found = scaling(nx.cycle_graph(100))
    assert float(found.dimension) == pytest.approx(1)
    assert found.deviation.value < 1e-9
    assert found.octaves.value == pytest.approx(
        math.log2((found_hops := int(0.5 * 99 * 100**-0.25)) + 0.5) - math.log2(1.5)
    )
    assert found_hops > 4


@pytest.mark.parametrize("graph", [nx.balanced_tree(2, 9), nx.balanced_tree(3, 7)])
def test_exponential_growth_by_hops_does_not_scale(graph):
    assert not scaling(graph).scales


@pytest.mark.parametrize("graph", [nx.empty_graph(0), nx.empty_graph(50), nx.complete_graph(50), nx.path_graph(9)])
def test_networks_without_hops_enough(graph):
    assert scaling(graph).reason


def test_box_counts_give_the_fit_of_fractal_dimension():
    counts = selfsim.box_counts(lattice(24, 24), method="greedy-coloring")
    found, fitted = scaling(counts), selfsim.fractal_dimension(counts)
    assert float(found.dimension) == fitted.d_B
    assert found.deviation.value == pytest.approx(math.sqrt(1 - fitted.r_squared))
    assert found.octaves.value == pytest.approx(math.log2(fitted.window[1] / fitted.window[0]))
    assert (found.intervals["dimension"].low, found.window) == (fitted.low, fitted.window)
    assert found.scales == (fitted.r_squared > fitted.r_squared_exponential)
    few = scaling(selfsim.box_counts(nx.complete_graph(40), method="greedy-coloring"))
    assert few.reason.startswith("got ")
    assert "sizes in the fit window" in few.reason
    with pytest.raises(ValueError, match="^window: "):
        scaling(counts, window=(-1, 3))


def test_pairs_of_two_components_do_not_count():
    """Isolated nodes change nothing, and copies nothing but the window; before, copies of an expander "scaled"."""
    alone, beside = scaling(lattice(30, 30)), scaling(nx.disjoint_union(lattice(30, 30), nx.empty_graph(3000)))
    assert beside.scales
    for name in ("deviation", "dimension", "octaves", "threshold"):
        assert float(getattr(beside, name)) == float(getattr(alone, name))
    copies = nx.disjoint_union_all([nx.random_regular_graph(3, 200, seed=seed) for seed in range(5)])
    assert not scaling(copies).scales


@pytest.mark.parametrize("n", [1000, 4000])
def test_trees_of_preferential_attachment_are_small_worlds(n):
    assert not any(scaling(nx.barabasi_albert_graph(n, 1, seed=seed)).scales for seed in range(3))


def test_box_counts_of_less_than_an_octave_have_no_interval():
    sizes, boxes = np.array([1, 1.2, 1.4, 1.6]), np.array([100, 80, 60, 50])
    found = scaling(BoxCounts(sizes, boxes, np.zeros(4), 200, "memb"))
    assert not found.dimension.estimable and not found.intervals


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_of_box_counts_is_that_of_the_fit(level):
    counts = selfsim.box_counts(sierpinski(6), method="memb")
    found, fit_ = scaling(counts, level=level), selfsim.fractal_dimension(counts, level=level)
    interval = found.intervals["dimension"]
    assert (interval.low, interval.high, interval.level) == (fit_.low, fit_.high, level)


def test_hops_have_to_beat_an_exponential_by_akaikes_criterion():
    graph = lattice(25, 25)
    found = scaling(graph)
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    hops = np.array([d for i, of_i in lengths.items() for j, d in of_i.items() if i < j])
    radii = np.arange(1, hops.max() + 1)
    within = np.array([(hops <= r).sum() for r in radii])
    kept = within <= found.window[1] * len(hops)
    radii, mass = radii[kept], np.log1p(2 * within[kept] / len(graph))
    r = np.corrcoef(radii, mass)[0, 1]
    assert found.threshold == pytest.approx(math.sqrt(1 - r * r) * math.exp(-1 / len(radii)), rel=1e-6)
