"""Pictures in folders, one folder a class: which files belong to which part, and their pixels."""

from __future__ import annotations

import difflib
import mimetypes
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER_NEED = "need a directory with a folder of images per class, or with train/ and test/ of such"
# Part of the data by the name of its folder, in lower case.
PARTS = dict(
    train="train", training="train", val="validation", valid="validation", validation="validation", dev="validation",
    test="test", testing="test",
)  # fmt: skip
_SUFFIXES = {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Made by operating systems and storage servers beside the data, besides all names that begin with a dot.
_NO_DATA = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def list_images(root: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int]]]]:
    """Return the names of the classes, and for each part that has a folder its images, as pairs of path and label.

    Class folders directly in `root` are listed as the part "train".

    Raises
    ------
    FileNotFoundError
        `root` is not a directory.
    ValueError
        Folders whose meaning is unclear, parts with different classes, or a class without images.

    Notes
    -----
    The order of the images, by folder and then by name, is part of every split: it must stay.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir: no directory {str(root)!r}; {FOLDER_NEED}")
    folders = _part_folders(root)
    classes = [folder.name for folder in visible_folders(folders["train"])]
    if not classes:
        raise ValueError(f"data_dir: {str(folders['train'])!r} has no folders of images; {FOLDER_NEED}")
    for folder in folders.values():
        differing = {inside.name for inside in visible_folders(folder)} ^ set(classes)
        if differing:
            raise ValueError(
                f"data_dir: {str(folders['train'])!r} and {str(folder)!r} have different classes "
                f"({_listed(differing)} in one only), need the same folders in each"
            )
    samples = {
        part: [(path, label) for label, name in enumerate(classes) for path in _images_in(folder / name)]
        for part, folder in folders.items()
    }
    return tuple(classes), samples


def visible_folders(root: Path) -> list[Path]:
    """Return the folders directly in `root` that may hold data, by name."""
    with os.scandir(root) as entries:
        return [root / name for name in sorted(entry.name for entry in entries if entry.is_dir()) if _is_visible(name)]


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _NO_DATA


def _part_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each part; `root` itself as "train" where it holds the class folders."""
    folders = visible_folders(root)
    named = [folder for folder in folders if folder.name.lower() in PARTS]
    # A single folder called "train" or "test" that holds pictures itself is a class among others.
    if not (len(named) > 1 or (named and named == folders) or any(map(visible_folders, named))):
        _check_class_folders(root, folders)
        return {"train": root}
    parts: dict[str, Path] = {}
    for folder in named:
        first = parts.setdefault(PARTS[folder.name.lower()], folder)
        if first != folder:
            raise ValueError(
                f"data_dir: {str(root)!r} has both {first.name!r} and {folder.name!r}, need one folder for each part"
            )
    if "train" not in parts:
        raise ValueError(f"data_dir: {str(root)!r} has {_listed(f.name for f in folders)} but no train/; {FOLDER_NEED}")
    _check_other_folders([folder for folder in folders if folder not in named], parts["train"])
    return parts


def _check_class_folders(root: Path, folders: list[Path]) -> None:
    """Raise for folders that look like parts, or like classes divided into parts, and not like classes."""
    for folder in folders:
        inside = [inner.name for inner in visible_folders(folder)]
        divided = len({PARTS[name.lower()] for name in inside if name.lower() in PARTS}) > 1
        if inside and (divided or len(folders) == 1 or all(_resembles_part(f.name) for f in folders)):
            raise ValueError(
                f"data_dir: unclear whether the folders of {str(root)!r} are classes: {folder.name!r} has "
                f"{_listed(inside)}; {FOLDER_NEED}"
            )


def _check_other_folders(others: list[Path], train: Path) -> None:
    """Raise for a folder with images beside "train" that may be a part; warn of any other."""
    classes = {folder.name for folder in visible_folders(train)}
    for folder in others:
        if not any(map(_is_image, _visible_files(folder))):
            continue
        if _resembles_part(folder.name) or classes & {inner.name for inner in visible_folders(folder)}:
            known = ", ".join(PARTS)
            raise ValueError(
                f"data_dir: {str(folder)!r} may be a part of the data; rename it to one of {known}, or move it away"
            )
        warnings.warn(f"data_dir: {str(folder)!r} is not read; {FOLDER_NEED}", stacklevel=6)


