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
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.*)$", re.MULTILINE)
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python"}
_INJECTED = "injected-parameters"
_ONLY_WITH = "only-with-"


class _Chapter:
    """One notebook on its way from source to page."""

    def __init__(self, task: dict[str, Any], send: Any) -> None:
        self.task, self.send = task, send
        self.kernel: Any = None  # its manager, once it is started
        self.number, self.source = 0, ""
        self.shift = 0

    def run(self) -> None:
        """Execute, tidy up, write and rename; then send ``done`` or ``failed``."""
        import nbformat
        import papermill
        from nbclient.exceptions import CellExecutionError

        started, page = time.monotonic(), Path(self.task["page"])
        try:
            notebook = papermill.execute_notebook(
                self.task["notebook"],
                None,
                parameters=self.task["parameters"],
                kernel_name="python3",
                language="python",
                progress_bar=False,
                kernel_manager_class=_own_kernel(self),
                # The user's history is neither read nor written.
                extra_arguments=["--HistoryManager.enabled=False"],
                on_cell_start=self._cell_started,
            )
        except papermill.PapermillExecutionError as error:
            self._failed("\n".join(error.traceback) or f"{error.ename}: {error.evalue}")
        except CellExecutionError as error:
            self._failed(str(error))
        except RuntimeError as error:  # the kernel died in a cell, or (a plain RuntimeError) before the first
            self._failed(str(error), died=True)
        else:
            # Under another name first, so that a page is whole or not there.
            partial = page.with_name(f".{page.name}.partial")
            nbformat.write(tidy(notebook, self.task, seconds=time.monotonic() - started), partial)
            os.replace(partial, page)
            self.send({"event": "done"})

    def _cell_started(self, cell: Any, cell_index: int) -> None:
        # Numbers are those of the source notebook, which does not have the cell that papermill puts in.
        self.shift |= _is_injected(cell)
        self.number, self.source = cell_index + 1 - self.shift, cell.source
        self.send({"event": "cell", "number": self.number})

    def _failed(self, traceback: str, *, died: bool = False) -> None:
        told = {"source": self.source, "traceback": _ANSI.sub("", traceback).strip(), "died": died}
        self.send({"event": "failed", "number": self.number} | told)


def tidy(notebook: Any, task: dict[str, Any], *, seconds: float) -> Any:
    """Make a page of an executed notebook, in place, and return it.

    The chapter's title takes the place of the first heading, and of ``{title}`` in the alt texts and captions of
    figures; what the cell tagged ``summary`` shows and the introduction follow it. Labels of figures start with the
    chapter's name, since one notebook can make several chapters of a book; for the same reason a line of papermill
    gets the chapter's own parameters. What papermill and nbclient noted about paths and times gives way to what a
    reader and the next run need.
    """
    from selfsim import __version__

    notebook.cells = [cell for cell in notebook.cells if _is_wanted(cell, task["parameters"])]
    title = _set_title(notebook, task["title"], "\n\n".join(filter(None, [_summary(notebook), task["intro"]])))
    line = re.compile(
        rf"(papermill \S*{re.escape(Path(task['notebook']).name)} .*?-k python3) [^`]*(?=\n```)", re.DOTALL
    )
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and task["parameters"]:
            cell.source = line.sub(lambda found: found[1] + papermill_options(task["parameters"]), cell.source)
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "mystnb" in cell.metadata:
            shown = _filled(cell.metadata["mystnb"], title)
            if "name" in shown.get("figure", {}):
                shown["figure"]["name"] = f"{task['name']}-{shown['figure']['name']}"
            cell.metadata["mystnb"] = shown
        if _is_injected(cell) and "id" in cell:
            # Papermill draws it at random, which would make every publication a change.
            cell["id"] = _INJECTED
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = dict(_KERNEL, name="python3")
    notebook.metadata["papermill"] = {"parameters": task["parameters"]}
    notebook.metadata["selfsim"] = {
        "chapter": task["name"],
        "fingerprint": task["fingerprint"],
        "version": __version__,
        "executed": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "seconds": round(seconds, 1),
    }
    return notebook


def _set_title(notebook: Any, title: str | None, intro: str) -> str:
    """Put title and introduction at the first heading, or on top where there is none; give the title."""
    import nbformat

    texts = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    for cell in texts:
        if heading := _HEADING.search(cell.source):
            before, after = cell.source[: heading.start()], cell.source[heading.end() :].strip()
            line = before + (f"# {title}" if title else heading.group())
            cell.source = "\n\n".join(part for part in (line, intro, after) if part)
            return title or heading.group(1)
    if title:
        cell = nbformat.v4.new_markdown_cell(f"# {title}\n\n{intro}".strip(), id="title")
        if notebook.nbformat_minor < 5:
            del cell["id"]
        notebook.cells.insert(0, cell)
    return title or ""


def _summary(notebook: Any) -> str:
    """What the cell tagged ``summary`` shows, as a note for the top of the page; empty without such a cell."""
    cells = [cell for cell in notebook.cells if "summary" in cell.metadata.get("tags", [])]
    shown = [output.get("data", {}).get("text/markdown", "") for cell in cells for output in cell.outputs]
    text = "\n\n".join(filter(None, shown)).strip()
    return f":::{{admonition}} In short\n:class: summary\n{text}\n:::" if text else ""


def papermill_options(parameters: dict[str, Any]) -> str:
    r"""Write parameters as papermill takes them, each after a line break that the shell passes over.

    >>> print(papermill_options({"epochs": 3, "seeds": [0, 1]}))
     \
        -p epochs 3 \
        -y 'seeds: [0, 1]'
    """
    options = []
    for name, value in parameters.items():
        plain = isinstance(value, str | int | float) and value != ""
        given = f"-p {name} {shlex.quote(str(value))}" if plain else f"-y {shlex.quote(f'{name}: {json.dumps(value)}')}"
        options.append(f" \\\n    {given}")
    return "".join(options)


def _filled(value: Any, title: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, title) for key, item in value.items()}
    return value.replace("{title}", title) if isinstance(value, str) else value


def _is_wanted(cell: Any, parameters: dict[str, Any]) -> bool:
    tags = cell.metadata.get("tags", [])
    return all(parameters.get(tag.removeprefix(_ONLY_WITH)) for tag in tags if tag.startswith(_ONLY_WITH))


def _is_injected(cell: Any) -> bool:
    return _INJECTED in cell.metadata.get("tags", [])


def _own_kernel(chapter: _Chapter) -> type:
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class OwnKernelManager(AsyncKernelManager):
        """Starts this interpreter's kernel, whatever kernels are installed under the name ``python3``."""

        @property
        def kernel_spec(self) -> KernelSpec:
            chapter.kernel = self
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, **_KERNEL)

    return OwnKernelManager


def _end_with_parent(chapter: _Chapter) -> None:
    # Not through sys.stdin: the interpreter could not end while a thread holds its lock.
    while os.read(0, 4096):
        pass
    # The kernel is ended first: it would notice only after a second, and not while it is busy in a long call.
    with contextlib.suppress(AttributeError, TypeError, ProcessLookupError):  # none yet, or ended already
        os.kill(chapter.kernel.provisioner.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
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
