"""The paper's own rate: a sum over scales, with its straight-through gradient in closed form (arXiv 2507.17785).

The published code sums over 256 scales and lets the gradient flow through ``n * mean_j sigmoid(l - d_j)``, which
takes a buffer of scales x pairs. Its derivative with respect to a distance is one smooth function h of that distance,
the same for all pairs, so it is tabulated once and looked up.

The sum needs only the two ends and the counts below each scale, so the distances can be computed block by block and
forgotten: for 16,384 neurons they alone fill half a gigabyte.

On a GPU, whole batches are computed without a synchronisation: the ends and the scales stay there, and h is summed
directly, because the degree of a series would depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from ..boxes.correlation_sum import surrogate_count, surrogate_drop
from ..validation import check_finite
from .area import Array, Axis, axis_of, end_places, module_of, numbers_at
from .distances import (
    NO_DERIVATIVE,
    NoRange,
    add_gradient,
    by_distance,
    equal_within,
    raw_distances,
    row_blocks,
    scaled_neurons,
    without_offset,
)
from .loops import chebyshev_sum, compiled_loops_pay, count_between, sorted_with_order
from .options import RateOptions

PAPER_SCALES = 256
# Lengths processed at once by the direct sum, and on a GPU lengths times scales.
_PIECE, _PIECE_ON_GPU = 32_768, 2**24
# Bytes of distances that are cheaper to keep than to compute three times.
_KEPT = 2**22


def scale_lengths(shortest: float, longest: float, scales: int) -> np.ndarray:
    """Box sizes l_B, ``(scales,)`` float64, evenly spaced in ``ln(1 + l)`` from the shortest to the longest."""
    log_low = math.log1p(shortest)
    return np.expm1(log_low + (math.log1p(longest) - log_low) * np.linspace(0.0, 1.0, scales))


def counts_below(distances: Tensor, scales_at: np.ndarray) -> np.ndarray:
    """Number of the distances ``(pairs,)`` strictly below each of the ascending `scales_at` (same unit)."""
    limits: np.ndarray = _rounded_up(scales_at, np.float64 if distances.dtype == torch.float64 else np.float32)
    if distances.device.type != "cpu":
        ascending = distances.detach().sort().values
        return torch.searchsorted(ascending, torch.as_tensor(limits, device=distances.device)).cpu().numpy()
    array = distances.detach().numpy()
    if not compiled_loops_pay(len(array)):
        return np.searchsorted(sorted_with_order(array)[0], limits, side="left")
    # Non-negative floats have the order of their bits; a table maps their leading bits to a place to start from.
    bits = limits.view(f"i{limits.itemsize}")
    shift = max(0, int(bits[-1] - bits[0]).bit_length() - 13)
    table = np.searchsorted(bits, bits[0] + (np.arange(2**13, dtype=bits.dtype) << shift), side="right")
    counts = np.zeros(len(limits) + 1, dtype=np.int64)
    count_between(array.view(bits.dtype), bits, table, shift, counts)
    return np.cumsum(counts[:-1])


def fractions_of(counts: np.ndarray, pairs: int, *, open_ends: bool = False) -> np.ndarray:
    """Return what `counts_below` found as fractions of the pairs.

    Where the scales reach from the shortest distance to the longest, rounding would decide the strict comparison at
    the two ends, so they are set: nothing lies below the shortest distance, all but one below the longest. With
    `open_ends` they are counted like the others.
    """
    fraction = counts / pairs
    if not open_ends:
        fraction[0], fraction[-1] = 0.0, (pairs - 1) / pairs
    return fraction


def _rounded_up(scales_at: Array, dtype: Any) -> Array:
    """Return scales in the distances' own type: the same distances pass them, and need no wider copy."""
    xp = module_of(scales_at)
    rounded = xp.asarray(scales_at, dtype=dtype)
    return xp.where(rounded < scales_at, xp.nextafter(rounded, xp.full_like(rounded, math.inf)), rounded)


def sum_over_scales(drop: Array) -> Array:
    """``(2 / m) sum_i |p_i - y_i|`` from ``1 - y_i`` at m scales ``(…, m)``."""
    return 2 * abs(_evenly(drop.shape[-1], drop) - drop).mean(-1)


def _evenly(scales: int, like: Array) -> Array:
    """Positions of the scales on the axis, float64."""
    if isinstance(like, Tensor):
        return torch.linspace(0.0, 1.0, scales, dtype=torch.float64, device=like.device)
    return np.linspace(0.0, 1.0, scales)


