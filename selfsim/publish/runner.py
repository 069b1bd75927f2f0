"""Execute the chapters of a run list, several at a time, and keep what is finished.

Each chapter has a kernel, a process of its own that :mod:`selfsim.publish.kernels` starts. So it gets its share of the
cores through the environment, a crash costs one chapter, and the kernels end with this process.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from ..checks import check_integer
from ..files import locked_directory
from .chapter import ChapterRun
from .cores import thread_share
from .digests import chapter_fingerprint
from .kernels import KernelServer, kernel_server
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
        _execute(tasks, max(1, min(jobs, len(tasks))), run_list.imports, progress)
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
    _execute([_task(chapter, page, fingerprint, cell_timeout)], 1, (), progress=False)


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


def _execute(tasks: Sequence[dict[str, Any]], jobs: int, imports: Sequence[str], progress: bool) -> None:
    if not tasks:
        return
    events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    waiting, failures = list(tasks), list[ChapterError]()
    running, done = dict[str, threading.Thread](), dict[str, dict[str, Any]]()
    total = sum(len(read_notebook(task["notebook"]).cells) for task in tasks)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="selfsim-")))
        stack.callback(_join, running)  # once the kernels have ended
        environment = _environment(scratch, jobs)
        # A single chapter imports only what it needs.
        shared = imports if len(tasks) > 1 else ()
        kernels = stack.enter_context(kernel_server(shared, environment=environment, log=scratch / "log"))
        # disable=None: no bar where stderr is no terminal.
        bar = stack.enter_context(tqdm(total=total, unit="cell", leave=False, disable=None if progress else True))
        while running or (waiting and not failures):
            while not failures and len(running) < jobs and (task := _ready(waiting, running)):
                waiting.remove(task)
                running[task["name"]] = _start(task, kernels, environment, events)
                bar.set_postfix_str(", ".join(running))
            name, event = events.get()
            if event["event"] == "cell":
                bar.update()
                continue
            running.pop(name)
            if event["event"] == "done":
                done[name] = event
            else:
                task = next(task for task in tasks if task["name"] == name)
                failures.append(_failure(task, event, scratch / "log"))
            ended = f"{len(tasks) - len(waiting) - len(running)} of {len(tasks)}"
            report(f"{name}: {event['event']} in {event['seconds']:.0f} s ({ended})", progress)
    if failures:
        raise failures[0]
    if len(done) > 1:
        report(_longest(done), progress)


def _ready(waiting: Sequence[dict[str, Any]], running: Collection[str]) -> dict[str, Any] | None:
    """The first waiting task that reads from no chapter which is still to be made."""
    pending = {*running, *(task["name"] for task in waiting)}
    return next((task for task in waiting if pending.isdisjoint(task["after"])), None)


def _start(
    task: dict[str, Any],
    kernels: KernelServer | None,
    environment: Mapping[str, str],
    events: queue.Queue,
) -> threading.Thread:
    """Start a chapter; its events go to the queue, with its name."""
    run = ChapterRun(task, kernels, environment, lambda event: events.put((task["name"], event)))
    thread = threading.Thread(target=run.run, daemon=True)
    thread.start()
    return thread


def _join(threads: Mapping[str, threading.Thread]) -> None:
    for thread in threads.values():
        thread.join(timeout=5)


def _environment(scratch: Path, jobs: int) -> dict[str, str]:
    defaults = thread_share(jobs)
    # tqdm warns, with a path of this machine, that it can draw no widgets; a page could not show them.
    defaults["PYTHONWARNINGS"] = "ignore:IProgress not found"
    # What a kernel sets for itself, too late for an import before it.
    defaults["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    # A profile of its own: a user's start-up files must not change a page.
    return defaults | os.environ | {"IPYTHONDIR": str(scratch / "ipython")}


def _failure(task: Mapping[str, Any], event: Mapping[str, Any], log: Path) -> ChapterError:
    notebook, number, death = task["notebook"], event["number"], event["death"]
    where = f"cell {number} of {notebook}" if number else notebook
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:] if death and log.is_file() else []
    details = "\n".join([event["source"], "", *lines, event["traceback"]])
    return ChapterError(f"chapter {task['name']!r}: {where} failed\n\n{details}", death=death)


def _longest(done: Mapping[str, Mapping[str, Any]]) -> str:
    """The chapters in a table, the longest first, each with its three longest cells."""
    lines = [f"{'seconds':>8}  chapter: longest cells"]
    for name, event in sorted(done.items(), key=lambda item: -item[1]["seconds"]):
        cells = sorted(enumerate(event["cells"], 1), key=lambda item: -item[1])[:3]
        longest = ", ".join(f"{seconds:.0f} s in cell {number}" for number, seconds in cells if seconds >= 1)
        lines.append(f"{event['seconds']:8.0f}  {name}: {longest}".rstrip(": "))
    return "\n".join(lines)
