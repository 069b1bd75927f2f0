"""Seeded work inside a bracket, and random states as plain data: all that the package does to global generators.

timm's mixup draws from numpy's global generator, its random erasing from Python's, and dropout, the initialisation
of torch's modules and torchvision's augmentation from torch's: a run that can go on where it stopped needs all three.
"""

from __future__ import annotations

import random
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu"):
    """Run a block with every global generator seeded, and give the caller's states back, also after an exception.

    Examples
    --------
    >>> with seeded(0):
    ...     a = torch.rand(2)
    >>> with seeded(0):
    ...     a.equal(torch.rand(2))
    True
    """
    before = random_states(device)
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator is the one that timm draws from
        torch.random.default_generator.manual_seed(seed)
        if torch.device(device).type == "cuda":
            torch.cuda.manual_seed(seed)
        yield
    finally:
        set_random_states(before, device)


def random_states(device: torch.device | str = "cpu") -> dict:
    """States of the global generators of Python, numpy and torch (and of a CUDA device): numbers and tensors only."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if torch.device(device).type == "cuda" else None,
    }


def set_random_states(states: dict, device: torch.device | str = "cpu") -> None:
    """Bring the global generators to what `random_states` gave."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
