"""Many layers at once, as on a GPU: the code that runs there, given tensors on a CPU, against single layers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from selfsim import scaling_deviation, ss_rate
from selfsim.rate import rate
from selfsim.rate.distances import raw_distances, scaled_neurons, square_form
from selfsim.rate.options import RateOptions
from selfsim.statistics.correlation_law import window_for
from selfsim.statistics.scaling_gradient import _deviation_and_weight

OPTIONS = [
    {},
    {"ends": "detached"},
    {"quantiles": (0.1, 0.9)},
    {"quantiles": (0.5, 0.9), "unit": "median"},  # an end at the median
    {"unit": "median"},
    {"unit": "median", "ends": "detached"},
    {"scales": 64},
    {"scales": 64, "quantiles": (0.1, 0.9), "unit": "median"},
    {"gradient": "straight-through"},
    {"scales": 64, "gradient": "straight-through"},
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def layers(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Layers of different sizes and offsets."""
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (x * torch.logspace(-9, 9, len(x)).double()[:, None, None] * 1.3).to(dtype)


@pytest.mark.parametrize("n", [7, 90])  # in NumPy, and in compiled loops
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("options", OPTIONS)
def test_all_at_once_is_one_by_one(options, dtype, n):
    x = layers(4, 12, n, dtype=dtype)
    checked = RateOptions(**options)
    upstream = torch.arange(1.0, 5.0, dtype=dtype)
    # Rounding decides whether a distance lies below a scale, above all those at the quantiles: one pair, at one scale.
    rounded = {"scales", "gradient"} & options.keys() and ("quantiles" in options or dtype == torch.float32)
    tolerance = 4 / 64 / (n - 1) if rounded else TOLERANCE[dtype]
    values, weight = rate._rate_and_weight(*scaled_neurons(x), options=checked, need_weight=True)
    gradients = rate.gradient_by_weight(*scaled_neurons(x), weight, upstream)
    for k, layer in enumerate(x):
        one = layer.clone().requires_grad_()
        value = ss_rate(one, **options)
        (expected,) = torch.autograd.grad(upstream[k] * value, one)
        assert values[k].item() == pytest.approx(value.item(), abs=tolerance)
        # The slope of a pair that the straight line crosses turns within one part in the number of pairs.
        assert (gradients[k] - expected).norm() <= 50 * TOLERANCE[dtype] * expected.norm() + 1e-30
    without, empty = rate._rate_and_weight(*scaled_neurons(x), options=checked, need_weight=False)
    assert torch.equal(without, values)
    assert empty.shape == (4, 0)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_neurons_left_out_at_once(dtype):
    x = layers(3, 12, 20, dtype=dtype)
    assert torch.equal(
        rate._without_most_distant(x, 4), torch.stack([rate._without_most_distant(layer, 4) for layer in x])
    )


@pytest.mark.parametrize("fault", ["equal", "NaN", "dead"])
def test_a_layer_without_a_rate_leaves_the_others_theirs(fault):
    """Without the check, on a GPU as on a CPU."""
    x = layers(3, 12, 20, dtype=torch.float32)
    x[1] = {"equal": 1.0, "NaN": torch.nan, "dead": 0.0}[fault]
    unit = "median" if fault == "dead" else "absolute"
    values, weight = rate._rate_and_weight(
        *scaled_neurons(x), options=RateOptions(unit=unit, check=False), need_weight=True
    )
    gradients = rate.gradient_by_weight(*scaled_neurons(x), weight, torch.ones(3))
    assert values.isnan().tolist() == [False, True, False]
    assert gradients.isfinite().all((1, 2)).tolist()[::2] == [True, True]
    with pytest.raises(ValueError, match="^activations: "):
        rate._rate_and_weight(*scaled_neurons(x), options=RateOptions(unit=unit), need_weight=False)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_square_form_of_a_batch(dtype):
    x = layers(2, 5, 9, dtype=dtype)
    raw = raw_distances(scaled_neurons(x)[0])
    square = square_form(raw, 9)
    i, j = np.triu_indices(9, 1)
    assert torch.equal(square[:, i, j], raw)
    assert torch.equal(square, square.mT)
    assert not square.diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("n", [40, 90])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_deviations_at_once_are_those_one_by_one(dtype, n):
    x = layers(4, 6, n, dtype=dtype)
    upstream = torch.arange(1.0, 5.0, dtype=dtype)
    compute = partial(_deviation_and_weight, window=window_for(n, None))
    values, weight = compute(*scaled_neurons(x), check=True, need_weight=True)
    gradients = rate.gradient_by_weight(*scaled_neurons(x), weight, upstream)
    for k, layer in enumerate(x):
        one = layer.clone().requires_grad_()
        value = scaling_deviation(one)
        (expected,) = torch.autograd.grad(upstream[k] * value, one)
        assert values[k].item() == pytest.approx(value.item(), abs=TOLERANCE[dtype])
        assert (gradients[k] - expected).norm() <= 50 * TOLERANCE[dtype] * expected.norm()
    x[2] = 1
    values, weight = compute(*scaled_neurons(x), check=False, need_weight=True)
    assert values.isnan().tolist() == weight.isnan().any(1).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match="^activations: "):
        compute(*scaled_neurons(x), check=True, need_weight=False)
