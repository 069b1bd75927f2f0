"""The exact area between a box-counting curve and its reference line, with the derivative.

On the axis ``u = (ln(1 + l) - ln(1 + dmin)) / (ln(1 + dmax) - ln(1 + dmin))`` the reference is the straight line from
1 to 0, and the curve ``ln N_B / ln n`` is a staircase that changes only at distances. The area between a line and a
staircase has a closed form: it needs neither scales nor a bandwidth.

The same lines work on NumPy arrays (one layer on a CPU, where NumPy sorts and takes logarithms many times faster than
torch) and on tensors (on a GPU). Tensors may have leading axes, a batch of layers. The last axis is that of the pairs,
or of length 1 where there is one number for each layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from ..boxes.correlation_sum import surrogate_drop
from .distances import MANY_NODES, NoRange, equal_within
from .loops import compiled_loops_pay, staircase_pass
from .options import RateOptions

# A NumPy array on a CPU, a tensor on a GPU.
Array: TypeAlias = Any
# Knots are processed in pieces: on a CPU so few that they stay in its cache, on a GPU so few that they fit its memory.
_PIECE, _PIECE_ON_GPU = 65_536, 2**24


def module_of(array: Array) -> ModuleType:
    """NumPy or torch, whichever `array` belongs to."""
    return torch if isinstance(array, torch.Tensor) else np


def log1p(values: Array) -> Array:
    """Return ``ln(1 + values)`` by torch, whose vectors are seven times faster than NumPy's without AVX-512."""
    return values.log1p() if isinstance(values, torch.Tensor) else torch.from_numpy(values).log1p().numpy()


class Axis(NamedTuple):
    """The logarithmic axis between the shortest and the longest distance, in raw units.

    A raw distance r is taken as ``ln(1 + r / unit)``; `unit` is the raw distance of length 1, or the median. All have
    the shape (…, 1).
    """

    low: Array
    high: Array
    unit: Array
    factor: Array  # 1 / (unit + low): ln(1 + l) - ln(1 + dmin) = log1p((r - low) * factor)
    length: Array  # log1p((high - low) * factor)

    @classmethod
    def between(cls, ends: Sequence[Array], one: Array, options: RateOptions, raw: Array) -> Axis:
        """The axis between two of the distances `raw`, in units of `one` or of the median: `ends` has all three.

        Raises
        ------
        NoRange
            The ends are equal, or one of the distances `raw` is not finite. On a GPU with ``check=False``, the
            length of the axis is NaN instead, without a synchronisation.
        """
        xp = module_of(raw)
        low, high, median = ends
        unit = one if options.unit == "absolute" else median
        sound = _has_range(low, high, unit, options, raw)
        if (options.check or xp is np) and not bool(sound.all()):
            raise _no_range(low, high, one, options, raw)
        # Where all lengths are tiny, log1p is linear and only the ratio of its arguments matters: a floor keeps
        # them out of the subnormal numbers without changing a digit.
        span = high - low
        factor = xp.maximum(1 / (unit + low), 1e-20 / span)
        length = xp.log1p(span * factor)
        if xp is torch:
            length = torch.where(sound, length, math.nan)
        return cls(low, high, unit, factor, length)

    def offsets(self, raw: Array) -> Array:
        """Arguments of the logarithm, ``(r - low) * factor``, of raw distances r."""
        # r - low is exact where the range is narrow; a difference of two logarithms would lose its digits there.
        return (raw - self.low) * self.factor

    def positions(self, offsets: Array) -> Array:
        """Positions u at these offsets, 0 at `low` and 1 at `high`, clipped to these."""
        u = log1p(offsets) / self.length
        if isinstance(u, np.ndarray):
            # The two logarithms of the longest distance may differ in the last bit, and then it would lie below 1.
            u[offsets >= self.offsets(self.high)] = 1
        return module_of(u).clip(u, 0, 1, out=u)

    def slope(self, offsets: Array) -> Array:
        """Derivative of u with respect to the raw distance, the ends constant."""
        return (self.factor / self.length) / (offsets + 1)

    def slopes_by_ends(self, sums: Sequence[Array], unit_too: bool) -> tuple[Array, Array, Array]:
        """Derivatives with respect to `low`, `high` and `unit`, the distances constant, from `staircase`'s sums."""
        before, beyond, turned = sums
        by_low = -before * self.factor / self.length
        by_high = -beyond * self.slope(self.offsets(self.high))
        if not unit_too:
            return by_low, by_high, 0.0
        at_low, at_high = 1 / (self.unit + self.low), 1 / (self.unit + self.high)
        return by_low, by_high, (turned * at_low + beyond * (at_low - at_high)) / self.length


def _has_range(low: Array, high: Array, unit: Array, options: RateOptions, raw: Array) -> Array:
    # NaN and Inf in the activations make the longest distance NaN or Inf, and then the first comparison is False.
    with np.errstate(invalid="ignore"):
        sound = high - low > equal_within(raw.dtype) * high
        if options.quantiles is not None:
            sound &= module_of(raw).amax(raw, -1, keepdims=True) < math.inf
        return sound & (unit > 0) if options.unit == "median" else sound


