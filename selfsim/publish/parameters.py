"""What a notebook can be asked: the names and types in its parameters cell, and whether values fit them.

Papermill takes any name and any value and warns at most; a misspelt name then costs a whole run. Here both
are checked against the notebook before anything starts.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_SCALARS = {"str": str, "int": int, "float": float, "bool": bool}
_TYPES = (*_SCALARS, *(f"list[{scalar}]" for scalar in _SCALARS))
_KINDS = _SCALARS | {"table": dict, "None": type(None)} | dict.fromkeys(_TYPES[len(_SCALARS) :], list)


def read_notebook(path: str | Path) -> Any:
    """Return a notebook in the format's version 4; a ``ValueError`` names a file that is none."""
    import nbformat

    text = Path(path).read_text(encoding="utf-8")
    try:
        return nbformat.reads(text, as_version=4)
    except Exception as error:  # nbformat raises many kinds: json, schema, its own
        raise ValueError(f"{path}: not a Jupyter notebook ({type(error).__name__}: {error})") from error


def notebook_parameters(path: str | Path) -> dict[str, str]:
    """Read the cell of a notebook that is tagged ``parameters``.

    Every line of the cell is ``name: type = literal``, with a comment if you like. The type is ``str``,
    ``int``, ``float``, ``bool`` or ``list[...]`` of one of them; left out, it is that of the literal.

    Parameters
    ----------
    path : str or Path
        A Jupyter notebook.

    Returns
    -------
    dict of str to str
        Types by name, in the order of the cell.

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
    found: dict[str, str] = {}
    line = 1
    try:
        for statement in ast.parse(cells[0]).body:
            line = statement.lineno
            name, type_name = _parameter(statement)
            if name in found:
                raise ValueError(f"{name} is assigned twice")
            found[name] = type_name
    except SyntaxError as error:
        raise ValueError(f"{path}: parameters cell, line {error.lineno}: not Python ({error.msg})") from error
    except ValueError as error:
        raise ValueError(f"{path}: parameters cell, line {line}: {error}") from error
    return found


def check_parameters(path: str | Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for a notebook in the types of its parameters.

    Raises
    ------
    ValueError
        A name that the notebook does not have (the message lists those it has, and the nearest one), or a
        value of the wrong type.
    """
    known = notebook_parameters(path)
    for name in values:
        check_known(name, known, name=f"parameter of {Path(path).name}")
    return {name: check_value(name, value, known[name]) for name, value in values.items()}


def check_value(name: str, value: Any, type_name: str) -> Any:
    """Return `value` in the type that the parameter `name` has, or raise a ``ValueError`` that names all three.

    Examples
    --------
    >>> check_value("weight", 1, "float")
    1.0
    >>> check_value("epochs", True, "int")
    Traceback (most recent call last):
        ...
    ValueError: epochs: got True (bool), need int
    """
    for kind in type_name.split(" | "):
        with contextlib.suppress(ValueError):
            if kind.startswith("list[") and isinstance(value, list | tuple):
                return [_fit(item, _SCALARS[kind[5:-1]]) for item in value]
            return _fit(value, _KINDS[kind])
    raise ValueError(f"{name}: got {value!r} ({type(value).__name__}), need {type_name}")


def parse_value(name: str, text: str, type_name: str) -> Any:
    """Read a value from the command line in the type of its parameter: text as it is, all else as YAML.

    Examples
    --------
    >>> parse_value("seeds", "[0, 1]", "list[int]")
    [0, 1]
    >>> parse_value("data_dir", "2024", "str")
    '2024'
    """
    import yaml

    try:
        value = text if type_name == "str" else yaml.safe_load(text)
        return check_value(name, text if type_name == "str | None" and value is not None else value, type_name)
    except (ValueError, yaml.YAMLError) as error:
        hint = ", for example '[0, 1]'" if "list" in type_name else ""
        raise ValueError(f"{name}: got {text!r}, need {type_name}{hint}") from error


def check_known(value: object, known: Iterable[str], *, name: str) -> None:
    """Raise a ``ValueError`` with the known names and the nearest one if `value` is none of them."""
    known = list(known)
    if value not in known:
        # The shared check imports torch, which reading a run list should not wait for.
        from ..checks import check_choice

        check_choice(value, [str(k) for k in known], name=name)


def _parameter(statement: ast.stmt) -> tuple[str, str]:
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
    if type_name not in _TYPES:
        raise ValueError(f"{name}: got the type {type_name}, need str, int, float, bool or list[...] of one of them")
    check_value(name, default, type_name)
    return name, type_name


def _fit(value: Any, kind: type) -> Any:
    # bool is a subclass of int, yet `epochs: true` is a mistake.
    if type(value) is kind:
        return value
    # To YAML 1.1, 1e-3 (without a dot) is text.
    if kind is float and type(value) in (int, str):
        return float(value)
    raise ValueError
