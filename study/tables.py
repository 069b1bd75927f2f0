"""The tables of the runs: written from the folders of a sweep, kept in git, and read back as runs.

A stage ``NAME`` is two files. ``NAME-runs.csv`` has one row a cell of its grid: configuration, status, provenance.
``NAME-history.csv`` has one row a run, epoch, split and layer, with the metrics as columns; an empty field was not
measured, and ``nan`` is a layer that has collapsed. No path of the machine that trained is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from selfsim.sweep.grid import Grid
from selfsim.training.config import TrainConfig, stored_config
from selfsim.training.evaluation import Row
from selfsim.training.runs import Run, is_finished, load_run

_OF_THIS_MACHINE = ("data_dir", "download")
_HISTORY = ("run", "epoch", "split", "layer")
_TEXT = ("version", "commit", "python", "platform", "device", "date")
_MADE_BY = (*_TEXT, "modified", "cores", "seconds", "libraries")


def write_stage(grid: Grid, folders: Iterable[str | Path], results: str | Path, *, stage: str) -> pd.DataFrame:
    """Write the two tables of a stage from the folders of its sweeps, and return the first.

    A run that no folder has any more stays as the tables have it, those of other stages included.

    Parameters
    ----------
    grid : Grid
        The grid of the stage, with the parameters that its sweep was given.
    folders : iterable of path
        Folders of sweeps, searched in this order: stages may share runs.
    results : path
        The folder of the tables; made if missing.
    stage : str

    Returns
    -------
    DataFrame
        One row a cell; ``status`` is "done", "failed" (the sweep gave up on it) or "not finished".
    """
    places, target = [Path(folder) for folder in folders], Path(results)
    stored = _stored_runs(target)
    rows: list[dict[str, Any]] = []
    histories: list[pd.DataFrame] = []
    for cell in grid.cells:
        if not isinstance(cell.work, TrainConfig):
            raise ValueError(f"grid: got {grid.path}, whose cells are notebooks, need training runs")
        place = next((folder / cell.name for folder in places if is_finished(folder / cell.name)), None)
        if place is None and cell.name in stored:
            row, history = stored[cell.name]
            rows.append(row)
            histories.append(history)
            continue
        failed = any((folder / "failed" / f"{cell.name}.txt").is_file() for folder in places)
        row = {"run": cell.name, "status": "done" if place else "failed" if failed else "not finished"}
        row |= {name: _plain(value) for name, value in configuration(cell.work).items()}
        if place:
            run = load_run(place)
            row |= {"classes": run.built_as["num_classes"], "channels": run.built_as["in_chans"]}
            row |= {name: _plain(run.environment[name]) for name in _MADE_BY}
            histories.append(_wide(cell.name, run.history))
        rows.append(row)
    target.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, dtype=object)  # otherwise integers become floats where some are missing
    table.to_csv(target / f"{stage}-runs.csv", index=False)
    history = pd.concat(histories) if histories else pd.DataFrame(columns=_HISTORY)
    history.to_csv(target / f"{stage}-history.csv", index=False)
    return table


def _stored_runs(results: Path) -> dict[str, tuple[dict, pd.DataFrame]]:
    """Read the row and the history of every finished run in the tables of any stage, as text."""
    stored = {}
    for path in sorted(results.glob("*-runs.csv")):
        about, history = _texts(path)
        by_run = dict(list(history.groupby("run", sort=False)))
        done = about[about.status == "done"].to_dict("records")
        # Metrics that only other runs have were not measured.
        for row in done:
            measured = by_run[row["run"]]
            stored[row["run"]] = row, measured.where(measured != "").dropna(axis=1, how="all")
    return stored


def _texts(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the two tables of a stage, every field as text."""
    plain = {"dtype": str, "keep_default_na": False}
    return pd.read_csv(path, **plain), pd.read_csv(path.with_name(path.name.replace("-runs", "-history")), **plain)


