"""The grid of a sweep: a YAML file with one training run, or one execution of a notebook, per cell.

With ``notebook: PATH`` a cell is an execution of that notebook. Without it, a cell is a training run, whose parameters
are the fields of `selfsim.TrainConfig`. ``parameters`` are the same for all cells. ``grid`` has a list of values for
each of its parameters, and every combination is a cell. ``cells`` is a list of tables, each combined with all of those.
The first list changes slowest, the tables fastest: with the seeds first, a sweep that is stopped early has complete
pairs. An option of the constraint may be named alone: ``constraint.target: [0.1, 0.2]``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import check_choice, check_number, errors_named
from ..files import parse_yaml, read_yaml
from ..publish.digests import chapter_fingerprint
from ..publish.parameters import check_value, notebook_parameters, parse_value
from ..publish.run_list import Chapter, check_table

if TYPE_CHECKING:
    from ..training.config import TrainConfig

_KEYS = {
    "description": "text",
    "notebook": "text",
    "parameters": "a table",
    "grid": "a table",
    "cells": "a list",
    "minutes": "a number",
    "megabytes": "a number",
}


# Columns of the table of results beside the parameters of a cell.
FIRST = ("cell", "run", "status")
MADE_BY = ("version", "commit")  # of the code that trained a run
HISTORY = ("epoch", "split", "layer", "metric", "value")


@dataclass(frozen=True)
class Cell:
    """One training run, or one execution of a notebook."""

    name: str  # of its folder, and of a notebook's page; the same parameters give the same name
    values: dict[str, Any]  # all parameters that the grid file gives it, checked
    varied: dict[str, Any]  # those in which it differs from others
    work: TrainConfig | Chapter
    fingerprint: str = ""  # of all that decides what a notebook shows


@dataclass(frozen=True)
class Grid:
    """The content of a grid file, checked.

    Attributes
    ----------
    path : Path
    description : str
    cells : tuple of Cell
    minutes, megabytes : float or None
        Estimates of the time and disk that one cell takes.
    """

    path: Path
    description: str
    cells: tuple[Cell, ...]
    minutes: float | None = None
    megabytes: float | None = None


def read_grid(path: str | Path, overrides: Iterable[tuple[str, str]] = ()) -> Grid:
    """Read a grid file and check all of it.

    Parameters
    ----------
    path : str or Path
        A YAML file with the keys ``notebook`` (relative to its folder), ``parameters``, ``grid``, ``cells``, and
        ``description``, ``minutes`` and ``megabytes`` (of one cell), all of them optional.
    overrides : iterable of (str, str), optional
        Names and values, as text, of parameters for all cells; they win over the file's, its lists included.

    Returns
    -------
    Grid

    Raises
    ------
    FileNotFoundError
        No such file, or no such notebook.
    ValueError
        An unknown key or parameter (with the known names and the nearest one), an invalid value, an empty list, the
        same cell twice; the message starts with the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such grid")
    content = read_yaml(path)
    with errors_named(path):
        check_table(content, _KEYS, "grid file")
        minutes, megabytes = (
            check_number(content[name], name=name, within="[0, inf)") if name in content else None
            for name in ("minutes", "megabytes")
        )
        notebook = path.parent / content["notebook"] if "notebook" in content else None
        if notebook and not notebook.is_file():
            raise FileNotFoundError(f"notebook: there is no {notebook}")
        types = notebook_parameters(notebook) if notebook else config_types()
        given = {name: _given(name, text, types) for name, text in overrides}
        fixed = _checked(content.get("parameters", {}), types, "parameters")
        lists = {
            name: values
            for name, values in content.get("grid", {}).items()
            if not {name, str(name).partition(".")[0]} & given.keys()
        }
        cells: dict[str, Cell] = {}
        for number, varied in enumerate(_combinations(content.get("cells", [{}]), lists, types), 1):
            values = _merged(fixed, varied, given)
            varied = {name: values[name] for name in varied if name in values}  # as -p may have it
            try:
                cell = _cell(values, varied, notebook)
            except (ValueError, TypeError) as error:
                raise ValueError(f"cell {number} {varied}: {error}") from error
            if cell.name in cells:
                raise ValueError(f"cell {number} {varied}: the same as {cells[cell.name].varied}, need each cell once")
            cells[cell.name] = cell
    return Grid(path, content.get("description", ""), tuple(cells.values()), minutes, megabytes)


