"""The exact area between a box-counting curve and its reference line, with the derivative.

On the axis ``u = (ln(1 + l) - ln(1 + dmin)) / (ln(1 + dmax) - ln(1 + dmin))`` the reference is the straight line from
1 to 0, and the curve ``ln N_B / ln n`` is a staircase that changes only at distances. The area between a line and a
staircase has a closed form: it needs neither scales nor a bandwidth.

The same lines work on NumPy arrays (on a CPU, where NumPy sorts and takes logarithms many times faster than torch)
and on tensors (on a GPU).
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
from .distances import NoRange
from .loops import compiled_loops_pay, staircase_pass
from .options import RateOptions

# A NumPy array on a CPU, a tensor on a GPU.
Array: TypeAlias = Any
# Knots are processed in pieces that stay in the processor's cache.
_PIECE = 65_536
# What depends on the number of nodes alone is cached for up to so many.
MANY_NODES = 2_100


def module_of(array: Array) -> ModuleType:
    """NumPy or torch, whichever `array` belongs to."""
    return torch if isinstance(array, torch.Tensor) else np


class Axis(NamedTuple):
    """The logarithmic axis between the shortest and the longest distance, in raw units.

    A raw distance r is taken as ``ln(1 + r / unit)``; `unit` is the raw distance of length 1, or the median.
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
            The ends are equal, or one of the distances `raw` is not finite. Unchecked on a GPU with
            ``check=False``, where what follows gives NaN by itself.
        """
        low, high, median = ends
        unit = one if options.unit == "absolute" else median
        if options.check or options.scales is not None or isinstance(raw, np.ndarray):
            _check_range(low, high, unit, one, options, raw)
        # Where all lengths are tiny, log1p is linear and only the ratio of its arguments matters: a floor keeps
        # them out of the subnormal numbers without changing a digit.
        xp = module_of(raw)
        factor = xp.maximum(1 / (unit + low), 1e-20 / (high - low))
        return cls(low, high, unit, factor, xp.log1p((high - low) * factor))

    def positions(self, raw: Array) -> Array:
        """Positions u of raw distances, 0 at `low` and 1 at `high`, clipped to these."""
        # r - low is exact where the range is narrow; a difference of two logarithms would lose its digits there.
        xp = module_of(raw)
        u = raw - self.low
        u *= self.factor
        u = xp.log1p(u) / self.length
        return xp.clip(u, 0, 1)

    def slope(self, raw: Array) -> Array:
        """Derivative of u with respect to the raw distance, the ends constant."""
        shrink = raw - self.low
        shrink *= self.factor
        shrink += 1
        return (self.factor / self.length) / shrink

    def slope_by_ends(self, u: Array, weight: Array) -> tuple[Array, Array]:
        """Derivatives of ``sum(weight * u)`` with respect to `low` and `high`, the distances constant."""
        by_low = -(weight * (1 - u)).sum() * self.factor / self.length
        by_high = -(weight * u).sum() * self.slope(self.high)
        return by_low, by_high

    def slope_by_unit(self, raw: Array, u: Array, weight: Array) -> Array:
        """Derivative of ``sum(weight * u)`` with respect to `unit`."""
        at_low, at_high = 1 / (self.unit + self.low), 1 / (self.unit + self.high)
        moved = 1 / (self.unit + raw) - at_low - u * (at_high - at_low)
        return (weight * moved).sum() / self.length


def _check_range(low: Array, high: Array, unit: Array, one: Array, options: RateOptions, raw: Array) -> None:
    tolerance = 8 * module_of(raw).finfo(raw.dtype).eps
    # NaN and Inf in the activations make the longest distance NaN or Inf, so one comparison finds all faults.
    longest = high if options.quantiles is None else raw.max()
    with np.errstate(invalid="ignore"):
        has_range = (high - low > tolerance * high) & (longest < math.inf)
    if bool(has_range & (unit > 0)):
        return
    if has_range:
        raise NoRange(
            "unit: got 'median', but the median distance is 0, as where most neurons are dead; need 'absolute'"
        )
    if raw.max() - raw.min() > tolerance * raw.max():
        raise NoRange(
            f"quantiles: got {options.quantiles!r}, at which the {len(raw)} distances are equal "
            f"({float(low / one):.6g}); need quantiles further apart"
        )
    raise NoRange.all_equal(len(raw), float(low / one), float(high / one))


def end_places(pairs: int, options: RateOptions) -> tuple[int, int, int]:
    """Places of the two ends and of the median among the sorted distances."""
    last = pairs - 1
    low, high = options.quantiles or (0, 1)
    return round(low * last), round(high * last), last // 2


def axis_of(raw: Array, one: Array, options: RateOptions) -> Axis:
    """The axis of unsorted distances ``(pairs,)``."""
    if options.quantiles is None and options.unit == "absolute":
        return Axis.between((raw.min(), raw.max(), one), one, options, raw)
    places = end_places(len(raw), options)
    ascending = raw.sort().values if isinstance(raw, torch.Tensor) else np.partition(raw, places)
    return Axis.between([ascending[place] for place in places], one, options, raw)


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
        # Differences are taken before rounding to float32: neighbours agree in nearly all its digits.
        ends = float(drop[0] ** 2 + (1 - drop[-1]) ** 2)
        return cls((drop[1:] + drop[:-1]).astype(dtype), np.diff(drop).astype(dtype), ends)

    def part(self, first: int, length: int) -> Steps:
        """The steps of `length` neighbouring inner knots."""
        return Steps(self.total[first : first + length], self.rise[first : first + length], self.ends)


class ManySteps:
    """The surrogate's steps for many nodes, computed in parts: for 8,192 nodes all of them fill 256 MB."""

    def __init__(self, n: int, dtype: Any):
        self.n, self.pairs, self.dtype = n, n * (n - 1) // 2, dtype
        self.ends = Steps.from_drop(surrogate_drop(np.array([1, self.pairs - 1]) / self.pairs, n), dtype).ends

    def part(self, first: int, length: int) -> Steps:
        """The steps of `length` neighbouring inner knots."""
        if self.dtype == np.float64:
            drop = surrogate_drop(np.arange(first + 1, first + length + 2) / self.pairs, self.n)
            return Steps.from_drop(drop, self.dtype)._replace(ends=self.ends)
        # The middle of a step stands for its ends, and its derivative times its length for their difference: with
        # millions of steps, both to more digits than float32 has.
        n, log_n = self.n, np.log(self.n)
        fraction = np.arange(first + 1.5, first + 1 + length) / self.pairs
        if fraction[0] < 0.5:
            grown = ((n - 1) * fraction).astype(np.float32)
            left = 1 - np.log1p(grown) * np.float32((n - 1) / n / log_n)
            grown += 1
        else:  # little is left of the curve here, so it is counted from its end
            missing = ((n - 1) / n * (1 - fraction)).astype(np.float32)
            left = np.float32(1 / n) - np.log1p(-missing) * np.float32((n - 1) / n / log_n)
            grown = np.float32(n) * (1 - missing)
        rise = np.float32((n - 1) ** 2 / n / log_n**2 / self.pairs) / (grown * left)
        return Steps(np.log(left) * np.float32(-2 / log_n), rise, self.ends)


