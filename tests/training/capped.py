"""A network with a layer that two others use, and a penalty with a cap on it, for the tests of the cap."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from selfsim import Probe, SelfSimilarityConstraint

CAP = 0.3


class Network(nn.Module):
    """Maps, whose channels are read, then classes. The layer's output is used by two later layers."""

    def __init__(self, how: str = "plain"):
        super().__init__()
        self.how, self.first, self.read = how, nn.Conv2d(1, 6, 3), nn.Conv2d(6, 12, 3)
        self.last, self.second_last = nn.Linear(12 * 16, 3), nn.Linear(12 * 16, 3)

    def maps(self, x):
        return self.read(self.first(x).relu())

    def forward(self, x):
        hidden = checkpoint(self.maps, x, use_reentrant=False) if self.how == "checkpointed" else self.maps(x)
        hidden = nn.functional.relu(hidden, inplace=self.how == "in place").flatten(1)
        return self.last(hidden) + self.second_last(hidden.tanh())


def network(how: str = "plain") -> Network:
    torch.manual_seed(0)
    return Network(how)


def batch(seed: int = 0, samples: int = 16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 1, 8, 8, generator=generator), torch.randint(3, (samples,), generator=generator)


def constraint(weight: float = 1e4, cap: float | None = CAP) -> SelfSimilarityConstraint:
    return SelfSimilarityConstraint(0.5, weight, cap=cap, ramp=None, unit="absolute")


def loss_and_probe(model, x, y):
    with (probe := Probe(model, ["read"])):
        loss = nn.functional.cross_entropy(model(x).float(), y)
    return loss, probe
