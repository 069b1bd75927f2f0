"""What is followed of a network while it trains: accuracy and loss, and the rates of its layers, as tidy rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.images import Images
from ..rate.distances import pair_distances
from ..rate.rate import ss_rate
from ..statistics.movement import movement

# How many of the most distant neurons are left out, and where the curve ends, in the two robust rates that stand
# beside the rate: a rate that single neurons or single pairs decide differs from these.
LEFT_OUT = 3
QUANTILES = (0.01, 0.99)


class Row(NamedTuple):
    """One number of a history: `metric` of `layer` ("" for the whole network) on `split` after `epoch`."""

    epoch: int
    split: str
    layer: str
    metric: str
    value: float


@torch.no_grad()
def scores(model: nn.Module, images: Images, split: str, *, epoch: int, device: torch.device) -> list[Row]:
    """Loss and accuracy on a split, in eval mode."""
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


def layer_rows(
    hidden: Mapping[str, Tensor], before: Mapping[str, Tensor] | None, *, epoch: int, neighbours: int = 10
) -> list[Row]:
    """For each layer its rate, the robust rates, the median distance, and what was kept since the epoch before.

    A layer that has collapsed (all distances equal) has no rate: the value is NaN, and training goes on. Values that
    are NaN or infinite are no collapse, but a training gone wrong: ``FloatingPointError``.
    """
    rows = []
    for layer, values in hidden.items():
        if not values.isfinite().all():
            raise FloatingPointError(
                f"activations: those of layer {layer!r} overflowed in the evaluation after epoch {epoch}; the last "
                "checkpoint, if there is one, is from before. Try a lower learning_rate or clip_gradient"
            )
        measures = {
            "ss_rate": lambda x: ss_rate(x),
            "ss_rate_left_out": lambda x: ss_rate(x, leave_out=LEFT_OUT),
            "ss_rate_quantiles": lambda x: ss_rate(x, quantiles=QUANTILES),
            "median_distance": lambda x: pair_distances(x).median(),
        }
        found = {name: _or_nan(measure, values) for name, measure in measures.items()}
        if before is not None:
            kept = _or_nan(lambda x, layer=layer: movement(before[layer], x, neighbours=neighbours), values)
            for name in ("neighbours_kept", "boxes_kept", "drivers_kept"):
                found[name] = getattr(kept, name, math.nan)
        rows += [Row(epoch, "validation", layer, name, float(value)) for name, value in found.items()]
    return rows


def _or_nan(measure: Callable, values: Tensor):
    try:
        return measure(values)
    except ValueError:
        return math.nan
