"""The data sets by name, loaded into memory."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checks import check_choice, check_integer, optional_package
from ..files import locked_directory
from .image_files import read_images
from .image_folder import FOLDER_NEED, PARTS, list_images, visible_folders
from .images import Images, Split
from .splits import Part

_DOWNLOADS = ".downloads.lock"  # one process at a time fetches data
# Titles in figures and tables; a folder's title is its own name.
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
    data_dir: str | os.PathLike[str] | None = None,
    pixels: int | None = None,
    train_images: int | None = None,
    validation_images: int | None = None,
    test_images: int | None = None,
    subset: int = 0,
    download: bool = False,
) -> Images:
    """Load a data set into memory, split into train, validation and test.

    Parameters
    ----------
    dataset : {"digits", "cifar10", "cifar100", "imagenette", "folder"}
        "digits" comes with scikit-learn: 1,797 real handwritten digits of 8 by 8 pixels, no network needed. "cifar10"
        and "cifar100" are read from torchvision's files or from folders of images, "imagenette" from its folders.
        "folder" is any directory with one folder of images per class, directly or inside ``train``, ``val`` and
        ``test``.
    data_dir : path, optional
        Directory of the data; needed for all but "digits". ``~`` is the home directory.
    pixels : int, optional
        Resize to this height and width. By default digits and CIFAR keep their own size; "folder" needs it.
    train_images, validation_images, test_images : int, optional
        Number of images of each part, drawn evenly over classes, the same ones in every call; by default all. Without
        `validation_images`, `test_images` limits validation too.
    subset : int
        Which of the possible draws of `train_images`, at least 0. Validation and test stay the same.
    download : bool
        Let torchvision fetch "cifar10", "cifar100" or "imagenette" into `data_dir` if they are missing.

    Returns
    -------
    Images

    Raises
    ------
    ValueError
        An unknown data set, a directory without images or with folders of unclear meaning, an image that cannot be
        read (with its path), or a number of images that cannot be drawn.
    FileNotFoundError
        Missing data, with the remedy. No other data set ever replaces them.

    Warns
    -----
    UserWarning
        A folder beside ``train`` or image files of other formats are not read.

    Notes
    -----
    Images stay in memory as bytes: 50,000 images of 32 pixels take 150 MB. If the data have no validation part, a tenth
    of the training images becomes one (of the digits, a sixth). If a folder has ``train`` and ``val`` only, as
    Imagenette, ``val`` is the test set, because results elsewhere are reported on it.

    Pictures are turned as their EXIF orientation says, resized on their short side and cropped to the middle. Pictures
    of 16 bits are scaled to 8. ``training``, ``valid``, ``validation``, ``dev`` and ``testing`` are known as names of
    parts, in upper or lower case. Hidden files and folders are never read.

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
    subset = check_integer(subset, name="subset", least=0)
    if dataset == "digits":
        title, parts, classes = _digits()
    elif not data_dir:
        raise FileNotFoundError(f"data_dir: got none; {FOLDER_NEED if dataset == 'folder' else _remedy(dataset)}")
    else:
        root = Path(os.path.expanduser(data_dir))
        if dataset == "folder":
            title, parts, classes = _folder(root, pixels, title=root.resolve().name)
        elif dataset == "imagenette":
            title, parts, classes = _imagenette(root, pixels or 224, download)
        else:
            title, parts, classes = _cifar(dataset, root, pixels, download)
    for (argument, number), part in zip(sizes.items(), parts, strict=True):
        if number is not None and number > len(part):
            raise ValueError(f"{argument}: got {number}, but there are only {len(part)}; need at most these, or None")
    limits = (train_images, test_images if validation_images is None else validation_images, test_images)
    chosen = zip(parts, limits, (subset, 0, 0), strict=True)
    train, validation, test = (_split(part.limit(limit, draw=draw), pixels) for part, limit, draw in chosen)
    return Images.from_splits(title, train, validation, test, classes)


# The title, the parts train, validation and test, and the names of the classes.
_Source = tuple[str, tuple[Part, Part, Part], tuple[str, ...]]


def _digits() -> _Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Grey levels 0 to 16, scaled to bytes.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    rest, test = Part(digits.target.astype(np.int64), images.__getitem__).divide(450)
    return DATASETS["digits"], (*rest.divide(225), test), tuple("0123456789")


