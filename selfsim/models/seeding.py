"""Seeded work inside a bracket: the caller's random states are as before when it ends."""

from __future__ import annotations

from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu"):
    """Run a block with torch seeded, and give the caller's random states back, also after an exception.

    Dropout and the initialisation of torch's modules draw from torch's global generator; this is the one place
    that sets it.

    Examples
    --------
    >>> with seeded(0):
    ...     a = torch.rand(2)
    >>> with seeded(0):
    ...     a.equal(torch.rand(2))
    True
    """
    device = torch.device(device)
    cards = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        torch.random.default_generator.manual_seed(seed)
        if cards:
            torch.cuda.manual_seed(seed)
        yield