def _no_range(low: Array, high: Array, one: Array, options: RateOptions, raw: Array) -> NoRange:
    """Return the error for the distances of one layer; that of a batch is found layer by layer."""
    if raw.ndim > 1:
        return NoRange("activations: the distances of one layer span no range")
    if _has_range(low, high, one, options, raw).all():
        return NoRange(
            "unit: got 'median', but the median distance is 0, as where most neurons are dead; need 'absolute'"
        )
    shortest, longest = (low / one).item(), (high / one).item()
    if raw.max() - raw.min() > equal_within(raw.dtype) * raw.max():
        return NoRange(
            f"quantiles: got {options.quantiles!r}, at which the {len(raw)} distances are equal "
            f"({shortest:.6g}); need quantiles further apart"
        )
    return NoRange.all_equal(len(raw), shortest, longest)


def end_places(pairs: int, options: RateOptions) -> tuple[int, int, int]:
    """Places of the two ends and of the median among the sorted distances."""
    last = pairs - 1
    low, high = options.quantiles or (0, 1)
    return round(low * last), round(high * last), last // 2


def axis_of(raw: np.ndarray, one: np.ndarray, options: RateOptions) -> Axis:
    """The axis of unsorted distances ``(pairs,)``."""
    low, high, middle = end_places(len(raw), options)
    median = one if options.unit == "absolute" else _number_of_rank(raw, middle)
    return Axis.between((_number_of_rank(raw, low), _number_of_rank(raw, high), median), one, options, raw)


def _number_of_rank(raw: np.ndarray, rank: int) -> np.ndarray:
    """The distance of this rank, ``(1,)``."""
    if rank in (0, len(raw) - 1):
        return raw.max(keepdims=True) if rank else raw.min(keepdims=True)
    return np.partition(raw, rank)[rank : rank + 1]  # NumPy finds one rank several times faster than two at once


def numbers_at(ascending: Array, places: Sequence[int] | np.ndarray) -> list[Array]:
    """The numbers at some places of the last axis, each ``(…, 1)``."""
    return [ascending[..., place : place + 1] for place in places]


class Steps(NamedTuple):
    """Steps of a staircase that falls a little at each of its knots, between its first and its last.

    With ``drop_j`` how far it has fallen after knot j, the inner knots have ``total = drop_{j-1} + drop_j`` and
    ``rise = drop_j - drop_{j-1}``; `ends` is ``drop_1² + (1 - drop_last)²``.
    """

    total: Array  # (knots - 2,)
    rise: Array  # (knots - 2,)
    ends: float

    @classmethod
    def from_drop(cls, drop: np.ndarray, dtype: Any) -> Steps:
        """Steps from `drop` after each knot but the last, ``(knots - 1,)``, float64."""
        return cls(*_steps_between(drop, dtype), float(drop[0] ** 2 + (1 - drop[-1]) ** 2))

    def part(self, first: int, length: int) -> Steps:
        """The steps of `length` neighbouring inner knots."""
        return Steps(self.total[first : first + length], self.rise[first : first + length], self.ends)


def _steps_between(drop: Array, dtype: Any) -> tuple[Array, Array]:
    # Differences are taken before rounding to float32: neighbours agree in nearly all its digits.
    total, rise = drop[1:] + drop[:-1], drop[1:] - drop[:-1]
    xp = module_of(drop)
    return xp.asarray(total, dtype=dtype), xp.asarray(rise, dtype=dtype)


class ManySteps:
    """The surrogate's steps for many nodes, computed in parts: for 8,192 nodes all of them fill 256 MB.

    In the dtype of `like`; tensors on its device where it is one.
    """

    def __init__(self, n: int, like: Array):
        self.n, self.pairs, self.like = n, n * (n - 1) // 2, like
        self.ends = Steps.from_drop(surrogate_drop(np.array([1, self.pairs - 1]) / self.pairs, n), np.float64).ends

    def part(self, first: int, length: int) -> Steps:
        """The steps of `length` neighbouring inner knots."""
        knots: Array = np.arange(first + 1, first + length + 2, dtype=np.float64)
        if isinstance(self.like, torch.Tensor):
            knots = torch.arange(first + 1, first + length + 2, dtype=torch.float64, device=self.like.device)
        return Steps(*_steps_between(surrogate_drop(knots / self.pairs, self.n), self.like.dtype), self.ends)


def surrogate_steps(n: int, like: Array) -> Steps | ManySteps:
    """Steps of the surrogate's curve for `n` nodes, one at each of the sorted pair distances.

    They depend on `n` alone, so a training run, which needs them at every step, finds them in a small cache (up to
    n = 2,100: 18 MB each at most). In the dtype of `like`; tensors on its device where it is one.
    """
    if n > MANY_NODES:
        return ManySteps(n, like)
    dtype = np.dtype(np.float64 if like.itemsize == 8 else np.float32)
    return _cached_steps_on(like.device, n, dtype) if isinstance(like, torch.Tensor) else _cached_steps(n, dtype)


