"""Every kind of activations that nobody wants, against every public function that takes activations.

A new function is put into FUNCTIONS and gets every row.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import selfsim
from selfsim.measure.null_models import NullBand
from selfsim.uncertainty import Estimate

FUNCTIONS = {
    "ss_rate": selfsim.ss_rate,
    "ss_rate of 256 scales": lambda x: selfsim.ss_rate(x, scales=256),
    "ss_rate straight-through": lambda x: selfsim.ss_rate(x, gradient="straight-through"),
    "ss_rate complete-linkage": lambda x: selfsim.ss_rate(x, count="complete-linkage"),
    "ss_rate greedy-coloring": lambda x: selfsim.ss_rate(x, count="greedy-coloring"),
    "ss_rate at quantiles": lambda x: selfsim.ss_rate(x, quantiles=(0.0, 0.95)),
    "ss_rate by medians": lambda x: selfsim.ss_rate(x, unit="median"),
    "ss_rate in blocks": lambda x: selfsim.ss_rate(x, scales=256, max_bytes=10**6),
    "rate_curve": selfsim.rate_curve,
    "constraint": lambda x: selfsim.SelfSimilarityConstraint()(x),
    "samples_interval": lambda x: selfsim.samples_interval(lambda a: a.sum(), x, draws=3),
    "spectrum_exponent": selfsim.spectrum_exponent,
    "correlation_dimension": selfsim.correlation_dimension,
    "two_nn": selfsim.two_nn,
    "null_band": lambda x: selfsim.null_band(lambda a: a.sum(), x, draws=2),
    "null_activations": lambda x: selfsim.null_activations(x, null="gauss", seed=0),
    "FeatureNetwork": selfsim.FeatureNetwork,
    "pair_distances": selfsim.pair_distances,
}
# These need distances between neurons to exist, and to differ.
NEED_RATE = [name for name in FUNCTIONS if name.startswith("ss_rate") or name in ("rate_curve", "constraint")]
NEED_PAIRS = [*NEED_RATE, "FeatureNetwork", "pair_distances"]


def some(**changes) -> torch.Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def with_value(value: float) -> torch.Tensor:
    x = some()
    x[2, 3] = value
    return x


BAD = {
    "a list": ([[1.0, 2.0], [3.0, 4.0]], TypeError, "got list"),
    "None": (None, TypeError, "got NoneType"),
    "integers": (some().long(), TypeError, "got torch.int64"),
    "booleans": (some() > 0, TypeError, "got torch.bool"),
    "complex": (some().to(torch.complex64), TypeError, "got torch.complex64"),
    "sparse": (some().to_sparse(), TypeError, "got layout torch.sparse_coo"),
    "one dimension": (some()[0], ValueError, r"got shape \(6,\)"),
    "three dimensions": (some()[None], ValueError, r"got shape \(1, 8, 6\)"),
    "no samples": (some()[:0], ValueError, "got no samples"),
    "NaN": (with_value(float("nan")), ValueError, "1 values that are NaN or Inf.*sample 2, neuron 3"),
    "Inf": (with_value(float("inf")), ValueError, "1 values that are NaN or Inf"),
    "minus Inf": (with_value(-float("inf")), ValueError, "1 values that are NaN or Inf"),
}
FEW = {
    "no neurons": (some()[:, :0], "got 0 neurons"),
    "one neuron": (some()[:, :1], "got 1 neurons"),
}
EQUAL = {
    "constant": torch.full((8, 6), 3.0),
    "zeros": torch.zeros(8, 6),
    "identical neurons": some()[:, :1].expand(8, 6),
    "equilateral": torch.eye(6),
    "equilateral to rounding": torch.eye(6) @ torch.linalg.qr(some()[:6]).Q.T + 1.0,
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", BAD)
def test_bad(function, kind):
    value, error, message = BAD[kind]
    with pytest.raises(error, match=f"^activations: .*{message}"):
        FUNCTIONS[function](value)


@pytest.mark.parametrize("function", NEED_PAIRS)
@pytest.mark.parametrize("kind", FEW)
def test_too_few_neurons(function, kind):
    value, message = FEW[kind]
    with pytest.raises(ValueError, match=f"^activations: {message}"):
        FUNCTIONS[function](value)


@pytest.mark.parametrize("function", NEED_RATE)
def test_two_neurons_have_no_rate(function):
    with pytest.raises(ValueError, match="^activations: got 2 neurons.*need at least 3"):
        FUNCTIONS[function](some()[:, :2])


@pytest.mark.parametrize("function", NEED_RATE)
@pytest.mark.parametrize("kind", EQUAL)
def test_all_distances_equal(function, kind):
    with pytest.raises(ValueError, match="^activations: all .*distances between neurons are equal"):
        FUNCTIONS[function](EQUAL[kind])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "value",
    [
        some(),
        some().double(),
        some().half(),
        some().bfloat16(),
        some()[:1],
        some().numpy(),
        torch.cat([some(), some()[:, :2]], 1),  # duplicate neurons
        torch.cat([some(), torch.zeros(8, 3)], 1),  # dead neurons
        some() * 1e30,
        some() * 1e-40,
    ],
    ids=["float32", "float64", "float16", "bfloat16", "one sample", "numpy", "duplicates", "dead", "1e30", "1e-40"],
)
def test_unusual_but_good(function, value):
    if function == "samples_interval" and len(value) == 1:
        with pytest.raises(ValueError, match="activations: got 1 samples, need at least 4"):
            FUNCTIONS[function](value)
        return
    result = FUNCTIONS[function](value)
    if isinstance(result, torch.Tensor):
        assert torch.isfinite(result).all()
    elif isinstance(result, Estimate):
        assert np.isfinite(result.value) if result.estimable else np.isnan(result.value)
    elif isinstance(result, NullBand):
        assert np.isfinite(result.values).all()
    elif isinstance(result, selfsim.FeatureNetwork):
        assert np.isfinite(result.distances).all()
    else:
        assert np.isfinite(result.estimate if function == "samples_interval" else result.slope)


def test_unchecked_gives_nan_not_a_number_that_looks_good():
    assert torch.isnan(selfsim.ss_rate(with_value(float("nan")), check=False))
