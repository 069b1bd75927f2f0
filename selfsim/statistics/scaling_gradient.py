"""The deviation from a power law as a differentiable function of activations.

Read it after `correlation_law`, which has the fit and its derivative with respect to each distance.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from ..rate.area import Array, module_of
from ..rate.distances import raw_distances
from ..rate.loops import sorted_with_order
from ..rate.rate import ByDistances
from ..validation import check_activations, check_finite, untraced
from .correlation_law import Window, fault, fewest_nodes, fit, is_sound, ranks_of, window_for


def deviations(activations: Tensor, given: Window | None, check: bool) -> Tensor:
    """Return the deviations ``(…)`` of activations ``(…, samples, neurons)``; see `scaling.scaling_deviation`."""
    x = check_activations(activations, min_neurons=fewest_nodes(given), finite=False, batched=True)
    if not x.shape[:-2].numel():  # a batch without layers
        return x.sum((-2, -1))
    if x.device.type not in ("cpu", "cuda"):  # Apple's mps lacks float64
        return deviations(x.cpu(), given, check).to(x.device)
    return _evaluated(x, window_for(x.shape[-1], given), check)


@untraced
def _evaluated(activations: Tensor, window: Window, check: bool) -> Tensor:
    need_weight = activations.requires_grad and torch.is_grad_enabled()
    of_layer = functools.partial(_deviation_and_weight, window=window, check=check)
    return ByDistances.apply(activations, of_layer, need_weight, True)[0]


def _deviation_and_weight(
    neurons: Tensor, scale: Tensor, *, window: Window, check: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    """Return the deviation of each layer, and its derivative with respect to each distance, divided by the distance.

    The derivative is in float64: it grows like 1 / distance², which overflows float32 for neurons that are nearly
    dead, and its sums over all neurons would lose the digits of these.
    """
    raw, n = raw_distances(neurons), neurons.shape[-1]
    on_cpu = raw.device.type == "cpu" and raw.ndim == 1
    ranks = ranks_of(n, window, None if on_cpu else raw.device)
    ascending: Array
    order: Array
    if on_cpu:  # sorted no farther than the window
        distances = raw.numpy()
        end = np.partition(distances, ranks.last - 1)[ranks.last - 1]
        near = np.flatnonzero(~(distances > end))  # and NaN
        ascending, order = sorted_with_order(distances[near])
        order = torch.from_numpy(near[order])
    else:
        ascending, order = raw.sort()
    within = ascending[..., ranks.first : ranks.last]
    # NaN and Inf in the activations make the longest distance NaN or Inf.
    sound = is_sound(within, ranks) & module_of(within).asarray(raw.amax(-1) < math.inf)
    if check and not bool(sound.all()):
        check_finite(neurons)
        raise ValueError(f"activations: {fault(within, ranks, n)}")
    found = fit(within, ranks, need_weight=need_weight)
    valid = module_of(within).where(sound, 1.0, math.nan)
    deviation = torch.as_tensor(found.deviation * valid, device=raw.device).to(raw)
    if found.weight is None:
        return deviation, raw[..., :0]
    weight = torch.zeros_like(raw, dtype=torch.float64)
    in_window = torch.as_tensor(found.weight * valid[..., None], device=raw.device)
    return deviation, weight.scatter_(-1, order[..., ranks.first : ranks.last], in_window)
