"""What is followed of a network while it trains: accuracy and loss, and the rates of its layers, as tidy rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..measure.distances import pair_distances
from ..measure.rate import ss_rate
from ..models.data import Images
from ..models.probe import activations

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
    model: nn.Module, images: Images, layers: Sequence[str], *, samples: int, epoch: int, device: torch.device
) -> list[Row]:
    """For each layer, on the first validation images in eval mode: its rate, the robust rates, the median distance."""
    hidden = activations(model, images.batches("validation"), layers=layers, samples=samples, device=device)
    rows = []
    for layer, values in hidden.items():
        measures = {
            "ss_rate": ss_rate(values),
            "ss_rate_left_out": ss_rate(values, leave_out=LEFT_OUT),
            "ss_rate_quantiles": ss_rate(values, quantiles=QUANTILES),
            "median_distance": pair_distances(values).median(),
        }
        rows += [Row(epoch, "validation", layer, name, float(value)) for name, value in measures.items()]
    return rows
