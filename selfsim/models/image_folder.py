"""Folders of images, one folder a class: the files of each class and part."""

from __future__ import annotations

import difflib
import mimetypes
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..files import walk

FOLDER_NEED = "need a directory with a folder of images per class, or with train/ and test/ of such"
# The part of the data that a folder of this name holds, in lower case.
PARTS = dict(
    train="train", training="train", val="validation", valid="validation", validation="validation", dev="validation",
    test="test", testing="test",
)  # fmt: skip
_SUFFIXES = {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Operating systems and storage servers make these beside the data, and folders whose names begin with a dot.
_NO_DATA = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def list_images(root: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int]]]]:
    """Return the names of the classes, and the path and label of each image of "train", "validation" and "test".

    A part without a folder is left out. Class folders directly in `root` are the part "train".

    Raises
    ------
    FileNotFoundError
        `root` is not a directory.
    ValueError
        Folders whose meaning is unclear, fewer than two classes, parts with different classes, or a
        class without images.

    Notes
    -----
    Images are ordered by folder, then by name. Every split depends on this order.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir: no directory {str(root)!r}; {FOLDER_NEED}")
    folders = _part_folders(root)
    classes = [folder.name for folder in visible_folders(folders["train"])]
    if len(classes) < 2:
        raise _unusable(folders["train"], "has only one folder of images" if classes else "has no folders of images")
    for folder in folders.values():
        differing = {inside.name for inside in visible_folders(folder)} ^ set(classes)
        if differing:
            raise _unusable(root, f"has parts with different classes ({_listed(differing)} in one of two only)")
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
    """Return the folder of each part; if `root` holds the class folders, `root` as "train"."""
    folders = visible_folders(root)
    named = [folder for folder in folders if folder.name.lower() in PARTS]
    # One folder called "train" or "test" among others, with images and no folders inside, is a class.
    if not (len(named) > 1 or (named and named == folders) or any(map(visible_folders, named))):
        _check_class_folders(root, folders)
        return {"train": root}
    parts: dict[str, Path] = {}
    for folder in named:
        first = parts.setdefault(PARTS[folder.name.lower()], folder)
        if first != folder:
            raise _unusable(root, f"has both {first.name!r} and {folder.name!r} for one part")
    if "train" not in parts:
        raise _unusable(root, f"has {_listed(folder.name for folder in named)} but no train/")
    _check_other_folders([folder for folder in folders if folder not in named], parts["train"])
    return parts


def _check_class_folders(root: Path, folders: list[Path]) -> None:
    """Raise if folders look like parts, or like classes that are divided into parts."""
    for folder in folders:
        inside = [inner.name for inner in visible_folders(folder)]
        divided = len({PARTS[name.lower()] for name in inside if name.lower() in PARTS}) > 1
        if inside and (divided or len(folders) == 1 or all(_resembles_part(f.name) for f in folders)):
            raise _unusable(root, f"may hold parts or classes: its folder {folder.name!r} has {_listed(inside)}")


def _check_other_folders(others: list[Path], train: Path) -> None:
    """Raise if a folder with images beside "train" may be a part; warn of any other."""
    classes = {folder.name for folder in visible_folders(train)}
    for folder in others:
        if not any(map(_is_image, _visible_files(folder))):
            continue
        if _resembles_part(folder.name) or classes & {inner.name for inner in visible_folders(folder)}:
            raise _unusable(folder, f"may be a part; rename it to one of {', '.join(PARTS)}, or move it away")
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
        raise _unusable(folder, "is a class without images")
    others = [p for p in files if not _is_image(p) and (mimetypes.guess_type(p)[0] or "").startswith("image/")]
    if others:
        warnings.warn(
            f"data_dir: {len(others)} files of {str(folder)!r} are not read, such as {others[0]!r}; convert them to "
            "one of " + ", ".join(sorted(_SUFFIXES)),
            stacklevel=6,
        )
    return images


def _visible_files(folder: Path) -> Iterator[str]:
    for place, names in sorted(walk(folder, onerror=_raise)):
        if all(map(_is_visible, Path(place).relative_to(folder).parts)):
            yield from (os.path.join(place, name) for name in sorted(names) if _is_visible(name))


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in _SUFFIXES


def _raise(error: OSError) -> None:
    raise error


def _unusable(folder: Path, why: str) -> ValueError:
    return ValueError(f"data_dir: {str(folder)!r} {why}; {FOLDER_NEED}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))