def _cifar_parts(torchvision_class: Any, root: Path, *, download: bool) -> list[Any]:
    return [torchvision_class(root, train=is_train, download=download) for is_train in (True, False)]


def _cifar(dataset: str, root: Path, pixels: int | None, download: bool) -> _Source:
    if not root.is_dir() and not download:
        raise FileNotFoundError(f"data_dir: no directory {str(root)!r}; {_remedy(dataset)}")
    if root.is_dir() and any(PARTS.get(folder.name.lower()) == "train" for folder in visible_folders(root)):
        classes, samples = list_images(root)
        number = dataset.removeprefix("cifar")
        if len(classes) != int(number):
            raise ValueError(f"data_dir: {str(root)!r} has {len(classes)} classes, need the {number} of {dataset}")
        is_jpeg = samples["train"][0][0].lower().endswith((".jpg", ".jpeg"))
        title = DATASETS[dataset] + (" (JPEG copy)" if is_jpeg else "")
        return title, _folder_parts(samples, len(classes), pixels or 32), classes
    datasets = optional_package("torchvision.datasets", extra="models")
    torchvision_class = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    parts = partial(_cifar_parts, torchvision_class, root)
    try:
        try:
            train, test = parts(download=False)
        except RuntimeError:
            if not download:
                raise
            root.mkdir(parents=True, exist_ok=True)
            with locked_directory(root, name=_DOWNLOADS, wait=True):  # another process may have fetched them meanwhile
                train, test = parts(download=True)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"data_dir: {str(root)!r} does not have {dataset} or is incomplete ({error}); {_remedy(dataset)}"
        ) from error
    train_part, test_part = (
        Part(np.asarray(part.targets, dtype=np.int64), part.data.__getitem__) for part in (train, test)
    )
    return DATASETS[dataset], (*train_part.divide(len(train_part) // 10), test_part), tuple(train.classes)


def _imagenette(root: Path, pixels: int, download: bool) -> _Source:
    size = "160px" if pixels <= 160 else "320px"
    folder = root / f"imagenette2-{size[:3]}"
    if download and not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with locked_directory(root, name=_DOWNLOADS, wait=True):
            if not folder.is_dir():
                datasets = optional_package("torchvision.datasets", extra="models")
                datasets.Imagenette(root, split="train", size=size, download=True)
    if not folder.is_dir():
        raise FileNotFoundError(f"data_dir: no directory {str(folder)!r}; {_remedy('imagenette')}")
    return _folder(folder, pixels, title=DATASETS["imagenette"])


def _folder(root: Path, pixels: int | None, *, title: str) -> _Source:
    if pixels is None:
        raise ValueError("pixels: got None for a folder of images, need the height and width to resize them to")
    classes, samples = list_images(root)
    return title, _folder_parts(samples, len(classes), pixels), classes


def _folder_parts(samples: dict[str, list[tuple[str, int]]], classes: int, pixels: int) -> tuple[Part, Part, Part]:
    """Return train, validation and test; divide what has no folder from train.

    A tenth of the images becomes validation; if test is missing too, 15% become validation and 15% test.
    """

    def part_of(pairs: list[tuple[str, int]]) -> Part:
        paths = np.array([path for path, _ in pairs])
        labels = np.array([label for _, label in pairs], dtype=np.int64)
        return Part(labels, lambda indices: read_images(paths[indices], pixels))

    parts = {name: part_of(pairs) for name, pairs in samples.items()}
    train = parts["train"]
    if len(parts) == 3:
        return train, parts["validation"], parts["test"]
    if len(parts) == 2:
        return *train.divide(max(len(train) // 10, classes)), parts["test" if "test" in parts else "validation"]
    number = max(len(train) * 15 // 100, classes)
    rest, test = train.divide(number)
    return *rest.divide(number), test


def _remedy(dataset: str) -> str:
    return f"need the directory that has {dataset}, or download=True to fetch it into data_dir"


def _split(part: Part, pixels: int | None) -> Split:
    """Read the images of a part, at the size that is given."""
    array = part.read(np.arange(len(part)))
    images = torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    if pixels is not None and images.shape[-1] != pixels:
        resize = partial(torch.nn.functional.interpolate, size=(pixels, pixels), mode="bilinear", antialias=True)
        images = torch.cat([resize(some.float()).round().byte() for some in images.split(4096)])
    return Split(images, torch.from_numpy(part.labels))
