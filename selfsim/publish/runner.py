"""Execute the chapters of a run list, several at a time, and keep what is finished.

Each chapter has a kernel, a process of its own that :mod:`selfsim.publish.kernels` starts. So it gets its share of the
cores through the environment, a crash costs one chapter, and the kernels end with this process.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..checks import check_integer
from ..files import locked_directory, write_atomic
from .chapter import ChapterError, run_chapter
from .cores import thread_share
from .digests import chapter_fingerprint
from .kernels import kernel_server
from .parameters import read_notebook
from .run_list import Chapter, RunList


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
            facts = page_facts(page)
            if facts.get("fingerprint") == fingerprint and facts.get("runs", "") == _runs_read(chapter):
                report(f"{chapter.name}: kept from an earlier run", progress)
            else:
                tasks.append(_task(chapter, page, fingerprint, cell_timeout))
        try:
            _execute(tasks, max(1, min(jobs, len(tasks))), run_list.imports, progress)
        finally:
            made = {task["name"] for task in tasks}
            for chapter, page in zip(run_list.chapters, pages, strict=True):
                if chapter.name in made:
                    _note_runs(page, fingerprints[chapter.name], _runs_read(chapter))
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


def _runs_read(chapter: Chapter) -> str:
    """Return a digest of the finished training runs that a chapter finds; empty unless it reads those of others."""
    folder = chapter.parameters.get("runs")
    if not chapter.reads_runs or not isinstance(folder, str):
        return ""
    names = sorted(file.parent.name for file in Path(folder).glob("*/SHA256SUMS"))
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _note_runs(page: Path, fingerprint: str, runs: str) -> None:
    """Write into a page which runs there are at the end, also its own: with others, it is made again."""
    facts = page_facts(page)
    if facts.get("fingerprint") == fingerprint and facts.get("runs", "") != runs:
        notebook = json.loads(page.read_text(encoding="utf-8"))
        notebook["metadata"]["selfsim"]["runs"] = runs
        write_atomic(page, (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode())


def report(line: str, progress: bool) -> None:
    """Write a line to stderr, above a progress bar if there is one; nothing without `progress`."""
    if progress:
        tqdm.write(line, file=sys.stderr)


def _task(chapter: Chapter, page: Path, fingerprint: str, cell_timeout: float | None) -> dict[str, Any]:
    if page.exists() and not page_facts(page):
        raise FileExistsError(f"{page}: selfsim did not make this file; move it, or choose another place")
    notebook = str(chapter.notebook.absolute())
    facts = {"notebook": notebook, "page": page, "fingerprint": fingerprint, "cell_timeout": cell_timeout}
    return vars(chapter) | facts


def _execute(tasks: Sequence[dict[str, Any]], jobs: int, imports: Sequence[str], progress: bool) -> None:
    if not tasks:
        return
    # Each chapter that ended: its name, its seconds, and those of its cells, or why it failed.
    events: queue.Queue[tuple[str, float, list[float] | ChapterError]] = queue.Queue()
    waiting, failures = list(tasks), list[ChapterError]()
    running, done = dict[str, threading.Thread](), dict[str, tuple[float, list[float]]]()
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

        def run(task: Mapping[str, Any]) -> None:
            started = time.monotonic()
            try:
                outcome: list[float] | ChapterError = run_chapter(task, kernels, environment, bar.update)
            except ChapterError as error:
                outcome = error
            except Exception as error:  # what waits for the chapter is to learn of its end
                outcome = ChapterError(f"chapter {task['name']!r}: {type(error).__name__}: {error}")
            events.put((task["name"], time.monotonic() - started, outcome))

        while running or (waiting and not failures):
            while not failures and len(running) < jobs and (task := _ready(waiting, running)):
                waiting.remove(task)
                running[task["name"]] = threading.Thread(target=run, args=[task], daemon=True)
                running[task["name"]].start()
                bar.set_postfix_str(", ".join(running))
            name, seconds, outcome = events.get()
            running.pop(name)
            if isinstance(outcome, ChapterError):
                failures.append(outcome)
            else:
                done[name] = seconds, outcome
            ended = f"{len(tasks) - len(waiting) - len(running)} of {len(tasks)}"
            report(f"{name}: {'done' if name in done else 'failed'} in {seconds:.0f} s ({ended})", progress)
    if failures:
        raise failures[0]
    if len(done) > 1:
        report(_longest(done), progress)


def _ready(waiting: Sequence[dict[str, Any]], running: Collection[str]) -> dict[str, Any] | None:
    """The first waiting task that reads from no chapter which is still to be made."""
    pending = {*running, *(task["name"] for task in waiting)}
    return next((task for task in waiting if pending.isdisjoint(task["after"])), None)


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


def _longest(done: Mapping[str, tuple[float, list[float]]]) -> str:
    """The chapters in a table, the longest first, each with its three longest cells."""
    lines = [f"{'seconds':>8}  chapter: longest cells"]
    for name, (seconds, cells) in sorted(done.items(), key=lambda item: -item[1][0]):
        longest = sorted(enumerate(cells, 1), key=lambda item: -item[1])[:3]
        text = ", ".join(f"{of_cell:.0f} s in cell {number}" for number, of_cell in longest if of_cell >= 1)
        lines.append(f"{seconds:8.0f}  {name}: {text}".rstrip(": "))
    return "\n".join(lines)