def surrogate_steps(n: int, like: Array) -> Steps | ManySteps:
    """Steps of the surrogate's curve for `n` nodes, one at each of the sorted pair distances.

    They depend on `n` alone, so a training run, which needs them at every step, finds them in a small cache (up to
    n = 2,100: 18 MB each at most). In the dtype of `like`; tensors on its device where it is one.
    """
    dtype = np.dtype(np.float64 if like.itemsize == 8 else np.float32)
    if isinstance(like, torch.Tensor):
        return (_cached_steps_on if n <= MANY_NODES else _steps_on)(like.device, n, dtype)
    return _steps(n, dtype)


def _steps(n: int, dtype: Any) -> Steps | ManySteps:
    return ManySteps(n, dtype) if n > MANY_NODES else _cached_steps(n, dtype)


@functools.lru_cache(maxsize=8)
def _cached_steps(n: int, dtype: Any) -> Steps:
    pairs = n * (n - 1) // 2
    return Steps.from_drop(surrogate_drop(np.arange(1, pairs) / pairs, n), dtype)


def _steps_on(device: torch.device, n: int, dtype: Any) -> Steps:
    steps = _steps(n, dtype).part(0, n * (n - 1) // 2 - 2)
    total, rise = (torch.from_numpy(array).to(device) for array in steps[:2])
    return Steps(total, rise, steps.ends)


_cached_steps_on = functools.lru_cache(maxsize=8)(_steps_on)


def staircase(u: Array, steps: Steps) -> tuple[Array, Array]:
    """Twice the area between the line ``1 - u`` and a staircase, and its derivative with respect to the inner knots.

    Without ``steps.ends``, so that it can be summed over pieces.

    The area is ``2 sum_j [G_j(u_{j+1}) - G_j(u_j)]`` with ``G_j(u) = (u - drop_j) |u - drop_j| / 2``. Summed by knots
    instead of intervals, knot j adds ``rise * |m|`` with ``m = 2 u_j - total``, or ``(m² + rise²) / 2`` where the line
    crosses its step. The derivative is m clipped to the rise, so no difference of nearly equal numbers is left whose
    digits float32 would lose.

    Parameters
    ----------
    u : array, shape (knots - 2,)
        The inner knots, ascending, in [0, 1]; the first and the last lie at 0 and 1.
    steps : Steps

    Returns
    -------
    area : array, 0-dim
    slope : array, shape (knots - 2,)
    """
    if isinstance(u, np.ndarray) and compiled_loops_pay(len(u)):
        slope = np.empty_like(u)
        return staircase_pass(u, steps.total, steps.rise, slope), slope
    xp = module_of(u)
    m = u * 2
    m -= steps.total
    distance = abs(m)
    inside = xp.clip(steps.rise - distance, 0, None)
    distance *= steps.rise
    inside *= inside
    area = distance.sum() + 0.5 * inside.sum()
    slope = xp.clip(m, -steps.rise, steps.rise)
    slope *= 2
    return area, slope


class AreaSlope(NamedTuple):
    """Derivative of an area with respect to its raw knots, and to the two ends and the unit of its axis."""

    by_knot: Array  # (knots,)
    by_ends: tuple[Array, Array, Array]

    def with_ends(self, places: tuple[int, int, int] | np.ndarray) -> Array:
        """`by_knot`, with what the ends and the unit contribute added at their places."""
        for place, change in zip(places, self.by_ends, strict=True):
            self.by_knot[place] += change
        return self.by_knot


def area(
    knots: Array, axis: Axis, steps: Steps | ManySteps, options: RateOptions, need_slope: bool
) -> tuple[Array, AreaSlope | None]:
    """Twice the area for a staircase whose ascending raw knots are given, and its derivative if `need_slope`."""
    on_gpu = isinstance(knots, torch.Tensor)
    by_knot = module_of(knots).zeros_like(knots) if need_slope else None
    value, by_low, by_high, by_unit = steps.ends, 0.0, 0.0, 0.0
    piece = len(knots) if on_gpu else _PIECE
    for first in range(1, len(knots) - 1, piece):
        inner = knots[first : min(first + piece, len(knots) - 1)]
        u = axis.positions(inner)
        part, by_u = staircase(u, steps.part(first - 1, len(inner)))
        value = value + part
        if by_knot is None:
            continue
        if options.quantiles is not None:  # knots outside the ends are clipped to them
            by_u *= (inner > axis.low) & (inner < axis.high)
        if options.ends == "attached":
            low, high = axis.slope_by_ends(u, by_u)
            by_low, by_high = by_low + low, by_high + high
            if options.unit == "median":
                by_unit = by_unit + axis.slope_by_unit(inner, u, by_u)
        by_u *= axis.slope(inner)
        by_knot[first : first + len(inner)] = by_u
    return value, None if by_knot is None else AreaSlope(by_knot, (by_low, by_high, by_unit))
