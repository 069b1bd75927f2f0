"""Images in memory, in three parts that never mix: train, validation and test."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_choice, check_integer

# The mean and the standard deviation of the pixels are taken over about this many training images.
_MEASURED_IMAGES = 5000
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
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

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            got = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise ValueError(f"images: got {got}, need uint8 of shape (N, channels, pixels, pixels)")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels: got shape {tuple(self.labels.shape)}, need {tuple(self.images.shape[:1])}")
        if self.labels.is_floating_point():
            raise ValueError(f"labels: got {self.labels.dtype}, need whole numbers, torch.int64")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """Return the same images and labels on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Images:
    """A data set in memory.

    Attributes
    ----------
    title : str
        Name in figures and tables.
    train, validation, test : Split
        Validation serves every choice; test is evaluated once, at the end.
    classes : tuple of str
        Names of the classes, in the order of their labels.
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

    @classmethod
    def from_splits(cls, title: str, train: Split, validation: Split, test: Split, classes: tuple[str, ...]) -> Images:
        """Return a data set of three parts, with the mean and standard deviation of its training images."""
        step = max(1, len(train) // _MEASURED_IMAGES)
        pixel_values = train.images[::step].double() / 255
        mean, std = pixel_values.mean((0, 2, 3)), pixel_values.std((0, 2, 3)).clamp(min=1e-3)
        return cls(title, train, validation, test, classes, tuple(mean.tolist()), tuple(std.tolist()))

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def pixels(self) -> int:
        return self.train.images.shape[2]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that training and evaluation take from this data set, as 64 hexadecimal digits.

        It changes with every pixel, label and class name, with the order of the images and with their division into
        parts. It does not depend on the title, the device, the memory format or torch's default dtype.

        See Also
        --------
        part_fingerprints : which part differs between two data sets

        Notes
        -----
        Computed at each access, because tensors can change. Takes 0.5 s for 50,000 images of 32 pixels.

        Examples
        --------
        >>> from selfsim import load_images
        >>> load_images("digits").fingerprint == load_images("digits", train_images=100).fingerprint
        False
        """
        return _sha256(self.part_fingerprints)

    @property
    def part_fingerprints(self) -> dict[str, str]:
        """SHA-256 of "train", "validation", "test", "classes" and "normalisation", to see which of them differ.

        The normalisation (`mean` and `std`) counts to six digits, since sums differ by rounding between machines.
        """
        return {
            **{split: _split_sha256(getattr(self, split)) for split in _SPLITS},
            "classes": _sha256(list(self.classes)),
            "normalisation": _sha256([[f"{value:.6g}" for value in values] for values in (self.mean, self.std)]),
        }

    def prepared(self, images: Tensor) -> Tensor:
        """Return network input: float32, with mean 0 and standard deviation 1 per channel over the training images."""
        mean, std = (_of_pixels(tuple(values), images.device) for values in (self.mean, self.std))
        return (images.float() - mean) / std

    def batches(self, split: str = "validation", *, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield prepared images and labels of "train", "validation" or "test", in the order of the split."""
        part: Split = getattr(self, check_choice(split, _SPLITS, name="split"))
        size = check_integer(batch_size, name="batch_size")
        for images, labels in zip(part.images.split(size), part.labels.split(size), strict=True):
            yield self.prepared(images), labels


@functools.lru_cache(maxsize=16)
def _of_pixels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one number for each channel on the scale 0 to 255; kept, because a GPU would wait for it in every step."""
    # float32 whatever the caller's default dtype, and no inference tensor: a run must not depend on the first caller.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1) * 255


def _split_sha256(split: Split) -> str:
    """Hash the dtype, shape and bytes of the images, then the labels as little-endian int64."""
    digest = hashlib.sha256(json.dumps([str(split.images.dtype), list(split.images.shape)]).encode())
    for images in split.images.split(4096):  # never a second copy of all images
        digest.update(images.detach().cpu().contiguous().view(torch.uint8).numpy())
    digest.update(split.labels.detach().cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _sha256(values: list | dict) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
