"""One training on several processes, as `torchrun` starts them; a single process is the case of one rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, seen from one of them; every method returns the same on all ranks but `share`.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and number of all.
    """

    rank: int = 0
    size: int = 1

    def share(self, batch: Tensor) -> Tensor:
        """Return this rank's part of a batch."""
        return batch if self.size == 1 else batch[self.rank :: self.size]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model with gradients averaged over the ranks in the backward pass."""
        return model if self.size == 1 else nn.parallel.DistributedDataParallel(model)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the first rank's value."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that the environment or an initialised process group names; yield `Ranks` and the device.

    Without a process group and without ``RANK`` and ``WORLD_SIZE`` as `torchrun` sets them, this process is alone. A
    group that is opened here is closed at the end.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ
    initialised = dist.is_available() and dist.is_initialized()
    if not (launched or initialised):
        yield Ranks(), device
        return
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not initialised:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size()), device
    finally:
        if not initialised:
            dist.destroy_process_group()
