"""What a constraint holds to its target: the SS rate or the deviation from a power law, on a batch or over a run."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..models.batches import call_with_batch
from ..models.probe import Probe
from ..models.seeding import seeded
from ..rate.options import RateOptions
from ..rate.rate import ss_rate
from ..validation import untraced
from .data_record import check_same_data, data_record
from .torch_settings import torch_settings

if TYPE_CHECKING:
    from ..models.images import Images
    from .runs import Run

_BATCHES = 8  # of a run's training images


@dataclass(frozen=True)
class ScalingOptions:
    """The options of `scaling_deviation`."""

    check: bool = True


Measure = RateOptions | ScalingOptions


def measured(activations: Tensor, measure: Measure) -> Tensor:
    """Return the rate, or the deviation, of one layer ``(samples, neurons)``."""
    if isinstance(measure, RateOptions):
        return ss_rate(activations, **vars(measure))
    from ..statistics.scaling import scaling_deviation  # brings in scipy and networkx

    return scaling_deviation(activations, **vars(measure))


@untraced
def with_shape_gradient(x: Tensor) -> Tensor:
    """Return the activations ``(…, samples, neurons)`` again, with a gradient that leaves out their scale.

    The rate in units of the median does not depend on the scale. Its gradient at a constant median does, and would
    shrink or stretch the layer about its mean neuron for nothing.
    """
    if not x.requires_grad:
        return x
    x = x.view_as(x)
    centred = (x - x.mean(-1, keepdim=True)).detach()

    def without_scale(gradient: Tensor) -> Tensor:
        wide = torch.promote_types(gradient.dtype, torch.float32)
        g, c = gradient.to(wide), centred.to(wide)
        largest = c.abs().amax((-2, -1), keepdim=True)
        c = c / largest.clamp_min(torch.finfo(wide).tiny)  # so that no square overflows or vanishes
        along = (g * c).sum((-2, -1), keepdim=True) / c.square().sum((-2, -1), keepdim=True)
        return (g - along * c).to(gradient.dtype)

    x.register_hook(without_scale)
    return x


def mean_rates(probe: Probe, model: nn.Module, batches: Iterable[Any], measure: Measure) -> dict[str, float]:
    """Return the mean rate of each layer over batches, as the constraint reads it: in the model's present mode."""
    device = next(model.parameters()).device
    rates: dict[str, list[float]] = {}
    with torch.no_grad():
        for batch in batches:
            with probe:
                call_with_batch(model, batch, device)
            for layer, x in probe.activations.items():
                rates.setdefault(layer, []).append(float(measured(x, measure)))
    return {layer: statistics.fmean(values) for layer, values in rates.items()}


def converged_rates(run: Run, measure: Measure, images: Images | None = None) -> dict[str, float]:
    """Return the mean rate of each layer of a finished run over training batches, as a constraint would read it.

    Raises
    ------
    ValueError
        The run was trained under a constraint, or on other images.
    """
    if not hasattr(run, "config"):
        raise TypeError(f"run: got {type(run).__name__}, need a Run, as train and load_run return")
    config = run.config
    if config.constraint is not None:
        raise ValueError(f"run: got one trained with constraint={config.constraint!r}, need one without a constraint")
    with torch_settings(), seeded(config.seed):  # dropout
        images = config.load_images() if images is None else images
        check_same_data(run.environment.get("data"), data_record(images), where="the run", need="`images`, its own")
        model = copy.deepcopy(run.model).train()
        generator = torch.Generator().manual_seed(config.seed)
        order = torch.randperm(len(images.train), generator=generator).split(min(config.batch_size, len(images.train)))
        whole = [part for part in order if len(part) == len(order[0])]
        batches: Iterable[Tensor] = (images.prepared(images.train.images[part]) for part in whole)
        return mean_rates(Probe(model, config.layers), model, itertools.islice(batches, _BATCHES), measure)