@functools.lru_cache(maxsize=8)
def _cached_steps(n: int, dtype: Any) -> Steps:
    pairs = n * (n - 1) // 2
    return Steps.from_drop(surrogate_drop(np.arange(1, pairs) / pairs, n), dtype)


@functools.lru_cache(maxsize=32)
def _cached_steps_on(device: torch.device, n: int, dtype: Any) -> Steps:
    steps = _cached_steps(n, dtype)
    total, rise = (torch.from_numpy(array).to(device) for array in steps[:2])
    return Steps(total, rise, steps.ends)


def staircase(
    offsets: Array, axis: Axis, steps: Steps, options: RateOptions, need_slope: bool
) -> tuple[Array, Array | None, tuple[Array, Array, Array]]:
    """Twice the area between the line ``1 - u`` and a staircase, with its derivatives if `need_slope`.

    Without ``steps.ends``, so that it can be summed over pieces.

    The area is ``2 sum_j [G_j(u_{j+1}) - G_j(u_j)]`` with ``G_j(u) = (u - drop_j) |u - drop_j| / 2``. Summed by knots
    instead of intervals, knot j adds ``rise * |m|`` with ``m = 2 u_j - total``, or ``(m² + rise²) / 2`` where the line
    crosses its step. The derivative is m clipped to the rise, so no difference of nearly equal numbers is left whose
    digits float32 would lose.

    Parameters
    ----------
    offsets : array, shape (…, knots - 2)
        Those of the inner knots on the `axis`, ascending; the first and the last knot lie at its ends.
    axis : Axis
    steps : Steps
    options : RateOptions
        With `quantiles`, knots may lie beyond the ends and have no derivative there.
    need_slope : bool

    Returns
    -------
    area : array, shape (…)
    slope : array, shape (…, knots - 2), or None
        The derivative by each offset, times the length of the axis.
    sums : arrays, shape (…, 1)
        Of the derivatives w by each u: of ``w (1 - u)``, ``w u`` and ``-w offset / (1 + offset)``; see
        `Axis.slopes_by_ends`. Those that `options` do not need may be 0.
    """
    inside = options.quantiles is not None
    if isinstance(offsets, np.ndarray) and compiled_loops_pay(len(offsets)):
        slope = np.empty_like(offsets)
        last, length = (x.astype(offsets.dtype)[0] for x in (axis.offsets(axis.high), axis.length))
        found = staircase_pass(offsets, log1p(offsets), last, length, inside, steps.total, steps.rise, slope)
        return found[0], slope, found[1:]
    xp = module_of(offsets)
    u = axis.positions(offsets)
    m = 2 * u - steps.total
    distance = abs(m)
    rest = xp.clip(steps.rise - distance, 0, None)
    area = (distance * steps.rise).sum(-1) + 0.5 * (rest * rest).sum(-1)
    if not need_slope:
        return area, None, (0.0, 0.0, 0.0)
    by_u = 2 * xp.clip(m, -steps.rise, steps.rise)
    if inside:
        by_u *= (offsets > 0) & (offsets < axis.offsets(axis.high))
    slope = by_u / (offsets + 1)
    if options.ends == "detached":
        return area, slope, (0.0, 0.0, 0.0)
    before, beyond = ((by_u * part).sum(-1, keepdims=True) for part in (1 - u, u))
    turned = -(slope * offsets).sum(-1, keepdims=True) if options.unit == "median" else 0.0
    return area, slope, (before, beyond, turned)


def add_at_ends(by_pair: Array, places: Sequence[int] | np.ndarray, by_ends: Sequence[Array]) -> None:
    """Add to a derivative by each pair what the ends of the axis and its unit contribute, at their places."""
    for at, change in zip(numbers_at(by_pair, places), by_ends, strict=True):  # views of it
        if not isinstance(change, float):  # else 0, as of detached ends
            at += change


def area(
    knots: Array, axis: Axis, steps: Steps | ManySteps, options: RateOptions, need_slope: bool
) -> tuple[Array, Array | None, tuple[Array, Array, Array]]:
    """Twice the area for a staircase whose ascending raw knots are given, and its derivatives if `need_slope`.

    By the raw knots, ``(…, knots)``, and by the two ends and the unit of the axis, each ``(…, 1)`` or the float 0.
    """
    xp, last = module_of(knots), knots.shape[-1] - 1
    by_knot = xp.zeros_like(knots) if need_slope else None
    value, sums = steps.ends, [0.0, 0.0, 0.0]
    piece = _PIECE if xp is np else _PIECE_ON_GPU
    for first in range(1, last, piece):
        stop = min(first + piece, last)
        offsets, part = axis.offsets(knots[..., first:stop]), steps.part(first - 1, stop - first)
        added, slope, more = staircase(offsets, axis, part, options, need_slope)
        value = value + added
        sums = [a + b for a, b in zip(sums, more, strict=True)]
        if by_knot is not None:
            by_knot[..., first:stop] = slope * (axis.factor / axis.length)
    if by_knot is None or options.ends == "detached":
        return value, by_knot, (0.0, 0.0, 0.0)
    return value, by_knot, axis.slopes_by_ends(sums, options.unit == "median")
