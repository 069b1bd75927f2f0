"""Execute the chapters of a run list, several at a time, and keep what is finished.

Each chapter runs in a process of its own (:mod:`selfsim.publish.chapter_process`). So it gets its share of the cores
through the environment, a crash costs one chapter, and the processes end with this one: they watch the pipe from which
they read their task.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from ..checks import check_integer
from ..files import locked_directory
from .cores import thread_share
from .digests import chapter_fingerprint
from .parameters import read_notebook
from .run_list import Chapter, RunList

# What ended a chapter from outside; empty if a cell failed.
Death = Literal["", "kernel", "process"]


class ChapterError(RuntimeError):
    """A chapter failed; the message names notebook and cell, and holds the cell's source and its traceback.

    Attributes
    ----------
    death : {"", "kernel", "process"}
        What died, so that another attempt may succeed; empty if the cell itself failed.
    """

    def __init__(self, message: str, *, death: Death = "") -> None:
        super().__init__(message)
        self.death = death


class _Running(NamedTuple):
    task: dict[str, Any]
    process: subprocess.Popen[bytes]
    started: float


def execute(
    run_list: RunList,
    directory: str | Path,
    *,
    jobs: int | None = None,
    cell_timeout: float | None = None,
    progress: bool = True,
) -> list[Path]:
    """Execute every chapter of a run list whose page is missing or out of date, and return all pages.

    A page is kept if its notebook, parameters, title and introduction, the code of the package and the chapters and
    files that it reads are those that it was made from. A chapter waits for the chapters that it reads from. Pages are
    replaced in one step, so each is intact at any time; an old one stays until its successor is done.

    Parameters
    ----------
    run_list : RunList
    directory : str or Path
        Where the executed notebooks go; made if missing.
    jobs : int, optional
        Chapters at a time; by default what the run list says. The cores are divided among them, unless the
        environment already sets the number of threads.
    cell_timeout : float, optional
        Seconds after which a cell has failed; by default none.
    progress : bool
        Whether to report on stderr what is kept, done or failed; on a terminal with a bar that counts cells.

    Returns
    -------
    list of Path
        The executed notebooks, in the order of the run list.

    Raises
    ------
    ChapterError
        A cell failed or a kernel died. No further chapter was started; running ones were finished and kept.
    ValueError
        `jobs` is less than one.
    FileExistsError
        A page of that name is there which this program did not make.
    BlockingIOError
        Another run is writing to the same directory.
    """
    jobs = check_integer(run_list.jobs if jobs is None else jobs, name="jobs")
    directory = Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    pages, tasks, fingerprints = [], [], dict[str, str]()
    with locked_directory(directory):
        for chapter in run_list.chapters:
            page = directory / f"{chapter.name}.ipynb"
            fingerprint = chapter_fingerprint(chapter, [fingerprints[name] for name in chapter.after])
            fingerprints[chapter.name] = fingerprint
            pages.append(page)
            if page_facts(page).get("fingerprint") == fingerprint:
                report(f"{chapter.name}: kept from an earlier run", progress)
            else:
                tasks.append(_task(chapter, page, fingerprint, cell_timeout))
        _execute(tasks, max(1, min(jobs, len(tasks))), progress)
    return pages


def execute_chapter(chapter: Chapter, page: Path, *, fingerprint: str, cell_timeout: float | None = None) -> None:
    """Execute one chapter, on all the cores that the environment leaves to it.

    Raises
    ------
    ChapterError
        A cell failed or the kernel died.
    FileExistsError
        `page` is there and this program did not make it.
    """
    _execute([_task(chapter, page, fingerprint, cell_timeout)], 1, progress=False)


def page_facts(page: Path) -> dict[str, Any]:
    """Return the facts that an executed page holds about its making (fingerprint, seconds …); empty if it has none."""
    try:
        return dict(json.loads(page.read_text(encoding="utf-8"))["metadata"]["selfsim"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def report(line: str, progress: bool) -> None:
    """Write a line to stderr, above a progress bar if there is one; nothing without `progress`."""
    if progress:
        tqdm.write(line, file=sys.stderr)


def _task(chapter: Chapter, page: Path, fingerprint: str, cell_timeout: float | None) -> dict[str, Any]:
    if page.exists() and not page_facts(page):
        raise FileExistsError(f"{page}: selfsim did not make this file; move it, or choose another place")
    return asdict(chapter) | {
        "notebook": str(chapter.notebook.absolute()),
        "page": str(page),
        "reads": [str(folder) for folder in chapter.reads],
        "fingerprint": fingerprint,
        "cell_timeout": cell_timeout,
    }


def _execute(tasks: list[dict[str, Any]], jobs: int, progress: bool) -> None:
    events: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()
    waiting, failures = list(tasks), list[ChapterError]()
    running, outcomes = dict[str, _Running](), dict[str, dict[str, Any]]()
    total = sum(len(read_notebook(task["notebook"]).cells) for task in tasks)
    # disable=None: no bar where stderr is no terminal.
    bar = tqdm(total=total, unit="cell", leave=False, disable=None if progress else True)
    with tempfile.TemporaryDirectory(prefix="selfsim-") as scratch:
        try:
            while running or (waiting and not failures):
                while not failures and len(running) < jobs and (task := _ready(waiting, running)):
                    waiting.remove(task)
                    running[task["name"]] = _start(task, Path(scratch), jobs, events)
                    bar.set_postfix_str(", ".join(running))
                name, event = events.get()
                if event is not None:
                    bar.update(event["event"] == "cell")
                    outcomes[name] = event
                    continue
                task, process, started = running.pop(name)
                code, outcome = process.wait(), outcomes.get(name, {})
                _close_input(process)
                done = outcome.get("event") == "done"
                if not done:
                    failures.append(_failure(task, outcome, code, Path(scratch) / f"{name}.log"))
                ended = f"{len(tasks) - len(waiting) - len(running)} of {len(tasks)}"
                seconds = time.monotonic() - started
                report(f"{name}: {'done' if done else 'failed'} in {seconds:.0f} s ({ended})", progress)
        finally:
            bar.close()
            _stop([chapter.process for chapter in running.values()])
    if failures:
        raise failures[0]


def _ready(waiting: Sequence[dict[str, Any]], running: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first waiting task that reads from no chapter which is still to be made."""
    pending = {*running, *(task["name"] for task in waiting)}
    return next((task for task in waiting if pending.isdisjoint(task["after"])), None)


