"""One cell of a sweep: execute it on a worker, and find out its status and cost from its folder."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..files import files_state
from ..publish.chapter import ChapterError
from ..publish.parameters import notebook_parameters
from ..publish.run_list import Chapter
from ..publish.runner import execute_chapter, page_facts
from .grid import Cell

if TYPE_CHECKING:
    from ..models.images import Images

Status = Literal["done", "begun", "missing", "damaged"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a cell ended."""

    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    traceback: str = ""  # empty if the cell is done
    death: Literal["", "kernel", "process", "worker"] = ""  # what died, so that another attempt may succeed


def run_cell(cell: Cell, folder: Path, *, cell_timeout: int | None = None) -> Outcome:
    """Train or execute a cell in a folder that all workers share, from where it was left."""
    started = time.monotonic()
    outcome = Outcome()
    with warnings.catch_warnings(record=True) as caught:
        try:
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder}: this worker does not see the sweep's folder; all must share it")
            if isinstance(cell.work, Chapter):
                _execute(cell.work, cell, folder, cell_timeout)
            else:
                # Not above: a worker that executes notebooks need not load torch.
                from ..training.loop import train

                of = cell.work.images
                train(cell.work, images=_images(files_state(of["data_dir"]), **of), runs=folder)
        except ChapterError as error:
            outcome = Outcome(traceback=str(error), death=error.death)
        except Exception:
            outcome = Outcome(traceback=traceback.format_exc())
    messages = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    return replace(outcome, seconds=time.monotonic() - started, warnings=messages)


@lru_cache(maxsize=1)
def _images(state: str | None, **wanted: Any) -> Images:
    """The images of the last cell, or new ones where files have changed: decoding can take longer than a cell."""
    from ..training.data_record import load_and_remember

    return load_and_remember(wanted)


def _execute(chapter: Chapter, cell: Cell, folder: Path, cell_timeout: int | None) -> None:
    parameters = dict(chapter.parameters)
    if "runs" in notebook_parameters(chapter.notebook):
        # What it trains is kept here, so that another attempt continues it.
        parameters = {"runs": str(folder / cell.name)} | parameters
    page = folder / f"{cell.name}.ipynb"
    chapter = replace(chapter, parameters=parameters)
    execute_chapter(chapter, page, fingerprint=cell.fingerprint, cell_timeout=cell_timeout)


def cell_progress(
    cell: Cell, folder: Path, *, state_of: Callable[[Any], str | None] | None = None
) -> tuple[Status, tuple[float, int] | None]:
    """Return the status of a cell and, of a done one, the seconds and bytes that it took, if its files say so.

    A damaged run is never trained again over its files: its owner decides. `state_of` is `files_state`, or one that
    remembers its answers.

    Raises
    ------
    ValueError
        The cell is done, with other images than those of today.
    """
    page, directory = folder / f"{cell.name}.ipynb", folder / cell.name
    unfinished: Status = "begun" if directory.is_dir() else "missing"
    if isinstance(cell.work, Chapter):
        facts = page_facts(page)
        if facts.get("fingerprint") != cell.fingerprint:
            return unfinished, None
    else:
        from ..files import files_state
        from ..training.runs import DamagedRunError, check_run_data, load_run

        try:
            run = load_run(directory)
        except FileNotFoundError:
            return unfinished, None
        except DamagedRunError:
            return "damaged", None
        check_run_data(replace(run, config=cell.work), directory, state_of=state_of or files_state)
        facts = run.environment
    if not isinstance(facts.get("seconds"), int | float):
        return "done", None
    return "done", (facts["seconds"], sum(f.stat().st_size for f in [page, *directory.rglob("*")] if f.is_file()))
