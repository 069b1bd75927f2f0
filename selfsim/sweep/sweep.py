"""Sweeps: do the cells of a grid on the workers of a Dask cluster, whatever happens to these.

What is done is told by the folder alone, so that a sweep which was interrupted goes on when it is started again.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..publish.runner import say, sole_writer
from .cell import Outcome, cost, do_cell, state
from .grid import Cell, Grid
from .table import RESULTS, cell_table, write_results
from .workers import connected, default_workers

if TYPE_CHECKING:
    from distributed import Client, Future
    from pandas import DataFrame


class SweepError(RuntimeError):
    """Cells failed; all others are done. The message names them and their tracebacks."""


@dataclass(frozen=True)
class Plan:
    """What a sweep would do, and what that should take.

    Attributes
    ----------
    states : dict of str to str
        "done", "begun" or "missing", by cell.
    left : int
        Cells that are not done.
    workers : int or None
        How many would be started here; None if a scheduler has its own.
    seconds, megabytes : float or None
        Of one cell; None if nothing is known about it.
    source : str
        Where these two are from.
    """

    states: dict[str, str]
    left: int
    workers: int | None
    seconds: float | None
    megabytes: float | None
    source: str


def plan_sweep(grid: Grid, output: str | Path, *, scheduler: str | None = None, workers: int | None = None) -> Plan:
    """Find out what `sweep` would have to do with these arguments; nothing is started or written.

    Returns
    -------
    Plan
        Its estimates are the mean of the cells that are done, else what the grid file says. A cell that was begun
        counts as a whole one.

    Raises
    ------
    ValueError
        `workers` is less than one, or given beside a `scheduler`.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers: got {workers}, need at least 1")
    if workers is not None and scheduler is not None:
        raise ValueError(f"workers: got {workers} beside a scheduler, need one of these: a scheduler has its own")
    folder = Path(output).absolute()
    states = {cell.name: state(cell, folder) for cell in grid.cells}
    costs = [cost(cell, folder) for cell in grid.cells if states[cell.name] == "done"]
    left = len(states) - len(costs)
    if scheduler is None:
        workers = max(1, min(workers or default_workers(), left))
    if costs:
        seconds, size = (sum(column) / len(costs) for column in zip(*costs, strict=True))
        return Plan(states, left, workers, seconds, size / 1e6, f"the mean of {len(costs)} done")
    seconds = None if grid.minutes is None else 60 * grid.minutes
    told = " and ".join(name for name in ("minutes", "megabytes") if getattr(grid, name) is not None)
    source = f"by {told} in {grid.path.name}" if told else f"neither minutes nor megabytes in {grid.path.name}"
    return Plan(states, left, workers, seconds, grid.megabytes, source)


def sweep(
    grid: Grid,
    output: str | Path,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    retries: int = 10,
    progress: bool = True,
) -> Path:
    """Do every cell of a grid that is not done yet, and write the table of all results.

    Parameters
    ----------
    grid : Grid
    output : str or Path
        Where everything goes: run directories, executed notebooks, ``failed/`` with the traceback of each cell that
        failed, ``results.parquet`` and ``results.csv``, which are written anew whenever a cell ends. Made if missing.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers see `output` under the same path. By default workers are started
        on this machine, and end with the sweep.
    workers : int, optional
        How many to start; by default one per GPU, or one per core. Each gets its card, or its share of the cores.
    retries : int
        How many more attempts a cell gets whose worker or kernel died. Each goes on where the last one was saved.
    progress : bool
        Whether to tell on stderr what is done or failed.

    Returns
    -------
    Path
        ``results.parquet``; see `cell_table` for its columns.

    Raises
    ------
    SweepError
        Cells failed, after all others were done.
    ValueError
        `workers` or `retries` too small, or `workers` beside a `scheduler`, which has its own.
    OSError
        No scheduler at that address, or `output` cannot be written to.
    RuntimeError
        Another sweep is writing to the same folder.

    Notes
    -----
    Workers are started by ``multiprocessing``'s spawn: a script that calls this needs ``if __name__ == "__main__":``.
    """
    if retries < 0:
        raise ValueError(f"retries: got {retries}, need at least 0")
    folder = Path(output).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder):
        plan = plan_sweep(grid, folder, scheduler=scheduler, workers=workers)
        waiting = [cell for cell in grid.cells if plan.states[cell.name] != "done"]
        tables = {cell.name: cell_table(cell, folder, plan.states[cell.name]) for cell in grid.cells}
        shutil.rmtree(folder / "failed", ignore_errors=True)
        write_results(tables.values(), folder)
        failed = {}
        if waiting:
            with connected(scheduler, workers=plan.workers or 0) as client:
                failed = _do(client, waiting, folder, tables, retries, progress)
    if failed:
        lines = [f"{name}: {told.strip().splitlines()[-1]}" for name, told in failed.items()]
        told = f"{len(failed)} of {len(grid.cells)} cells failed; their tracebacks are in {folder / 'failed'}"
        raise SweepError("\n".join([told, *lines]))
    return folder / RESULTS


