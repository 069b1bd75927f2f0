"""The data sets by name, loaded into memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..checks import check_choice, check_integer, optional_package
from .image_folder import FOLDER_NEED, folder_images
from .images import Images, Split, as_split, in_memory
from .subsets import divide, subset

# With the names that a reader knows; those of a folder are its own.
DATASETS = {
    "digits": "handwritten digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenette": "Imagenette",
    "folder": "a folder of images",
}


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
    >>> sizes = len(digits.train), len(digits.validation), len(digits.test)
    >>> *sizes, digits.channels, digits.pixels
    (1122, 225, 450, 1, 8)
    """
    check_choice(dataset, DATASETS, name="dataset")
    sizes = {"train_images": train_images, "validation_images": validation_images, "test_images": test_images}
    for argument, value in {"pixels": pixels, **sizes}.items():
        if value is not None:
            check_integer(value, name=argument)
    limits = (train_images, test_images if validation_images is None else validation_images, test_images)
    if dataset == "digits":
        return _digits(pixels, limits)
    if not data_dir:
        need = FOLDER_NEED if dataset == "folder" else _remedy(dataset)
        raise FileNotFoundError(f"data_dir: got none; {need}")
    root = Path(data_dir).expanduser()
    if dataset == "folder":
        return folder_images(root, pixels, limits, title=root.name)
    if dataset == "imagenette":
        return _imagenette(root, pixels or 224, limits, download)
    return _cifar(dataset, root, pixels, limits, download)


def _remedy(dataset: str) -> str:
    return f"need the directory that has {dataset}, or download=True to fetch it into data_dir"


def _digits(pixels: int | None, limits) -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Grey levels 0 to 16, brought to bytes.
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    rest, test = divide(labels.numpy(), 450)
    train, validation = (rest[part] for part in divide(labels.numpy()[rest], 225))
    indices = zip((train, validation, test), limits, strict=True)
    parts = (_limited(Split(images[i], labels[i]), limit) for i, limit in indices)
    return in_memory(DATASETS["digits"], parts, pixels, tuple(str(c) for c in range(10)))


def _cifar(dataset: str, root: Path, pixels: int | None, limits, download: bool) -> Images:
    if (root / "train").is_dir():
        found = folder_images(root, pixels or 32, limits, title=DATASETS[dataset])
        if len(found.classes) != int(dataset[5:]):
            raise ValueError(
                f"data_dir: {str(root)!r} has {len(found.classes)} classes, need the {dataset[5:]} of {dataset}"
            )
        return found
    if not root.is_dir() and not download:
        raise FileNotFoundError(f"data_dir: no directory {str(root)!r}; {_remedy(dataset)}")
    datasets = optional_package("torchvision.datasets", extra="models")

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    try:
        whole, test = (source(root, train=train, download=download) for train in (True, False))
    except RuntimeError as error:
        raise FileNotFoundError(
            f"data_dir: {str(root)!r} does not have it, or not whole ({error}); {_remedy(dataset)}"
        ) from error
    labels = np.asarray(whole.targets)
    train, validation = divide(labels, len(labels) // 10)
    pieces = ((whole, train), (whole, validation), (test, np.arange(len(test.targets))))
    parts = (
        _limited(as_split(part.data[i], np.asarray(part.targets)[i]), limit)
        for (part, i), limit in zip(pieces, limits, strict=True)
    )
    return in_memory(DATASETS[dataset], parts, pixels, tuple(whole.classes))


def _imagenette(root: Path, pixels: int, limits, download: bool) -> Images:
    datasets = optional_package("torchvision.datasets", extra="models")

    size = "160px" if pixels <= 160 else "320px"
    place = root / f"imagenette2-{size[:3]}"
    if download and not place.is_dir():
        datasets.Imagenette(root, split="train", size=size, download=True)
    if not place.is_dir():
        raise FileNotFoundError(f"data_dir: no directory {str(place)!r}; {_remedy('imagenette')}")
    return folder_images(place, pixels, limits, title=DATASETS["imagenette"])


def _limited(split: Split, limit: int | None) -> Split:
    keep = torch.from_numpy(subset(split.labels.numpy(), limit))
    return Split(split.images[keep], split.labels[keep])