def _start(task: dict[str, Any], scratch: Path, jobs: int, events: queue.Queue) -> _Running:
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
        # A process that is killed may leave half a line; its end is reported all the same.
        with process.stdout or contextlib.nullcontext(()) as lines, contextlib.suppress(ValueError):
            for line in lines:
                events.put((task["name"], json.loads(line)))
        events.put((task["name"], None))

    # A process that dies before it has read its task is reported by its exit.
    with contextlib.suppress(BrokenPipeError):
        if process.stdin:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
    threading.Thread(target=forward, daemon=True).start()
    return _Running(task, process, time.monotonic())


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the processes that are still running, as after Ctrl-C: closing their input ends them."""
    for process in processes:
        _close_input(process)
    for process in processes:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _close_input(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):
        if process.stdin:
            process.stdin.close()


def _environment(scratch: Path, jobs: int) -> dict[str, str]:
    defaults = thread_share(jobs)
    # tqdm warns, with a path of this machine, that it can draw no widgets; a page could not show them.
    defaults["PYTHONWARNINGS"] = "ignore:IProgress not found"
    # A profile of its own: a user's start-up files must not change a page.
    return defaults | os.environ | {"IPYTHONDIR": str(scratch / "ipython")}


def _failure(task: dict[str, Any], outcome: dict[str, Any], code: int, log: Path) -> ChapterError:
    notebook, number = task["notebook"], outcome.get("number")
    where = f"cell {number} of {notebook}" if number else notebook
    if outcome.get("event") == "failed":
        details = f"{outcome['source']}\n\n{outcome['traceback']}"
        death: Death = "kernel" if outcome["kernel_died"] else ""
    else:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        details = "\n".join([*lines[-30:], f"its process ended with exit code {code}"])
        death = "" if code == 1 else "process"
    return ChapterError(f"chapter {task['name']!r}: {where} failed\n\n{details}", death=death)
