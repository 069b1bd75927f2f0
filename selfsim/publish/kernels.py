"""Start kernels as forks of one process that has imported what they need: an import is paid for once.

:class:`KernelServer` starts ``python -m selfsim.publish.kernels``, which imports modules, then reads the commands of
kernels from stdin and starts each in a process of its own. When its stdin closes, the process that started it has
ended, and it ends together with its kernels.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import queue
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

# How the server starts a kernel; empty where there is no server. Libraries of macOS do not survive a fork.
HOW = "" if os.name != "posix" else "spawn" if sys.platform == "darwin" else "fork"


class Kernel:
    """The process of a kernel, with what jupyter_client needs of a ``Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended = Future[int]()  # its exit code

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self.ended.result() if self.ended.done() else None

    def wait(self) -> int:
        """Wait for the end of the process and return its exit code."""
        return self.ended.result()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process if it runs."""
        with contextlib.suppress(ProcessLookupError):
            if not self.ended.done():
                os.kill(self.pid, number)


class KernelServer:
    """A process that starts kernels; a context manager, at whose end the kernels are killed.

    Parameters
    ----------
    imports : sequence of str
        Modules that the kernels find imported. One that cannot be imported is left to the kernels.
    environment : mapping of str to str
        The environment of the kernels.
    log : Path
        Where the kernels' own messages go.
    """

    def __init__(self, imports: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._lock, self._started = threading.Lock(), queue.Queue[Kernel | None]()
        with open(log, "wb") as file:
            self._process: Any = subprocess.Popen(
                [sys.executable, "-m", __name__, HOW],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment,
                # Ctrl-C on a terminal reaches the caller alone, which then ends the others in order.
                start_new_session=True,
            )
        self._write(imports)
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> KernelServer:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process, or None while it runs."""
        return self._process.poll()

    def start(self, command: Sequence[str]) -> Kernel:
        """Start a kernel: ``[sys.executable, "-m", module, *arguments]``."""
        with self._lock:
            self._write(command)
            kernel = self._started.get()
        if kernel is None:
            self._started.put(None)  # for the next one that waits
            raise RuntimeError("the process that starts kernels died")
        return kernel

    def _write(self, value: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        kernels = dict[int, Kernel]()
        with contextlib.suppress(ValueError), self._process.stdout as lines:
            for line in lines:  # the last one may be half a line, if it was killed
                pid, *end = json.loads(line)
                if end:
                    kernels.pop(pid).ended.set_result(*end)
                else:
                    self._started.put(kernels.setdefault(pid, Kernel(pid)))
        self._process.wait()
        for kernel in kernels.values():
            kernel.ended.set_result(-9)
        self._started.put(None)


def kernel_server(
    imports: Sequence[str], *, environment: Mapping[str, str], log: Path
) -> contextlib.AbstractContextManager[KernelServer | None]:
    """Return a `KernelServer` for a ``with`` block; None where kernels are started one by one."""
    return KernelServer(imports, environment=environment, log=log) if HOW else contextlib.nullcontext()


def serve() -> list[str] | None:
    """Start kernels until stdin closes, then kill them and return None; in a fork, return the command to run."""
    # Kernels inherit descriptors 0 and 1, so these become others.
    commands, events = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    running = set[int]()

    def report(*event: int) -> None:
        os.write(events, json.dumps(event).encode() + b"\n")  # short enough to be written at once

    def report_ended(*_: object) -> None:
        # One by one, since only children that were reported as started count.
        for pid in [*running]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.discard(pid)
                report(pid, os.waitstatus_to_exitcode(status))

    for name in ["ipykernel.kernelapp", *json.loads(commands.readline() or b"[]")]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()  # else a collection in a kernel would copy all memory that is shared
    signal.signal(signal.SIGCHLD, report_ended)
    for line in commands:
        # A kernel ends itself if this process is killed.
        command = [*json.loads(line), f"--IPKernelApp.parent_handle={os.getpid()}"]
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        if sys.argv[1] == "fork":
            pid = os.fork()
        else:
            pid = os.posix_spawn(command[0], command, os.environ, setpgroup=0, setsigmask=[])
        if not pid:
            os.setpgid(0, 0)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            os.close(events)
            commands.close()
            return command
        with contextlib.suppress(OSError):  # the child has done it
            os.setpgid(pid, pid)
        running.add(pid)
        report(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    for pid in [*running]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return None


if __name__ == "__main__" and (command := serve()):
    sys.argv = command[2:]
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)
