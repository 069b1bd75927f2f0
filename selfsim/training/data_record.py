"""Which data a run was trained on: a record that is stored with the run and compared before it goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import walk
from ..models.data import load_images
from ..models.images import Images

# Records of the data that this process has loaded, by the arguments of `load_images` and the state of its files.
_LOADED: dict[tuple[str, str | None], dict[str, Any]] = {}


def data_record(images: Images) -> dict[str, Any]:
    """Return the number of images in each part, and the fingerprint of each part, as JSON can hold them."""
    sizes = {part: len(getattr(images, part)) for part in ("train", "validation", "test")}
    return {"images": sizes, "fingerprints": images.part_fingerprints}


def load_and_remember(options: Mapping[str, Any]) -> Images:
    """Load images by the arguments of `load_images`, and remember their record for `record_of`."""
    key = _key(options)
    images = load_images(**options)
    _LOADED[key] = data_record(images)
    return images


def record_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of the data that `load_images` gives for `options`; loaded once as long as no file changes."""
    key = _key(options)
    if key not in _LOADED:
        load_and_remember(options)
    return _LOADED[key]


def _key(options: Mapping[str, Any]) -> tuple[str, str | None]:
    return json.dumps(dict(options)), files_state(options["data_dir"])


def files_state(data_dir: str | os.PathLike | None) -> str | None:
    """Return a SHA-256 over names, sizes and times of all files in a data directory; None if there is no directory.

    It changes with the data, and costs one walk over the directory instead of decoding the images.
    """
    root = Path(data_dir).expanduser() if data_dir else None
    if root is None or not root.is_dir():
        return None
    facts = []
    for folder, names in walk(root):
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):  # removed meanwhile
                try:
                    status = path.stat()
                except OSError:  # a link to nothing, to itself, or to what may not be read
                    status = path.lstat()
                facts.append((path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()


def check_same_data(
    there: Mapping[str, Any] | None,
    here: Mapping[str, Any],
    *,
    where: str,
    need: str = "the same data, or another directory",
) -> None:
    """Raise ``ValueError`` with what differs between two data records; runs of earlier versions (None) have none.

    Parameters
    ----------
    there, here : mapping
        As `data_record` returns them: those of the stored run or configuration, and the present ones.
    where : str
        What `there` belongs to, for the message.
    need : str
        What would help, for the message.
    """
    if there is None:
        return
    changes = []
    for part, fingerprint in here["fingerprints"].items():
        old, new = (record["images"].get(part) for record in (there, here))
        if old != new:
            changes.append(f"{part} has {old} images there and {new} here")
        elif there["fingerprints"].get(part) != fingerprint:
            changes.append(f"{part} differs" if old is None else f"{part} has other pixels or labels")
    if changes:
        raise ValueError(f"images: not the data of {where} ({'; '.join(changes)}); need {need}")
