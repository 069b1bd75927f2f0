"""The parameters of a notebook: their names and types, and checks of the values that it is executed with.

Papermill takes any name and any value and at most warns, so a misspelt name costs a whole run. Here both are checked
against the notebook before anything starts.
"""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checks import check_choice, errors_named
from ..files import parse_yaml

_SCALARS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
_LISTS = {f"list[{name}]": kind for name, kind in _SCALARS.items()}
_OTHERS: dict[str, type] = {"table": dict, "None": type(None)}


def read_notebook(path: str | Path) -> Any:
    """Return a notebook in version 4 of the format.

    Raises
    ------
    ValueError
        The file is not a notebook; names the file.
    """
    import nbformat

    try:
        return nbformat.reads(Path(path).read_text(encoding="utf-8"), as_version=4)
    except OSError:
        raise
    except Exception as error:  # nbformat raises many kinds: json, schema, its own
        raise ValueError(f"{path}: not a Jupyter notebook ({type(error).__name__}: {error})") from error


def notebook_parameters(path: str | Path) -> dict[str, str]:
    """Return the types of a notebook's parameters by name, in the order of its parameters cell.

    Every line of the cell tagged ``parameters`` is ``name: type = literal``, with or without a comment. The type is
    ``str``, ``int``, ``float``, ``bool`` or ``list[...]`` of one of them; without it, the literal's type counts.

    Raises
    ------
    FileNotFoundError
        There is no such notebook.
    ValueError
        Not a notebook, no such cell, several, a line of another kind, or a literal that does not fit its type.
    """
    cells = [
        cell.source
        for cell in read_notebook(path).cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) != 1:
        raise ValueError(f"{path}: got {len(cells)} code cells tagged 'parameters', need exactly one")
    try:
        statements = ast.parse(cells[0]).body
    except SyntaxError as error:
        raise ValueError(f"{path}: parameters cell, line {error.lineno}: not Python ({error.msg})") from error
    types: dict[str, str] = {}
    for statement in statements:
        with errors_named(f"{path}: parameters cell, line {statement.lineno}"):
            name, type_name = _name_and_type(statement)
            if name in types:
                raise ValueError(f"{name} is assigned twice")
            types[name] = type_name
    return types


def check_parameters(
    path: str | Path, values: Mapping[str, Any], *, types: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return values for a notebook in the types of its parameters.

    Parameters
    ----------
    path : str or Path
    values : mapping of str to object
    types : mapping of str to str, optional
        What `notebook_parameters` returned for it, where that is known already.

    Raises
    ------
    ValueError
        A name that the notebook does not have (lists those it has, and the nearest one), or an invalid value.
    """
    types = notebook_parameters(path) if types is None else types
    for name in values:
        check_choice(name, types, name=f"parameter of {Path(path).name}")
    return {name: check_value(name, value, types[name]) for name, value in values.items()}


def check_value(name: str, value: Any, type_name: str) -> Any:
    """Return `value` in the type of the parameter `name`; raise ``ValueError`` if it does not fit.

    Numbers must be finite. Seeds, the values of a parameter of that name, must be distinct.

    Examples
    --------
    >>> check_value("weight", 1, "float")
    1.0
    >>> check_value("epochs", True, "int")
    Traceback (most recent call last):
        ...
    ValueError: epochs: got True (bool), need int
    >>> check_value("seeds", [0, 0], "list[int]")
    Traceback (most recent call last):
        ...
    ValueError: seeds: got [0, 0] (list), need at least one, each once: copies of one run are one observation
    """
    try:
        return _fit(name, value, type_name)
    except ValueError as error:
        raise ValueError(f"{name}: got {value!r} ({type(value).__name__}), need {error}") from None


def parse_value(name: str, text: str, type_name: str) -> Any:
    """Read a value from the command line in the type of its parameter: YAML, except that text stays as it is.

    Examples
    --------
    >>> parse_value("seeds", "[0, 1]", "list[int]")
    [0, 1]
    >>> parse_value("data_dir", "2024", "str")
    '2024'
    """
    try:
        value = text if type_name == "str" else parse_yaml(text)
    except ValueError:
        value = text
    if type_name == "str | None" and value is not None:
        value = text
    try:
        return _fit(name, value, type_name)
    except ValueError as error:
        raise ValueError(f"{name}: got {text!r}, need {error}") from None


def _fit(name: str, value: Any, type_name: str) -> Any:
    """`value` in the type of the parameter `name`; the message of a ``ValueError`` is what it needs to be."""
    is_list = isinstance(value, list | tuple)
    for kind in type_name.split(" | "):
        with contextlib.suppress(ValueError):
            if kind not in _LISTS:
                return _fit_kind(value, (_SCALARS | _OTHERS)[kind])
            if is_list:
                items = [_fit_kind(item, _LISTS[kind]) for item in value]
                break
    else:
        if "list[" in type_name and isinstance(value, str):
            type_name += ", for example '[0, 1]'"
        if any(isinstance(item, float) and not math.isfinite(item) for item in (value if is_list else [value])):
            type_name += ", finite"
        raise ValueError(type_name)
    if name.rpartition(" ")[2] == "seeds" and (not items or len({*items}) < len(items)):
        raise ValueError("at least one, each once: copies of one run are one observation")
    return items


def _name_and_type(statement: ast.stmt) -> tuple[str, str]:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
            type_name = ast.unparse(annotation)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            type_name = ""
        case _:
            raise ValueError(f"got {ast.unparse(statement)!r}, need 'name: type = literal'")
    if statement.lineno != statement.end_lineno:
        raise ValueError(f"{name} spans several lines, need one")
    try:
        default = ast.literal_eval(value)
    except ValueError:
        raise ValueError(f"{name}: got {ast.unparse(value)!r}, need a literal") from None
    if not type_name:
        inner = type(default[0] if isinstance(default, list) and default else default).__name__
        type_name = f"list[{inner}]" if isinstance(default, list) else inner
    if type_name not in _SCALARS | _LISTS:
        raise ValueError(f"{name}: got the type {type_name}, need str, int, float, bool or list[...] of one of them")
    check_value(name, default, type_name)
    return name, type_name


def _fit_kind(value: Any, kind: type) -> Any:
    if kind is float and type(value) in (float, int, str):  # YAML 1.1 reads 1e-3, without a dot, as text
        try:
            number = float(value)
        except OverflowError as error:
            raise ValueError from error
        if math.isfinite(number):
            return number
    elif type(value) is kind:  # not isinstance: bool is a subclass of int, yet `epochs: true` is a mistake
        return value
    raise ValueError
