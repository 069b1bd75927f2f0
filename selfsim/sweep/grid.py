"""The grid of a sweep: a YAML file that asks for one run, or one execution of a notebook, per cell.

With ``notebook: PATH`` a cell is an execution of that notebook; without it, a training run, whose parameters are the
fields of `selfsim.TrainConfig`. ``parameters`` are the same for all cells. ``grid`` gives a list of values to each of
its parameters, and makes a cell of every combination; ``cells`` is a list of tables, each of which is combined with all
of those. The first list changes slowest, the tables fastest: with the seeds first, a sweep that is stopped early has
whole pairs. An option of the constraint may be named alone: ``constraint.target: [0.1, 0.2]``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import read_yaml
from ..publish.parameters import check_known, check_value, notebook_parameters, parse_value
from ..publish.run_list import Chapter, check_table
from ..publish.runner import chapter_fingerprint

if TYPE_CHECKING:
    from ..training.config import TrainConfig

_KEYS = {"description": str, "notebook": str, "parameters": dict, "grid": dict, "cells": list}
_SIZES = dict.fromkeys(("minutes", "megabytes"), (int, float))


@dataclass(frozen=True)
class Cell:
    """One thing that a sweep has to do."""

    name: str  # of its folder, and of its page if it is a notebook; the same parameters give the same name
    values: dict[str, Any]  # all parameters that the grid file gives it, checked
    varied: dict[str, Any]  # those in which it differs from others
    work: TrainConfig | Chapter
    fingerprint: str = ""  # of what decides what a notebook shows, as it is now


@dataclass(frozen=True)
class Grid:
    """What a grid file asks for.

    Attributes
    ----------
    path : Path
    description : str
    cells : tuple of Cell
    minutes, megabytes : float or None
        About how long one cell takes, and how much disk it needs.
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
        An unknown key or parameter (with the known names and the nearest one), a value of the wrong type or that no run
        can have, an empty list, the same cell twice; the message starts with the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such grid")
    content = read_yaml(path)
    try:
        check_table(content, _KEYS | _SIZES, "grid file")
        for name in _SIZES:
            if name in content and not 0 <= content[name] < math.inf:
                raise ValueError(f"{name}: got {content[name]!r}, need a number of at least 0")
        notebook = path.parent / content["notebook"] if "notebook" in content else None
        if notebook and not notebook.is_file():
            raise FileNotFoundError(f"notebook: there is no {notebook}")
        types = notebook_parameters(notebook) if notebook else config_types()
        given = {name: parse_value(name, text, _type_of(name, types, "-p")) for name, text in overrides}
        fixed = _checked(content.get("parameters", {}), types, "parameters")
        lists = {name: values for name, values in content.get("grid", {}).items() if name not in given}
        cells = {}
        for number, varied in enumerate(_combinations(content.get("cells", [{}]), lists, types), 1):
            try:
                cell = _cell(fixed | varied | given, varied, notebook)
            except (ValueError, TypeError) as error:
                raise ValueError(f"cell {number} {varied}: {error}") from error
            if cell.name in cells:
                raise ValueError(f"cell {number} {varied}: asked for twice, also as {cells[cell.name].varied}")
            cells[cell.name] = cell
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{path}: {error}") from error
    return Grid(path, content.get("description", ""), tuple(cells.values()), *map(content.get, _SIZES))


def config_types() -> dict[str, str]:
    """Return the types of a training run's parameters, by name."""
    # Not above: a worker that executes notebooks need not load torch.
    from ..training.config import TrainConfig

    return {field.name: str(field.type).replace("Mapping", "table") for field in fields(TrainConfig)}


def _combinations(tables: list, lists: Mapping[str, Any], types: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What each cell has of its own, in the order of the file."""
    for name, values in [("cells", tables), *((f"grid: {name}", values) for name, values in lists.items())]:
        if not isinstance(values, list) or not values:
            raise ValueError(f"{name}: got {values!r}, need a list with at least one value")
    for *values, table in itertools.product(*lists.values(), tables):
        own, listed = _checked(table, types, "cells"), _checked(dict(zip(lists, values, strict=True)), types, "grid")
        if both := own.keys() & listed:
            raise ValueError(f"cells: {min(both)}: is in the grid too, need it in one of them")
        yield own | listed


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
    check_known(name, types, name=where)
    return types[name]


def _cell(values: dict[str, Any], varied: dict[str, Any], notebook: Path | None) -> Cell:
    if notebook:
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        chapter = Chapter(f"{notebook.stem}-{digest[:10]}", None, notebook, values)
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
