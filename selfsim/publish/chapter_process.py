"""The process that executes one chapter: a task on stdin, events on stdout, the page on disk.

:mod:`selfsim.publish.runner` starts it as ``python -m selfsim.publish.chapter_process``. The task is one line of JSON;
so is each event: ``cell`` when a cell starts, then ``done`` or ``failed``. When stdin closes, the process that started
this one has ended, and this one ends together with its kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ..files import write_atomic
from .page import KERNEL, is_injected, make_page

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class _Chapter:
    """One notebook on its way from source to page."""

    def __init__(self, task: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        self.task, self.send = task, send
        self.kernel: Any = None  # its manager, once it is started
        self.number, self.source = 0, ""
        self.shift = 0

    def run(self) -> None:
        """Execute the notebook and write its page; then send ``done`` or ``failed``."""
        import nbformat
        import papermill
        from nbclient.exceptions import CellExecutionError, CellTimeoutError

        started = time.monotonic()
        try:
            notebook = papermill.execute_notebook(
                self.task["notebook"],
                None,
                parameters=self.task["parameters"],
                kernel_name="python3",
                language="python",
                progress_bar=False,
                kernel_manager_class=_kernel_manager(self),
                execution_timeout=self.task["cell_timeout"],
                # The user's history is neither read nor written.
                extra_arguments=["--HistoryManager.enabled=False"],
                on_cell_start=self._cell_started,
            )
        except papermill.PapermillExecutionError as error:
            self._failed("\n".join(error.traceback) or f"{error.ename}: {error.evalue}")
        except CellTimeoutError:
            self._failed(f"TimeoutError: the cell took longer than {self.task['cell_timeout']} s")
        except CellExecutionError as error:
            self._failed(str(error))
        except RuntimeError as error:  # the kernel died in a cell, or (a plain RuntimeError) before the first
            self._failed(str(error), kernel_died=True)
        else:
            page = make_page(notebook, self.task, seconds=time.monotonic() - started)
            write_atomic(self.task["page"], (nbformat.writes(page).rstrip() + "\n").encode())
            self.send({"event": "done"})

    def _cell_started(self, cell: Any, cell_index: int) -> None:
        # Numbers are those of the source notebook, which does not have the cell that papermill puts in.
        self.shift |= is_injected(cell)
        self.number, self.source = cell_index + 1 - self.shift, cell.source
        self.send({"event": "cell", "number": self.number})

    def _failed(self, traceback: str, *, kernel_died: bool = False) -> None:
        self.send(
            {
                "event": "failed",
                "number": self.number,
                "source": self.source,
                "traceback": _ANSI.sub("", traceback).strip(),
                "kernel_died": kernel_died,
            }
        )


def _kernel_manager(chapter: _Chapter) -> type:
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(AsyncKernelManager):
        """Starts a kernel of this interpreter, whatever kernel is installed under the name ``python3``."""

        @property
        def kernel_spec(self) -> KernelSpec:
            chapter.kernel = self
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, **KERNEL)

    return ThisInterpreter


def _end_with_parent(chapter: _Chapter) -> None:
    # Not through sys.stdin: the interpreter could not end while a thread holds its lock.
    while os.read(0, 4096):
        pass
    # The kernel is ended first: it would notice only after a second, and not while it is busy in a long call.
    with contextlib.suppress(AttributeError, TypeError, ProcessLookupError):  # none yet, or ended already
        os.kill(chapter.kernel.provisioner.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    os._exit(1)


def main() -> int:
    """Read one task from stdin and execute it."""
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
