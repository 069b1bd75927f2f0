"""The SS rate of given distances, by each of the three counts, with its derivative by each distance."""

from __future__ import annotations

import functools
import math
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..boxes.complete_linkage import counts_at, merge_heights, merge_pairs
from ..boxes.correlation_sum import Steps, surrogate_drop, surrogate_steps
from ..boxes.greedy_coloring import counts_at as coloring_counts_at
from ..validation import check_finite
from .area import Array, Axis, sorted_with_order, staircase, unsorted
from .distances import all_equal, equal_within, square_form
from .options import RateOptions
from .scales import fractions_below, scale_lengths, sum_over_scales

# Knots are worked through in pieces that stay in the processor's cache.
_PIECE = 65_536


def value_and_slope(
    activations: Tensor, options: RateOptions, raw: Tensor, one: Tensor, need_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """The rate (0-dim), and its derivative by each raw distance where it has one and `need_slope` asks for it.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        What the distances are of: for their number, and to say what is wrong with them.
    options : RateOptions
    raw : Tensor, shape (pairs,)
        Condensed distances, in any unit.
    one : Tensor, 0-dim
        The raw distance that stands for the length 1.
    need_slope : bool
    """
    # scipy's linkage and the colouring run on the CPU, wherever the activations are.
    measure = _Rate(raw, one, activations, options, on_cpu=raw.device.type == "cpu" or options.count != "surrogate")
    try:
        match options.count:
            case "complete-linkage":
                value, slope = measure.by_linkage(need_slope)
            case "greedy-coloring":
                value, slope = measure.by_coloring(), None
            case _ if options.scales is None:
                value, slope = measure.by_area(need_slope)
            case _:
                value = measure.by_scales()
                slope = measure.by_area(True)[1] if need_slope else None
    except _NoAxis:
        value, slope = math.nan, torch.full_like(raw, math.nan) if need_slope else None

    def like_raw(result: Array | float) -> Tensor:
        return torch.as_tensor(result, dtype=raw.dtype, device=raw.device)

    return like_raw(value), None if slope is None else like_raw(slope)


class _NoAxis(Exception):
    """Distances without a range, where nobody asked for a check."""


class _Rate:
    """One layer's distances and what is wanted of them; on numpy arrays on a CPU, on tensors elsewhere."""

    def __init__(self, raw: Tensor, one: Tensor, activations: Tensor, options: RateOptions, *, on_cpu: bool):
        self.options, self.activations, self.on_cpu = options, activations, on_cpu
        self.n = activations.shape[1]
        self.xp: ModuleType = np if on_cpu else torch
        self.raw: Array = raw.cpu().numpy() if on_cpu else raw
        self.one: Array = one.cpu().numpy()[()] if on_cpu else one

    def by_area(self, need_slope: bool) -> tuple[Array, Array | None]:
        """The surrogate's exact area: a staircase with a step at every distance."""
        ascending, order = sorted_with_order(self.raw) if self.on_cpu else self.raw.sort()
        at = self.places()
        axis = self.axis(*(ascending[place] for place in at))
        value, by_knot, by_ends = self.under(ascending, axis, self.surrogate_steps(), need_slope)
        if not need_slope:
            return value, None
        for place, change in zip(at, by_ends, strict=True):
            by_knot[place] += change
        return value, unsorted(by_knot, order)

    def by_linkage(self, need_slope: bool) -> tuple[Array, Array | None]:
        """The rate of boxes by complete linkage: a staircase with n - 1 steps, at the heights of the merges."""
        axis = self.axis(*self.at_places())
        pairs = merge_pairs(self.raw) if need_slope else None
        heights = self.raw[pairs] if need_slope else merge_heights(self.raw).astype(self.raw.dtype)
        drop = 1 - np.log(self.n - np.arange(1, self.n - 1)) / math.log(self.n)
        value, by_knot, by_ends = self.under(heights, axis, Steps.of(drop, self.raw.dtype), need_slope)
        if self.options.scales is not None:
            u = axis.positions(heights, np)
            value = self.of_counts(counts_at(u, np.linspace(0, 1, self.options.scales)))
        if not need_slope:
            return value, None
        slope = np.zeros_like(self.raw)
        slope[pairs] = by_knot
        for place, change in zip(np.argsort(self.raw)[list(self.places())], by_ends, strict=True):
            slope[place] += change
        return value, slope

    def by_scales(self) -> float:
        """The paper's sum over scales."""
        axis = self.axis(*self.at_places())
        low, high, one = float(axis.low), float(axis.high), float(axis.one)
        at = scale_lengths(low / one, high / one, self.options.at_scales)
        fraction = fractions_below(torch.as_tensor(self.raw), at * one, open_ends=self.options.quantiles is not None)
        return sum_over_scales(surrogate_drop(fraction, self.n))

    def by_coloring(self) -> float:
        """The rate of greedy colouring, counted at each scale."""
        u = self.axis(*self.at_places()).positions(self.raw, np)
        square = square_form(torch.from_numpy(u), self.n).numpy()
        return self.of_counts(coloring_counts_at(square, np.linspace(0, 1, self.options.at_scales)))

    def under(
        self, knots: Array, axis: Axis, steps: Steps, need_slope: bool
    ) -> tuple[Array, Array | None, tuple[Array, Array, Array]]:
        """Area under a staircase with these raw knots; its derivative by each, and by the ends and the unit."""
        by_knot = self.xp.zeros_like(knots) if need_slope else None
        value, by_low, by_high, by_one = steps.ends, 0.0, 0.0, 0.0
        piece = _PIECE if self.on_cpu else len(knots)  # a GPU takes all at once
        for first in range(1, len(knots) - 1, piece):
            inner = knots[first : min(first + piece, len(knots) - 1)]
            u = axis.positions(inner, self.xp)
            part, by_u = staircase(u, steps.part(first - 1, len(inner)), self.xp)
            value = value + part
            if not need_slope:
                continue
            if self.options.quantiles is not None:  # knots outside the ends are held there
                by_u *= (inner > axis.low) & (inner < axis.high)
            if self.options.ends == "attached":
                low, high = axis.slope_by_ends(u, by_u)
                by_low, by_high = by_low + low, by_high + high
                if self.options.unit == "median":
                    by_one = by_one + axis.slope_by_one(inner, u, by_u)
            by_u *= axis.slope(inner)
            by_knot[first : first + len(inner)] = by_u
        return value, by_knot, (by_low, by_high, by_one)

    def axis(self, low: Array, high: Array, middle: Array) -> Axis:
        """The axis between two raw distances, in units of the length 1 or of the third; checked to have a length."""
        unit = self.one if self.options.unit == "absolute" else middle
        # Unchecked, a card is spared the look where what follows gives NaN of itself.
        if self.options.check or self.on_cpu or self.options.scales is not None:
            # NaN and Inf in the activations make the longest distance NaN or Inf: one look finds all faults.
            tolerance = equal_within(self.activations.dtype)
            longest = high if self.options.quantiles is None else self.raw.max()
            with np.errstate(invalid="ignore"):
                spans = (high - low > tolerance * high) & (longest < math.inf)
            if not bool(spans & (unit > 0)):
                if not self.options.check:
                    raise _NoAxis
                check_finite(self.activations)
                if spans:
                    raise ValueError(
                        "unit: got 'median', but the median distance is 0, as where most neurons are dead; "
                        "need 'absolute'"
                    )
                if self.raw.max() - self.raw.min() > tolerance * self.raw.max():
                    raise ValueError(
                        f"quantiles: got {self.options.quantiles!r}, at which the {len(self.raw)} distances are equal "
                        f"({float(low / self.one):.6g}); need quantiles further apart"
                    )
                raise all_equal(len(self.raw), float(low / self.one), float(high / self.one))
        return Axis.between(low, high, unit, self.xp)

    def places(self) -> tuple[int, int, int]:
        """Places of the two ends and of the median among the sorted distances."""
        last = len(self.raw) - 1
        low, high = self.options.quantiles or (0, 1)
        return round(low * last), round(high * last), last // 2

    def at_places(self) -> tuple[Array, Array, Array]:
        """The distances at `places`, without sorting all on a CPU."""
        if self.options.quantiles is None and self.options.unit == "absolute":
            return self.raw.min(), self.raw.max(), self.one
        ascending = np.partition(self.raw, self.places()) if self.on_cpu else self.raw.sort().values
        return tuple(ascending[place] for place in self.places())

    def surrogate_steps(self) -> Steps:
        """The surrogate's steps, where the distances are."""
        dtype = np.float64 if self.activations.dtype == torch.float64 else np.float32
        return surrogate_steps(self.n, dtype) if self.on_cpu else _steps_on(self.raw.device, self.n, dtype)

    def of_counts(self, counts: np.ndarray) -> float:
        """The rate of counts at evenly spaced scales."""
        return sum_over_scales(1 - np.log(counts) / math.log(self.n))


@functools.lru_cache(maxsize=8)
def _steps_on(device: torch.device, n: int, dtype: type) -> Steps:
    steps = surrogate_steps(n, dtype)
    steps = steps.part(0, n * (n - 1) // 2 - 2)
    return Steps(*(torch.from_numpy(array).to(device) for array in steps[:2]), steps.ends)
