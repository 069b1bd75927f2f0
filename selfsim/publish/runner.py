"""Execute the chapters of a run list, several at a time, and keep what is finished.

Each chapter runs in a process of its own (:mod:`selfsim.publish.chapter_process`), so that it gets its own
share of the cores through the environment, a crash costs one chapter, and the processes end when this one
does: they watch the pipe that they read their task from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from selfsim.publish.parameters import read_notebook
from selfsim.publish.progress import Silent, shown
from selfsim.publish.run_list import Chapter, RunList

# Every library that sizes its own pool of threads by the machine instead of by its share.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class ChapterError(RuntimeError):
    """A chapter failed.

    Attributes
    ----------
    notebook : Path
        The source notebook.
    chapter : str
    cell : int or None
        Number of the cell in the source notebook, counted from 1; None if it failed outside any cell.
    source : str
        The cell's source.
    traceback : str
        Plain text.
    """

    def __init__(self, notebook: Path, chapter: str, *, cell: int | None, source: str, traceback: str):
        self.notebook, self.chapter, self.cell = notebook, chapter, cell
        self.source, self.traceback = source, traceback
        where = f"cell {cell} of {notebook}" if cell else f"{notebook}"
        shown = f"\n\n{source}\n" if source else "\n"
        super().__init__(f"chapter {chapter!r}: {where} failed{shown}\n{traceback}")

    def __reduce__(self):
        return _rebuild, (self.notebook, self.chapter, self.cell, self.source, self.traceback)


def execute(run_list: RunList, directory: str | Path, *, jobs: int | None = None, progress: bool = True) -> list[Path]:
    """Execute every chapter of a run list that is not already there.

    A chapter is kept when its notebook, parameters, title, introduction and the package's own source are the
    ones it was made from. Each chapter is written under another name and renamed when it is done, so a file
    of its final name is always whole.

    Parameters
    ----------
    run_list : RunList
    directory : str or Path
        Where the executed notebooks go; made if missing. Nothing is written elsewhere.
    jobs : int, optional
        Chapters at a time; by default what the run list says. The cores are divided among them, unless the
        environment already sets the number of threads.
    progress : bool
        Whether to show progress on stderr: a bar for each chapter on a terminal, else a line.

    Returns
    -------
    list of Path
        The executed notebooks, in the order of the run list.

    Raises
    ------
    ChapterError
        A cell failed or a kernel died. No further chapter was started; those under way were finished and
        kept.
    ValueError
        `jobs` is less than one.
    RuntimeError
        Another run is writing to the same directory.
    """
    jobs = run_list.jobs if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"jobs: got {jobs}, need at least 1")
    directory = Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with _only_run(directory), shown(progress) as show:
        for leftover in (*directory.glob(".*.ipynb.partial"), *directory.glob(".run-*")):
            _remove(leftover)
        due = []
        for chapter in run_list.chapters:
            fingerprint = chapter_fingerprint(chapter)
            page = directory / f"{chapter.name}.ipynb"
            if _fingerprint_of(page) == fingerprint:
                show.kept(chapter.name)
            else:
                # A page from other parameters must not pass for this one if the run ends early.
                page.unlink(missing_ok=True)
                due.append((chapter, fingerprint))
        with tempfile.TemporaryDirectory(prefix=".run-", dir=directory) as scratch:
            _execute(due, directory, Path(scratch), min(jobs, max(1, len(due))), show)
    return [directory / f"{chapter.name}.ipynb" for chapter in run_list.chapters]


def chapter_fingerprint(chapter: Chapter) -> str:
    """Return the sha256 of all that decides what a chapter shows, as hexadecimal digits.

    That is: the type, source and tags of the notebook's cells, the parameters, title and introduction, and
    the source of the package.
    """
    notebook = read_notebook(chapter.notebook)
    parts = {
        "cells": [[c.cell_type, c.source, c.metadata.get("tags", [])] for c in notebook.cells],
        "parameters": chapter.parameters,
        "title": chapter.title,
        "intro": chapter.intro,
        "package": package_digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def package_digest(package: Path | None = None) -> str:
    """Return the sha256 of the names and texts of a package's ``.py`` files; by default of this package."""
    package = package or Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _fingerprint_of(page: Path) -> str | None:
    try:
        return json.loads(page.read_text(encoding="utf-8"))["metadata"]["selfsim"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _execute(due: list[tuple[Chapter, str]], directory: Path, scratch: Path, jobs: int, show: Silent) -> None:
    environment = _environment(scratch, jobs)
    events: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()
    waiting = list(reversed(due))
    running: dict[str, tuple[Chapter, subprocess.Popen]] = {}
    outcomes: dict[str, dict[str, Any]] = {}
    errors: list[ChapterError] = []
    try:
        while running or (waiting and not errors):
            while waiting and not errors and len(running) < jobs:
                chapter, fingerprint = waiting.pop()
                process = _start(chapter, fingerprint, directory, scratch, environment, events)
                running[chapter.name] = (chapter, process)
                show.started(chapter.name, len(due))
            name, event = events.get()
            if event is None:
                chapter, process = running.pop(name)
                code = process.wait()
                _close(process.stdin)
                outcome = outcomes.pop(name, None)
                if outcome is None:
                    outcome = {"event": "failed", "traceback": _crash(scratch, name, code)}
                if outcome["event"] == "done":
                    show.done(name)
                else:
                    show.failed(name)
                    errors.append(_chapter_error(chapter, outcome))
            elif event["event"] == "cell":
                show.cell(name, event["number"], event["cells"])
            else:
                outcomes[name] = event
    finally:
        # Only on Ctrl-C or a fault of ours is anything still running: closing its input ends it.
        for _, process in running.values():
            _close(process.stdin)
        for _, process in running.values():
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if errors:
        raise errors[0]


def _start(
    chapter: Chapter,
    fingerprint: str,
    directory: Path,
    scratch: Path,
    environment: dict[str, str],
    events: queue.Queue,
) -> subprocess.Popen:
    task = {
        "chapter": chapter.name,
        "notebook": str(chapter.notebook.absolute()),
        "parameters": chapter.parameters,
        "title": chapter.title,
        "intro": chapter.intro,
        "fingerprint": fingerprint,
        "partial": str(directory / f".{chapter.name}.ipynb.partial"),
        "page": str(directory / f"{chapter.name}.ipynb"),
    }
    with open(scratch / f"{chapter.name}.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "selfsim.publish.chapter_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            # Ctrl-C on a terminal reaches this process alone, which then ends the others in order.
            start_new_session=True,
        )

    def forward() -> None:
        # A process that is killed may leave half a line; its exit is reported all the same.
        with process.stdout, contextlib.suppress(ValueError):
            for line in process.stdout:
                events.put((chapter.name, json.loads(line)))
        events.put((chapter.name, None))

    # A process that dies before it has read its task is reported by its exit.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()
    threading.Thread(target=forward, daemon=True).start()
    return process


def _close(pipe: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


def _environment(scratch: Path, jobs: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(1, cores // jobs))
    environment = dict.fromkeys(_THREAD_VARIABLES, share) | dict(os.environ)
    # Connection files and IPython's profile stay here; a user's own start-up files must not change a page.
    environment["JUPYTER_RUNTIME_DIR"] = str(scratch / "jupyter")
    environment["IPYTHONDIR"] = str(scratch / "ipython")
    return environment


def _crash(scratch: Path, name: str, code: int) -> str:
    log = (scratch / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip()
    return f"its process ended with exit code {code}\n" + "\n".join(log.splitlines()[-30:])


def _chapter_error(chapter: Chapter, outcome: dict[str, Any]) -> ChapterError:
    return ChapterError(
        chapter.notebook,
        chapter.name,
        cell=outcome.get("cell"),
        source=outcome.get("source", ""),
        traceback=outcome["traceback"],
    )


def _rebuild(notebook: Path, chapter: str, cell: int | None, source: str, traceback: str) -> ChapterError:
    return ChapterError(notebook, chapter, cell=cell, source=source, traceback=traceback)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_run(directory: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: two runs into one directory are the user's to avoid
        yield
        return
    with open(directory / ".lock", "w") as lock:
        try:
            # Let go of by the system however this process ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RuntimeError(f"{directory}: another run is writing there; wait for it to end") from None
        yield
