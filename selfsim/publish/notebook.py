"""Checks for the first cell of every notebook: its parameters, and paths that hold from either folder."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..checks import check_choice, check_integer, check_seed
from .parameters import check_value

# The least values of parameters of these names: of a null band, of an interval over samples, of a scaling range.
_LEAST = {"null_draws": 2, "samples": 4, "neurons": 32}


def check_notebook(namespace: dict[str, Any], *, optional: Collection[str] = ()) -> None:
    """Check the parameters of the notebook that runs, before anything is trained.

    Parameters
    ----------
    namespace : dict
        The notebook's ``globals()``. Parameters are the names that its parameters cell annotates. Numbers that YAML
        reads as text, such as 1e-3, become numbers.
    optional : collection of str
        Parameters that may be 0 or an empty list. Text may always be empty.

    Raises
    ------
    ValueError
        A parameter of papermill's that the notebook does not have, a value of another type than its default, a number
        that is not finite or below the least that makes sense, an empty list, or a seed that is there twice: copies of
        one run are one observation.

    Examples
    --------
    >>> check_notebook({"__annotations__": {"seeds": list[int]}, "seeds": "[0, 1]"})
    Traceback (most recent call last):
        ...
    ValueError: seeds: got text, need a list; with papermill: -y 'seeds: [0, 1]'
    """
    parameters = namespace.get("__annotations__", {})
    for name in _injected(namespace):
        check_choice(name, parameters, name="parameter")
    for name, kind in parameters.items():
        value, type_name = namespace[name], kind if isinstance(kind, str) else getattr(kind, "__name__", "")
        is_list = str(kind).startswith("list")
        if is_list and isinstance(value, str):
            example = value if value.startswith("[") else f"[{value}]"
            raise ValueError(f"{name}: got text, need a list; with papermill: -y '{name}: {example}'")
        namespace[name] = value = check_value(name, value, str(kind) if is_list else type_name)
        if is_list and not value and name not in optional:
            raise ValueError(f"{name}: got an empty list, need at least one value")
        for number in value if is_list else [value]:
            if name in ("seed", "seeds"):
                check_seed(number, name=name)
            elif isinstance(number, int) and not isinstance(number, bool):
                check_integer(number, name=name, least=0 if name in optional else _LEAST.get(name, 1))


def _injected(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names that papermill assigned, also those that the notebook does not have, in a cell of its own."""
    cells = [cell for cell in namespace.get("In", ()) if cell.partition("\n")[0].strip() == "# Parameters"]
    try:
        statements = ast.parse(cells[-1]).body if cells else []
    except SyntaxError:  # a cell of the user's, whose error was shown
        return []
    targets = [target for s in statements if isinstance(s, ast.Assign) for target in s.targets]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("PAPERMILL_")]  # from --inject-paths


def project_path(path: str) -> str:
    """Return a path that is given from the project's folder, also where the notebook runs in ``notebooks/``.

    Parameters
    ----------
    path : str
        A file or folder; empty for none.

    Returns
    -------
    str
        `path` itself, unless this folder is called ``notebooks`` and the path exists only in the parent folder.

    Examples
    --------
    >>> project_path("no/such/folder"), project_path("")
    ('no/such/folder', '')
    """
    outside = Path("..", path)
    inside = Path.cwd().name != "notebooks" or Path(path).exists()
    return str(outside) if path and not inside and outside.exists() else path