def read_stages(results: str | Path) -> dict[str, list[Run]]:
    """Read the runs of every stage: finished ones, and failed ones with an empty history.

    Parameters
    ----------
    results : path
        The folder of the tables.

    Returns
    -------
    dict of str to list of Run
        Without weights: `Run.model` does not exist.

    Raises
    ------
    FileNotFoundError
        The folder has no tables.
    """
    tables = sorted(Path(results).glob("*-runs.csv"))
    if not tables:
        raise FileNotFoundError(f"results: got {str(results)!r}, which holds no tables of a study")
    return {path.name.removesuffix("-runs.csv"): _read_stage(path) for path in tables}


def _read_stage(path: Path) -> list[Run]:
    about, table = _texts(path)
    histories = {name: _rows(group) for name, group in table.groupby("run", sort=False)}
    known = {f.name for f in fields(TrainConfig)} - set(_OF_THIS_MACHINE)
    runs = []
    # The row of a failed run lacks the shape of its network, which is that of the others.
    network = [max(about.get(name, [""])) for name in ("classes", "channels")]
    for row in about[about.status != "not finished"].to_dict("records"):
        config = stored_config({name: _value(text) for name, text in row.items() if name in known})
        made_by = {name: row.get(name, "") if name in _TEXT else _value(row.get(name, "")) for name in _MADE_BY}
        classes, channels = (int(row.get(n) or most) for n, most in zip(("classes", "channels"), network, strict=True))
        built_as = {"name": config.architecture, "size": config.size, "num_classes": classes, "in_chans": channels}
        runs.append(Run(config, histories.get(row["run"], []), built_as, made_by, weights={}))
    return runs


def agreement(fresh: Iterable[Run], stored: Iterable[Run]) -> pd.DataFrame:
    """Compare new runs with those of the same configuration in the tables.

    Parameters
    ----------
    fresh, stored : iterable of Run

    Returns
    -------
    DataFrame
        One row a new run: ``stored`` (whether the tables have it), ``equal`` (every number, to the nine digits that
        the tables keep), and the largest ``difference`` of an accuracy or of a layer's rate.
    """
    by_configuration = {json.dumps(configuration(run.config), sort_keys=True): run for run in stored if run.history}
    rows = []
    for run in fresh:
        row = {"run": run.config.name, "stored": False, "equal": False, "difference": float("nan")}
        if twin := by_configuration.get(json.dumps(configuration(run.config), sort_keys=True)):
            a, b = ({entry[:4]: entry.value for entry in side.history} for side in (run, twin))
            # Losses and distances have no common scale; these two do.
            both = [k for k in a if k in b and k[3] in ("ss_rate", "accuracy") and a[k] == a[k] and b[k] == b[k]]
            row |= {
                "stored": True,
                "equal": {k: _digits(v) for k, v in a.items()} == {k: _digits(v) for k, v in b.items()},
                "difference": max((abs(a[k] - b[k]) for k in both), default=float("nan")),
            }
        rows.append(row)
    return pd.DataFrame(rows, columns=["run", "stored", "equal", "difference"]).set_index("run")


def configuration(config: TrainConfig) -> dict[str, Any]:
    """Return a configuration as plain data, without the place of its data on this machine."""
    return {name: value for name, value in asdict(config).items() if name not in _OF_THIS_MACHINE}


def _wide(run: str, history: list[Row]) -> pd.DataFrame:
    table: dict[tuple, dict] = {}
    for row in history:
        table.setdefault((run, row.epoch, row.split, row.layer), {})[row.metric] = _digits(row.value)
    return pd.DataFrame([dict(zip(_HISTORY, key, strict=True)) | metrics for key, metrics in table.items()])


def _rows(table: pd.DataFrame) -> list[Row]:
    return [
        Row(int(record["epoch"]), record["split"], record["layer"], metric, float(text))
        for record in table.to_dict("records")
        for metric, text in record.items()
        if metric not in _HISTORY and text
    ]


def _digits(value: float) -> str:
    return f"{value:.9g}"  # all that a number in single precision has


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Mapping | list | bool) else value


def _value(text: str) -> Any:
    """Read a field of the table: empty is None, JSON is parsed, all else is text."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
