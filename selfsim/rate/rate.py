"""The SS rate: the area between a layer's box-counting curve and a straight line, on logarithmic axes.

In the order of the calls: `ss_rate` checks options and activations; `_of_prepared` chooses the gradient; `ByDistances`
takes each layer through `_rate_and_weight`, which computes the distances of its neurons (`distances`);
`surrogate_area` sorts them (or counts many in `bins`), puts them on the logarithmic axis and sums the area under their
staircase (`area`), with its slope at each distance; `gradient_by_weight` takes the slopes back to the activations.
Beside it stand the paper's sum over 256 scales (`paper`) and the rate of real boxes (`by_count`).

Distances are *raw* until they lie on the axis: the length of an edge is ``raw / one``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from ..validation import by_layer, check_activations, check_finite, over_batch, untraced
from .area import Array, Axis, add_at_ends, area, end_places, numbers_at, surrogate_steps
from .bins import area_by_bins, bins_pay
from .distances import (
    NO_DERIVATIVE,
    NoRange,
    add_gradient,
    by_distance,
    equal_within,
    one_layer_on_cpu,
    raw_distances,
    row_blocks,
    scaled_neurons,
    square_form,
    without_offset,
)
from .loops import sorted_with_order, unsorted
from .options import RateKeywords, RateOptions
from .paper import PAPER_SCALES, PaperRate, paper_rate, rate_over_scales

OfLayer: TypeAlias = Callable[..., tuple[Tensor, Tensor]]


@overload
def ss_rate(activations: Tensor, **options: Unpack[RateKeywords]) -> Tensor: ...
@overload
def ss_rate(activations: Mapping[str, Tensor], **options: Unpack[RateKeywords]) -> dict[str, Tensor]: ...
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
    """Return the self-similarity (SS) rate of a layer, from 0 to about 1.

    The layer's neurons form a complete network with edges ``||v_i - v_j|| / sqrt(samples)``. On logarithmic axes, the
    curve of its box counts N_B against ``1 + l_B`` runs between the same ends as a straight line. The rate is twice
    the area between the two.

    A rate of 0 means that the count used is a power law of ``1 + l_B``. For the paper's surrogate count, that is one
    particular law of distances, not self-similarity: noise scores about 0.2, and a correlation sum that is a perfect
    power law scores 0.77 at 128 neurons. The rate also depends on the unit, and on the shortest and the longest edge.
    Read it beside its null band (`selfsim.null_band`), at the same number of neurons and samples.

    Parameters
    ----------
    activations : Tensor, shape (…, samples, neurons), or mapping of names to such
        At least three neurons and one sample. Half precision is accumulated in float32. Leading axes are a batch of
        layers: draws of a null model, seeds, or stacked networks. `torch.func.vmap` works too, except for the
        straight-through gradient on a CPU, and with `max_bytes` or `leave_out`.
    scales : int, optional
        None gives the exact area. A number m gives a sum over m scales, about S/m below the area; the paper's value
        is that of ``scales=256``.
    gradient : {"exact", "straight-through"}
        "exact" is the gradient of the exact area, whatever `scales`. "straight-through" is the paper's: the gradient
        of a sigmoid count with bandwidth 1 in absolute units, at 256 scales (or `scales`), the ends constant.
    ends : {"attached", "detached"}
        Whether the exact gradient passes through the shortest and the longest distance. Attached, it is the true
        gradient, almost all of which sits on these two pairs, so training moves single neurons first. Detached, it
        spreads over the layer.
    count : {"surrogate", "complete-linkage", "greedy-coloring"}
        The paper's correlation-sum formula; boxes by complete linkage, differentiable through the pair that realises
        each merge; or boxes by greedy colouring at `scales` sizes (default 256), whose rate has no gradient.
    quantiles : (float, float), optional
        Robust variant: the curve begins and ends at these quantiles of the distances, such as (0.01, 0.99), instead
        of at the shortest and the longest, so that no single pair decides.
    unit : {"absolute", "median"}
        Scale-free variant: "median" measures lengths in units of their median, so scaled activations have the same
        rate. By default the 1 in ln(1 + l) is 1 in the activations' own units, as published.
    standardize : bool
        Whether to give every neuron mean 0 and standard deviation 1 over the samples first.
    leave_out : int
        Robust variant: leave out this many neurons with the largest mean distance to the others.
    max_bytes : int, optional
        Work in blocks of at most this much memory beyond the activations and their gradient. Only for sums over
        `scales` with the straight-through gradient. The value is the same; distances are computed three times.
        `leave_out` takes memory for all distances nonetheless.
    check : bool
        Whether to raise for NaN, Inf and distances that are all equal, at the cost of one synchronisation on a GPU.
        Without the check, such activations give NaN.

    Returns
    -------
    Tensor, shape (…), or dict of such
        0-dim for one layer. In the dtype of the activations (float32 for half precision), on their device.

    Raises
    ------
    TypeError
        Not a tensor, or not of a floating-point type.
    ValueError
        Fewer than three neurons (after `leave_out`), no samples, NaN or Inf, all distances equal, constant neurons
        with `standardize`, an unknown option, or options that exclude each other. For a mapping, names the layer.

    Notes
    -----
    Time O(neurons² (samples + log neurons)), memory O(neurons²), forward and backward. Complete linkage and greedy
    colouring run on the CPU. Where distances are tied, the derivative is that of one of their possible orders, and the
    boxes of both depend on the order of the neurons. The layers of a batch are computed in as many threads as
    ``torch.get_num_threads()`` on a CPU, and at once on a GPU.

    On a CPU with numba, the exact rate of 633 neurons or more in float32 comes from a fine histogram of the distances
    instead of their order. Beyond rounding, that changes the value by about 1e-7 and the gradient by a ten-thousandth
    of its length, in rare layers by a few thousandths. Distances in float64 are sorted.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, the SS rate.

    Examples
    --------
    >>> import torch
    >>> random = torch.Generator().manual_seed(0)
    >>> x = torch.randn(64, 128, generator=random, dtype=torch.float64)
    >>> round(ss_rate(x).item(), 4), round(ss_rate(x, scales=256).item(), 4)
    (0.2242, 0.2233)
    >>> sorted(ss_rate({"block 1": x, "block 2": x.abs()}))
    ['block 1', 'block 2']
    """
    options = RateOptions(scales, gradient, ends, count, quantiles, unit, standardize, leave_out, max_bytes, check)
    if isinstance(activations, Mapping):
        return by_layer(activations, lambda layer: _rate(layer, options))
    return _rate(activations, options)


def _rate(activations: Tensor, options: RateOptions) -> Tensor:
    x = check_activations(activations, min_neurons=3 + options.leave_out, finite=False, batched=True)
    if not x.shape[:-2].numel():  # a batch without layers
        return x.sum((-2, -1))
    # Apple's mps lacks half of what follows, and boxes are found on the CPU.
    if x.device.type not in ("cpu", "cuda") or (x.device.type != "cpu" and options.count != "surrogate"):
        return _rate(x.cpu(), options).to(x.device)
    return _evaluated(x, options)


# NumPy's sort and scipy's linkage cannot be traced; in a compiled graph they run as they are.
@untraced
def _evaluated(activations: Tensor, options: RateOptions) -> Tensor:
    x = _standardized(activations) if options.standardize else activations
    if options.leave_out:
        kept = over_batch(lambda layers: _without_most_distant(layers, options.leave_out), x.detach())
        # NaN and Inf confuse the choice: they are carried on, lest they are among what is left out.
        carried = 0 * x.detach().abs().amax((-2, -1), keepdim=True)
        x = torch.take_along_dim(x, kept.unsqueeze(-2), dim=-1) + carried
    try:
        return _of_prepared(x, options)
    except ValueError:
        check_finite(activations)
        if options.standardize:
            _check_none_constant(activations)
        raise


def _of_prepared(activations: Tensor, options: RateOptions) -> Tensor:
    needs_all = activations.requires_grad and torch.is_grad_enabled()
    if options.max_bytes is not None and options.gradient == "exact" and needs_all:
        raise ValueError("max_bytes: got it with gradient='exact', which needs all distances; need 'straight-through'")
    published = options.gradient == "straight-through"
    if options.max_bytes is not None or (published and activations.device.type == "cpu"):
        layers = activations.reshape(-1, *activations.shape[-2:])
        rates = [PaperRate.apply(x, options.scales or PAPER_SCALES, options.max_bytes, options.check) for x in layers]
        return torch.stack(rates).reshape(activations.shape[:-2])
    of_layer = functools.partial(_rate_and_weight, options=options)
    return ByDistances.apply(activations, of_layer, needs_all, options.count != "greedy-coloring")[0]


class ByDistances(torch.autograd.Function):
    """A value of each layer of ``(…, samples, neurons)`` that depends on its distances, with its gradient.

    ``of_layer(neurons, scale, need_weight=...)``, given what `scaled_neurons` returns, returns the value of one layer
    and, where it is needed, the derivative with respect to each distance, divided by the distance (else an empty
    tensor). On a GPU, it is given many layers at once, with one leading axis.
    """

    @staticmethod
    def forward(activations: Tensor, of_layer: OfLayer, need_weight: bool, smooth: bool) -> tuple[Tensor, ...]:
        """Return the values ``(…)``, their derivatives divided by the distances, ``(…, pairs)``, and scaled neurons."""
        scaled = scaled_neurons(activations)
        return (*over_batch(functools.partial(of_layer, need_weight=need_weight), *scaled), *scaled)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, OfLayer, bool, bool], output: tuple[Tensor, ...]) -> None:
        activations, ctx.of_layer, _, smooth = inputs
        ctx.save_for_backward(activations, *output[1:])
        ctx.mark_non_differentiable(*(output[1:] if smooth else output))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        activations, weight, neurons, scale = ctx.saved_tensors
        gradient = GradientByDistances.apply(activations, neurons, scale, weight, upstream, ctx.of_layer)
        return gradient, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, activations: Tensor, *rest: Any) -> Any:
        return ByDistances.apply(activations.movedim(in_dims[0], 0), *rest), (0, 0, 0, 0)


class GradientByDistances(torch.autograd.Function):
    """The gradient of `ByDistances` with respect to the activations, by which it has no derivative of its own."""

    @staticmethod
    def forward(
        activations: Tensor, neurons: Tensor, scale: Tensor, weight: Tensor, upstream: Tensor, of_layer: OfLayer
    ) -> Tensor:
        if not weight.shape[-1]:  # under torch.func.grad of a vmap, the value cannot tell that a gradient will follow
            _, weight = over_batch(functools.partial(of_layer, need_weight=True), neurons, scale)
        return over_batch(gradient_by_weight, neurons, scale, weight, upstream)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        raise RuntimeError(NO_DERIVATIVE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *arguments: Any) -> Any:
        *tensors, of_layer = arguments
        batched = [
            x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)
            for x, axis in zip(tensors, in_dims, strict=False)
        ]
        return GradientByDistances.apply(*batched, of_layer), 0


# `apply` binds its arguments by this signature, which `inspect` would otherwise compute at every call.
for _called in (ByDistances, GradientByDistances):
    setattr(_called.forward, "__signature__", inspect.signature(_called.forward))  # noqa: B010


def _rate_and_weight(
    neurons: Tensor, scale: Tensor, *, options: RateOptions, need_weight: bool
) -> tuple[Tensor, Tensor]:
    """Return the rate of each layer, and its derivative with respect to each distance, divided by the distance."""
    distances = raw_distances(neurons)
    one = scale[..., None] * neurons.shape[-2] ** 0.5
    try:
        value, slope = value_and_slope(distances, one, neurons.shape[-1], options, need_weight)
    except NoRange:
        if options.check:
            check_finite(neurons)
            raise
        value = torch.full_like(scale, math.nan)
        slope = torch.full_like(distances, math.nan) if need_weight else None
    return value, distances[..., :0] if slope is None else by_distance(slope, distances)


def gradient_by_weight(neurons: Tensor, scale: Tensor, weight: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient of values ``(…)`` whose derivative by each distance is `weight` times the distance.

    It is computed in the precision of `weight` and returned in that of the scaled neurons.
    """
    centred = without_offset(neurons.to(weight.dtype))
    if one_layer_on_cpu(neurons):
        gradient = torch.zeros_like(centred)
        for rows, pairs in row_blocks(neurons):
            add_gradient(gradient, centred, weight[pairs], rows)
    else:
        square = square_form(weight, neurons.shape[-1])
        gradient = centred * square.sum(-2, keepdim=True) - centred @ square
    return (gradient * (upstream.to(weight.dtype) * scale)[..., None, None]).to(neurons.dtype)


