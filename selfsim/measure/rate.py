"""The SS rate: how far the box-counting curve of a feature network lies from a perfect power law.

The core of the package, in one sitting: distances between neurons (`distances`), the logarithmic axis and the
staircase area (`area`), or the paper's sum over scales (`scales`); this file puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..boxes.complete_linkage import counts_at, merge_heights, merge_pairs
from ..boxes.correlation_sum import surrogate_drop, surrogate_steps
from ..boxes.greedy_coloring import counts_at as coloring_counts_at
from ..validation import check_activations, check_choice, check_finite
from .area import Axis, sorted_values, sorted_with_order, staircase_area, staircase_slope
from .distances import OfDistances, all_equal, equal_within, raw_distances, scaled_neurons, square_form
from .scales import fractions_below, scale_lengths, straight_through_slope, sum_over_scales

COUNTS = ("surrogate", "complete-linkage", "greedy-coloring")
PAPER_SCALES = 256


def ss_rate(
    activations: Tensor | Mapping[str, Tensor],
    *,
    scales: int | None = None,
    gradient: str = "exact",
    ends: str = "attached",
    count: str = "surrogate",
    leave_out: int = 0,
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
    leave_out : int
        Leave out this many neurons, those with the largest mean distance to the others.
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
        Fewer than three neurons (after `leave_out`), no samples, NaN or Inf, all distances equal, an unknown
        option, or options that exclude each other.

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
    if isinstance(activations, Mapping):
        options = dict(scales=scales, gradient=gradient, ends=ends, count=count, leave_out=leave_out, check=check)
        return {name: ss_rate(layer, **options) for name, layer in activations.items()}
    check_rate_options(scales=scales, gradient=gradient, ends=ends, count=count, leave_out=leave_out)
    activations = check_activations(activations, min_neurons=3 + leave_out, finite=False)
    if leave_out:
        activations = activations[:, _without_most_distant(activations.detach(), leave_out)]
    vectors, exponent = scaled_neurons(activations)
    # The raw distance of length 1: lengths are raw * 2**exponent / sqrt(samples).
    one = math.sqrt(activations.shape[0]) * torch.exp2(-exponent.to(vectors.dtype))

    def evaluate(raw: Tensor, need_slope: bool) -> tuple[Tensor, Tensor | None]:
        axis = _axis(raw, one, activations if check else None)
        if count == "complete-linkage":
            return _by_linkage(raw, axis, scales, ends, need_slope)
        if count == "greedy-coloring":
            return _by_coloring(raw, axis, scales or PAPER_SCALES, vectors.shape[0]), None
        if gradient == "straight-through":
            return _by_scales(raw, axis, one, scales or PAPER_SCALES, vectors.shape[0], need_slope)
        value, slope = _by_area(raw, axis, ends, vectors.shape[0], need_slope, need_value=scales is None)
        if scales is not None:
            value, _ = _by_scales(raw, axis, one, scales, vectors.shape[0], False)
        return value, slope

    return _apply(vectors, evaluate)


# numpy's sort and scipy's linkage cannot be traced; inside a compiled graph they run as they are.
@torch.compiler.disable
def _apply(vectors: Tensor, evaluate) -> Tensor:
    return OfDistances.apply(vectors, evaluate)


def check_rate_options(*, scales: int | None, gradient: str, ends: str, count: str, leave_out: int) -> None:
    """Raise ``ValueError`` for options of `ss_rate` that are unknown or exclude each other."""
    check_choice(gradient, ("exact", "straight-through"), name="gradient")
    check_choice(ends, ("attached", "detached"), name="ends")
    check_choice(count, COUNTS, name="count")
    if scales is not None and (isinstance(scales, bool) or not isinstance(scales, int) or scales < 2):
        raise ValueError(f"scales: got {scales!r}, need None or a whole number of at least 2")
    if isinstance(leave_out, bool) or not isinstance(leave_out, int) or leave_out < 0:
        raise ValueError(f"leave_out: got {leave_out!r}, need a whole number of at least 0")
    if gradient == "straight-through" and count != "surrogate":
        raise ValueError(f"gradient: got 'straight-through' with count={count!r}, need count='surrogate'")


def _axis(raw: Tensor, one: Tensor, activations: Tensor | None) -> Axis:
    """The axis from the shortest to the longest distance; where `activations` are given, checked to exist."""
    low, high = torch.aminmax(raw)
    if activations is not None:
        # NaN and Inf in the activations make the ends NaN or Inf, so one look at the ends finds all faults.
        tolerance = equal_within(raw.dtype)
        if not bool((high - low > tolerance * high) & torch.isfinite(high)):
            check_finite(activations)
            raise all_equal(raw.numel(), (low / one).item(), (high / one).item())
    return Axis.between(low, high, one)


def _by_area(
    raw: Tensor, axis: Axis, ends: str, n: int, need_slope: bool, need_value: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The surrogate's exact area, and its derivative by each raw distance."""
    drop, rise = surrogate_steps(n, dtype=raw.dtype, device=raw.device)
    if not need_slope:
        return (staircase_area(axis.positions(sorted_values(raw)), drop) if need_value else None), None
    ascending, order = sorted_with_order(raw)
    u = axis.positions(ascending)
    value = staircase_area(u, drop) if need_value else None
    slope = torch.empty_like(raw)
    slope[order] = _slope_by_knots(ascending, u, staircase_slope(u, drop, rise), axis, ends)
    return value, slope


