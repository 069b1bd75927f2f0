"""Measurements of a network during training, as tidy rows: accuracy, loss, and the rates of its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.images import Images
from ..rate.distances import pair_distances
from ..rate.rate import ss_rate
from ..statistics.movement import Arrangement

# The rate, the rate that the constraint reads by default, and two that no single neuron or pair decides.
RATES: dict[str, Callable[..., Tensor]] = {
    "ss_rate": ss_rate,
    "ss_rate_median_unit": partial(ss_rate, unit="median"),
    "ss_rate_left_out": partial(ss_rate, leave_out=3),
    "ss_rate_quantiles": partial(ss_rate, quantiles=(0.01, 0.99)),
}
T = TypeVar("T")
_KEPT = ("neighbours_kept", "boxes_kept", "drivers_kept")


class Row(NamedTuple):
    """One value of a history: `metric` of `layer` ("" for the whole network) on `split` after `epoch`."""

    epoch: int
    split: str
    layer: str
    metric: str
    value: float


@torch.no_grad()
def scores(model: nn.Module, images: Images, split: str, *, epoch: int, device: torch.device) -> list[Row]:
    """Return loss and accuracy on a split, in eval mode."""
    model.eval()
    loss = torch.zeros((), device=device, dtype=torch.float64 if device.type != "mps" else torch.float32)
    correct, count = torch.zeros((), device=device), 0
    for x, y in images.batches(split):
        logits, y = model(x.to(device)), y.to(device)
        loss += F.cross_entropy(logits, y, reduction="sum")
        correct += (logits.argmax(1) == y).sum()
        count += len(y)
    return [
        Row(epoch, split, "", "loss", float(loss) / count),
        Row(epoch, split, "", "accuracy", float(correct) / count),
    ]


def layer_rows(hidden: Mapping[str, Arrangement], before: Mapping[str, Arrangement] | None, *, epoch: int) -> list[Row]:
    """Return for each layer its rates, the median distance, and what was kept since the last epoch.

    Parameters
    ----------
    hidden, before : mapping of str to Arrangement
        The layers now and at the last evaluation.
    epoch : int

    Raises
    ------
    FloatingPointError
        Activations of a layer are NaN or infinite.

    Notes
    -----
    A layer that has collapsed (all distances equal) has no rate. Its value is NaN, and training continues.
    """
    measures = RATES | {"median_distance": lambda x: pair_distances(x).median()}
    rows = []
    for layer, arrangement in hidden.items():
        values = arrangement.activations
        if not values.isfinite().all():
            raise FloatingPointError(
                f"activations: those of layer {layer!r} overflowed in the evaluation after epoch {epoch}; the last "
                "checkpoint, if there is one, is from before. Try a lower learning_rate or clip_gradient"
            )
        measured = {name: or_nan(measure, values) for name, measure in measures.items()}
        if before is not None:
            kept = or_nan(before[layer].moved_to, arrangement)
            measured |= {name: getattr(kept, name, math.nan) for name in _KEPT}
        rows += [Row(epoch, "validation", layer, name, float(value)) for name, value in measured.items()]
    return rows


def or_nan(measure: Callable[[T], Any], values: T) -> Any:
    """Return what is measured, NaN where the values have none."""
    try:
        return measure(values)
    except ValueError:
        return math.nan
