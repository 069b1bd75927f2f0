"""The table of a sweep's results: one tidy row per number, written whenever a cell ends."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_atomic
from ..publish.run_list import Chapter
from .grid import FIRST, HISTORY, MADE_BY, Cell

if TYPE_CHECKING:
    from pandas import DataFrame

RESULTS, RESULTS_CSV = "results.parquet", "results.csv"


def cell_table(cell: Cell, folder: Path, status: str) -> tuple[DataFrame, list[str]]:
    """Return the rows of one cell, and what is wrong with its damaged runs.

    Returns
    -------
    DataFrame
        The histories of the cell's finished training runs; one row without numbers for a run that is damaged, and for
        a cell without runs. Columns are ``cell``, ``run`` and ``status``, the fields of the run's configuration (those
        of its constraint as ``constraint.target`` …, lists as JSON), the parameters of a notebook, ``version`` and
        ``commit`` of the code that trained it, then those of a history: ``epoch``, ``split``, ``layer``, ``metric``,
        ``value``.
    list of str
        A message for each damaged run, which names the file and the remedy.
    """
    import pandas as pd

    from ..training.runs import DamagedRunError, is_finished, load_run

    is_page = isinstance(cell.work, Chapter)
    values = cell.values if isinstance(cell.work, Chapter) else asdict(cell.work)
    place = folder / cell.name
    directories = sorted(place.iterdir()) if is_page and place.is_dir() else [place]
    tables, damages = [], []
    for directory in directories:
        if not (is_finished(directory) or (status == "damaged" and not is_page)):
            continue
        try:
            run = load_run(directory)
        except DamagedRunError as error:
            damages.append(str(error))
            tables.append(_row(cell, directory.name, "damaged", values))
            continue
        history = pd.DataFrame(run.history, columns=HISTORY)
        facts = _facts(cell, directory.name, status, values | asdict(run.config) if is_page else asdict(run.config))
        facts |= {name: run.environment.get(name) for name in MADE_BY}
        tables.append(pd.DataFrame(facts, index=history.index).join(history))
    return pd.concat(tables) if tables else _row(cell, "", status, values), damages


def write_results(tables: Iterable[DataFrame], folder: Path) -> None:
    """Write ``results.csv`` and ``results.parquet`` into a folder, each in one step."""
    import pandas as pd

    table = pd.concat(tables, ignore_index=True)
    # The history's columns come last, and are there before anything is finished.
    own = [name for name in table if name not in HISTORY]
    table = table.reindex(columns=[*own, *HISTORY])
    for name in own:
        values = table[name].dropna()
        if len({type(value) for value in values}) > 1 and not all(map(_is_number, values)):
            # Such as a target that is a number in one cell and a schedule in another: Parquet needs one type.
            table[name] = table[name].map(str, na_action="ignore")
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    write_atomic(folder / RESULTS_CSV, table.to_csv(index=False).encode())
    write_atomic(folder / RESULTS, content.getvalue())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_results(folder: Path) -> None:
    """Raise ``FileExistsError`` if a folder holds files of these names that no sweep wrote."""
    csv = folder / RESULTS_CSV
    if csv.is_file():
        with open(csv, encoding="utf-8", errors="replace") as file:
            ours = file.readline().startswith(",".join(FIRST))
    else:
        ours = not (folder / RESULTS).exists()
    if not ours:
        raise FileExistsError(f"{folder}: it has results that no sweep wrote; move them, or choose another folder")


def cells_of_another_grid(folder: Path, names: Iterable[str]) -> int:
    """Return how many cells the present table has that are none of these."""
    import pandas as pd

    file = folder / RESULTS_CSV
    return len(set(pd.read_csv(file, usecols=["cell"]).cell) - set(names)) if file.is_file() else 0


def _row(cell: Cell, run: str, status: str, values: Mapping[str, Any]) -> DataFrame:
    import pandas as pd

    return pd.DataFrame([_facts(cell, run, status, values)])


def _facts(cell: Cell, run: str, status: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(FIRST, (cell.name, run, status), strict=True)) | _flat(values)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{option}": inner for option, inner in _flat(value).items()}
        else:
            flat[name] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat
