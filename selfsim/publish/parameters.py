"""What a notebook can be asked: the parameters of its tagged cell, and whether values fit them.

Papermill takes any name and any value and warns at most; a misspelt name then costs a whole run. Here both
are checked against the notebook before anything starts.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsim.publish.plain_yaml import parse_yaml

_SCALARS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell.

    Parameters
    ----------
    name : str
    type : str
        ``str``, ``int``, ``float``, ``bool``, ``list[...]`` of them, or several joined by ``|`` with
        ``None``.
    default : object
    help : str
        The comment at the end of the line, without its hash.
    """

    name: str
    type: str
    default: Any
    help: str = ""


def notebook_parameters(path: str | Path) -> dict[str, Parameter]:
    """Read the cell of a notebook that is tagged ``parameters``.

    Every line of the cell is ``name: type = literal  # help``; without an annotation the type is that of the
    literal.

    Parameters
    ----------
    path : str or Path
        A Jupyter notebook.

    Returns
    -------
    dict of str to Parameter
        In the order of the cell.

    Raises
    ------
    FileNotFoundError
        There is no such notebook.
    ValueError
        Not a notebook, no such cell, several, or a line that is anything but a one-line assignment of a
        literal that fits its type.
    """
    cells = [
        cell
        for cell in read_notebook(path).cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) != 1:
        raise ValueError(f"{path}: got {len(cells)} code cells tagged 'parameters', need exactly one")
    try:
        return parse_parameters(cells[0].source)
    except ValueError as error:
        raise ValueError(f"{path}: parameters cell: {error}") from error


def read_notebook(path: str | Path) -> Any:
    """Return a notebook in the format's version 4; a ``ValueError`` names a file that is none."""
    import nbformat

    text = Path(path).read_text(encoding="utf-8")
    try:
        return nbformat.reads(text, as_version=4)
    except Exception as error:  # nbformat raises many kinds: json, schema, its own
        raise ValueError(f"{path}: not a Jupyter notebook ({type(error).__name__}: {error})") from error


