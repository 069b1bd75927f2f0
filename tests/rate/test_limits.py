"""Where a number is decided by one rank, one bit or one magnitude: medians, quantiles, ties, overflow, collapse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from selfsim import rate_drivers, ss_rate
from selfsim.rate.area import ManySteps
from selfsim.rate.distances import distances_by_product, pair_distances, row_blocks
from selfsim.rate.options import RateOptions
from selfsim.rate.paper import bump_sum, paper_rate, rate_over_scales


def some(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        (torch.float32, 2.0**127),  # the spread, 2 ** 128, overflows
        (torch.float32, 2.0**-125),
        (torch.float64, 2.0**1023),
        (torch.float64, 2.0**-1040),  # subnormal; scaled by 2 ** 1040 it would overflow
    ],
)
def test_the_rate_in_medians_is_the_same_at_every_magnitude(dtype, factor):
    x = torch.randint(-255, 256, (20, 15), generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 256
    assert float(ss_rate((x * factor).to(dtype), unit="median")) == pytest.approx(
        float(ss_rate(x, unit="median")), rel=1e-5
    )


def test_the_product_keeps_distances_down_to_a_millionth_of_the_norms():
    neurons = torch.eye(4)[:, :3].clone()
    neurons[:, 1] = neurons[:, 0] * (1 + 2.0**-20)
    assert float(distances_by_product(neurons)[0]) == pytest.approx(2.0**-20, rel=1e-3)


@pytest.mark.parametrize("max_bytes", [5_000, 50_000, 10**7])
def test_blocks_fit_the_bytes_and_have_every_pair_once(max_bytes):
    n = 100
    blocks = list(row_blocks(some(3, n, dtype=torch.float32), max_bytes))
    for rows, pairs in blocks:
        assert 6 * (rows.stop - rows.start) * n * 4 <= max_bytes or rows.stop - rows.start == 1
        assert pairs.stop - pairs.start == sum(n - 1 - row for row in range(rows.start, rows.stop))
    assert [b.start for _, b in blocks[1:]] == [b.stop for _, b in blocks[:-1]]
    assert (blocks[0][1].start, blocks[-1][1].stop) == (0, n * (n - 1) // 2)


def test_the_unit_is_the_lower_of_two_middle_distances():
    x = some(8, 4)
    lower = pair_distances(x).sort().values[2]  # of six
    assert float(ss_rate(x, unit="median")) == pytest.approx(float(ss_rate(x / lower)), rel=1e-12)


def test_quantiles_are_the_nearest_ranks():
    x = some(8, 4)  # ranks 0 to 5: 1.5 and 4.5 go to the even ones
    assert float(ss_rate(x, quantiles=(0.3, 0.9))) == float(ss_rate(x, quantiles=(0.4, 0.8)))
    assert float(ss_rate(x, quantiles=(0.3, 0.9))) != float(ss_rate(x, quantiles=(0.2, 0.8)))


@pytest.mark.parametrize("quantiles", [(0.1, 0.9), (0.05, 0.7)])
def test_ties_at_the_quantiles_count_alike_on_every_device(quantiles):
    options = RateOptions(scales=256, quantiles=quantiles)
    for seed in range(20):
        x = torch.randint(0, 4, (5, 12), generator=torch.Generator().manual_seed(seed)).double()
        raw, one = torch.pdist(x.T), torch.tensor([5.0**0.5], dtype=torch.float64)
        as_on_a_card = float(paper_rate(raw, one, 12, options, False)[0])
        assert as_on_a_card == pytest.approx(float(rate_over_scales(raw.numpy(), one.numpy(), 12, options)), abs=1e-12)


def test_steps_of_many_neurons_are_the_same_on_every_device():
    n = 3000
    arrays, tensors = ManySteps(n, np.zeros(1)), ManySteps(n, torch.zeros(1, dtype=torch.float64))
    for first, length in ((0, 3), (10, 5), (n * (n - 1) // 2 - 6, 4)):
        for there, here in zip(tensors.part(first, length)[:2], arrays.part(first, length)[:2], strict=True):
            np.testing.assert_allclose(there.numpy(), here, rtol=1e-7)


@pytest.mark.parametrize("options", [{}, {"scales": 256}, {"scales": 256, "gradient": "straight-through"}], ids=str)
def test_a_collapsed_layer_has_neither_value_nor_gradient_without_checks(options):
    x = torch.eye(6, requires_grad=True)  # all distances are equal
    value = ss_rate(x, check=False, **options)
    value.backward()
    assert math.isnan(value.item()) and x.grad is not None and x.grad.isnan().all()


@pytest.mark.parametrize("options", [{}, {"scales": 256, "gradient": "straight-through"}], ids=str)
def test_second_derivatives_are_refused(options):
    x = some(8, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(ss_rate(x, **options), x, create_graph=True)
    with pytest.raises(RuntimeError, match="the gradient has no derivative; need a loss with first derivatives only"):
        (gradient.square().sum() + x.square().sum()).backward()


@pytest.mark.parametrize("width", [0.5, 2.0, 8.0])
def test_the_papers_slope_has_all_digits_of_its_type(width):
    at = np.linspace(1.0, 1.0 + width, 256)
    weight = np.random.default_rng(0).normal(size=256)
    lengths = torch.linspace(1.0, 1.0 + width, 999, dtype=torch.float64)
    sigmoid = 1 / (1 + np.exp(lengths.numpy()[:, None] - at))
    exact = (sigmoid * (1 - sigmoid) * weight).sum(1)
    for dtype, digits in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        found = bump_sum(at, weight, dtype)(lengths.to(dtype)).double().numpy()
        assert np.abs(found - exact).max() < digits * np.abs(weight).sum()


def test_colouring_takes_the_papers_number_of_scales():
    x = some(16, 24)
    rates = [float(ss_rate(x, count="greedy-coloring", **more)) for more in ({}, {"scales": 256}, {"scales": 128})]
    assert rates[0] == rates[1] != rates[2]


def test_neurons_are_left_out_by_their_distance_after_standardisation():
    x = some(32, 12)
    x[:, 3] *= 50  # far from all others until it is standardised
    standard = (x - x.mean(0)) / x.std(0, correction=0)
    both = float(ss_rate(x, standardize=True, leave_out=1))
    assert both == pytest.approx(float(ss_rate(standard, leave_out=1)), rel=1e-12)
    others = [k for k in range(12) if k != 3]
    assert both != pytest.approx(float(ss_rate(standard[:, others])), rel=1e-6)


def test_a_neuron_that_varies_by_rounding_alone_is_constant():
    x = some(16, 8, dtype=torch.float32)
    x[:, 2] = 1000.0
    x[5, 2] = float(np.nextafter(np.float32(1000), np.float32(2000)))
    with pytest.raises(ValueError, match="standardize: 1 of 8 neurons are constant"):
        ss_rate(x, standardize=True)


def test_drivers_say_how_the_rate_changes_as_a_neuron_moves_by_the_median_distance():
    x, step = some(16, 10), 1e-6
    drivers = rate_drivers(x)
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ss_rate(y), y)
    median = pair_distances(x).median()  # an edge has the length of a difference, divided by sqrt(samples)
    for neuron in range(10):
        moved = x.clone()
        moved[:, neuron] += step * median * 16**0.5 * gradient[:, neuron] / gradient[:, neuron].norm()
        change = (float(ss_rate(moved)) - drivers.rate) / step
        assert drivers.by_neuron[neuron] == pytest.approx(change, rel=1e-3)
