"""Run a grid on the workers of a Dask cluster.

Progress is kept in the output folder, so an interrupted sweep resumes where it stopped.
"""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import check_integer
from ..files import locked_directory, write_atomic
from ..publish.runner import report
from .cell import Outcome, Status, cell_progress, run_cell
from .grid import Cell, Grid
from .table import RESULTS, cell_table, cells_of_another_grid, check_results, write_results
from .workers import connected, default_workers

if TYPE_CHECKING:
    from distributed import Client, Future
    from pandas import DataFrame

FAILED = "failed"
# Cell -> its table and the messages about its damaged runs.
_Results = dict[str, "tuple[DataFrame, list[str]]"]


class SweepError(RuntimeError):
    """Cells failed or hold damaged runs; all others are done. The message names them and the causes."""


@dataclass(frozen=True)
class Plan:
    """What a sweep would do, and an estimate of its cost.

    Attributes
    ----------
    states : dict of str to str
        "done", "begun", "missing" or "damaged", by cell.
    left : int
        Cells that are begun or missing.
    workers : int or None
        How many would be started here; None if a scheduler has its own.
    seconds, megabytes : float or None
        Of one cell; None if unknown.
    source : str
        Where these two are from.
    """

    states: dict[str, Status]
    left: int
    workers: int | None
    seconds: float | None
    megabytes: float | None
    source: str


def plan_sweep(grid: Grid, output: str | Path, *, scheduler: str | None = None, workers: int | None = None) -> Plan:
    """Return what `sweep` would do with these arguments; nothing is started or written.

    Returns
    -------
    Plan
        Its estimates are the mean of the cells that are done, else what the grid file says. A cell that was begun
        counts as a full one.

    Raises
    ------
    ValueError
        `workers` is less than one, or given beside a `scheduler`, or a cell is done with other images than those of
        today.
    """
    if workers is not None:
        check_integer(workers, name="workers")
    if workers is not None and scheduler is not None:
        raise ValueError(f"workers: got {workers} beside a scheduler, need one of these: a scheduler has its own")
    folder = Path(output).expanduser().absolute()
    from ..files import files_state

    state_of = functools.cache(files_state)  # the cells share their data
    progress = {cell.name: cell_progress(cell, folder, state_of=state_of) for cell in grid.cells}
    states = {name: state for name, (state, _) in progress.items()}
    costs = [cost for _, cost in progress.values() if cost]
    left = sum(state in ("begun", "missing") for state in states.values())
    if scheduler is None:
        # Not as many as are left: the cores of a worker, and so the last digits, stay those of the first attempt.
        workers = max(1, min(workers or default_workers(), len(grid.cells)))
    if costs:
        seconds, size = (sum(column) / len(costs) for column in zip(*costs, strict=True))
        return Plan(states, left, workers, seconds, size / 1e6, f"the mean of {len(costs)} done")
    given = " and ".join(name for name in ("minutes", "megabytes") if getattr(grid, name) is not None)
    source = f"by {given} in {grid.path.name}" if given else f"neither minutes nor megabytes in {grid.path.name}"
    seconds = None if grid.minutes is None else 60 * grid.minutes
    return Plan(states, left, workers, seconds, grid.megabytes, source)


def sweep(
    grid: Grid,
    output: str | Path,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    retries: int = 10,
    kernel_retries: int = 2,
    cell_timeout: int | None = None,
    progress: bool = True,
) -> Path:
    """Run every cell of a grid that is not done yet, and return the path of the table of all results.

    Parameters
    ----------
    grid : Grid
    output : str or Path
        Where everything goes: run directories, executed notebooks, ``failed/`` with the traceback of each cell that
        failed last time, ``results.parquet`` and ``results.csv``, which are replaced whenever a cell ends. Made if
        missing. Nothing else in it is touched.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers see `output` under the same path. By default workers are started
        on this machine, and end with the sweep.
    workers : int, optional
        How many to start; by default one per GPU, or one per core. Each gets its card, or its share of the cores.
    retries : int
        How many more attempts a cell gets whose worker died. Each continues where the last one was saved.
    kernel_retries : int
        The same for a cell whose kernel died: more often than a worker, a kernel is killed by the notebook itself.
    cell_timeout : int, optional
        Seconds after which a cell of a notebook has failed; by default none.
    progress : bool
        Whether to report on stderr what is done or failed.

    Returns
    -------
    Path
        ``results.parquet``; see `cell_table` for its columns.

    Raises
    ------
    SweepError
        Cells failed or hold damaged runs, after all others were done.
    ValueError
        `workers`, `retries` or `kernel_retries` is too small, `workers` is given beside a `scheduler`, or a cell is
        done with other images than those of today.
    FileExistsError
        `output` has results that no sweep wrote.
    BlockingIOError
        Another sweep is writing to the same folder.
    OSError
        No scheduler at that address, or `output` cannot be written to.

    Notes
    -----
    Workers are started by ``multiprocessing``'s spawn: a script that calls this needs ``if __name__ == "__main__":``.
    """
    retries = check_integer(retries, name="retries", least=0)
    limits = {
        "worker": retries,
        "process": retries,
        "kernel": check_integer(kernel_retries, name="kernel_retries", least=0),
    }
    if cell_timeout is not None:
        cell_timeout = check_integer(cell_timeout, name="cell_timeout")
    folder = Path(output).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with locked_directory(folder):
        check_results(folder)
        plan = plan_sweep(grid, folder, scheduler=scheduler, workers=workers)
        waiting = [cell for cell in grid.cells if plan.states[cell.name] in ("begun", "missing")]
        for name, state in plan.states.items():
            if state == "done":  # perhaps by other means than a sweep
                _forget_failure(name, folder)
        results = {cell.name: cell_table(cell, folder, plan.states[cell.name]) for cell in grid.cells}
        if others := cells_of_another_grid(folder, results):
            report(f"cells of an earlier grid leave the table: {others}; their runs stay in {folder}", progress)
        _write(results, folder)
        failures: dict[str, str] = {}
        if waiting:
            with connected(scheduler, workers=plan.workers or 0) as client:
                outcomes = _outcomes(client, waiting, folder, limits, cell_timeout, progress)
                failures = _collect(outcomes, len(waiting), folder, results, progress)
    lines = []
    if failures:
        lines.append(f"{len(failures)} of {len(grid.cells)} cells failed; their tracebacks are in {folder / FAILED}")
        lines += [f"{name}: {text.strip().splitlines()[-1]}" for name, text in failures.items()]
    if damages := [message for _, messages in results.values() for message in messages]:
        lines += [f"{len(damages)} training runs are damaged; the table is without them", *damages]
    if lines:
        raise SweepError("\n".join(lines))
    return folder / RESULTS


