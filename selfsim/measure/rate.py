"""The SS rate: how far the box-counting curve of a feature network lies from a perfect power law.

The core of the package, in one sitting: distances between neurons (`distances`), the logarithmic axis and the
staircase area (`area`), or the paper's sum over scales (`scales`); this file puts them together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..boxes.complete_linkage import counts_at, merge_heights, merge_pairs
from ..boxes.correlation_sum import Steps, surrogate_drop, surrogate_steps
from ..boxes.greedy_coloring import counts_at as coloring_counts_at
from ..validation import check_activations, check_choice, check_finite
from .area import Array, Axis, sorted_with_order, staircase
from .blocks import BlockedRate
from .distances import OfDistances, all_equal, equal_within, raw_distances, scaled_neurons, square_form
from .scales import fractions_below, scale_lengths, straight_through_slope, sum_over_scales

PAPER_SCALES = 256
_PIECE = 65_536


@dataclass(frozen=True)
class RateOptions:
    """Which SS rate: the options of `ss_rate`, checked."""

    scales: int | None = None
    gradient: str = "exact"
    ends: str = "attached"
    count: str = "surrogate"
    quantiles: tuple[float, float] | None = None
    unit: str = "absolute"
    standardize: bool = False
    leave_out: int = 0
    max_bytes: int | None = None
    check: bool = True

    def __post_init__(self):
        check_choice(self.gradient, ("exact", "straight-through"), name="gradient")
        check_choice(self.ends, ("attached", "detached"), name="ends")
        check_choice(self.count, ("surrogate", "complete-linkage", "greedy-coloring"), name="count")
        check_choice(self.unit, ("absolute", "median"), name="unit")
        for name, least in (("scales", 2), ("max_bytes", 1), ("leave_out", 0)):
            value = getattr(self, name)
            if value is None and name != "leave_out":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                none = "" if name == "leave_out" else "None or "
                raise ValueError(f"{name}: got {value!r}, need {none}a whole number of at least {least}")
        if self.quantiles is not None:
            low, high = self.quantiles
            if not 0 <= low < high <= 1:
                raise ValueError(f"quantiles: got {self.quantiles!r}, need (low, high) with 0 <= low < high <= 1")
        plain = self.count == "surrogate" and self.quantiles is None and self.unit == "absolute"
        if self.gradient == "straight-through" and not plain:
            raise ValueError(
                "gradient: got 'straight-through', which is the published rate's; need count='surrogate', "
                f"quantiles=None and unit='absolute', got {self.count!r}, {self.quantiles!r} and {self.unit!r}"
            )
        if self.max_bytes is not None and (self.scales is None or not plain):
            raise ValueError(
                "max_bytes: only the sum over scales works in blocks; need scales=256 (or another number), "
                "count='surrogate', quantiles=None and unit='absolute'"
            )

    @property
    def at_scales(self) -> int:
        """Number of scales where a number is needed."""
        return self.scales or PAPER_SCALES


def ss_rate(
    activations: Tensor | Mapping[str, Tensor],
    *,
    scales: int | None = None,
    gradient: str = "exact",
    ends: str = "attached",
    count: str = "surrogate",
    quantiles: tuple[float, float] | None = None,
    unit: str = "absolute",
    standardize: bool = False,
    leave_out: int = 0,
    max_bytes: int | None = None,
    check: bool = True,
) -> Tensor | dict[str, Tensor]:
    """Self-similarity (SS) rate of a layer: 0 for a perfect power law, up to about 1.

    The layer's neurons form a complete network with edges ``||v_i - v_j|| / sqrt(samples)``. Its box counts N_B
    against the box size l_B are compared with the ideal power law on logarithmic axes; the rate is twice the area
    between the two. Smaller means closer to a power law. It is not free of scale, and it hangs on the shortest and
    the longest edge: always read it beside its null band (`selfsim.null_band`) at the same number of neurons and
    samples.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons), or mapping of names to such
        At least three neurons and one sample. Half precision is accumulated in float32.
    scales : int, optional
        None gives the exact area. A number m gives the paper's sum over m scales; its own value is ``scales=256``
        (about S/m below the area).
    gradient : {"exact", "straight-through"}
        "exact" is the gradient of the exact area, whatever `scales`. "straight-through" is the paper's: that of a
        sigmoid count with bandwidth 1 in absolute units, with 256 scales (or `scales`), the ends constant.
    ends : {"attached", "detached"}
        Whether the exact gradient passes through the shortest and the longest distance. Attached, it is the true
        gradient, and almost all of it sits on these two pairs: what training moves first are single neurons.
        Detached, it spreads over the layer, which is what a constraint needs.
    count : {"surrogate", "complete-linkage", "greedy-coloring"}
        The paper's correlation-sum formula; boxes by agglomeration, differentiable through the pair that realises
        each merge; boxes by greedy colouring at `scales` sizes (default 256), a value without gradient.
    quantiles : (float, float), optional
        Robust variant: the curve begins and ends at these quantiles of the distances instead of at the shortest and
        the longest, so that no single pair decides; (0.01, 0.99), say.
    unit : {"absolute", "median"}
        Scale-free variant: "median" measures lengths in units of their median, so that scaled activations have the
        same rate. By default the 1 in ln(1 + l) is 1 in the activations' own units, as published.
    standardize : bool
        Variant: give every neuron mean 0 and standard deviation 1 over the samples first.
    leave_out : int
        Robust variant: leave out this many neurons, those with the largest mean distance to the others.
    max_bytes : int, optional
        Work in blocks of at most this much memory beyond the activations and their gradient; for sums over
        `scales`, with the straight-through gradient. The value is the same, the distances are computed three times.
    check : bool
        Whether to raise for NaN, Inf and distances that are all equal (one synchronisation on a GPU). Without the
        check such activations give NaN.

    Returns
    -------
    Tensor, 0-dim, or dict of such
        In the dtype of the activations (float32 for half precision), on their device.

    Raises
    ------
    TypeError
        Not a tensor, or not of a floating-point type.
    ValueError
        Fewer than three neurons (after `leave_out`), no samples, NaN or Inf, all distances equal, neurons that are
        constant where they are to be standardised, an unknown option, or options that exclude each other.

    Notes
    -----
    Time O(neurons² (samples + log neurons)), memory O(neurons²), forward and backward. Complete linkage runs on
    the CPU. Ties between distances have no unique derivative; one of the one-sided ones is returned.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, the SS rate.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> round(ss_rate(x).item(), 4), round(ss_rate(x, scales=256).item(), 4)
    (0.2242, 0.2233)
    >>> sorted(ss_rate({"block 1": x, "block 2": x.abs()}))
    ['block 1', 'block 2']
    """
    options = RateOptions(scales, gradient, ends, count, quantiles, unit, standardize, leave_out, max_bytes, check)
    if isinstance(activations, Mapping):
        return {name: _rate(layer, options) for name, layer in activations.items()}
    return _rate(activations, options)


def _rate(activations: Tensor, options: RateOptions) -> Tensor:
    activations = check_activations(activations, min_neurons=3 + options.leave_out, finite=False)
    if options.standardize:
        activations = _standardized(activations, check=options.check)
    if options.leave_out:
        activations = activations[:, _without_most_distant(activations.detach(), options.leave_out)]
    return _evaluated(activations, options)


# numpy's sort and scipy's linkage cannot be traced; inside a compiled graph they run as they are.
@torch.compiler.disable
def _evaluated(activations: Tensor, options: RateOptions) -> Tensor:
    if options.max_bytes is not None:
        if activations.requires_grad and torch.is_grad_enabled() and options.gradient == "exact":
            raise ValueError(
                "max_bytes: got it with gradient='exact', which needs all distances; need 'straight-through'"
            )
        return BlockedRate.apply(activations, options.scales, options.max_bytes, options.check)

    return OfDistances.apply(activations, functools.partial(_value_and_slope, activations, options))


def slope_by_length(activations: Tensor, options: RateOptions) -> Tensor:
    """Derivative of the rate by the length of each edge, ``(pairs,)``, in scipy's order of pairs."""
    vectors, scale = scaled_neurons(activations.detach())
    one = scale * activations.shape[0] ** 0.5
    return _value_and_slope(activations, options, raw_distances(vectors), one, True)[1] * one