def _do(
    client: Client, waiting: list[Cell], folder: Path, tables: dict[str, DataFrame], retries: int, progress: bool
) -> dict[str, str]:
    """Do the cells, keep the tables up to date; tracebacks of those that failed, by name."""
    failed, due = {}, 0.0
    try:
        for ended, (cell, outcome) in enumerate(_outcomes(client, waiting, folder, retries, progress), 1):
            how = "failed" if outcome.failure else "done"
            say(f"{cell.name}: {how} in {outcome.seconds:.0f} s ({ended} of {len(waiting)})", progress)
            if outcome.failure:
                failed[cell.name] = outcome.failure
                (folder / "failed").mkdir(exist_ok=True)
                (folder / "failed" / f"{cell.name}.txt").write_text(outcome.failure, encoding="utf-8")
            tables[cell.name] = cell_table(cell, folder, how)
            started = time.monotonic()
            if started >= due:
                write_results(tables.values(), folder)
                # A large table is not written after each of many short cells.
                due = time.monotonic() + 9 * (time.monotonic() - started)
    finally:
        write_results(tables.values(), folder)
    return failed


def _outcomes(
    client: Client, cells: list[Cell], folder: Path, retries: int, progress: bool
) -> Iterator[tuple[Cell, Outcome]]:
    """Cells with their outcomes as they end; those that died on the way are tried again."""
    from distributed import as_completed

    threads = client.nthreads().values()
    if max(threads, default=1) > 1:
        raise ValueError(
            f"scheduler: its workers have up to {max(threads)} threads, need one each, since runs in one process would "
            "share its random states: dask worker ADDRESS --nthreads 1"
        )
    if not threads:
        say("the scheduler has no workers yet; cells start when some come", progress)
    attempts: Counter[str] = Counter()
    owners: dict[str, Cell] = {}

    def submitted(cell: Cell) -> Future:
        attempts[cell.name] += 1
        future = client.submit(do_cell, cell, folder, pure=False)
        owners[future.key] = cell
        return future

    ended = as_completed([submitted(cell) for cell in cells], loop=client.loop)
    for future in ended:
        cell, outcome = owners.pop(future.key), _outcome(future)
        for warning in outcome.warned:
            say(f"{cell.name}: {warning}", progress)
        if outcome.died and attempts[cell.name] <= retries:
            say(f"{cell.name}: its worker or kernel died; attempt {attempts[cell.name] + 1}", progress)
            ended.add(submitted(cell))
        else:
            yield cell, outcome


def _outcome(future: Future) -> Outcome:
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        return Outcome(failure=str(error), died=True)
    except CancelledError as error:
        raise ConnectionError("the scheduler was lost; start the sweep again, and it goes on") from error
    except Exception:  # the worker could not even start on it
        return Outcome(failure=traceback.format_exc())
