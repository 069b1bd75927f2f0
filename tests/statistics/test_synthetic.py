"""The known sets are what they are called: their distances, dimensions and box counts, by their own definitions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from selfsim import box_counts, pair_distances, ss_rate
from selfsim.rate.distances import square_form
from selfsim.statistics.synthetic import KNOWN_DIMENSIONS, known_activations

NAMES = list(KNOWN_DIMENSIONS)


def points(name, **options):
    """The points ``(n, coordinates)`` whose distances are those of the feature network."""
    x = known_activations(name, **options)
    return (x / len(x) ** 0.5).T.numpy()


def distances(name, **options):
    return pair_distances(known_activations(name, **options)).numpy()


@pytest.mark.parametrize("name", NAMES)
def test_every_set_has_the_neurons_asked_for_and_a_rate(name):
    for n in (8, 50):
        x = known_activations(name, n=n)
        assert x.shape[1] == n and x.dtype == torch.float64
        assert 0 < ss_rate(x) < 1
        assert len(np.unique(x.numpy(), axis=1).T) == n, "two neurons on one point"


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_moves_random_sets_only(name):
    a, b, again = (known_activations(name, n=20, seed=seed) for seed in (0, 1, 0))
    assert a.equal(again)
    assert a.equal(b) == (name in ("line", "lattice", "cantor", "sierpinski", "menger", "ultrametric tree"))


def test_feature_network_has_the_points_own_distances():
    x = points("sierpinski", n=27)
    plain = np.linalg.norm(x[:, None] - x[None], axis=2)[np.triu_indices(27, 1)]
    np.testing.assert_allclose(distances("sierpinski", n=27), plain, rtol=1e-12)


def test_line_is_evenly_spaced():
    np.testing.assert_allclose(np.diff(points("line", n=11)[:, 0]), 0.1)


@pytest.mark.parametrize(("name", "dimension"), [("square", 2), ("cube", 3)])
def test_square_and_cube_are_filled(name, dimension):
    x = points(name, n=2000)
    assert x.shape == (2000, dimension) and x.min() >= 0 and x.max() <= 1
    np.testing.assert_allclose(x.mean(0), 0.5, atol=0.03)
    np.testing.assert_allclose(x.std(0), 1 / math.sqrt(12), atol=0.02)


def test_lattice_has_its_neighbours_one_step_apart():
    x = points("lattice", n=20)  # four rows of five
    apart = np.linalg.norm(x[:, None] - x[None], axis=2)
    assert apart[apart > 0].min() == pytest.approx(1 / 4)
    assert np.isclose(apart, 1 / 4).sum() == 2 * (4 * 4 + 3 * 5)


@pytest.mark.parametrize(
    ("name", "n", "shifts", "ratio"),
    [
        ("cantor", 64, [[0], [2 / 3]], 1 / 3),
        ("sierpinski", 81, [[0, 0], [1 / 2, 0], [1 / 4, math.sqrt(3) / 4]], 1 / 2),
        ("menger", 400, [s for s in np.ndindex(3, 3, 3) if s.count(1) < 2], 1 / 3),
    ],
)
def test_fractals_are_the_union_of_their_shrunken_copies(name, n, shifts, ratio):
    whole, smaller = points(name, n=n), points(name, n=n // len(shifts))
    if name == "menger":
        shifts = np.array(shifts) / 3
    copies = np.concatenate([np.array(shift) + ratio * smaller for shift in shifts])
    np.testing.assert_allclose(np.sort(whole, 0), np.sort(copies, 0), atol=1e-12)
    # Sorted column by column would not see points that exchange coordinates.
    nearest = np.linalg.norm(whole[:, None] - copies[None], axis=2).min(1)
    assert nearest.max() < 1e-12


@pytest.mark.parametrize("method", ["complete-linkage", "greedy-coloring"])
def test_cantor_needs_2_to_the_k_boxes_at_3_to_the_minus_k(method):
    k = np.arange(1, 6)
    x = known_activations("cantor", n=64)
    found = box_counts(pair_distances(x).numpy(), method=method, l_B=3.0 ** -k[::-1])
    np.testing.assert_array_equal(found.counts[::-1], 2.0**k)
    slope = np.polyfit(-k * math.log(3), np.log(found.counts[::-1]), 1)[0]
    assert -slope == pytest.approx(KNOWN_DIMENSIONS["cantor"])


def test_sierpinski_fills_3_to_the_k_cells_of_side_2_to_the_minus_k():
    x, y = points("sierpinski", n=3**5).T
    across, up = x - y / math.sqrt(3), 2 * y / math.sqrt(3)  # along two sides of the triangle
    k = np.arange(1, 6)
    cells = [len(set(zip(*np.floor(np.stack([across, up]) * 2.0**level + 1e-6), strict=True))) for level in k]
    np.testing.assert_array_equal(cells, 3**k)
    assert np.polyfit(k * math.log(2), np.log(cells), 1)[0] == pytest.approx(KNOWN_DIMENSIONS["sierpinski"])


@pytest.mark.parametrize("n", [8, 13, 32])
def test_tree_is_ultrametric(n):
    d = square_form(torch.from_numpy(distances("ultrametric tree", n=n)), n).numpy()
    longest_two = np.sort(np.stack(np.broadcast_arrays(d[:, :, None], d[:, None], d[None])), 0)[1:]
    np.testing.assert_allclose(longest_two[0], longest_two[1], atol=1e-12)


def test_tree_halves_its_distances_from_level_to_level():
    d = distances("ultrametric tree", n=16)
    values, pairs = np.unique(d.round(9), return_counts=True)
    np.testing.assert_allclose(values, [1 / 8, 1 / 4, 1 / 2, 1])
    # Of 16 leaves: 8 pairs of siblings, then 4 groups of 2 x 2, 2 of 4 x 4, 1 of 8 x 8.
    np.testing.assert_array_equal(pairs, [8, 16, 32, 64])


def test_clusters_are_eight_and_apart():
    found = box_counts(distances("clusters", n=80), method="complete-linkage", l_B=[0.2, 0.8])
    np.testing.assert_array_equal(found.counts, [8, 8])


def test_gauss_has_standard_normal_activations():
    x = known_activations("gauss", n=400)
    assert len(x) == 64
    assert abs(x.mean()) < 0.02 and x.std() == pytest.approx(1, abs=0.02)
    # Neurons are independent: their distances crowd around the square root of 2.
    assert np.median(distances("gauss", n=400)) == pytest.approx(math.sqrt(2), abs=0.03)


def test_scales_are_log_normal_and_spectrum_is_a_power_law():
    scales = points("log-normal scales", n=2000)
    logs = np.log(np.linalg.norm(scales, axis=1))
    assert stats.kstest((logs - logs.mean()) / logs.std(), "norm").pvalue > 0.01
    assert logs.std() == pytest.approx(1, abs=0.06)
    variances = 64 * points("power-law spectrum", n=4000).var(0)
    np.testing.assert_allclose(variances * np.arange(1, 65), 1, atol=0.12)
    assert points("gauss 3d", n=4000).std(0) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("n", [7, 0, -1, 2.5, True, None])
def test_too_few_neurons_are_refused(n):
    with pytest.raises(ValueError, match=r"n: got .*at least 8"):
        known_activations("line", n=n)


def test_unknown_set_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'cantor'"):
        known_activations("kantor")