def _value_and_slope(
    activations: Tensor, options: RateOptions, raw: Tensor, one: Tensor, need_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """The rate, and (where it has one) its derivative by each raw distance."""
    measure = _Measure(raw, one, activations, options)
    match options.count:
        case "complete-linkage":
            return measure.by_linkage(need_slope)
        case "greedy-coloring":
            return measure.by_coloring(), None
    if options.gradient == "straight-through":
        return measure.by_scales(need_slope)
    if options.scales is not None and not need_slope:
        return measure.by_scales(False)
    value, slope = measure.by_area(need_slope)
    return (value if options.scales is None else measure.by_scales(False)[0]), slope


class _Measure:
    """The rate of given raw distances, by each of the counts; on numpy arrays on a CPU, on tensors elsewhere."""

    def __init__(self, raw: Tensor, one: Tensor, activations: Tensor, options: RateOptions):
        self.options, self.activations, self.tensor = options, activations, raw
        self.n = activations.shape[1]
        self.on_cpu = raw.device.type == "cpu"
        self.xp: ModuleType = np if self.on_cpu else torch
        self.raw: Array = raw.numpy() if self.on_cpu else raw
        self.one: Array = one.numpy()[()] if self.on_cpu else one

    def axis(self, at: tuple[Array, Array, Array]) -> Axis:
        """The axis between two raw distances, in units of the third; checked to have a length."""
        low, high, middle = at
        if self.options.check:
            # NaN and Inf in the activations make the longest distance NaN or Inf: one look finds all faults.
            spans = high - low > equal_within(self.tensor.dtype) * high
            if not bool(spans & (high < math.inf)):
                check_finite(self.activations)
                raise all_equal(len(self.raw), float(low / self.one), float(high / self.one))
        return Axis.between(low, high, self.one if self.options.unit == "absolute" else middle, self.xp)

    def places(self) -> tuple[int, int, int]:
        """Places of the two ends and of the median among the sorted distances."""
        last = len(self.raw) - 1
        low, high = self.options.quantiles or (0, 1)
        return round(low * last), round(high * last), last // 2

    def ends(self) -> tuple[Array, Array, Array]:
        """The distances at `places`, without sorting all."""
        if self.options.quantiles is None and self.options.unit == "absolute":
            low, high = torch.aminmax(self.tensor)
            return (low.numpy()[()], high.numpy()[()], self.one) if self.on_cpu else (low, high, self.one)
        if self.on_cpu:
            return tuple(np.partition(self.raw, self.places())[list(self.places())])
        return tuple(self.raw.sort().values[list(self.places())])

    def by_area(self, need_slope: bool) -> tuple[Tensor, Tensor | None]:
        """The surrogate's exact area, and its derivative by each raw distance."""
        ascending, order = sorted_with_order(self.raw) if self.on_cpu else self.raw.sort()
        at = self.places()
        axis = self.axis(tuple(ascending[place] for place in at))
        value, slope = self.under(ascending, axis, at, _steps(self.n, self.tensor), need_slope)
        value = torch.as_tensor(value, dtype=self.tensor.dtype, device=self.tensor.device)
        return value, self.back(order, slope) if need_slope else None

    def under(
        self, knots: Array, axis: Axis, at: tuple[int, int, int], steps: Steps, need_slope: bool
    ) -> tuple[Array, Array | None]:
        """Area of the staircase with these raw knots (ends included), and its derivative by each of them."""
        slope = self.xp.zeros_like(knots) if need_slope else None
        value, by_ends = steps.ends, [0.0, 0.0, 0.0]
        low, high, _ = at
        # In pieces that stay in the processor's cache; a GPU takes all at once.
        piece = _PIECE if self.on_cpu else len(knots)
        for first in range(1, len(knots) - 1, piece):
            inner = knots[first : min(first + piece, len(knots) - 1)]
            u = axis.positions(inner, self.xp)
            part, by_u = staircase(u, steps.part(first - 1, len(inner)), self.xp)
            value = value + part
            if not need_slope:
                continue
            # Knots outside the ends are held there.
            by_u[: max(low + 1 - first, 0)] = 0
            by_u[max(high - first, 0) :] = 0
            if self.options.ends == "attached":
                by_ends[:2] = (a + b for a, b in zip(by_ends, axis.slope_by_ends(u, by_u), strict=False))
                if self.options.unit == "median":
                    by_ends[2] = by_ends[2] + axis.slope_by_one(inner, u, by_u)
            by_u *= axis.slope(inner)
            slope[first : first + len(inner)] = by_u
        if need_slope and self.options.ends == "attached":
            for place, change in zip(at, by_ends, strict=True):
                slope[place] += change
        return value, slope

    def back(self, order: Array, slope: Array) -> Tensor:
        """From the sorted distances to their own order."""
        own = self.xp.empty_like(self.raw)
        own[order] = slope
        return torch.from_numpy(own) if self.on_cpu else own

    def by_scales(self, need_slope: bool) -> tuple[Tensor, Tensor | None]:
        """The paper's sum over scales, and its straight-through derivative by each raw distance."""
        axis = self.axis(self.ends())
        low, high, one = float(axis.low), float(axis.high), float(axis.one)
        at = scale_lengths(low / one, high / one, self.options.at_scales)
        fraction = fractions_below(self.tensor, at * one, open_ends=self.options.quantiles is not None)
        value = self.tensor.new_tensor(sum_over_scales(surrogate_drop(fraction, self.n)))
        if not need_slope:
            return value, None
        return value, straight_through_slope(self.tensor / one, at, fraction, self.n) / one

    def by_linkage(self, need_slope: bool) -> tuple[Tensor, Tensor | None]:
        """The rate of agglomerative boxes: a staircase with n - 1 steps, at the heights of the merges."""
        self.on_cpu, self.xp = True, np
        self.raw, self.one = (
            self.tensor.cpu().numpy(),
            np.asarray(self.one.cpu() if isinstance(self.one, Tensor) else self.one)[()],
        )
        at = np.partition(self.raw, self.places())[list(self.places())]
        axis = self.axis(tuple(at))
        if self.options.scales is not None and not need_slope:
            u = axis.positions(merge_heights(self.raw).astype(self.raw.dtype), np)
            return self.of_counts(counts_at(u, np.linspace(0, 1, self.options.scales))), None
        pairs = merge_pairs(self.raw)
        heights = self.raw[pairs]
        drop = 1 - np.log(self.n - np.arange(1, self.n - 1)) / math.log(self.n)
        value, slope = self.linkage_area(heights, pairs, axis, Steps.of(drop, self.raw.dtype))
        if self.options.scales is not None:
            value = self.of_counts(counts_at(axis.positions(heights, np), np.linspace(0, 1, self.options.scales)))
        return self.tensor.new_tensor(value), slope.to(self.tensor) if need_slope else None

    def linkage_area(self, heights: np.ndarray, pairs: np.ndarray, axis: Axis, steps: Steps) -> tuple[Array, Tensor]:
        """Area of the staircase of merges, and its derivative by each raw distance of the network."""
        inner = heights[1:-1]
        u = axis.positions(inner, np)
        value, by_u = staircase(u, steps, np)
        value += steps.ends
        by_u = np.where((inner > axis.low) & (inner < axis.high), by_u, 0)
        slope = np.zeros_like(self.raw)
        slope[pairs[1:-1]] = by_u * axis.slope(inner)
        if self.options.ends == "attached":
            by_low, by_high = axis.slope_by_ends(u, by_u)
            order = np.argsort(self.raw)[list(self.places())]
            slope[order[0]] += by_low
            slope[order[1]] += by_high
            if self.options.unit == "median":
                slope[order[2]] += axis.slope_by_one(inner, u, by_u)
        return value, torch.from_numpy(slope)

    def by_coloring(self) -> Tensor:
        """The rate of greedy colouring, counted at each scale."""
        axis = self.axis(self.ends())
        u = axis.positions(self.raw, self.xp)
        square = square_form(torch.as_tensor(u), self.n).cpu().numpy()
        return self.of_counts(coloring_counts_at(square, np.linspace(0, 1, self.options.at_scales)))

    def of_counts(self, counts: np.ndarray) -> Tensor:
        """The rate of counts at evenly spaced scales."""
        return self.tensor.new_tensor(sum_over_scales(1 - np.log(counts) / math.log(self.n)))


def _steps(n: int, like: Tensor) -> Steps:
    """The surrogate's steps where the distances are: numpy arrays on a CPU, else tensors."""
    if like.device.type == "cpu":
        return surrogate_steps(n, np.float64 if like.dtype == torch.float64 else np.float32)
    return _steps_on_device(n, like.dtype, like.device)


@functools.lru_cache(maxsize=8)
def _steps_on_device(n: int, dtype: torch.dtype, device: torch.device) -> Steps:
    steps = surrogate_steps(n, np.float64 if dtype == torch.float64 else np.float32)
    return Steps(*(torch.from_numpy(array).to(device) for array in steps[:2]), steps.ends)


def _standardized(activations: Tensor, *, check: bool) -> Tensor:
    """Every neuron with mean 0 and standard deviation 1 over the samples."""
    centred = activations - activations.mean(0)
    deviation = centred.square().mean(0).sqrt()
    if check:
        constant = deviation <= equal_within(activations.dtype) * activations.abs().amax(0)
        if constant.any():
            check_finite(activations)
            raise ValueError(
                f"standardize: {int(constant.sum())} of {activations.shape[1]} neurons are constant over the samples "
                f"(the first is neuron {int(constant.nonzero()[0])}); leave these out, or do not standardise"
            )
    return centred / deviation


def _without_most_distant(activations: Tensor, k: int) -> Tensor:
    """Ascending indices of all neurons but the `k` with the largest mean distance to the others."""
    n = activations.shape[1]
    mean_distance = square_form(raw_distances(scaled_neurons(activations).vectors), n).sum(1)
    return mean_distance.argsort()[: n - k].sort().values
