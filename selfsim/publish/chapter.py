"""Execute one chapter: a task in, events out, the page on disk."""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ..files import write_atomic
from .kernels import KernelServer
from .page import KERNEL, is_injected, make_page

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class ChapterRun:
    """One notebook on its way from source to page.

    Parameters
    ----------
    task : mapping
        The chapter's fields, with its ``page``, ``fingerprint`` and ``cell_timeout``.
    kernels : KernelServer, optional
        What starts its kernel; by default it is started by itself, with `environment`.
    environment : mapping of str to str
    send : callable
        Gets the events: ``cell`` when a cell starts, then ``done`` or ``failed``.
    """

    def __init__(
        self,
        task: Mapping[str, Any],
        kernels: KernelServer | None,
        environment: Mapping[str, str],
        send: Callable[[dict[str, Any]], None],
    ) -> None:
        self.task, self.kernels, self.environment, self.send = task, kernels, environment, send
        self.started = time.monotonic()
        self.number, self.source = 0, ""
        self.shift = 0

    def run(self) -> None:
        """Execute the notebook and write its page."""
        import nbformat
        import papermill
        from nbclient.exceptions import CellExecutionError, CellTimeoutError

        # What it logs is in the errors that it raises.
        logging.getLogger("papermill").setLevel(logging.CRITICAL)
        try:
            notebook = papermill.execute_notebook(
                self.task["notebook"],
                None,
                parameters=self.task["parameters"],
                kernel_name="python3",
                language="python",
                progress_bar=False,
                kernel_manager_class=_kernel_manager(self.kernels, self.environment),
                execution_timeout=self.task["cell_timeout"],
                # The user's history is neither read nor written.
                extra_arguments=["--HistoryManager.enabled=False"],
                on_cell_start=self._cell_started,
            )
            facts = [cell.metadata.get("papermill", {}) for cell in notebook.cells if not is_injected(cell)]
            cells = [fact.get("duration") or 0.0 for fact in facts]
            page = make_page(notebook, self.task, seconds=self._seconds())
            write_atomic(self.task["page"], (nbformat.writes(page).rstrip() + "\n").encode())
        except papermill.PapermillExecutionError as error:
            self._failed("\n".join(error.traceback) or f"{error.ename}: {error.evalue}")
        except CellTimeoutError:
            self._failed(f"TimeoutError: the cell took longer than {self.task['cell_timeout']} s")
        except CellExecutionError as error:
            self._failed(str(error))
        except RuntimeError as error:  # the kernel died in a cell, or (a plain RuntimeError) before the first
            if self.kernels is None or (code := self.kernels.exit_code) is None:
                self._failed(str(error), death="kernel")
            else:
                self._failed(f"its process ended with exit code {code}", death="process")
        except Exception:
            self._failed(traceback.format_exc())
        else:
            self.send({"event": "done", "seconds": self._seconds(), "cells": cells})

    def _cell_started(self, cell: Any, cell_index: int) -> None:
        # Numbers are those of the source notebook, which does not have the cell that papermill puts in.
        self.shift |= is_injected(cell)
        self.number, self.source = cell_index + 1 - self.shift, cell.source
        self.send({"event": "cell", "number": self.number})

    def _failed(self, text: str, *, death: str = "") -> None:
        facts = {"number": self.number, "source": self.source, "traceback": _ANSI.sub("", text).strip()}
        self.send({"event": "failed", **facts, "death": death, "seconds": self._seconds()})

    def _seconds(self) -> float:
        return time.monotonic() - self.started


def _kernel_manager(kernels: KernelServer | None, environment: Mapping[str, str]) -> type:
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning.local_provisioner import LocalProvisioner

    server: Any = kernels

    class FromServer(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
            process: Any = server.start(cmd)
            self.process, self.pid, self.pgid = process, process.pid, process.pid
            return self.connection_info

    class ThisInterpreter(AsyncKernelManager):
        """Starts a kernel of this interpreter, whatever kernel is installed under the name ``python3``."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            if kernels:
                self.provisioner = FromServer(parent=self, kernel_spec=self.kernel_spec)

        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, env=dict(environment), **KERNEL)

    return ThisInterpreter
