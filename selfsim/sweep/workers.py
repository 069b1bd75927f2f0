"""Workers for a sweep: one process per GPU, or per share of the cores, on this machine; or those of any scheduler."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..checks import optional_package
from ..publish.cores import thread_share, usable_cores

if TYPE_CHECKING:
    from distributed import Client

_QUIET = logging.CRITICAL


def visible_cards() -> list[str]:
    """Return the CUDA cards of this machine, by the names that ``CUDA_VISIBLE_DEVICES`` gives them."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(number) for number in range(count)])[:count]


def default_workers() -> int:
    """Return the number of workers for this machine: one per card, or one per core where there is none."""
    return len(visible_cards()) or usable_cores()


@contextlib.contextmanager
def connected(scheduler: str | None, *, workers: int) -> Iterator[Client]:
    """Yield a client of the scheduler at an address; without one, of `workers` processes started here.

    Those processes end with the block, and with this process, however it ends.

    Raises
    ------
    OSError
        There is no scheduler at that address.
    """
    distributed = optional_package("distributed", extra="cluster")
    with contextlib.ExitStack() as stack:
        # A sweep survives lost workers and reports them in its own lines.
        logger = logging.getLogger("distributed")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(_QUIET)
        if scheduler is None:
            scheduler = stack.enter_context(_local(workers))
        yield stack.enter_context(distributed.Client(scheduler, timeout=30, set_as_default=False))


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C in a worker; Dask calls this in each that is started here."""
    # Ctrl-C reaches all processes of a terminal. The one that started the workers ends them in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _local(workers: int) -> Iterator[str]:
    import dask
    from distributed import Nanny, Scheduler, SpecCluster
    from tornado.ioloop import PeriodicCallback

    cards = visible_cards()
    # Nothing listens to other machines, and no port is fixed: several sweeps may run at a time.
    here = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    options = here | {"nthreads": 1, "memory_limit": 0, "silence_logs": _QUIET, "preload": [__name__]}
    specification = {
        number: {
            "cls": Nanny,
            "options": options | {"env": {"CUDA_VISIBLE_DEVICES": cards[number % len(cards)]} if cards else {}},
        }
        for number in range(workers)
    }
    settings = {
        # The scheduler reports the death of a worker at once, and the sweep counts attempts.
        "distributed.scheduler.allowed-failures": 0,
        # A worker has one cell at a time, and no queue that would be lost with it.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.nanny.pre-spawn-environ": thread_share(workers),
    }
    before = dict(os.environ)
    # Python's own warning, at the end, that a killed worker did not clean up.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    try:
        with dask.config.set(settings):
            machinery = {"cls": Scheduler, "options": here | {"port": 0}}
            with SpecCluster(specification, machinery, silence_logs=_QUIET) as cluster:
                # A worker that is not back 15 s after its death is replaced.
                mending = PeriodicCallback(lambda: cluster.scale(workers), 5000)
                cluster.loop.add_callback(mending.start)
                try:
                    yield cluster.scheduler_address
                finally:
                    cluster.loop.add_callback(mending.stop)
    finally:
        # A nanny sets its workers' variables in its own process too, which is this one.
        os.environ.clear()
        os.environ.update(before)
