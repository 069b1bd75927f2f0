"""The process that executes one chapter: a task on stdin, events on stdout, the finished notebook on disk.

Run by :mod:`selfsim.publish.runner` as ``python -m selfsim.publish.chapter_process``. The task is one line of
JSON; each event is one too: ``cell`` when a cell starts, then ``done`` or ``failed``. When stdin closes,
whoever started this process has gone, and it ends together with its kernel.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from selfsim.publish.parameters import read_notebook

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HEADING = re.compile(r"^#{1,6}[ \t].*$", re.MULTILINE)
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python"}
_INJECTED = "injected-parameters"


class _Chapter:
    """One notebook on its way from source to page."""

    def __init__(self, task: dict[str, Any], send: Any) -> None:
        self.task, self.send = task, send
        self.kernel_pid: int | None = None
        self.cell: tuple[int, str] | None = None
        cells = read_notebook(task["notebook"]).cells
        self.cells = len(cells)
        self.injected = any(_INJECTED in cell.metadata.get("tags", []) for cell in cells)
        self.shift = 0

    def run(self) -> None:
        """Execute, tidy up, write and rename; then send ``done`` or ``failed``."""
        import papermill
        from nbclient.exceptions import CellExecutionError, DeadKernelError

        task, started = self.task, time.monotonic()
        try:
            notebook = papermill.execute_notebook(
                task["notebook"],
                None,
                parameters=task["parameters"],
                kernel_name="python3",
                language="python",
                progress_bar=False,
                kernel_manager_class=_own_kernel(self),
                # The user's history is neither read nor written.
                extra_arguments=["--HistoryManager.enabled=False"],
                on_cell_start=self._cell_started,
            )
        except papermill.PapermillExecutionError as error:
            self.cell = (error.cell_index + 1 - self.shift, error.source)
            self._failed("\n".join(error.traceback) or f"{error.ename}: {error.evalue}")
        except (CellExecutionError, DeadKernelError) as error:
            self._failed(str(error))
        else:
            seconds = time.monotonic() - started
            write_page(tidy(notebook, task, seconds=seconds), Path(task["partial"]), Path(task["page"]))
            self.send({"event": "done"})

    def _cell_started(self, cell: Any, cell_index: int) -> None:
        # Numbers are those of the source notebook, which need not have the cell that papermill puts in.
        if _INJECTED in cell.metadata.get("tags", []) and not self.injected:
            self.shift = 1
        number = cell_index + 1 - self.shift
        self.cell = (number, cell.source)
        self.send({"event": "cell", "number": number, "cells": self.cells})

    def _failed(self, traceback: str) -> None:
        number, source = self.cell or (None, "")
        self.send(
            {
                "event": "failed",
                "cell": number,
                "source": source,
                "traceback": _ANSI.sub("", traceback).strip(),
            }
        )


def tidy(notebook: Any, task: dict[str, Any], *, seconds: float) -> Any:
    """Make a page of an executed notebook.

    The first heading becomes the chapter's title, the introduction follows it, and what papermill and
    nbclient noted about paths and times gives way to what a reader and the next run need.

    Parameters
    ----------
    notebook : NotebookNode
        Changed in place.
    task : dict
        With ``chapter``, ``title``, ``intro``, ``parameters`` and ``fingerprint``.
    seconds : float
        How long the execution took.

    Returns
    -------
    NotebookNode
    """
    from selfsim import __version__

    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if _INJECTED in cell.metadata.get("tags", []) and "id" in cell:
            # Papermill draws it at random, which would make every publication a change.
            cell["id"] = _INJECTED
    _set_title(notebook, task["title"], task["intro"])
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = dict(_KERNEL, name="python3")
    notebook.metadata["papermill"] = {"parameters": task["parameters"]}
    notebook.metadata["selfsim"] = {
        "chapter": task["chapter"],
        "fingerprint": task["fingerprint"],
        "parameters": task["parameters"],
        "version": __version__,
        "executed": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "seconds": round(seconds, 1),
    }
    return notebook


def write_page(notebook: Any, partial: Path, page: Path) -> None:
    """Write a notebook under a partial name and rename it, so that a page is whole or not there."""
    import nbformat

    with open(partial, "w", encoding="utf-8") as file:
        nbformat.write(notebook, file)
    os.replace(partial, page)


def _set_title(notebook: Any, title: str | None, intro: str) -> None:
    import nbformat

    place = 0
    for index, cell in enumerate(notebook.cells):
        heading = _HEADING.search(cell.source) if cell.cell_type == "markdown" else None
        if heading:
            before, after = cell.source[: heading.start()], cell.source[heading.end() :].strip()
            line = f"# {title}" if title else heading.group()
            cell.source = "\n\n".join(part for part in (before + line, intro, after) if part)
            return
        if cell.cell_type == "code" and place == 0:
            place = index
    text = "\n\n".join(part for part in (f"# {title}" if title else "", intro) if part)
    if text:
        new = nbformat.v4.new_markdown_cell(text, id="title")
        if notebook.nbformat_minor < 5:
            del new["id"]
        notebook.cells.insert(0, new)


def _own_kernel(chapter: _Chapter) -> type:
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_core.paths import jupyter_runtime_dir

    class OwnKernelManager(AsyncKernelManager):
        """Starts this interpreter's kernel, whatever kernels are installed under the name ``python3``."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            # By default it lies among the system's temporary files, and stays there after a kill.
            folder = Path(jupyter_runtime_dir())
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.connection_file = str(folder / f"{os.getpid()}.json")

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                **_KERNEL,
            )

        async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
            await super()._async_launch_kernel(kernel_cmd, **options)
            chapter.kernel_pid = getattr(self.provisioner, "pid", None)

    return OwnKernelManager


def _end_with_parent(chapter: _Chapter) -> None:
    # Not through sys.stdin: the interpreter could not end while a thread holds its lock.
    while os.read(0, 4096):
        pass
    # Nobody is left to read a result. The kernel is ended first: it would notice only after a second, and not
    # while it is busy in a long call.
    if chapter.kernel_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chapter.kernel_pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    os._exit(1)


def main() -> int:
    """Read one task from stdin and do it."""
    # Kernels inherit descriptor 1; what they write must not mix with the events, nor keep their pipe open.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    line = sys.stdin.buffer.readline()
    if not line:
        return 1
    chapter = _Chapter(json.loads(line), send)
    threading.Thread(target=_end_with_parent, args=(chapter,), daemon=True).start()
    chapter.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
