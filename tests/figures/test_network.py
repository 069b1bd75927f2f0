"""The figures of box covering: an animation that loads nothing, and lines where the counts are."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from selfsim import FeatureNetwork, box_counts, figures
from selfsim.boxes.fractals import flower
from selfsim.figures.network import _layout, continued_colours
from selfsim.figures.style import GREY


def network() -> FeatureNetwork:
    return FeatureNetwork(torch.randn(20, 30, generator=torch.Generator().manual_seed(0)))


def test_animation_is_self_contained_and_small():
    net = network()
    animation = figures.animate_boxes(net, np.quantile(net.distances, [0.1, 0.5, 1.0]) * 1.01)
    page = animation._repr_html_()
    assert len(page) < 200_000
    assert "http" not in re.sub(r'base64,[^"]*', "", page)
    assert animation.captions[-1].endswith("30 neurons in 1 box")
    assert len(animation.frames) == 3
    assert f'alt="{animation.captions[0]}"' in page


@pytest.mark.parametrize("n", [128, 512])  # networkx lays out from 500 nodes on in another way
@pytest.mark.parametrize(("unit", "dead"), [(1e-3, 0), (1, 0), (100, 0), (1, 2)])
def test_near_neurons_are_drawn_near_in_any_unit_and_beside_dead_ones(n, unit, dead):
    g = torch.Generator().manual_seed(0)
    cluster = torch.arange(n) % 8
    x = unit * (2 * torch.randn(64, 8, generator=g)[:, cluster] + torch.randn(64, n, generator=g))
    x[:, :dead] = 0
    _, positions = _layout(FeatureNetwork(x), neighbours=3, seed=0)
    apart = torch.cdist(*[torch.tensor(np.array([positions[k] for k in range(dead, n)]))] * 2).fill_diagonal_(torch.inf)
    cluster = cluster[dead:]
    assert (cluster[apart.argmin(1)] == cluster).float().mean() > 0.95


def test_boxes_keep_the_colour_of_most_of_their_nodes():
    first = continued_colours(np.array([0, 0, 0, 1, 1, 2]), [GREY] * 6)
    assert first[0] != first[3]
    assert first[5] == GREY
    merged = continued_colours(np.array([0, 0, 0, 0, 0, 1]), first)
    assert merged == [first[0]] * 5 + [GREY]


def test_counts_are_drawn():
    counts = {"flower": box_counts(flower(2, 2, 5), method="memb")}
    line = figures.plot_counts(counts).axes[0].lines[0]
    assert np.array_equal(line.get_ydata(), counts["flower"].counts)
