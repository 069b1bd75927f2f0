"""Seeding and saving of the global random generators; nothing else in the package changes them.

Training draws from three of them: timm's mixup from NumPy's, its random erasing from Python's, and dropout,
initialisation and torchvision's augmentation from torch's. To resume a run exactly, all three are saved.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators for a block of code, then restore their states, after an exception too.

    Examples
    --------
    >>> with seeded(0):
    ...     a = torch.rand(2)
    >>> with seeded(0):
    ...     a.equal(torch.rand(2))
    True
    """
    with unchanged(device):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator is the one that timm draws from
        torch.default_generator.manual_seed(seed)
        if torch.device(device).type == "cuda":
            with torch.cuda.device(device):  # it need not be the current one
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def unchanged(device: torch.device | str = "cpu") -> Iterator[None]:
    """Restore the states of the global generators after a block of code, after an exception too."""
    before = random_states(device)
    try:
        yield
    finally:
        set_random_states(before, device)


def random_states(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, torch and a CUDA device, as numbers and tensors."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - a tuple, typed as one or a dict
    name, keys, *rest = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if torch.device(device).type == "cuda" else None,
    }


def set_random_states(states: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Restore the states that `random_states` returned."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