def _given(name: str, text: str, types: Mapping[str, str]) -> Any:
    """Return the value of a parameter from the command line."""
    kind = _type_of(name, types, "-p")
    if kind != "any":
        return parse_value(name, text, kind)
    with errors_named(name):
        return parse_yaml(text)


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of all layers; a later table takes the place of an earlier one and of its options."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = {name: value for name, value in values.items() if name.partition(".")[0] not in layer}
        values |= layer
    return values


def config_types() -> dict[str, str]:
    """Return the types of a training run's parameters by name."""
    # Not above: a worker that executes notebooks need not load torch.
    from ..training.config import TrainConfig

    return {field.name: str(field.type).replace("Mapping", "table") for field in fields(TrainConfig)}


def _combinations(tables: Any, lists: Mapping[str, Any], types: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The parameters in which each cell differs from others, in the order of the file."""
    for name, values in [("cells", tables), *((f"grid: {name}", values) for name, values in lists.items())]:
        if not isinstance(values, list) or not values:
            raise ValueError(f"{name}: got {values!r}, need a list with at least one value")
    for *values, table in itertools.product(*lists.values(), tables):
        of_table = _checked(table, types, "cells")
        of_lists = _checked(dict(zip(lists, values, strict=True)), types, "grid")
        if both := of_table.keys() & of_lists:
            raise ValueError(f"cells: {min(both)}: is in the grid too, need it in one of them")
        yield of_table | of_lists


def _checked(values: Any, types: Mapping[str, str], where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {values!r}, need a table of parameters")
    kinds = {name: _type_of(name, types, where) for name in values}
    return {
        name: value if kinds[name] == "any" else check_value(f"{where}: {name}", value, kinds[name])
        for name, value in values.items()
    }


def _type_of(name: str, types: Mapping[str, str], where: str) -> str:
    table, dot, _ = str(name).partition(".")
    if dot and types.get(table, "").startswith("table"):
        return "any"  # an option of the constraint, which it checks itself
    return types[check_choice(name, types, name=where)]


def _cell(values: dict[str, Any], varied: dict[str, Any], notebook: Path | None) -> Cell:
    if notebook:
        if taken := {*FIRST, *MADE_BY, *HISTORY} & values.keys():
            raise ValueError(f"parameters: got {min(taken)!r}, which is a column of the table; need another name")
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        chapter = Chapter(f"{notebook.stem}-{digest[:10]}", None, notebook, values)
        check_training_values(chapter)
        return Cell(chapter.name, values, varied, chapter, chapter_fingerprint(chapter))
    from ..training.config import TrainConfig

    plain = {name: value for name, value in values.items() if "." not in name}
    options = {name.partition(".")[2]: value for name, value in values.items() if "." in name}
    if options:
        if plain.get("constraint", {}) is None:
            raise ValueError(f"constraint: got null beside its options {', '.join(options)}, need only one of these")
        plain["constraint"] = plain.get("constraint", {}) | options
    if "architecture" not in plain:
        raise ValueError("architecture: got none, need one among the parameters, in the grid or in each of the cells")
    config = TrainConfig(**plain)
    if config.dataset != "digits" and not config.data_dir:
        raise ValueError(f"data_dir: got none, need the directory of {config.dataset!r}")
    return Cell(config.name, values, varied, config)


def check_training_values(chapter: Chapter) -> None:
    """Raise ``ValueError`` if a chapter trains and has parameters that no training run can have.

    A chapter trains if its notebook uses `selfsim.TrainConfig`. Its parameters that are named like a field mean that
    field, where 0, "" and [] stand for None.
    """
    if "TrainConfig" not in chapter.notebook.read_text(encoding="utf-8"):
        return
    # Not above: other notebooks need no torch here.
    from ..models.architectures import architecture
    from ..training.config import TrainConfig

    given = chapter.parameters
    for name in given.get("architectures", []) + given.get("beside", []):
        architecture(name)
    values = {
        field.name: given[field.name]
        for field in fields(TrainConfig)
        if field.name in given and (given[field.name] or field.default is not None)
    }
    constraint = {name: given[name] for name in ("target", "weight") if name in given}
    config = TrainConfig(**{"architecture": "mlp", "constraint": constraint or None} | values)
    if "data_dir" in given and config.dataset != "digits" and not config.data_dir:
        raise ValueError(f"data_dir: got none, need the directory of {config.dataset!r}")
