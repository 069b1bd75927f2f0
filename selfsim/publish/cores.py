"""The cores of this machine, divided among processes."""

from __future__ import annotations

import os

# Of every library that sizes its pool of threads by the machine instead of by its share.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_share(processes: int) -> dict[str, str]:
    """Return the environment variables that give each of so many processes its share of the cores.

    Where the environment sets OMP_NUM_THREADS, the other libraries get that number too.
    """
    share = str(max(1, usable_cores() // processes))
    return dict.fromkeys(_THREAD_VARIABLES, os.environ.get("OMP_NUM_THREADS") or share)
