"""Dimensions of sets of known dimension, and the reasons where there is none.

Not shown here: that high dimensions are estimated correctly. They come out too low, and the tests state by how much.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from selfsim import correlation_dimension, samples_interval, two_nn
from selfsim.statistics.dimension import sample_distances


def drawn(kind: str, dimension: int, *, samples: int = 1000, ambient: int = 0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    make = torch.rand if kind == "cube" else torch.randn
    x = make(samples, dimension, generator=generator, dtype=torch.float64)
    if ambient:  # rotated into a larger space, where it has the same dimension
        x = x @ torch.linalg.qr(torch.randn(ambient, ambient, generator=generator, dtype=torch.float64)).Q[:dimension]
    return x


@pytest.mark.parametrize(
    ("kind", "dimension", "correlation", "nearest"),
    [
        ("cube", 1, (0.95, 1.03), (0.9, 1.1)),
        ("cube", 2, (1.85, 2.0), (1.7, 2.3)),
        ("cube", 5, (4.1, 4.5), (4.2, 5.2)),  # known to come out too low
        ("gauss", 10, (6.8, 7.9), (8.0, 10.5)),
        ("gauss", 50, (19, 22), (26, 34)),
    ],
)
def test_known_dimensions(kind, dimension, correlation, nearest):
    x = drawn(kind, dimension, ambient=60)
    assert correlation[0] < float(correlation_dimension(x)) < correlation[1]
    assert nearest[0] < float(two_nn(x)) < nearest[1]


def test_correlation_dimension_by_hand():
    x = drawn("gauss", 3, samples=120)
    d = np.sort(pdist(x.numpy()))
    low, high = np.quantile(d, [0.01, 0.2])
    radii = np.exp(np.linspace(np.log(low), np.log(high), 20))
    shares = [(d <= r * (1 + 1e-12)).mean() for r in radii]
    slope = np.polyfit(np.log(radii), np.log(shares), 1)[0]
    found = correlation_dimension(x, window=(0.01, 0.2))
    assert float(found) == pytest.approx(slope, rel=1e-3) and found.window == pytest.approx((low, high), rel=1e-3)


def test_distances_equal_scipy_also_for_near_duplicates_far_from_zero():
    x = drawn("gauss", 6, samples=80)
    x[3], x[5] = x[2], x[4] + 1e-9
    for offset in (0.0, 1e4):
        moved = x + offset
        ours, unit = sample_distances(moved)
        np.testing.assert_allclose(ours * unit, squareform(pdist(moved.numpy())), rtol=1e-7, atol=1e-300)


def test_a_constant_neuron_changes_nothing():
    x = drawn("gauss", 6, samples=80)
    for constant in (1e3, -1e170):
        wide = torch.cat([x, torch.full((80, 1), constant, dtype=x.dtype)], 1)
        assert two_nn(wide).duplicates == 0
        assert float(correlation_dimension(wide)) == pytest.approx(float(correlation_dimension(x)), rel=1e-9)


def test_ties_with_a_radius_count_whatever_their_rounding():
    """Points at equal steps on a line, whose distances repeat; a turn of the line changes their last digits."""
    line = torch.arange(100, dtype=torch.float64)[:, None]
    straight = float(correlation_dimension(line))
    d = np.sort(pdist(line.numpy()))
    low, high = np.quantile(d, [0.005, 0.1])
    radii = np.geomspace(low, high, 20)
    shares = [(d <= r * (1 + 1e-12)).mean() for r in radii]
    assert straight == pytest.approx(np.polyfit(np.log(radii), np.log(shares), 1)[0], rel=1e-9)
    for angle in (0.1, 0.7, 1.2):
        turned = torch.cat([line * math.cos(angle), line * math.sin(angle)], 1) / 3
        assert float(correlation_dimension(turned)) == pytest.approx(straight, rel=1e-9)


def test_only_what_coincides_is_a_duplicate_near_zero_and_far_from_it():
    x = drawn("gauss", 6, samples=80)
    x[3], x[5] = x[2], x[4] + 1e-9
    assert [two_nn(x + offset).duplicates for offset in (0.0, 1e4)] == [1, 1]


def test_two_nn_equals_scikit_dimension():
    skdim = pytest.importorskip("skdim.id", reason="compares with this package")
    x = drawn("cube", 4, samples=200)
    assert float(two_nn(x)) == pytest.approx(skdim.TwoNN().fit(x.numpy()).dimension_, rel=1e-6)


def test_an_interval_over_samples():
    interval = samples_interval(correlation_dimension, drawn("cube", 2, samples=300), draws=40)
    assert interval.low < 1.9 < interval.high
    assert interval.high - interval.low < 0.8


@pytest.mark.parametrize("estimate", [correlation_dimension, two_nn])
def test_reason_where_there_is_no_dimension(estimate):
    x = drawn("cube", 3, samples=100)
    assert estimate(x[:49]).reason == "got 49 samples, need at least 50"
    assert "coincide" in estimate(x[:10].repeat(10, 1)).reason
    assert estimate(torch.zeros(100, 4)).reason
    assert estimate(torch.eye(60)).reason  # all samples equally far apart
    assert math.isnan(estimate(x[:49]).value)
    with pytest.raises(ValueError, match="Dimension: not estimable: got 49 samples"):
        float(estimate(x[:49]))


def test_two_nn_needs_more_than_a_few_ratios():
    # Nearly all samples have two equally near neighbours.
    grid = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0))
    grid[::50] += 0.01
    assert "samples have a second neighbour further than the first, need half" in two_nn(grid).reason


def test_samples_with_two_equally_near_neighbours_do_not_raise_the_dimension():
    x = drawn("cube", 2)
    rounded = (x * 64).round() / 64
    assert two_nn(rounded).value == pytest.approx(2, abs=0.3)
    lattice = torch.cartesian_prod(torch.arange(12.0), torch.arange(12.0))
    assert "need half of them" in two_nn(torch.cat([lattice, 20 + 10 * x[:100].to(lattice.dtype)])).reason


def test_two_nn_needs_fifty_usable_samples():
    x = drawn("cube", 3, samples=56)
    assert two_nn(x).estimable
    assert two_nn(x[:55]).reason.startswith("55 of 55 samples have a second neighbour further")


@pytest.mark.parametrize("estimate", [correlation_dimension, two_nn])
def test_samples_that_coincide_count_once(estimate):
    x = drawn("cube", 2)
    alone = estimate(x)
    assert (alone.samples, alone.duplicates) == (1000, 0)
    for k in (1, 30, 80, 500):
        for copies in (x[:k], x[:1].expand(k, 2), torch.zeros(k + 1, 2)):
            mixed = torch.cat([x, copies])[torch.randperm(1000 + len(copies))]
            found = estimate(mixed)
            assert found.value == pytest.approx(alone.value, rel=0.02)
            assert (found.samples, found.duplicates) == (1000 + len(copies), k)
    few = estimate(torch.cat([x[:40], x[:20]]))
    assert few.reason == "20 of 60 samples coincide with another, need 50 different ones"
    assert estimate(x.float().repeat(2, 1)).value == pytest.approx(alone.value, rel=1e-3)


@pytest.mark.parametrize("unit", [1e-300, 1e-200, 1e160, 1e307])
@pytest.mark.parametrize("estimate", [correlation_dimension, two_nn])
def test_dimensions_at_any_magnitude(estimate, unit):
    x = drawn("gauss", 5, samples=200) + 1
    assert float(estimate(x * unit)) == pytest.approx(float(estimate(x)), rel=1e-6)


@pytest.mark.parametrize("window", [(0, 0.1), (0.1, 0.05), 0.1, (0.1, 1.5), ("a", "b"), (math.nan, 0.1)])
def test_window_messages(window):
    with pytest.raises(ValueError, match="window: got"):
        correlation_dimension(drawn("cube", 2), window=window)
