"""What a fit to box counts takes in and how sure it is, against plain code; the defaults of `multifractal`."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest
from scipy import stats
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from selfsim import BoxCounts, box_cover, fractal_dimension, multifractal


def made_counts(sizes, counts, n=10_000, components=1) -> BoxCounts:
    counts = np.array(counts, float)
    return BoxCounts(np.array(sizes, float), counts, 0 * counts, n, "memb", "r_B", components)


@pytest.mark.filterwarnings("ignore:counts")
@pytest.mark.parametrize(("components", "fitted"), [(1, [90, 60, 40, 25]), (15, [90, 60, 40]), (25, [90, 60])])
def test_counts_of_all_nodes_and_of_few_boxes_are_left_out(components, fitted):
    """Fitted are counts below the number of nodes, of at least 20 boxes and of at least two a component."""
    counts = made_counts(range(1, 8), [100, 90, 60, 40, 25, 12, 5], n=100, components=components)
    if len(fitted) < 3:
        with pytest.raises(ValueError, match="got 2 sizes in the fit window .* at least 50"):
            fractal_dimension(counts)
    else:
        assert fractal_dimension(counts).counts.tolist() == fitted


def test_three_sizes_have_the_interval_of_student():
    sizes, counts = [1, 2, 4], [400, 130, 30]
    for level in (0.5, 0.95):
        fit = fractal_dimension(made_counts(sizes, counts), level=level)
        line = stats.linregress(np.log(sizes), np.log(counts))
        half = stats.t.ppf((1 + level) / 2, 1) * line.stderr
        assert (fit.low, fit.high) == pytest.approx((-line.slope - half, -line.slope + half))


def test_the_interval_has_the_slopes_of_all_windows_of_half_the_range():
    sizes = 2.0 ** np.arange(9)
    curved = np.exp(-0.12 * np.log(sizes) ** 2) * 1e4  # so that windows at the two ends differ
    fit = fractal_dimension(made_counts(sizes, curved, n=10**6), level=1e-6)
    x, y = np.log(sizes), np.log(curved)
    slopes = [
        -np.polyfit(x[i:j], y[i:j], 1)[0]
        for i, j in itertools.combinations(range(10), 2)
        if j - i >= 3 and x[j - 1] - x[i] >= (x[-1] - x[0]) / 2 * (1 - 1e-9)
    ]
    assert (fit.low, fit.high) == pytest.approx((min(slopes), max(slopes)))


def test_the_verdict_needs_two_units_of_akaike():
    """Counts from an exponential decay to a power law, with noise."""
    sizes, noise, found = np.arange(1.0, 11), 0.1 * np.random.default_rng(3).standard_normal(10), []
    for share in np.linspace(0, 1, 41):
        y = 9 - share * 1.6 * np.log(sizes) - (1 - share) * 0.4 * sizes + noise
        y = np.minimum.accumulate(y) - 1e-9 * sizes
        fit = fractal_dimension(made_counts(sizes, np.exp(y)))
        left = [np.sum((y - np.polyval(np.polyfit(x, y, 1), x)) ** 2) for x in (np.log(sizes), sizes)]
        power, decay = (len(sizes) * math.log(rest) for rest in left)  # Akaike's criterion, but for a constant
        assert fit.verdict == (
            "power law" if decay - power > 2 else "exponential" if power - decay > 2 else "undecided"
        )
        found.append(decay - power)
    assert all(any(low < gain < high for gain in found) for low, high in ((-9, -2), (-2, 0), (0, 2), (2, 9)))


def test_a_node_between_two_centres_belongs_to_the_one_chosen_first():
    """On a ring of 8, the centres are 0, 3 and 5; node 4 lies between the last two."""
    boxes = box_cover(nx.cycle_graph(8), r_B=1, method="memb")
    assert [boxes[node] for node in range(8)] == [0, 0, 1, 1, 1, 2, 2, 0]


def points(n: int = 300) -> np.ndarray:
    return np.random.default_rng(0).random((n, 2))


def test_default_radii_go_from_the_nearest_neighbour_to_a_quarter_of_the_longest_distance():
    x = points()
    found = multifractal(pdist(x), resamples=1)
    nearest = np.median(cKDTree(x).query(x, 2)[0][:, 1])
    np.testing.assert_allclose(found.r_B, np.geomspace(nearest, pdist(x).max() / 4, 12))


def test_centres_are_drawn_and_the_interval_has_its_level():
    distances = pdist(points())
    one, other = (multifractal(distances, centres=80, seed=seed, resamples=1) for seed in (0, 1))
    assert not np.allclose(one.D, other.D, rtol=1e-6)
    wide, narrow = (multifractal(distances, q=[0, 2], level=level, resamples=4000) for level in (0.95, 0.5))
    ratio = (wide.high - wide.low) / (narrow.high - narrow.low)
    np.testing.assert_allclose(ratio, stats.norm.ppf(0.975) / stats.norm.ppf(0.75), rtol=0.12)
