"""The robust variants: what each is invariant to, in both directions, as the book's table says; their gradients."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from selfsim import box_cover, pair_distances, rate_curve, rate_drivers, ss_rate
from tests import reference

VARIANTS = {
    "as published": {},
    "`quantiles=(0.01, 0.99)`": {"quantiles": (0.01, 0.99)},
    '`unit="median"`': {"unit": "median"},
    "`leave_out=3`": {"leave_out": 3},
    "`standardize=True`": {"standardize": True},
    '`count="complete-linkage"`': {"count": "complete-linkage"},
    '`count="greedy-coloring"`': {"count": "greedy-coloring", "scales": 24},
}


def correlated(samples: int, neurons: int, seed: int = 0) -> torch.Tensor:
    """Structured activations: a few common causes, neurons of different size and offset."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mixing, sizes, offsets = randn(4, neurons), 0.2 + randn(neurons).abs(), randn(neurons)
    return (randn(samples, 4) @ mixing + 0.5 * randn(samples, neurons)) * sizes + offsets


def rotated(x):
    """The same orthogonal map of every neuron's vector of samples."""
    return torch.linalg.qr(correlated(len(x), len(x), seed=9)).Q @ x


CHANGES = {
    "order of samples or neurons": lambda x: x.flip(0)[:, torch.arange(x.shape[1] - 1, -1, -1)],
    "a constant added to all": lambda x: x + 5.0,
    "rotation": rotated,
    "scaling": lambda x: 100.0 * x,
    "number of samples": lambda x: x[:3],
    "number of neurons": lambda x: x[:, :6],
}
# An invariance to numbers is not one of single values but of their mean over draws, where all are draws of one law.
BY_MEAN = ("number of samples", "number of neurons")


def book_table() -> dict[str, dict[str, bool]]:
    text = (Path(__file__).parents[2] / "book" / "ss-rate.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in re.search(r"(?ms)^\| variant \|.*?(?=\n\n)", text).group().splitlines()
    ]
    header, _, *body = rows
    return {row[0]: dict(zip(header[1:], (cell == "yes" for cell in row[1:]), strict=True)) for row in body}