def rate_over_scales(raw: Array, one: Array, n: int, options: RateOptions) -> Array:
    """The rate of given distances ``(…, pairs)`` at ``options.scales`` (256 by default), as published."""
    if isinstance(raw, Tensor):
        return paper_rate(raw, one, n, options, False)[0]
    axis = axis_of(raw, one, options)
    low, high, unit = axis.low.item(), axis.high.item(), axis.unit.item()
    at = scale_lengths(low / unit, high / unit, options.scales or PAPER_SCALES) * unit
    at[0], at[-1] = low, high  # rounding must not decide whether what is tied with an end counts
    counts = counts_below(torch.from_numpy(raw), at)
    fraction = fractions_of(counts, len(raw), open_ends=options.quantiles is not None)
    return sum_over_scales(surrogate_drop(fraction, n))


def paper_rate(
    raw: Tensor, one: Tensor, n: int, options: RateOptions, need_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """The same for tensors on a GPU, and the paper's derivative ``(…, pairs)`` by each distance if `need_slope`."""
    ascending, pairs = raw.sort().values, raw.shape[-1]
    axis = Axis.between(numbers_at(ascending, end_places(pairs, options)), one, options, raw)
    low, high, unit = axis.low.double(), axis.high.double(), axis.unit.double()
    log_low = torch.log1p(low / unit)
    evenly = _evenly(options.scales or PAPER_SCALES, raw)
    at = torch.expm1(log_low + (torch.log1p(high / unit) - log_low) * evenly) * unit
    if options.quantiles is not None:  # as on the CPU: rounding must not decide whether what is tied with an end counts
        at = torch.where(evenly == 0, low, torch.where(evenly == 1, high, at))
    fraction = torch.searchsorted(ascending, _rounded_up(at, raw.dtype)).double() / pairs
    if options.quantiles is None:  # rounding would decide; see `fractions_of`
        fraction[..., :1].fill_(0.0)  # assigning a number to a single place would copy it from the host
        fraction[..., -1:].fill_((pairs - 1) / pairs)
    no_range = 0 * axis.length  # NaN where there is no range, without the check
    value = sum_over_scales(surrogate_drop(fraction, n)) + no_range[..., 0]
    if not need_slope:
        return value, None
    at, weight = ((array / one).to(raw)[..., None, :] for array in (at, straight_through_weight(fraction, n)))
    piece = max(1, _PIECE_ON_GPU // (at.numel() or 1))
    slopes = []
    for lengths in (raw / one).split(piece, -1):
        count = torch.sigmoid(at - lengths[..., None])
        slopes.append((count * (1 - count) * weight).sum(-1))
    return value, torch.cat(slopes, -1) + no_range


def straight_through_weight(fraction: Array, n: int) -> Array:
    """Weights ``(…, scales)`` of the paper's derivative of S with respect to a length d.

    ``h(d) = sum_i weight_i sigmoid'(l_i - d)`` with ``weight_i = -(n / P) dS/dC_i``. The signs at the two end scales
    are rounding noise in the published code and are zero here.
    """
    xp, scales = module_of(fraction), fraction.shape[-1]
    count = surrogate_count(fraction, n)
    residual = (1 - _evenly(scales, fraction)) - xp.log(count) / math.log(n)
    by_fraction = (
        xp.sign(residual) * (2 / scales) * (n - 1) ** 2 / (count * math.log(n) ** 2 * (1 + (n - 1) * fraction))
    )
    by_fraction[..., :1] *= 0
    by_fraction[..., -1:] *= 0
    return -by_fraction * n / (n * (n - 1) / 2)


def bump_sum(at: np.ndarray, weight: np.ndarray, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The function ``sum_i weight_i sigmoid'(at_i - d)`` of any tensor of lengths d ``(pairs,)`` of this type."""
    low, high = float(at[0]), float(at[-1])
    half = (high - low) / 2
    # sigmoid' has its nearest poles at distance pi: this is the rate at which a Chebyshev series converges.
    rate = math.asinh(math.pi / half)
    digits = (17 if dtype == torch.float64 else 10) * math.log(10)
    if digits <= 64 * rate:
        degree = math.ceil(digits / rate)
        series = chebyshev.Chebyshev.interpolate(lambda d: _bumps(d, at, weight), degree, domain=[low, high])
        return lambda lengths: _series(series.coef, low + half, half, lengths)

    def directly(lengths: Tensor) -> Tensor:  # the range is too wide for a short series
        at_, weight_ = (torch.as_tensor(array).to(lengths) for array in (at, weight))
        pieces = [
            (((at_ - piece[:, None]) / 2).clamp_(-40, 40).cosh_().square_().reciprocal_() @ weight_) / 4
            for piece in lengths.split(_PIECE)
        ]
        return torch.cat(pieces)

    return directly


def _bumps(d: np.ndarray, at: np.ndarray, weight: np.ndarray) -> np.ndarray:
    # 1 / (4 cosh^2(x / 2)), with the exponent cut off where the bump has long vanished.
    return (weight / (4 * np.cosh(np.clip((at - d[:, None]) / 2, -300, 300)) ** 2)).sum(1)


def _series(coefficients: np.ndarray, middle: float, half: float, lengths: Tensor) -> Tensor:
    """A Chebyshev series on ``middle ± half`` at all `lengths`, by Clenshaw's recurrence."""
    if lengths.device.type == "cpu" and compiled_loops_pay(len(lengths)):
        values, out = lengths.numpy(), torch.empty_like(lengths)
        kind = values.dtype.type
        chebyshev_sum(coefficients.astype(kind), kind(middle), kind(half), values, out.numpy())
        return out
    x = (lengths - middle) / half
    twice = 2 * x
    current, previous = torch.zeros_like(x), torch.zeros_like(x)
    for c in coefficients[:0:-1].tolist():
        previous.neg_().addcmul_(twice, current).add_(c)
        current, previous = previous, current
    return x * current - previous + float(coefficients[0])


class PaperRate(torch.autograd.Function):
    """The rate at `scales` with the paper's straight-through gradient, in blocks of at most `max_bytes`."""

    @staticmethod
    def forward(ctx: Any, activations: Tensor, scales: int, max_bytes: int | None, check: bool) -> Tensor:
        neurons, scale = scaled_neurons(activations)
        n = neurons.shape[1]
        pairs = n * (n - 1) // 2
        blocks = list(row_blocks(neurons, max_bytes))
        few = len(blocks) == 1 or (max_bytes is None and pairs * neurons.element_size() <= _KEPT)
        kept = raw_distances(neurons) if few else None

        def distances(rows: slice, pairs: slice) -> Tensor:
            return raw_distances(neurons, rows) if kept is None else kept[pairs]

        ends = torch.stack([torch.stack(torch.aminmax(distances(*block))) for block in blocks])
        low, high = ends[:, 0].amin().item(), ends[:, 1].amax().item()
        ctx.save_for_backward(activations, neurons, scale)
        ctx.rest = None
        one = float(scale) * activations.shape[0] ** 0.5
        if not high - low > equal_within(neurons.dtype) * high:  # so it is with NaN and Inf, too
            if check:
                check_finite(activations)
                raise NoRange.all_equal(pairs, low / one, high / one)
            return torch.full_like(scale, math.nan)
        at = scale_lengths(low / one, high / one, scales)
        counts = np.sum([counts_below(distances(*block), at * one) for block in blocks], axis=0)
        fraction = fractions_of(counts, pairs)
        ctx.rest = (at, fraction, one, blocks, distances)
        return neurons.new_tensor(sum_over_scales(surrogate_drop(fraction, n)))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        activations, neurons, scale = ctx.saved_tensors
        with torch.no_grad(), torch.autocast(neurons.device.type, enabled=False):
            gradient = _gradient_of(ctx.rest, neurons, scale, upstream)
        return _OnlyFirst.apply(gradient, activations, upstream), None, None, None


def _gradient_of(rest: Any, neurons: Tensor, scale: Tensor, upstream: Tensor) -> Tensor:
    if rest is None:
        return torch.full_like(neurons, math.nan)
    at, fraction, one, blocks, distances = rest
    slope = bump_sum(at, straight_through_weight(fraction, neurons.shape[1]), neurons.dtype)
    centred = without_offset(neurons)
    gradient = torch.zeros_like(neurons)
    for rows, pairs in blocks:
        raw = distances(rows, pairs)
        add_gradient(gradient, centred, by_distance(slope(raw / one), raw), rows)
    return gradient * (upstream * scale / one)


class _OnlyFirst(torch.autograd.Function):
    """A gradient that depends on activations, and has no derivative by them; as a constant it would be wrong."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, activations: Tensor, upstream: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        raise RuntimeError(NO_DERIVATIVE)
