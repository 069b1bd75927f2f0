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
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .parameters import read_notebook
from .run_list import Chapter, RunList

# Every library that sizes its own pool of threads by the machine instead of by its share.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class ChapterError(RuntimeError):
    """A chapter failed; the message names notebook and cell, and holds the cell's source and its traceback.

    Attributes
    ----------
    died : bool
        Whether kernel or process were ended from outside, so that another attempt may succeed.
    """

    def __init__(self, message: str, *, died: bool = False) -> None:
        super().__init__(message)
        self.died = died


def execute(run_list: RunList, directory: str | Path, *, jobs: int | None = None, progress: bool = True) -> list[Path]:
    """Execute every chapter of a run list that is not already there.

    A chapter is kept when its notebook, parameters, title, introduction, the chapters and files that it reads from and
    the package's own source are the ones it was made from. It waits for the chapters that it reads from. Each chapter
    is written under another name and renamed when it is done, so a file of its final name is always whole.

    Parameters
    ----------
    run_list : RunList
    directory : str or Path
        Where the executed notebooks go; made if missing. Nothing is written elsewhere.
    jobs : int, optional
        Chapters at a time; by default what the run list says. The cores are divided among them, unless the
        environment already sets the number of threads.
    progress : bool
        Whether to tell on stderr what is kept, done or failed, on a terminal with a bar that counts cells.

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
    pages, tasks, fingerprints = [], [], {}
    with sole_writer(directory):
        for chapter in run_list.chapters:
            page = directory / f"{chapter.name}.ipynb"
            fingerprint = chapter_fingerprint(chapter, [fingerprints[name] for name in chapter.after])
            fingerprints[chapter.name] = fingerprint
            pages.append(page)
            if page_facts(page).get("fingerprint") == fingerprint:
                say(f"{chapter.name}: kept from an earlier run", progress)
                continue
            tasks.append(_task(chapter, page, fingerprint))
        with tempfile.TemporaryDirectory(prefix=".run-", dir=directory) as scratch:
            _execute(tasks, Path(scratch), max(1, min(jobs, len(tasks))), progress)
    return pages


def execute_chapter(chapter: Chapter, page: Path, *, fingerprint: str) -> None:
    """Execute one chapter, on all the cores that the environment leaves to it; ``ChapterError`` if that fails."""
    with tempfile.TemporaryDirectory(prefix=".run-", dir=page.parent) as scratch:
        _execute([_task(chapter, page, fingerprint)], Path(scratch), 1, progress=False)


def _task(chapter: Chapter, page: Path, fingerprint: str) -> dict[str, Any]:
    # A page from other parameters must not pass for this one if the run ends early.
    page.unlink(missing_ok=True)
    paths = {"notebook": str(chapter.notebook.absolute()), "page": str(page), "reads": [*map(str, chapter.reads)]}
    return asdict(chapter) | paths | {"fingerprint": fingerprint}


def chapter_fingerprint(chapter: Chapter, after: Sequence[str] = ()) -> str:
    """Return the sha256 of all that decides what a chapter shows: cells, parameters, package, files, others' prints."""
    cells = read_notebook(chapter.notebook).cells
    shown = [[cell.cell_type, cell.source, *map(cell.metadata.get, ("tags", "mystnb"))] for cell in cells]
    files = [_digest(folder, "*") for folder in chapter.reads]
    parts = [shown, chapter.parameters, chapter.title, chapter.intro, package_digest(), *files, *after]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def own_runs(folder: str | Path) -> Path:
    """Return a folder for training runs, made if missing, without those that another version of the package left.

    Like a chapter, a run that is kept must be one that this version makes.
    """
    folder = Path(folder)
    stamp, digest = folder / ".package", package_digest()
    if folder.is_dir() and not (stamp.is_file() and stamp.read_text(encoding="utf-8") == digest):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest, encoding="utf-8")
    return folder


def package_digest(package: Path | None = None) -> str:
    """Return the sha256 of the names and texts of a package's ``.py`` files; by default of this package."""
    return _digest(package or Path(__file__).parents[1], "*.py")


