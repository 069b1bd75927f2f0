"""The exact area between a box-counting curve and the ideal power law, with its derivative.

On the axis ``u = (ln(1 + l) - ln(1 + dmin)) / (ln(1 + dmax) - ln(1 + dmin))`` the ideal power law is the straight
line from 1 to 0, and the curve ``ln N_B / ln n`` is a staircase that changes only at distances. The area between
a line and a staircase has a closed form: no scales, no bandwidth.

The same lines work on numpy arrays (on a CPU, where numpy sorts and takes logarithms many times faster than torch
does) and on torch tensors (on a GPU); `xp` is the module of either.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

from ..boxes.correlation_sum import Steps
from .loops import compiled_loops_pay, scatter, sorted_by_radix, staircase_pass

Array = np.ndarray | torch.Tensor


class Axis(NamedTuple):
    """The logarithmic axis between the shortest and the longest distance, in raw units.

    A raw distance r stands for the length ``r / one``; `one` is the raw distance of length 1.
    """

    low: Array
    high: Array
    one: Array
    factor: Array  # 1 / (one + low): ln(1 + l) - ln(1 + dmin) = log1p((r - low) * factor)
    length: Array  # log1p((high - low) * factor)

    @classmethod
    def between(cls, low: Array, high: Array, one: Array, xp: ModuleType) -> Axis:
        # Where all lengths are tiny, log1p is linear and only the ratio of its arguments matters: a floor keeps
        # them out of the subnormal numbers without changing a digit.
        factor = xp.maximum(1 / (one + low), 1e-20 / (high - low))
        return cls(low, high, one, factor, xp.log1p((high - low) * factor))

    def positions(self, raw: Array, xp: ModuleType) -> Array:
        """Positions u of raw distances, 0 at `low` and 1 at `high`; held there outside."""
        # r - low is exact where the range is narrow; a difference of two logarithms would lose its digits there.
        u = raw - self.low
        u *= self.factor
        u = xp.log1p(u) / self.length
        return xp.clip(u, 0, 1)

    def slope(self, raw: Array) -> Array:
        """Derivative of u by the raw distance, with the ends as constants."""
        shrink = raw - self.low
        shrink *= self.factor
        shrink += 1
        return (self.factor / self.length) / shrink

    def slope_by_ends(self, u: Array, weight: Array) -> tuple[Array, Array]:
        """Derivatives of ``sum(weight * u)`` by `low` and by `high`, with the distances as constants."""
        by_low = -(weight * (1 - u)).sum() * self.factor / self.length
        by_high = -(weight * u).sum() * self.slope(self.high)
        return by_low, by_high

    def slope_by_one(self, raw: Array, u: Array, weight: Array) -> Array:
        """Derivative of ``sum(weight * u)`` by `one`, the raw distance of length 1."""
        at_low, at_high = 1 / (self.one + self.low), 1 / (self.one + self.high)
        moved = 1 / (self.one + raw) - at_low - u * (at_high - at_low)
        return (weight * moved).sum() / self.length


def staircase(u: Array, steps: Steps, xp: ModuleType) -> tuple[Array, Array]:
    """Twice the area between the line ``1 - u`` and a staircase, and its derivative by the inner knots.

    Without ``steps.ends``, so that it can be summed over pieces.

    The area is ``2 sum_j [G_j(u_{j+1}) - G_j(u_j)]`` with ``G_j(u) = (u - drop_j) |u - drop_j| / 2`` (METHOD: the
    closed form). Summed by knots instead of intervals, knot j adds ``rise * |m|`` with ``m = 2 u_j - total``, or
    ``(m² + rise²) / 2`` where the line crosses its step, and its derivative is m clipped to the rise: no
    difference of nearly equal numbers is left, of which float32 would lose the digits.

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


def sorted_with_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative distances ``(pairs,)`` in ascending order, and the order; `numpy.argsort`, but fast for float32.

    Non-negative floats sort like their bits, and whole numbers can be sorted by radix, in a fifth of the time.
    """
    if values.dtype != np.float32:
        order = np.argsort(values, kind="stable")
        return values[order], order
    if not compiled_loops_pay(len(values)):
        bits, order = torch.from_numpy(values.view(np.int32)).sort(stable=True)  # by radix, in most builds of torch
        return bits.numpy().view(np.float32), order.numpy()
    packed, spare = np.empty(len(values), dtype=np.uint64), np.empty(len(values), dtype=np.uint64)
    result = sorted_by_radix(values.view(np.uint32), packed, spare)
    return result[: len(values)].view(np.float32), result[len(values) :]


def unsorted(ascending: Array, order: Array) -> Array:
    """The array with ``array[order] = ascending``."""
    array = (np if isinstance(ascending, np.ndarray) else torch).empty_like(ascending)
    if isinstance(ascending, np.ndarray) and compiled_loops_pay(len(ascending)):
        scatter(ascending, order, array)
    else:
        array[order] = ascending
    return array
