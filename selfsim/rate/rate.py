"""The SS rate: how far the box-counting curve of a feature network lies from a perfect power law.

The core of the package, in one sitting: the distances between neurons (`distances`); the logarithmic axis and the
area under the staircase of counts (`area`), or the paper's sum over scales (`scales`); the rate of given distances
by each count (`by_count`); and here, the function that puts them together.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from ..validation import check_activations, check_finite
from .blocks import RateOverScales
from .by_count import value_and_slope
from .distances import OfDistances, equal_within, raw_distances, scaled_neurons, square_form
from .options import RateOptions


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
    >>> random = torch.Generator().manual_seed(0)
    >>> x = torch.randn(64, 128, generator=random, dtype=torch.float64)
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
    if activations.device.type not in ("cpu", "cuda"):  # Apple's mps lacks half of what follows
        return _rate(activations.cpu(), options).to(activations.device)
    if options.standardize:
        activations = _standardized(activations, check=options.check)
    if options.leave_out:
        activations = activations[:, _without_most_distant(activations.detach(), options.leave_out)]
    return _evaluated(activations, options)


# numpy's sort and scipy's linkage cannot be traced; inside a compiled graph they run as they are.
@torch.compiler.disable
def _evaluated(activations: Tensor, options: RateOptions) -> Tensor:
    needs_all = options.gradient == "exact" and activations.requires_grad and torch.is_grad_enabled()
    if options.max_bytes is not None and needs_all:
        raise ValueError("max_bytes: got it with gradient='exact', which needs all distances; need 'straight-through'")
    if options.gradient == "straight-through" or options.max_bytes is not None:
        return RateOverScales.apply(activations, options.at_scales, options.max_bytes, options.check)
    return OfDistances.apply(activations, functools.partial(value_and_slope, activations, options))


def slope_by_length(activations: Tensor, options: RateOptions) -> Tensor:
    """Derivative of the rate by the length of each edge, ``(pairs,)``, in scipy's order of pairs."""
    neurons, scale = scaled_neurons(activations.detach())
    one = scale * activations.shape[0] ** 0.5
    return value_and_slope(activations, options, raw_distances(neurons), one, True)[1] * one


def _standardized(activations: Tensor, *, check: bool) -> Tensor:
    """Every neuron with mean 0 and standard deviation 1 over the samples."""
    # In units near each neuron's size, so that no square overflows or vanishes; powers of two keep every digit.
    exponent = torch.frexp(activations.detach().abs().amax(0)).exponent - 1
    x = activations / torch.exp2(exponent.to(activations.dtype))
    centred = x - x.mean(0)
    deviation = centred.square().mean(0).sqrt()
    if check:
        constant = deviation <= equal_within(x.dtype) * x.abs().amax(0)
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
    mean_distance = square_form(raw_distances(scaled_neurons(activations).neurons), n).sum(1)
    return mean_distance.argsort()[: n - k].sort().values