def _resembles_part(name: str) -> bool:
    """Whether a name is close to that of a part: "train2017", "test_images", "trian"."""
    words = re.split(r"[^a-z]+", name.lower())
    return any(word in PARTS for word in words) or bool(difflib.get_close_matches(name.lower(), PARTS, cutoff=0.7))


def _images_in(folder: Path) -> list[str]:
    """Return the paths of the images of a class; warn of images in formats that are not read."""
    files = list(_visible_files(folder))
    images = [path for path in files if _is_image(path)]
    if not images:
        raise ValueError(f"data_dir: {str(folder)!r} is a class without images; {FOLDER_NEED}")
    others = [p for p in files if not _is_image(p) and (mimetypes.guess_type(p)[0] or "").startswith("image/")]
    if others:
        warnings.warn(
            f"data_dir: {len(others)} files of {str(folder)!r} are not read, such as {others[0]!r}; convert them to "
            "one of " + ", ".join(sorted(_SUFFIXES)),
            stacklevel=6,
        )
    return images


def _visible_files(folder: Path) -> Iterator[str]:
    for place, _, names in sorted(os.walk(folder, followlinks=True, onerror=_raise)):
        if all(map(_is_visible, Path(place).relative_to(folder).parts)):
            yield from (os.path.join(place, name) for name in sorted(names) if _is_visible(name))


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in _SUFFIXES


def _raise(error: OSError) -> None:
    raise error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def read_images(paths: NDArray[np.str_], pixels: int) -> NDArray[np.uint8]:
    """Return images ``(N, pixels, pixels, 3)``: the short side resized, the middle cropped.

    Raises
    ------
    ValueError
        An image cannot be read, or not without a guess at its brightness or its frame; names the file.
    """
    from PIL import Image, ImageOps

    def read(path: str) -> NDArray[np.uint8]:
        try:
            with Image.open(path) as image:
                _check_image(image, Image.MAX_IMAGE_PIXELS)
                rgb = _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
                return np.asarray(ImageOps.fit(rgb, (pixels, pixels), Image.Resampling.BILINEAR))
        # Of Pillow and its decoders: there is no end to how a file can be broken.
        except Exception as error:
            raise ValueError(
                f"data_dir: cannot read the image {path!r} ({error}); restore, convert or delete this file"
            ) from error

    with ThreadPoolExecutor() as pool:  # decoding releases Python's lock
        return np.stack(list(pool.map(read, paths.tolist(), chunksize=64)))


def _check_image(image: Image, most_pixels: int | None) -> None:
    """Raise for an image of unknown brightness, of several frames, or too large to be decoded unasked."""
    if not _has_known_range(image):
        raise ValueError(f"mode {image.mode!r} has no known range of brightness, need 8 or 16 bits")
    frames = getattr(image, "n_frames", 1)
    # The second frame of MPO, a kind of JPEG that cameras write, is a preview or the other eye's view.
    if frames > 1 and image.format != "MPO":
        raise ValueError(f"{frames} frames, need one")
    if most_pixels is not None and image.width * image.height > most_pixels:
        raise ValueError(f"{image.width} x {image.height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS = {most_pixels}")


def _has_known_range(image: Image) -> bool:
    """Whether 0 is black and the largest number of the mode white: so in 8 bits, and in 16 bits without a sign."""
    if image.mode in ("F", "I"):
        return image.mode == "I" and image.format in ("PNG", "PPM")  # older versions of Pillow give 16 bits as "I"
    tags = getattr(image, "tag_v2", {})  # of TIFF: 258 is the number of bits, 262 is 0 where 0 is white
    return not image.mode.startswith("I") or (tags.get(258, (16,)) == (16,) and tags.get(262, 1) == 1)


def _eight_bits(image: Image) -> Image:
    if not image.mode.startswith("I"):
        return image
    from PIL.Image import fromarray

    return fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))  # 65535 becomes 255
