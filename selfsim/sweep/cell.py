"""One cell of a sweep: doing it (on whichever worker gets it), and what a folder says of it."""

from __future__ import annotations

import json
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..publish.parameters import notebook_parameters
from ..publish.run_list import Chapter
from ..publish.runner import ChapterError, execute_chapter, page_facts
from .grid import Cell


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a cell ended."""

    seconds: float = 0.0
    warned: tuple[str, ...] = ()
    failure: str = ""  # the traceback; empty if the cell is done
    died: bool = False  # ended from outside: worth another attempt


def do_cell(cell: Cell, folder: Path) -> Outcome:
    """Do a cell in a folder that all workers share: from where it was left, or not at all if it is done."""
    started, failure, died = time.monotonic(), "", False
    with warnings.catch_warnings(record=True) as caught:
        try:
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"{folder}: this worker does not see the sweep's folder; need one that all share"
                )
            if isinstance(cell.work, Chapter):
                _execute(cell, folder)
            else:
                _train(cell, folder)
        except ChapterError as error:
            failure, died = str(error), error.died
        except Exception:
            failure = traceback.format_exc()
    warned = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    return Outcome(time.monotonic() - started, warned, failure, died)


def _train(cell: Cell, folder: Path) -> None:
    # Not above: a worker that executes notebooks need not load torch.
    from ..training.loop import train
    from ..training.runs import is_finished

    if not is_finished(folder / cell.name):
        train(cell.work, images=_images(**cell.work.images), runs=folder)


@lru_cache(maxsize=1)
def _images(**wanted):
    """The images of the last cell, or new ones: a worker does many cells, and decoding can take longer than a cell."""
    from ..models.data import load_images

    return load_images(**wanted)


def _execute(cell: Cell, folder: Path) -> None:
    chapter, parameters = cell.work, dict(cell.work.parameters)
    if "runs" in notebook_parameters(chapter.notebook):
        # What it trains lives here, so that another attempt goes on with it.
        parameters = {"runs": str(folder / cell.name)} | parameters
    page = folder / f"{cell.name}.ipynb"
    execute_chapter(replace(chapter, parameters=parameters), page, fingerprint=cell.fingerprint)


def state(cell: Cell, folder: Path) -> str:
    """Return ``"done"``, ``"begun"`` or ``"missing"``."""
    if isinstance(cell.work, Chapter):
        done = page_facts(folder / f"{cell.name}.ipynb").get("fingerprint") == cell.fingerprint
    else:
        from ..training.runs import is_finished

        done = is_finished(folder / cell.name)
    return "done" if done else "begun" if (folder / cell.name).is_dir() else "missing"


def cost(cell: Cell, folder: Path) -> tuple[float, int]:
    """Return the seconds and the bytes that a cell which is done took."""
    page, own = folder / f"{cell.name}.ipynb", folder / cell.name
    if isinstance(cell.work, Chapter):
        seconds = page_facts(page)["seconds"]
    else:
        seconds = json.loads((own / "environment.json").read_text(encoding="utf-8"))["seconds"]
    return seconds, sum(file.stat().st_size for file in [page, *own.rglob("*")] if file.is_file())
