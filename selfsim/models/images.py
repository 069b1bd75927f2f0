"""Images in memory, in three parts that never mix: train, validation and test."""

from __future__ import annotations

import hashlib
import json
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

    @property
    def part_fingerprints(self) -> dict[str, str]:
        """SHA-256 of "train", "validation", "test", "classes" and "normalisation": what differs between two data sets.

        A part's fingerprint covers its images and labels in their order. It depends on neither the device, the memory
        format nor the default dtype. The normalisation counts to six digits, since sums differ by rounding.

        Notes
        -----
        Computed at each access, because tensors can change: 0.5 s for 50,000 images of 32 pixels.
        """
        normalisation = [[f"{value:.6g}" for value in values] for values in (self.mean, self.std)]
        return {
            "train": _sha256(self.train.images, self.train.labels),
            "validation": _sha256(self.validation.images, self.validation.labels),
            "test": _sha256(self.test.images, self.test.labels),
            "classes": hashlib.sha256(json.dumps(list(self.classes)).encode()).hexdigest(),
            "normalisation": hashlib.sha256(json.dumps(normalisation).encode()).hexdigest(),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that training and evaluation take from this data set, as 64 hexadecimal digits.

        It changes with every pixel, label, class name, the order of the images, and their division into parts; not
        with the title, the device or torch's default dtype. `part_fingerprints` shows which part differs.

        Examples
        --------
        >>> from selfsim import load_images
        >>> load_images("digits").fingerprint == load_images("digits", train_images=100).fingerprint
        False
        """
        return hashlib.sha256(json.dumps(self.part_fingerprints).encode()).hexdigest()

    def prepared(self, images: Tensor) -> Tensor:
        """Network input: uint8 images as float32, per channel of mean 0 and standard deviation 1 over training."""
        # float32 whatever the caller's default dtype: a run must not depend on it.
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1) * 255
            for values in (self.mean, self.std)
        )
        return (images.float() - mean) / std

    def batches(self, split: str = "validation", *, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Prepared batches of a split in its own order, for `selfsim.activations` or an evaluation."""
        part: Split = getattr(self, check_choice(split, ("train", "validation", "test"), name="split"))
        for images, labels in zip(part.images.split(batch_size), part.labels.split(batch_size), strict=True):
            yield self.prepared(images), labels


def _sha256(images: Tensor, labels: Tensor) -> str:
    """SHA-256 of images and labels; labels count as int64 in little-endian order on every machine."""
    digest = hashlib.sha256(json.dumps([str(images.dtype), list(images.shape)]).encode())
    for part in images.split(4096):  # no second copy of the whole
        digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy())
    digest.update(labels.detach().cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


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
