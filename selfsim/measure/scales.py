"""The paper's own sum over scales, and its straight-through gradient in closed form (arXiv 2507.17785).

The published code sums over 256 scales and lets the gradient flow through ``n * mean_j sigmoid(l - d_j)``, which
takes a buffer of scales x pairs. Its derivative by a distance is one smooth function h of that distance, the same
for all pairs, so it is tabulated once and read off.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from ..boxes.correlation_sum import surrogate_count
from .area import sorted_with_order

# Distances are sorted in pieces that stay in the processor's cache; counting needs no order across pieces.
_PIECE = 32_768


def scale_lengths(shortest: float, longest: float, scales: int) -> np.ndarray:
    """Box sizes l_B, ``(scales,)`` float64, evenly spaced in ``ln(1 + l)`` from the shortest to the longest."""
    log_low = math.log1p(shortest)
    return np.expm1(log_low + (math.log1p(longest) - log_low) * np.linspace(0.0, 1.0, scales))


def counts_below(distances: Tensor, scales_at: np.ndarray) -> np.ndarray:
    """Number of the distances ``(pairs,)`` strictly below each of the ascending `scales_at` (same unit)."""
    # Rounded up to the distances' own type, the scales are passed by the same distances, and need no wider copy.
    limits = _rounded_up(scales_at, np.float64 if distances.dtype == torch.float64 else np.float32)
    if distances.device.type != "cpu":
        ascending = distances.detach().sort().values
        return torch.searchsorted(ascending, torch.as_tensor(limits, device=distances.device)).cpu().numpy()
    array = distances.detach().numpy()
    pieces = (sorted_with_order(array[i : i + _PIECE])[0] for i in range(0, len(array), _PIECE))
    return np.sum([np.searchsorted(piece, limits, side="left") for piece in pieces], axis=0)


def fractions_below(distances: Tensor, scales_at: np.ndarray, *, open_ends: bool = False) -> np.ndarray:
    """Fraction of the distances ``(pairs,)`` strictly below each of the ascending `scales_at` (same unit).

    Where the scales reach from the shortest distance to the longest, the strict comparison at the two ends would be
    decided by the rounding of the scale, so they are set: nothing lies below the shortest distance, all but one
    below the longest. With `open_ends` they are counted like the others.
    """
    pairs = distances.numel()
    fraction = counts_below(distances, scales_at) / pairs
    if not open_ends:
        fraction[0], fraction[-1] = 0.0, (pairs - 1) / pairs
    return fraction


def _rounded_up(values: np.ndarray, dtype: type) -> np.ndarray:
    rounded = values.astype(dtype)
    return np.where(rounded < values, np.nextafter(rounded, np.inf, dtype=dtype), rounded)


def sum_over_scales(drop: np.ndarray) -> float:
    """``(2 / m) sum_i |p_i - y_i|`` from ``1 - y_i`` at m scales."""
    return float(2 * np.mean(np.abs(np.linspace(0.0, 1.0, len(drop)) - drop)))


def straight_through_slope(lengths: Tensor, at: np.ndarray, fraction: np.ndarray, n: int) -> Tensor:
    """The paper's derivative of S by each of the `lengths`, in their dtype; any part of the layer's pairs.

    ``h(d) = -(n / P) sum_i dS/dC_i sigmoid'(l_i - d)``; the signs at the two end scales are rounding noise in the
    published code and are zero here.
    """
    scales = len(at)
    count = surrogate_count(fraction, n)
    residual = (1 - np.linspace(0.0, 1.0, scales)) - np.log(count) / math.log(n)
    by_fraction = (
        np.sign(residual) * (2 / scales) * (n - 1) ** 2 / (count * math.log(n) ** 2 * (1 + (n - 1) * fraction))
    )
    by_fraction[[0, -1]] = 0.0
    weight = -by_fraction * n / (n * (n - 1) / 2)
    return _bump_sum(lengths, at, weight)


def _bump_sum(lengths: Tensor, at: np.ndarray, weight: np.ndarray) -> Tensor:
    """``sum_i weight_i sigmoid'(at_i - d)`` for every d in `lengths`."""
    low, high = float(at[0]), float(at[-1])
    half = (high - low) / 2
    # sigmoid' has its nearest poles at distance pi: this is the rate at which a Chebyshev series converges.
    ratio = math.pi / half + math.hypot(1.0, math.pi / half)
    digits = 17 if lengths.dtype == torch.float64 else 10
    degree = math.ceil(digits * math.log(10) / math.log(ratio))
    if degree <= 64:
        series = chebyshev.Chebyshev.interpolate(lambda d: _bumps(d, at, weight), degree, domain=[low, high])

        def evaluate(piece: Tensor) -> Tensor:
            return _clenshaw(series.coef, (piece - (low + half)) / half)
    else:  # too wide a range for a short series: the sum itself
        at_, weight_ = (torch.as_tensor(array).to(lengths) for array in (at, weight))

        def evaluate(piece: Tensor) -> Tensor:
            return (((at_ - piece[:, None]) / 2).clamp_(-40, 40).cosh_().square_().reciprocal_() @ weight_) / 4

    out = torch.empty_like(lengths)
    for target, piece in zip(out.split(_PIECE), lengths.split(_PIECE), strict=True):
        target.copy_(evaluate(piece))
    return out


def _bumps(d: np.ndarray, at: np.ndarray, weight: np.ndarray) -> np.ndarray:
    # 1 / (4 cosh^2(x / 2)), with the exponent cut off where the bump has long vanished.
    return (weight / (4 * np.cosh(np.clip((at - d[:, None]) / 2, -300, 300)) ** 2)).sum(1)


def _clenshaw(coefficients: np.ndarray, x: Tensor) -> Tensor:
    """A Chebyshev series at every x, by Clenshaw's recurrence, in place on three buffers."""
    twice = 2 * x
    current, previous = torch.zeros_like(x), torch.zeros_like(x)
    for c in coefficients[:0:-1].tolist():
        previous.neg_().addcmul_(twice, current).add_(c)
        current, previous = previous, current
    return x * current - previous + float(coefficients[0])