def _write(results: _Results, folder: Path) -> None:
    write_results([table for table, _ in results.values()], folder)


def _forget_failure(name: str, folder: Path) -> None:
    """Remove the traceback of a cell that is done, and the folder of tracebacks with the last one."""
    with contextlib.suppress(OSError):  # there is none, or there are others
        (folder / FAILED / f"{name}.txt").unlink()
        (folder / FAILED).rmdir()


def _collect(
    outcomes: Iterator[tuple[Cell, Outcome]], total: int, folder: Path, results: _Results, progress: bool
) -> dict[str, str]:
    """Keep the results and ``failed/`` up to date as cells end; return the tracebacks of those that failed, by name."""
    failures, due = dict[str, str](), 0.0
    try:
        for ended, (cell, outcome) in enumerate(outcomes, 1):
            status = "failed" if outcome.traceback else "done"
            report(f"{cell.name}: {status} in {outcome.seconds:.0f} s ({ended} of {total})", progress)
            if outcome.traceback:
                failures[cell.name] = outcome.traceback
                file = folder / FAILED / f"{cell.name}.txt"
                file.parent.mkdir(exist_ok=True)
                write_atomic(file, outcome.traceback.encode(errors="replace"))
            else:
                _forget_failure(cell.name, folder)
            results[cell.name] = cell_table(cell, folder, status)
            started = time.monotonic()
            if started >= due:
                _write(results, folder)
                # A large table is not written after each of many short cells.
                due = time.monotonic() + 9 * (time.monotonic() - started)
    finally:
        _write(results, folder)
    return failures


def _outcomes(
    client: Client,
    cells: list[Cell],
    folder: Path,
    limits: Mapping[str, int],
    cell_timeout: int | None,
    progress: bool,
) -> Iterator[tuple[Cell, Outcome]]:
    """Yield cells with their outcomes as they end; those that died are tried again, up to a limit by cause."""
    from distributed import as_completed

    threads = client.nthreads().values()
    if max(threads, default=1) > 1:
        raise ValueError(
            f"scheduler: its workers have up to {max(threads)} threads, need one each, since runs in one process would "
            "share its random states: dask worker ADDRESS --nthreads 1"
        )
    if not threads:
        report("the scheduler has no workers yet; cells start when some come", progress)
    deaths = {cell.name: Counter[str]() for cell in cells}
    submitted: dict[Any, Cell] = {}  # by the future's key

    def submit(cell: Cell) -> Future:
        future = client.submit(run_cell, cell, folder, cell_timeout=cell_timeout, pure=False)
        submitted[future.key] = cell
        return future

    ended = as_completed([submit(cell) for cell in cells], loop=client.loop)
    for future in ended:
        cell, outcome = submitted.pop(future.key), _outcome(future)
        for warning in outcome.warnings:
            report(f"{cell.name}: {warning}", progress)
        deaths[cell.name][outcome.death] += 1
        if outcome.death and deaths[cell.name][outcome.death] <= limits[outcome.death]:
            number = deaths[cell.name].total() + 1
            report(f"{cell.name}: its {outcome.death} died; attempt {number}", progress)
            ended.add(submit(cell))
        else:
            yield cell, outcome


def _outcome(future: Future) -> Outcome:
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        return Outcome(traceback=str(error), death="worker")
    except CancelledError as error:
        raise ConnectionError("the scheduler was lost; start the sweep again, and it continues") from error
    except Exception:  # the worker could not even start on it
        return Outcome(traceback=traceback.format_exc())
