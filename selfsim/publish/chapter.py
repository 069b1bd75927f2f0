"""Execute one chapter: from the source of its notebook to the page on disk."""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..files import write_atomic
from .kernels import KernelServer
from .page import KERNEL, is_injected, make_page

# What ended a chapter from outside; empty if a cell failed.
Death = Literal["", "kernel", "process"]
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


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


def run_chapter(
    task: Mapping[str, Any],
    kernels: KernelServer | None,
    environment: Mapping[str, str],
    on_cell: Callable[[], object],
) -> list[float]:
    """Execute the notebook of a chapter, write its page, and return the seconds that each cell took.

    Parameters
    ----------
    task : mapping
        The chapter's fields, with its ``page``, ``fingerprint`` and ``cell_timeout``.
    kernels : KernelServer, optional
        What starts its kernel; by default it is started by itself, with `environment`.
    environment : mapping of str to str
    on_cell : callable
        Called when a cell starts.

    Raises
    ------
    ChapterError
        A cell failed, the kernel died, or the page cannot be written.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError

    started = time.monotonic()
    number, source = 0, ""

    def cell_started(cell: Any, cell_index: int) -> None:
        nonlocal number, source
        # Numbers are those of the source notebook, which does not have the cell that papermill puts in.
        number += not is_injected(cell)
        source = cell.source
        on_cell()

    def failure(text: str, death: Death = "") -> ChapterError:
        where = f"cell {number} of {task['notebook']}" if number else task["notebook"]
        log = kernels.log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:] if kernels and death else []
        details = "\n".join([source, "", *log, _ANSI.sub("", text).strip()])
        return ChapterError(f"chapter {task['name']!r}: {where} failed\n\n{details}", death=death)

    # What it logs is in the errors that it raises.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        notebook = papermill.execute_notebook(
            task["notebook"],
            None,
            parameters=task["parameters"],
            kernel_name="python3",
            language="python",
            progress_bar=False,
            kernel_manager_class=_kernel_manager(kernels, environment),
            execution_timeout=task["cell_timeout"],
            # The user's history is neither read nor written.
            extra_arguments=["--HistoryManager.enabled=False"],
            on_cell_start=cell_started,
        )
        facts = [cell.metadata.get("papermill", {}) for cell in notebook.cells if not is_injected(cell)]
        page = make_page(notebook, task, seconds=time.monotonic() - started)
        write_atomic(task["page"], (nbformat.writes(page).rstrip() + "\n").encode())
        return [fact.get("duration") or 0.0 for fact in facts]
    except papermill.PapermillExecutionError as error:
        raise failure("\n".join(error.traceback) or f"{error.ename}: {error.evalue}") from error
    except CellTimeoutError as error:
        raise failure(f"TimeoutError: the cell took longer than {task['cell_timeout']} s") from error
    except RuntimeError as error:  # the kernel died in a cell, or (a plain RuntimeError) before the first
        if kernels and (code := kernels.exit_code) is not None:
            raise failure(f"its process ended with exit code {code}", "process") from error
        raise failure(str(error), "kernel") from error
    except Exception as error:
        raise failure(traceback.format_exc()) from error


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
