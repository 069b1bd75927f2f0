"""Files that are whole or not there, and checkpoints that know whether they are whole."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import warnings
from pathlib import Path

import torch

from ..files import write_atomic

# Two, so that one is left when the other turns out to be damaged.
KEPT = 2


def checkpoint_files(directory: Path) -> dict[tuple[int, int], Path]:
    """Position (whole epochs, steps after them) -> file, the oldest first."""
    found = {}
    for path in directory.glob("checkpoint-*.pt"):
        if match := re.fullmatch(r"checkpoint-(\d+)-(\d+)\.pt", path.name):
            found[int(match[1]), int(match[2])] = path
    return dict(sorted(found.items()))


def save_checkpoint(directory: Path, position: tuple[int, int], state: dict) -> None:
    """Save a state of tensors, numbers, strings and containers of them; the last two checkpoints are kept.

    A checkpoint is a line with the SHA-256 of the rest, and what `torch.save` makes.

    Raises
    ------
    OSError
        It cannot be written; earlier checkpoints are intact.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest()
    epochs, steps = position
    write_atomic(directory / f"checkpoint-{epochs:05d}-{steps:07d}.pt", digest.encode() + b"\n", payload)
    for path in list(checkpoint_files(directory).values())[:-KEPT]:
        path.unlink()


def read_checkpoint(path: Path) -> dict:
    """Read one checkpoint; nothing that is in it is executed.

    Raises
    ------
    ValueError
        Its SHA-256 is not that of its content, or it holds more than plain data.
    """
    digest, _, payload = path.read_bytes().partition(b"\n")
    if digest != hashlib.sha256(payload).hexdigest().encode():
        raise ValueError(f"checkpoint: {str(path)!r} is damaged, its SHA-256 is not that of its content")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"checkpoint: {str(path)!r} is not one of selfsim's ({error})") from error


def last_checkpoint(directory: Path) -> dict | None:
    """The newest checkpoint that is whole, or None; each damaged one is said so and put out of the way."""
    for path in reversed(checkpoint_files(directory).values()):
        try:
            return read_checkpoint(path)
        except ValueError as error:
            # Renamed, so that it does not count as one of the last two.
            os.replace(path, path.with_name("damaged-" + path.name))
            warnings.warn(f"{error}; going on from the one before it, or from the start", stacklevel=2)
    return None