def value_and_slope(
    raw: Tensor, one: Tensor, n: int, options: RateOptions, need_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """The rate of given distances, and its derivative with respect to each.

    Parameters
    ----------
    raw : Tensor, shape (…, pairs)
        Condensed distances, in any unit. NumPy computes those of one layer on a CPU.
    one : Tensor, shape (…, 1)
        The raw distance of length 1.
    n : int
        Number of neurons.
    options : RateOptions
    need_slope : bool

    Returns
    -------
    value : Tensor, shape (…)
    slope : Tensor, shape (…, pairs), or None
        None without `need_slope`, and for greedy colouring.

    Raises
    ------
    NoRange
        The distances are all equal, or not all finite.
    """
    on_cpu = raw.device.type == "cpu" and raw.ndim == 1
    distances: Array = raw.numpy() if on_cpu else raw
    unit: Array = one.numpy() if on_cpu else one
    value: Array
    slope: Array | None = None
    if options.count != "surrogate":  # scipy's clustering and networkx take half a second to import
        from .by_count import rate_by_coloring, rate_by_linkage
    if options.count == "complete-linkage":
        value, slope = rate_by_linkage(distances, unit, n, options, need_slope)
    elif options.count == "greedy-coloring":
        value = rate_by_coloring(distances, unit, n, options)
    elif options.gradient == "straight-through":  # on a GPU; see `PaperRate` for a CPU
        value, slope = paper_rate(distances, unit, n, options, need_slope)
    else:
        if options.scales is None or need_slope:
            value, slope = surrogate_area(distances, unit, n, options, need_slope)
        if options.scales is not None:
            # With a slope, the area has checked the distances.
            once = dataclasses.replace(options, check=options.check and not need_slope)
            value = rate_over_scales(distances, unit, n, once)
    like_raw = functools.partial(torch.as_tensor, dtype=raw.dtype, device=raw.device)
    return like_raw(value), None if slope is None else like_raw(slope)


def surrogate_area(
    raw: Array, one: Array, n: int, options: RateOptions, need_slope: bool
) -> tuple[Array, Array | None]:
    """The exact rate of the surrogate count, whose curve is a staircase with a step at every distance."""
    merged = None
    if bins_pay(raw):
        merged, slope = area_by_bins(raw, one, n, options, need_slope)
        if slope is not None or not need_slope:
            return merged, slope
    ascending: Array
    order: Array = None
    if isinstance(raw, Tensor):
        ascending, order = raw.sort()
    elif need_slope:
        ascending, order = sorted_with_order(raw)
    else:
        ascending = np.sort(raw)  # without the order, several times faster
    places = end_places(raw.shape[-1], options)
    axis = Axis.between(numbers_at(ascending, places), one, options, raw)
    value, slope, by_ends = area(ascending, axis, surrogate_steps(n, raw), options, need_slope)
    if slope is None:
        return value, None
    add_at_ends(slope, places, by_ends)
    # One value with and without gradient, to the last bit.
    return value if merged is None else merged, unsorted(slope, order)


def _standardized(activations: Tensor) -> Tensor:
    """Every neuron with mean 0 and standard deviation 1 over the samples; NaN for a layer with constant neurons."""
    centred, deviation, constant = _spread(activations)
    return centred / torch.where(constant.any(-1, keepdim=True), math.nan, deviation)


def _spread(activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred neurons, and the standard deviation of each over the samples and whether it is constant ``(…, 1, n)``."""
    # In units near each neuron's size, so that no square overflows or vanishes; powers of two keep every digit.
    exponent = torch.frexp(activations.detach().abs().amax(-2, keepdim=True)).exponent - 1
    x = activations / torch.exp2(exponent.to(activations.dtype))
    centred = x - x.mean(-2, keepdim=True)
    deviation = centred.square().mean(-2, keepdim=True).sqrt()
    return centred, deviation, deviation <= equal_within(x.dtype) * x.abs().amax(-2, keepdim=True)


def _check_none_constant(activations: Tensor) -> None:
    constant = _spread(activations)[2]
    if constant.any():
        raise ValueError(
            f"standardize: {int(constant.sum())} of {constant.numel()} neurons are constant over the samples "
            f"(the first is neuron {int(constant.nonzero()[0][-1])}); leave these out, or do not standardise"
        ) from None


def _without_most_distant(activations: Tensor, k: int) -> Tensor:
    """Ascending indices ``(…, neurons - k)`` of all but those with the largest mean distance to the others."""
    n = activations.shape[-1]
    mean_distance = square_form(raw_distances(scaled_neurons(activations)[0]), n).sum(-1)
    return mean_distance.argsort(stable=True)[..., : n - k].sort().values
