"""Images in memory, in three parts that never mix: train, validation and test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..validation import check_choice, optional_package

DATASETS = ("digits", "cifar10", "cifar100", "imagenette", "folder")
# The split is part of the data set, not of a run: runs with different seeds share one test set.
_SPLIT_SEED = 0


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


def load_images(
    dataset: str,
    *,
    data_dir: str | os.PathLike | None = None,
    pixels: int | None = None,
    train_images: int | None = None,
    validation_images: int | None = None,
    test_images: int | None = None,
    download: bool = False,
) -> Images:
    """Load a data set into memory, split into train, validation and test.

    Parameters
    ----------
    dataset : {"digits", "cifar10", "cifar100", "imagenette", "folder"}
        "digits" comes with scikit-learn: 1,797 real handwritten digits of 8 by 8 pixels, no network needed. "cifar10"
        and "cifar100" are read from torchvision's files or from folders of images, "imagenette" from its folders,
        and "folder" is any directory with one folder of images per class, with or without ``train``, ``val`` and
        ``test`` above them.
    data_dir : path, optional
        Where the data are; needed for all but "digits".
    pixels : int, optional
        Resize to this height and width. By default digits and CIFAR keep their own size, folders need it.
    train_images, validation_images, test_images : int, optional
        Take only so many, drawn evenly over classes, always the same ones; without `validation_images`, `test_images`
        limits validation too.
    download : bool
        Let torchvision fetch "cifar10", "cifar100" or "imagenette" into `data_dir`, if they are not there.

    Returns
    -------
    Images

    Raises
    ------
    ValueError
        An unknown data set, a directory without images, a broken image, a subset that cannot be taken.
    FileNotFoundError
        Data that are not there, with what to do. No other data set is ever put in their place.

    Notes
    -----
    Images stay in memory as bytes: 50,000 images of 32 pixels take 150 MB. Where the data come without a validation
    part, a tenth of the training images (of the digits, a sixth) is set apart as such. Folders with ``train`` and
    ``val`` only, as Imagenette's, have their ``val`` as the test set, because that is what is reported elsewhere.

    Examples
    --------
    >>> digits = load_images("digits")
    >>> len(digits.train), len(digits.validation), len(digits.test), digits.channels, digits.pixels
    (1122, 225, 450, 1, 8)
    """
    check_choice(dataset, DATASETS, name="dataset")
    sizes = {"train_images": train_images, "validation_images": validation_images, "test_images": test_images}
    for argument, value in {"pixels": pixels, **sizes}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{argument}: got {value!r}, need None or a whole number of at least 1")
    limits = (train_images, test_images if validation_images is None else validation_images, test_images)
    if dataset == "digits":
        return _digits(pixels, limits)
    if not data_dir:
        raise FileNotFoundError(_remedy(dataset, "data_dir: got none"))
    root = Path(data_dir).expanduser()
    if dataset == "folder":
        return _folder(root, pixels, limits, title=root.name)
    if dataset == "imagenette":
        return _imagenette(root, pixels or 224, limits, download)
    return _cifar(dataset, root, pixels, limits, download)


def _remedy(dataset: str, problem: str) -> str:
    if dataset == "folder":
        return f"{problem}; need a directory with a folder of images per class, or with train/ and test/ of such"
    return f"{problem}; need the directory that has {dataset}, or download=True to fetch it into data_dir"


def _digits(pixels: int | None, limits) -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Grey levels 0 to 16, brought to bytes.
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    rest, test = _divide(labels.numpy(), 450)
    train, validation = (rest[part] for part in _divide(labels.numpy()[rest], 225))
    indices = zip((train, validation, test), limits, strict=True)
    parts = (_limited(Split(images[i], labels[i]), limit) for i, limit in indices)
    return _finished("handwritten digits", parts, pixels, tuple(str(c) for c in range(10)))


def _cifar(dataset: str, root: Path, pixels: int | None, limits, download: bool) -> Images:
    if (root / "train").is_dir():
        found = _folder(root, pixels or 32, limits, title=f"{dataset.upper()[:5]}-{dataset[5:]}")
        if len(found.classes) != int(dataset[5:]):
            raise ValueError(
                f"data_dir: {str(root)!r} has {len(found.classes)} classes, need the {dataset[5:]} of {dataset}"
            )
        return found
    if not root.is_dir() and not download:
        raise FileNotFoundError(_remedy(dataset, f"data_dir: no directory {str(root)!r}"))
    datasets = optional_package("torchvision.datasets", extra="models")

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    try:
        whole, test = (source(root, train=train, download=download) for train in (True, False))
    except RuntimeError as error:
        raise FileNotFoundError(
            _remedy(dataset, f"data_dir: {str(root)!r} does not have it, or not whole ({error})")
        ) from error
    labels = np.asarray(whole.targets)
    train, validation = _divide(labels, len(labels) // 10)
    pieces = ((whole, train), (whole, validation), (test, np.arange(len(test.targets))))
    parts = (
        _limited(_as_split(part.data[i], np.asarray(part.targets)[i]), limit)
        for (part, i), limit in zip(pieces, limits, strict=True)
    )
    return _finished(f"{dataset.upper()[:5]}-{dataset[5:]}", parts, pixels, tuple(whole.classes))


def _imagenette(root: Path, pixels: int, limits, download: bool) -> Images:
    datasets = optional_package("torchvision.datasets", extra="models")

    size = "160px" if pixels <= 160 else "320px"
    place = root / f"imagenette2-{size[:3]}"
    if download and not place.is_dir():
        datasets.Imagenette(root, split="train", size=size, download=True)
    if not place.is_dir():
        raise FileNotFoundError(_remedy("imagenette", f"data_dir: no directory {str(place)!r}"))
    return _folder(place, pixels, limits, title="Imagenette")


def _folder(root: Path, pixels: int | None, limits, *, title: str) -> Images:
    ImageFolder = optional_package("torchvision.datasets", extra="models").ImageFolder

    if not root.is_dir():
        raise FileNotFoundError(_remedy("folder", f"data_dir: no directory {str(root)!r}"))
    if pixels is None:
        raise ValueError("pixels: got None for a folder of images, need the height and width to bring them to")

    def listed(part: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        try:
            found = ImageFolder(root / part if part else root)
        except FileNotFoundError as error:
            raise ValueError(
                _remedy("folder", f"data_dir: {str(root / part)!r} has a class without images ({error})")
            ) from error
        paths, labels = zip(*found.samples, strict=True)
        return np.array(paths), np.array(labels), tuple(found.classes)

    have = {part for part in ("train", "val", "test") if (root / part).is_dir()}
    if have & {"val", "test"} and "train" in have:
        paths, labels, classes = listed("train")
        test_paths, test_labels, test_classes = listed("test" if "test" in have else "val")
        if {"val", "test"} <= have:
            val_paths, val_labels, val_classes = listed("val")
        else:
            train, validation = _divide(labels, max(len(labels) // 10, len(classes)))
            val_paths, val_labels, val_classes = paths[validation], labels[validation], classes
            paths, labels = paths[train], labels[train]
        if not classes == test_classes == val_classes:
            raise ValueError(
                f"data_dir: the parts of {str(root)!r} have different classes, need the same folders in each"
            )
    else:
        all_paths, all_labels, classes = listed("train" if "train" in have else "")
        rest, test = _divide(all_labels, max(len(all_labels) * 15 // 100, len(classes)))
        train, validation = (rest[i] for i in _divide(all_labels[rest], max(len(all_labels) * 15 // 100, len(classes))))
        (paths, labels), (val_paths, val_labels), (test_paths, test_labels) = (
            (all_paths[i], all_labels[i]) for i in (train, validation, test)
        )
    parts = []
    for part, targets, limit in (
        (paths, labels, limits[0]),
        (val_paths, val_labels, limits[1]),
        (test_paths, test_labels, limits[2]),
    ):
        keep = _subset(targets, limit)
        parts.append(_as_split(_decoded(part[keep], pixels), targets[keep]))
    copy = " (JPEG copy)" if title.startswith("CIFAR") and str(paths[0]).lower().endswith((".jpg", ".jpeg")) else ""
    return _finished(title + copy, parts, pixels, classes)


def _decoded(paths: np.ndarray, pixels: int) -> np.ndarray:
    """Images ``(N, pixels, pixels, 3)``, uint8: the short side resized, the middle cut out."""
    from PIL import Image, ImageOps

    def read(path: str) -> np.ndarray:
        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (pixels, pixels), Image.Resampling.BILINEAR)
                return np.asarray(fitted)
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"data_dir: cannot read the image {path!r} ({error}); restore or delete this file"
            ) from error

    with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock
        return np.stack(list(pool.map(read, paths.tolist(), chunksize=64)))


def _as_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """From ``(N, height, width, channels)`` bytes."""
    return Split(
        torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), torch.from_numpy(labels.astype(np.int64))
    )


def _divide(labels: np.ndarray, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two parts with the same share of each class, in a fixed random order; the second has `second`."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels)
    rarest = int(counts[counts > 0].min())
    if rarest < 2:
        raise ValueError(
            f"data_dir: class {int(counts.argmin())} has {rarest} image; need at least 2 of each class, better 10"
        )
    return tuple(train_test_split(np.arange(len(labels)), test_size=second, stratify=labels, random_state=_SPLIT_SEED))


def _subset(labels: np.ndarray, limit: int | None) -> np.ndarray:
    """Indices of `limit` images with the same share of each class, or of all; in a fixed random order.

    In random order, because probes read the front of a split, and folders are listed class by class.
    """
    if limit is None or limit >= len(labels):
        return np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    if limit < len(np.unique(labels)):
        raise ValueError(
            f"train_images, validation_images, test_images: got {limit}, need at least one for each of "
            f"{len(np.unique(labels))} classes"
        )
    if len(labels) - limit < len(np.unique(labels)):
        return np.random.default_rng(_SPLIT_SEED).permutation(len(labels))[:limit]
    return _divide(labels, limit)[1]


def _limited(split: Split, limit: int | None) -> Split:
    keep = torch.from_numpy(_subset(split.labels.numpy(), limit))
    return Split(split.images[keep], split.labels[keep])


def _finished(title: str, parts, pixels: int | None, classes: tuple[str, ...]) -> Images:
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
