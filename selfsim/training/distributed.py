"""One training on several processes, as `torchrun` starts them; a single process is the case of one rank."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    def own(self, batch: Tensor) -> Tensor:
        """This rank's share of a batch."""
        return batch if self.size == 1 else batch[self.rank :: self.size]

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the ranks in the backward pass."""
        return model if self.size == 1 else nn.parallel.DistributedDataParallel(model)

    def summed(self, values: Tensor) -> Tensor:
        """Sum over the ranks, on all of them."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def from_first(self, value: Any) -> Any:
        """What the first rank has, on all ranks."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def gathered(self, value: Any) -> list:
        """What each rank has, on all ranks."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def joined(device: torch.device):
    """Join the processes that the environment or an initialised process group names; gives `Ranks` and the device.

    A process group that is opened here is closed at the end. Without one, and without ``RANK`` and ``WORLD_SIZE`` as
    `torchrun` sets them, this process is alone.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ
    already = dist.is_available() and dist.is_initialized()
    if not (launched or already):
        yield Ranks(), device
        return
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not already:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size()), device
    finally:
        if not already:
            dist.destroy_process_group()