def parse_parameters(source: str) -> dict[str, Parameter]:
    """Read the source text of a parameters cell.

    Parameters
    ----------
    source : str
        Python source of nothing but one-line assignments, comments and empty lines.

    Returns
    -------
    dict of str to Parameter

    Raises
    ------
    ValueError
        A line of another kind, an unknown type, a default that does not fit, a name given twice.

    Examples
    --------
    >>> parse_parameters("epochs: int = 3  # passes over the images")["epochs"]
    Parameter(name='epochs', type='int', default=3, help='passes over the images')
    >>> parse_parameters("seeds = [0, 1]")["seeds"].type
    'list[int]'
    """
    try:
        statements = ast.parse(source).body
        comments = {
            token.start[0]: token.string.lstrip("#").strip()
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: not Python ({error.msg})") from error
    found: dict[str, Parameter] = {}
    for statement in statements:
        try:
            parameter = _parameter(statement, comments.get(statement.lineno, ""))
            if parameter.name in found:
                raise ValueError(f"{parameter.name} is assigned twice")
        except ValueError as error:
            raise ValueError(f"line {statement.lineno}: {error}") from error
        found[parameter.name] = parameter
    return found


def check_parameters(path: str | Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check values against the parameters of a notebook.

    Parameters
    ----------
    path : str or Path
        The notebook.
    values : mapping of str to object
        Values by parameter name; those left out keep the notebook's default.

    Returns
    -------
    dict of str to object
        The values in the type of their parameter (an int becomes a float where a float is needed).

    Raises
    ------
    ValueError
        A name that the notebook does not have (the message lists those it has, and the nearest one), or a
        value of the wrong type.
    """
    known = notebook_parameters(path)
    checked = {}
    for name, value in values.items():
        check_known(name, known, name=f"parameter of {Path(path).name}")
        checked[name] = check_value(value, known[name])
    return checked


def check_value(value: Any, parameter: Parameter) -> Any:
    """Return `value` in the type of `parameter`, or raise a ``ValueError`` that names all three.

    Examples
    --------
    >>> check_value(1, Parameter("weight", "float", 10.0))
    1.0
    >>> check_value(True, Parameter("epochs", "int", 3))
    Traceback (most recent call last):
        ...
    ValueError: epochs: got True (bool), need int
    """
    try:
        return _fit(value, ast.parse(parameter.type, mode="eval").body)
    except _Unfit:
        raise ValueError(f"{parameter.name}: got {value!r} ({type(value).__name__}), need {parameter.type}") from None


def parse_value(text: str, parameter: Parameter) -> Any:
    """Read a value from the command line as YAML, in the type of its parameter.

    Parameters
    ----------
    text : str
        ``3``, ``1e-3``, ``true``, ``[0, 1]``, ``null``; for a ``str`` parameter any text, quoted or not.
    parameter : Parameter

    Returns
    -------
    object

    Raises
    ------
    ValueError
        Names the parameter, the text and the type that is needed.

    Examples
    --------
    >>> parse_value("[0, 1]", Parameter("seeds", "list[int]", []))
    [0, 1]
    >>> parse_value("10", Parameter("dataset", "str", "digits"))
    '10'
    """
    try:
        return check_value(parse_yaml(text), parameter)
    except ValueError as error:
        try:
            # What YAML takes for a number or a mapping is still a good str.
            return check_value(text, parameter)
        except ValueError:
            hint = ", for example [0, 1]" if "list" in parameter.type else ""
            raise ValueError(f"{parameter.name}: got {text!r}, need {parameter.type}{hint}") from error


def check_known(value: object, known: Iterable[str], *, name: str) -> None:
    """Raise a ``ValueError`` with the known names and the nearest one if `value` is none of them."""
    known = list(known)
    if not known:
        raise ValueError(f"{name}: got {value!r}, but none is known")
    if value not in known:
        # The shared check imports torch, which reading a run list should not wait for.
        from selfsim.validation import check_choice

        check_choice(value, [str(k) for k in known], name=name)


class _Unfit(Exception):
    """A value does not fit a type; the caller knows the names for a message."""


def _parameter(statement: ast.stmt, comment: str) -> Parameter:
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target, annotation, value = statement.target, statement.annotation, statement.value
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, annotation, value = statement.targets[0], None, statement.value
    else:
        raise ValueError(f"got {ast.unparse(statement)!r}, need 'name: type = literal'")
    if not isinstance(target, ast.Name):
        raise ValueError(f"got {ast.unparse(statement)!r}, need one name on the left")
    if statement.lineno != statement.end_lineno:
        raise ValueError(f"{target.id} spans several lines, need one")
    try:
        default = ast.literal_eval(value)
    except ValueError:
        raise ValueError(f"{target.id}: got {ast.unparse(value)!r}, need a literal") from None
    if annotation is None:
        type_name = _type_of(default, target.id)
    else:
        _check_type(annotation, target.id)
        type_name = ast.unparse(annotation)
    parameter = Parameter(name=target.id, type=type_name, default=default, help=comment)
    return Parameter(parameter.name, type_name, check_value(default, parameter), comment)


def _type_of(default: Any, name: str) -> str:
    if isinstance(default, list):
        kinds = {type(item).__name__ for item in default}
        if kinds == {"int", "float"}:
            kinds = {"float"}
        if len(kinds) == 1 and kinds <= set(_SCALARS):
            return f"list[{kinds.pop()}]"
    elif type(default).__name__ in _SCALARS:
        return type(default).__name__
    raise ValueError(f"{name}: the type does not follow from {default!r}; write '{name}: type = {default!r}'")


def _check_type(annotation: ast.expr, name: str) -> None:
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            _check_type(left, name)
            _check_type(right, name)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            _check_type(item, name)
        case ast.Name(id=scalar) if scalar in _SCALARS:
            pass
        case ast.Constant(value=None):
            pass
        case _:
            raise ValueError(
                f"{name}: got the type {ast.unparse(annotation)}, need str, int, float, bool, list[...] of "
                "them, or several joined by |, with None"
            )


def _fit(value: Any, annotation: ast.expr) -> Any:
    match annotation:
        case ast.BinOp(left=left, right=right):
            try:
                return _fit(value, left)
            except _Unfit:
                return _fit(value, right)
        case ast.Subscript(slice=item):
            if isinstance(value, list | tuple):
                return [_fit(element, item) for element in value]
        case ast.Name(id=scalar):
            kind = _SCALARS[scalar]
            # bool is a subclass of int, yet `epochs: true` is a mistake.
            if type(value) is kind:
                return value
            if kind is float and type(value) is int:
                return float(value)
        case ast.Constant():
            if value is None:
                return None
    raise _Unfit
