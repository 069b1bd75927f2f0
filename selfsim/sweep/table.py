"""The table of a sweep's results: one tidy row per number, written anew whenever a cell ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..publish.run_list import Chapter
from .grid import Cell

if TYPE_CHECKING:
    from pandas import DataFrame

RESULTS = "results.parquet"
_HISTORY = ("epoch", "split", "layer", "metric", "value")


def cell_table(cell: Cell, folder: Path, status: str) -> DataFrame:
    """Return the rows of one cell: the histories of its finished training runs, or one row without numbers.

    Columns are ``cell``, ``run`` and ``status``, the fields of the run's configuration (those of its constraint as
    ``constraint.target`` …, lists as JSON) and the parameters of a notebook, then those of a history: ``epoch``,
    ``split``, ``layer``, ``metric``, ``value``.
    """
    import pandas as pd

    from ..training.runs import is_finished

    is_page = isinstance(cell.work, Chapter)
    place = folder / cell.name
    runs = sorted(place.iterdir()) if is_page and place.is_dir() else [place]
    tables = []
    for run in filter(is_finished, runs):
        table = pd.read_csv(run / "history.csv", dtype={"layer": str, "split": str, "metric": str})
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        columns = {"cell": cell.name, "run": run.name, "status": status} | _flat(
            cell.values | config if is_page else config
        )
        tables.append(pd.DataFrame(columns, index=table.index).join(table.fillna({"layer": ""})))
    columns = {"cell": cell.name, "run": "", "status": status} | _flat(cell.values if is_page else asdict(cell.work))
    return pd.concat(tables) if tables else pd.DataFrame([columns])


def write_results(tables: Iterable[DataFrame], folder: Path) -> None:
    """Write ``results.parquet`` and ``results.csv`` into a folder; each is always whole."""
    import pandas as pd

    whole = pd.concat(tables, ignore_index=True)
    # The history's columns come last, and are there before anything is finished.
    own = [name for name in whole if name not in _HISTORY]
    whole = whole.reindex(columns=[*own, *_HISTORY])
    for name in own:
        if len({type(value) for value in whole[name].dropna()}) > 1:
            # Such as a target that is a number in one cell and a schedule in another: Parquet needs one type.
            whole[name] = whole[name].map(str, na_action="ignore")
    for path, write in ((folder / "results.csv", whole.to_csv), (folder / RESULTS, whole.to_parquet)):
        partial = path.with_name(f".{path.name}.partial")
        write(partial, index=False)
        os.replace(partial, path)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{option}": inner for option, inner in _flat(value).items()}
        else:
            flat[name] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat
