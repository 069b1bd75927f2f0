"""Folders that are made anew: only those that this program made, and training runs never.

Each has a stamp, a file that says so. A folder without it is somebody else's and is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..files import write_atomic
from .digests import run_digest

STAMP = ".selfsim"
# The name of the stamp in folders of runs that older versions made.
_OLD_STAMP = ".package"


def check_replaceable(folder: str | Path) -> None:
    """Raise ``FileExistsError`` unless `folder` is missing, empty or made by this program."""
    folder = Path(folder)
    names = {place.name for place in folder.iterdir()} if folder.is_dir() else set()
    if _stamp(folder) is None and (folder.is_file() or names - {f"{STAMP}.partial"}):
        raise FileExistsError(
            f"{folder}: selfsim did not make this folder (it has no file {STAMP}); move it, or choose another place"
        )


def replace_folder(folder: str | Path, new: str | Path) -> None:
    """Put the folder `new` in the place of `folder`, and stamp it.

    Raises
    ------
    FileExistsError
        `folder` is not one that this program made.
    """
    folder, new = Path(folder), Path(new)
    check_replaceable(folder)
    write_atomic(new / STAMP, b"")
    with tempfile.TemporaryDirectory(prefix=".old-", dir=folder.parent) as old:
        if folder.exists():
            folder.rename(Path(old) / folder.name)
        new.rename(folder)


def folder_for_runs(folder: str | Path, given: Sequence[tuple[str, str]] = ()) -> tuple[Path, list[Path]]:
    """Make `folder` one for training runs of this version of the code; keep those of other versions beside it.

    Runs depend on the code that computes them and on the parameters that are given to all chapters, so `folder` holds
    those of one version and the same `given`: a page that reads all runs of the folder would mix them. Where it holds
    others, it is renamed to ``NAME-DIGEST``; where such runs were renamed earlier, they come back.

    Returns
    -------
    Path
        `folder`, with its stamp.
    list of Path
        The folders beside it with other runs.

    Raises
    ------
    FileExistsError
        `folder` has files and no stamp: this program did not make it.
    """
    folder, digest = Path(folder), run_digest()
    if given:
        digest = hashlib.sha256(json.dumps([digest, sorted(dict(given).items())]).encode()).hexdigest()
    check_replaceable(folder)
    stamp = _stamp(folder)
    if stamp is not None and stamp != digest:
        folder.rename(_free_name(folder, stamp))
    earlier = folder.with_name(f"{folder.name}-{digest[:12]}")
    if not folder.exists() and _stamp(earlier) == digest:
        earlier.rename(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / STAMP, digest.encode())
    others = [place for place in folder.parent.glob(f"{folder.name}-*") if _stamp(place) is not None]
    return folder, sorted(others)


def _stamp(folder: Path) -> str | None:
    """What the stamp in a folder says; None without one."""
    for name in (STAMP, _OLD_STAMP):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8", errors="replace").strip()
    return None


def _free_name(folder: Path, stamp: str) -> Path:
    version = stamp[:12] if re.fullmatch("[0-9a-f]{64}", stamp) else "unknown"
    names = [f"{folder.name}-{version}", *(f"{folder.name}-{version}-{number}" for number in range(2, 1000))]
    return next(place for name in names if not (place := folder.with_name(name)).exists())