def gauss(samples: int, neurons: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_stays(options: dict, change: str, law) -> bool:
    draws = [law(128, 96, seed=s) for s in range(100)]
    shift = [ss_rate(CHANGES[change](x), **options).item() - ss_rate(x, **options).item() for x in draws]
    return abs(np.mean(shift)) < 3 * np.std(shift, ddof=1) / len(shift) ** 0.5


def is_invariant(options: dict, change: str) -> bool:
    if change in BY_MEAN:
        # Of two laws: invariant means invariant for both.
        return all(mean_stays(options, change, law) for law in (correlated, gauss))
    x = correlated(64, 60)
    return abs(ss_rate(CHANGES[change](x), **options).item() - ss_rate(x, **options).item()) < 1e-6


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_books_table(variant, change):
    assert is_invariant(VARIANTS[variant], change) == book_table()[variant][change]


def test_the_books_table_has_every_variant():
    assert set(book_table()) == set(VARIANTS)


@pytest.mark.parametrize("ends", ["attached", "detached"])
@pytest.mark.parametrize(
    "options",
    [
        {"quantiles": (0.1, 0.9)},
        {"unit": "median"},
        {"unit": "median", "quantiles": (0.0, 0.8)},
        {"standardize": True},
        {"leave_out": 2},
        {"count": "complete-linkage", "quantiles": (0.2, 0.8)},
        {"count": "complete-linkage", "unit": "median"},
    ],
)
def test_gradients(options, ends):
    x = correlated(8, 14).requires_grad_()
    if ends == "attached":
        assert torch.autograd.gradcheck(lambda y: ss_rate(y, **options), x, eps=1e-7, rtol=1e-3, atol=1e-4)
    else:
        (gradient,) = torch.autograd.grad(ss_rate(x, ends="detached", **options), x)
        (attached,) = torch.autograd.grad(ss_rate(x, **options), x)
        assert torch.isfinite(gradient).all()
        assert not torch.allclose(gradient, attached)


def test_quantile_ends_against_a_sum_over_fine_scales():
    x = correlated(20, 30)
    for options in ({"quantiles": (0.05, 0.9)}, {"unit": "median"}, {"unit": "median", "quantiles": (0.05, 0.9)}):
        assert ss_rate(x, scales=200_001, **options).item() == pytest.approx(ss_rate(x, **options).item(), abs=2e-5)
        assert ss_rate(x, scales=200_001, count="complete-linkage", **options).item() == pytest.approx(
            ss_rate(x, count="complete-linkage", **options).item(), abs=2e-5
        )


def test_median_unit_is_the_rate_of_activations_divided_by_their_median_distance():
    x = correlated(20, 30)
    d = reference.lengths(x).sort().values
    assert ss_rate(x, unit="median").item() == pytest.approx(ss_rate(x / d[(len(d) - 1) // 2]).item(), abs=1e-12)


def test_robust_variants_do_not_hang_on_two_pairs():
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near, far = x.clone(), x.clone()
    near[:, 1] = near[:, 0] + 1e-4
    far[:, 1] *= 20
    for spoiled, options in (
        (near, {"quantiles": (0.01, 0.99)}),
        (far, {"quantiles": (0.03, 0.97)}),
        (far, {"leave_out": 3}),
    ):
        plain = abs(ss_rate(spoiled).item() - ss_rate(x).item())
        robust = abs(ss_rate(spoiled, **options).item() - ss_rate(x, **options).item())
        assert plain > 0.2
        assert robust < 0.05


def test_standardized_neurons_by_hand():
    x = correlated(32, 20)
    by_hand = (x - x.mean(0)) / x.std(0, correction=0)
    assert ss_rate(x, standardize=True).item() == pytest.approx(ss_rate(by_hand).item(), abs=1e-12)
    x[:, 4] = 3.0
    with pytest.raises(ValueError, match=r"standardize: 1 of 20 neurons are constant.*neuron 4"):
        ss_rate(x, standardize=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantiles": (0.9, 0.1)}, "quantiles: got"),
        ({"quantiles": (-0.1, 0.5)}, "quantiles: got"),
        ({"quantiles": 0.5}, "quantiles: got 0.5, need"),
        ({"quantiles": (0.5, 0.501)}, "quantiles: got .*need quantiles further apart"),
        ({"unit": "mean"}, "unit: got 'mean'.*did you mean 'median'"),
        ({"unit": "median", "gradient": "straight-through"}, "gradient: got 'straight-through'"),
        ({"max_bytes": 0, "scales": 256}, "max_bytes: got 0"),
        ({"max_bytes": 10**6}, "max_bytes: only the sum over scales"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        ss_rate(correlated(8, 9), **options)


class TestBlocks:
    @pytest.mark.parametrize("max_bytes", [1, 20_000, 10**9])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_same_value_and_gradient(self, max_bytes, dtype):
        x = correlated(16, 50).to(dtype).requires_grad_()
        options = {"scales": 256, "gradient": "straight-through"}
        whole, blocked = ss_rate(x, **options), ss_rate(x, max_bytes=max_bytes, **options)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        assert blocked.item() == pytest.approx(whole.item(), abs=tolerance)
        (expected,) = torch.autograd.grad(whole, x)
        (got,) = torch.autograd.grad(blocked, x)
        assert (got - expected).norm() <= 10 * tolerance * expected.norm()

    def test_exact_gradient_is_refused(self):
        with pytest.raises(ValueError, match="max_bytes: got it with gradient='exact'"):
            ss_rate(correlated(8, 9).requires_grad_(), scales=256, max_bytes=10**6)
        assert 0 < ss_rate(correlated(8, 9), scales=256, max_bytes=10**6) < 1

    def test_bad_activations(self):
        for spoil, message in ((float("nan"), "NaN or Inf"), (float("inf"), "NaN or Inf")):
            x = correlated(8, 9)
            x[1, 2] = spoil
            with pytest.raises(ValueError, match=message):
                ss_rate(x, scales=256, max_bytes=10**6)
        with pytest.raises(ValueError, match="all 15 distances"):
            ss_rate(torch.eye(6), scales=256, max_bytes=10**6)


class TestDrivers:
    def test_by_pair_against_finite_differences(self):
        """Four neurons in general position: every length can be moved by itself."""
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        drivers = rate_drivers(x)
        d = reference.lengths(x).numpy()

        def rate_of(lengths):
            # Classical scaling: points with exactly these distances.
            square = np.zeros((4, 4))
            square[np.triu_indices(4, 1)] = lengths
            square = (square + square.T) ** 2
            centre = np.eye(4) - 0.25
            values, vectors = np.linalg.eigh(-0.5 * centre @ square @ centre)
            points = vectors * np.sqrt(np.maximum(values, 0))
            return ss_rate(torch.from_numpy(points.T.copy()) * 2).item()  # 4 "samples": times sqrt(4)

        assert rate_of(d) == pytest.approx(drivers.rate, abs=1e-9)
        for pair in range(6):
            step = np.zeros(6)
            step[pair] = 1e-6
            slope = (rate_of(d + step) - rate_of(d - step)) / 2e-6
            assert drivers.by_pair[pair] == pytest.approx(slope, abs=1e-5)

    def test_finds_the_outlier(self):
        x = torch.randn(64, 60, generator=torch.Generator().manual_seed(0))
        x[:, 17] *= 15
        drivers = rate_drivers(x)
        assert drivers.most_different_without(1) == [17]
        assert drivers.without[17] == pytest.approx(ss_rate(torch.cat([x[:, :17], x[:, 18:]], 1)).item(), abs=1e-6)

    def test_gradient_sits_on_few_neurons_attached_and_on_many_detached(self):
        x = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
        assert rate_drivers(x).carriers() <= 6
        assert rate_drivers(x, ends="detached").carriers() >= 40

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_the_callers_gradient_mode_does_not_matter(self, mode):
        x = torch.randn(16, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        expected = rate_drivers(x)
        with mode():
            inside = rate_drivers(x.clone())
        np.testing.assert_array_equal(inside.by_neuron, expected.by_neuron)
        np.testing.assert_array_equal(inside.by_pair, expected.by_pair)
        assert expected.by_neuron.all()

    def test_the_old_name_warns(self):
        drivers = rate_drivers(torch.randn(16, 12, generator=torch.Generator().manual_seed(0)))
        with pytest.warns(DeprecationWarning, match="use carriers"):
            assert drivers.share_of_strongest(0.9) == drivers.carriers(0.9)


@pytest.mark.parametrize("count", ["complete-linkage", "greedy-coloring"])
@pytest.mark.parametrize("scales", [4, 16])
def test_pairs_below_the_lower_quantile_are_merged_at_the_first_scale(count, scales):
    x = torch.randn(20, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = pair_distances(x).numpy()
    low, high = (np.sort(lengths)[round(q * (len(lengths) - 1))] for q in (0.2, 0.8))
    at = np.linspace(0, 1, scales)
    sizes = np.expm1(np.log1p(low) + at * (np.log1p(high) - np.log1p(low)))
    sizes[0], sizes[-1] = low, high
    counts = np.array([box_cover(lengths, method=count, l_B=size).max() + 1 for size in sizes])
    expected = 2 * np.abs(1 - at - np.log(counts) / math.log(40)).mean()
    assert counts[0] < 40
    assert float(ss_rate(x, scales=scales, count=count, quantiles=(0.2, 0.8))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scales", [16, 256])
def test_ties_with_a_quantile_count_alike_in_every_unit(scales):
    x = torch.randint(0, 2, (6, 60), generator=torch.Generator().manual_seed(0)).double()
    options = {"scales": scales, "quantiles": (0.2, 0.8), "unit": "median"}
    rates = [float(ss_rate(x * unit, **options)) for unit in (1, 2, 3, 5, 7)]
    assert rates == pytest.approx([rates[0]] * 5, abs=1e-12)


def test_the_curve_of_linkage_begins_at_every_neuron_and_ends_at_two_boxes():
    for seed in range(60):
        x = torch.randn(7, 20, generator=torch.Generator().manual_seed(seed))
        counts = rate_curve(x, count="complete-linkage", scales=16).counts
        assert (counts[0], counts[-1]) == (20, 2)


@pytest.mark.parametrize("size", [1e-160, 1, 1e160])
def test_drivers_of_any_magnitude(size):
    x = torch.randn(16, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x / pair_distances(x).median() * size
    found = rate_drivers(x).by_neuron
    assert np.isfinite(found).all() and found.max() > (1e-3 if size == 1 else 0)


def test_distances_near_the_largest_float():
    x = 3e37 * torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(pair_distances(x), pair_distances(x.double()), rtol=1e-5)
