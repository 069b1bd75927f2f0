"""Images in memory, in three parts that never mix: train, validation and test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import check_choice


@dataclass(frozen=True)
class Split:
    """Images and their classes.

    Attributes
    ----------
    images : Tensor, shape (N, channels, pixels, pixels)
        uint8, 0 to 255.
    labels : Tensor, shape (N,)
        int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    Attributes
    ----------
    title : str
        What figures call it.
    train, validation, test : Split
        Choices are made on validation; test is looked at once, at the end.
    classes : tuple of str
    mean, std : tuple of float
        Per channel, of the training images on the scale 0 to 1.
    """

    title: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def pixels(self) -> int:
        return self.train.images.shape[2]

    def prepared(self, images: Tensor) -> Tensor:
        """Network input: uint8 images as float32, per channel of mean 0 and standard deviation 1 over training."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(shape) * 255
        std = torch.tensor(self.std, device=images.device).view(shape) * 255
        return (images.float() - mean) / std

    def batches(self, split: str = "validation", *, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Prepared batches of a split in its own order, for `selfsim.activations` or an evaluation."""
        part: Split = getattr(self, check_choice(split, ("train", "validation", "test"), name="split"))
        for images, labels in zip(part.images.split(batch_size), part.labels.split(batch_size), strict=True):
            yield self.prepared(images), labels


def as_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """From ``(N, height, width, channels)`` bytes."""
    return Split(
        torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), torch.from_numpy(labels.astype(np.int64))
    )


def in_memory(title: str, parts, pixels: int | None, classes: tuple[str, ...]) -> Images:
    train, validation, test = (_resized(part, pixels) for part in parts)
    pixel_values = train.images[:: max(1, len(train) // 5000)].double() / 255
    mean, std = pixel_values.mean((0, 2, 3)), pixel_values.std((0, 2, 3)).clamp(min=1e-3)
    return Images(title, train, validation, test, classes, tuple(mean.tolist()), tuple(std.tolist()))


def _resized(split: Split, pixels: int | None) -> Split:
    if pixels is None or split.images.shape[-1] == pixels:
        return split
    resized = [
        torch.nn.functional.interpolate(part.float(), (pixels, pixels), mode="bilinear", antialias=True).round().byte()
        for part in split.images.split(4096)
    ]
    return Split(torch.cat(resized), split.labels)