def _slope_by_knots(ascending: Tensor, u: Tensor, inner: Tensor, axis: Axis, ends: str) -> Tensor:
    """From the derivative by the inner positions u to that by every raw distance, ends included."""
    slope = torch.zeros_like(ascending)
    torch.mul(inner, axis.slope(ascending[1:-1]), out=slope[1:-1])
    if ends == "attached":
        slope[0], slope[-1] = axis.slope_by_ends(u[1:-1], inner)
    return slope


def _by_scales(
    raw: Tensor, axis: Axis, one: Tensor, scales: int, n: int, need_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """The paper's sum over scales, and its straight-through derivative by each raw distance."""
    unit = one.double().item() if one.device.type != "mps" else one.item()
    at = scale_lengths(axis.low.item() / unit, axis.high.item() / unit, scales)
    fraction = fractions_below(raw, at * unit)
    value = raw.new_tensor(sum_over_scales(surrogate_drop(fraction, n)))
    if not need_slope:
        return value, None
    return value, straight_through_slope(raw / one, at, fraction, n) / one


def _by_linkage(
    raw: Tensor, axis: Axis, scales: int | None, ends: str, need_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """The rate of agglomerative boxes: a staircase with n - 1 steps, at the heights of the merges."""
    array = raw.detach().cpu().numpy()
    pairs = torch.from_numpy(merge_pairs(array)).to(raw.device) if need_slope else None
    heights = raw[pairs] if need_slope else torch.from_numpy(merge_heights(array)).to(raw)
    n = heights.numel() + 1
    drop_at = 1 - np.log(n - np.arange(1, n - 1)) / math.log(n)
    drop = torch.from_numpy(drop_at).to(raw)
    u = axis.positions(heights)
    if scales is None:
        value = staircase_area(u, drop)
    else:
        value = _rate_of_counts(counts_at(u.cpu().numpy(), np.linspace(0, 1, scales)), n, raw)
    if not need_slope:
        return value, None
    rise = torch.from_numpy(np.diff(drop_at)).to(raw)
    slope = torch.zeros_like(raw)
    slope[pairs] = _slope_by_knots(heights, u, staircase_slope(u, drop, rise), axis, ends)
    return value, slope


def _by_coloring(raw: Tensor, axis: Axis, scales: int, n: int) -> Tensor:
    u = square_form(axis.positions(raw), n).cpu().numpy()
    return _rate_of_counts(coloring_counts_at(u, np.linspace(0, 1, scales)), n, raw)


def _rate_of_counts(counts: np.ndarray, n: int, like: Tensor) -> Tensor:
    return like.new_tensor(sum_over_scales(1 - np.log(counts) / math.log(n)))


def _without_most_distant(activations: Tensor, k: int) -> Tensor:
    """Ascending indices of all neurons but the `k` with the largest mean distance to the others."""
    n = activations.shape[1]
    mean_distance = square_form(raw_distances(scaled_neurons(activations).vectors), n).sum(1)
    return mean_distance.argsort()[: n - k].sort().values
