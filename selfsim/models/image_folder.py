"""A data set that is a folder of pictures per class."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..checks import optional_package
from .images import Images, as_split, in_memory
from .subsets import divide, subset

FOLDER_NEED = "need a directory with a folder of images per class, or with train/ and test/ of such"


def folder_images(root: Path, pixels: int | None, limits, *, title: str) -> Images:
    ImageFolder = optional_package("torchvision.datasets", extra="models").ImageFolder

    if not root.is_dir():
        raise FileNotFoundError(f"data_dir: no directory {str(root)!r}; {FOLDER_NEED}")
    if pixels is None:
        raise ValueError("pixels: got None for a folder of images, need the height and width to bring them to")

    def listed(part: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        try:
            found = ImageFolder(root / part if part else root)
        except FileNotFoundError as error:
            raise ValueError(
                f"data_dir: {str(root / part)!r} has a class without images ({error}); {FOLDER_NEED}"
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
            train, validation = divide(labels, max(len(labels) // 10, len(classes)))
            val_paths, val_labels, val_classes = paths[validation], labels[validation], classes
            paths, labels = paths[train], labels[train]
        if not classes == test_classes == val_classes:
            raise ValueError(
                f"data_dir: the parts of {str(root)!r} have different classes, need the same folders in each"
            )
    else:
        all_paths, all_labels, classes = listed("train" if "train" in have else "")
        rest, test = divide(all_labels, max(len(all_labels) * 15 // 100, len(classes)))
        train, validation = (rest[i] for i in divide(all_labels[rest], max(len(all_labels) * 15 // 100, len(classes))))
        (paths, labels), (val_paths, val_labels), (test_paths, test_labels) = (
            (all_paths[i], all_labels[i]) for i in (train, validation, test)
        )
    parts = []
    for part, targets, limit in (
        (paths, labels, limits[0]),
        (val_paths, val_labels, limits[1]),
        (test_paths, test_labels, limits[2]),
    ):
        keep = subset(targets, limit)
        parts.append(as_split(_decoded(part[keep], pixels), targets[keep]))
    copy = " (JPEG copy)" if title.startswith("CIFAR") and str(paths[0]).lower().endswith((".jpg", ".jpeg")) else ""
    return in_memory(title + copy, parts, pixels, classes)


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
