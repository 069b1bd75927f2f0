"""Which data a run was trained on: a record that is stored with the run and compared before it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import files_state
from ..models.data import load_images
from ..models.images import Images

if TYPE_CHECKING:
    from .config import TrainConfig
    from .runs import Run

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


def trained_on(run: Run, fingerprints: Mapping[str, str]) -> bool:
    """Whether a run was trained on images with these `part_fingerprints`; True of runs of versions without a record."""
    there = fingerprints_of(run)
    return not there or there == fingerprints


def fingerprints_of(run: Run) -> Mapping[str, str]:
    """Return the fingerprints of a run's images, part by part; empty for runs of versions without a record."""
    return (run.environment.get("data") or {}).get("fingerprints", {})


def same_data_set(one: TrainConfig, other: TrainConfig) -> bool:
    """Whether two configurations have one data set and size; folders of images are one if they lie at one place."""
    places = [Path(config.data_dir or "").expanduser().resolve() for config in (one, other)]
    same_place = one.dataset != "folder" or places[0] == places[1]
    return (one.dataset, one.size) == (other.dataset, other.size) and same_place


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