def _digest(folder: Path, names: str) -> str:
    digest = hashlib.sha256()
    for file in sorted(place for place in folder.rglob(names) if place.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def page_facts(page: Path) -> dict[str, Any]:
    """Return what an executed page says of its making (fingerprint, seconds …); empty if there is none."""
    try:
        return dict(json.loads(page.read_text(encoding="utf-8"))["metadata"]["selfsim"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _execute(tasks: list[dict[str, Any]], scratch: Path, jobs: int, progress: bool) -> None:
    events: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()
    waiting, running, outcomes = list(tasks), {}, {}
    failures: list[ChapterError] = []
    total = sum(len(read_notebook(task["notebook"]).cells) for task in tasks)
    # disable=None: no bar where stderr is no terminal.
    bar = tqdm(total=total, unit="cell", leave=False, disable=None if progress else True)
    try:
        while running or (waiting and not failures):
            while not failures and len(running) < jobs and (task := _next(waiting, running)):
                waiting.remove(task)
                running[task["name"]] = task, _start(task, scratch, jobs, events), time.monotonic()
                bar.set_postfix_str(", ".join(running))
            name, event = events.get()
            if event is not None:
                bar.update(event["event"] == "cell")
                outcomes[name] = event
                continue
            task, process, started = running.pop(name)
            code, outcome = process.wait(), outcomes.get(name, {})
            _close(process)
            if outcome.get("event") != "done":
                failures.append(_failure(task, outcome, code, scratch / f"{name}.log"))
            how = "done" if outcome.get("event") == "done" else "failed"
            ended = len(tasks) - len(waiting) - len(running)
            say(f"{name}: {how} in {time.monotonic() - started:.0f} s ({ended} of {len(tasks)})", progress)
    finally:
        bar.close()
        # Only on Ctrl-C or a fault of ours is anything still running: closing its input ends it.
        for _, process, _ in running.values():
            _close(process)
        for _, process, _ in running.values():
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if failures:
        raise failures[0]


def _next(waiting: list[dict[str, Any]], running: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first task that none of those under way or before it has results for."""
    pending = {*running, *(task["name"] for task in waiting)}
    return next((task for task in waiting if pending.isdisjoint(task["after"])), None)


def _start(task: dict[str, Any], scratch: Path, jobs: int, events: queue.Queue) -> subprocess.Popen:
    """Start a chapter's process; its events, and None at its end, go to the queue."""
    with open(scratch / f"{task['name']}.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "selfsim.publish.chapter_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(scratch, jobs),
            # Ctrl-C on a terminal reaches this process alone, which then ends the others in order.
            start_new_session=True,
        )

    def forward() -> None:
        # A process that is killed may leave half a line; its exit is reported all the same.
        with process.stdout, contextlib.suppress(ValueError):
            for line in process.stdout:
                events.put((task["name"], json.loads(line)))
        events.put((task["name"], None))

    # A process that dies before it has read its task is reported by its exit.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()
    threading.Thread(target=forward, daemon=True).start()
    return process


def _close(process: subprocess.Popen) -> None:
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _environment(scratch: Path, jobs: int) -> dict[str, str]:
    ours = thread_share(jobs)
    # tqdm warns, with a path of this machine, that it can draw no widgets; a page could not show them.
    ours["PYTHONWARNINGS"] = "ignore:IProgress not found"
    # A profile of its own: a user's start-up files must not change a page.
    return ours | os.environ | {"IPYTHONDIR": str(scratch / "ipython")}


def thread_share(jobs: int) -> dict[str, str]:
    """Return the environment variables that give each of so many processes its share of the cores."""
    return dict.fromkeys(_THREAD_VARIABLES, str(max(1, usable_cores() // jobs)))


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failure(task: dict[str, Any], outcome: dict[str, Any], code: int, log: Path) -> ChapterError:
    notebook, number = task["notebook"], outcome.get("number")
    where = f"cell {number} of {notebook}" if number else notebook
    if outcome.get("event") == "failed":
        told = f"{outcome['source']}\n\n{outcome['traceback']}"
    else:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = "\n".join([*lines[-30:], f"its process ended with exit code {code}"])
    return ChapterError(f"chapter {task['name']!r}: {where} failed\n\n{told}", died=outcome.get("died", code != 1))


def say(line: str, progress: bool) -> None:
    """Write a line to stderr, above a progress bar if there is one; nothing without `progress`."""
    if progress:
        tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def sole_writer(directory: Path) -> Iterator[None]:
    """Hold a folder of executed notebooks against other runs, and clear it of what a killed one left half done."""
    with open(directory / ".lock", "w") as lock:
        # Windows has no such locks: two runs into one directory are the user's to avoid there.
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                # Let go of by the system however this process ends.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RuntimeError(f"{directory}: another run is writing there; wait for it to end") from None
        for leftover in directory.glob(".*.ipynb.partial"):
            leftover.unlink()
        for leftover in directory.glob(".run-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
