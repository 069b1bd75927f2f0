"""Checks of arguments that need no torch; every message names the argument, what it got and what it needs."""

from __future__ import annotations

import difflib
import importlib
import math
import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from types import ModuleType
from typing import Any

import numpy as np


def check_integer(value: object, *, name: str, least: int | None = 1) -> int:
    """Return an integer, of Python or NumPy, as an int; else raise ``ValueError``. `bool` does not count.

    Examples
    --------
    >>> check_integer(2.5, name="steps")
    Traceback (most recent call last):
        ...
    ValueError: steps: got 2.5, need an integer of at least 1
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or (least is not None and number < least) or abs(number) >= 2**63:
        floor = "" if least is None else f" of at least {least}"
        bound = " of at most 63 bits" if number is not None and abs(number) >= 2**63 else floor
        raise ValueError(f"{name}: got {value!r}, need an integer{bound}")
    return number


def check_number(value: object, *, name: str, within: str = "(-inf, inf)") -> float:
    """Return a real number, of Python or NumPy, as a float; else raise ``ValueError``. `bool` does not count.

    Parameters
    ----------
    value : object
    name : str
        The argument's name, for the message.
    within : str
        The interval of valid numbers, with round brackets where an end is excluded.

    Examples
    --------
    >>> check_number(1, name="weight", within="[0, inf)")
    1.0
    >>> check_number(1.5, name="level", within="(0, 1)")
    Traceback (most recent call last):
        ...
    ValueError: level: got 1.5, need a number in (0, 1)
    """
    low, high = map(float, within[1:-1].split(","))
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an integer beyond the largest float
            number = math.nan
        above = number > low or (within[0] == "[" and number == low)
        below = number < high or (within[-1] == "]" and number == high)
        if above and below:
            return number
    in_words = {"(-inf, inf)": "a finite number", "(0, inf)": "a finite number above 0"}
    raise ValueError(f"{name}: got {value!r}, need {in_words.get(within, f'a number in {within}')}")


def check_range(values: object, *, name: str, within: str) -> tuple[float, float]:
    """Return a pair (low, high) of numbers in an interval, as `check_number` takes it; else raise ``ValueError``.

    Examples
    --------
    >>> check_range((0.5, 0.1), name="quantiles", within="[0, 1]")
    Traceback (most recent call last):
        ...
    ValueError: quantiles: got (0.5, 0.1), need (low, high) with low < high
    """
    if isinstance(values, tuple | list) and len(values) == 2:
        low, high = (check_number(value, name=name, within=within) for value in values)
        if low < high:
            return low, high
    raise ValueError(f"{name}: got {values!r}, need (low, high) with low < high")


def check_choice(value: object, known: Iterable[str], *, name: str) -> str:
    """Return `value` if it is one of the `known` names; else raise ``ValueError`` with the nearest one.

    Examples
    --------
    >>> check_choice("vit_smal", ["mlp", "vit_small"], name="architecture")
    Traceback (most recent call last):
        ...
    ValueError: architecture: got 'vit_smal', need one of 'mlp', 'vit_small'; did you mean 'vit_small'?
    """
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    listed = ", ".join(repr(k) for k in known)
    close = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name}: got {value!r}, need one of {listed}{hint}")


def check_seed(seed: object, *, name: str = "seed") -> int:
    """Return `seed` as an int if torch's generators take it; else raise ``ValueError``."""
    return check_integer(seed, name=name, least=None)


def check_flag(value: object, *, name: str) -> bool:
    """Return a `bool`, of Python or NumPy, as a bool; else raise ``ValueError``."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"{name}: got {value!r}, need True or False")


def as_number(value: Any) -> float:
    """Return one number, of Python, NumPy or torch, as a float; else raise ``TypeError``."""
    if not hasattr(value, "__float__") or math.prod(getattr(value, "shape", ())) != 1:
        raise TypeError(f"got {type(value).__name__}, need one number")
    return float(value)


def check_numbers(values: object, *, name: str) -> np.ndarray:
    """Return a sequence of one or more finite numbers as a float64 array; else raise ``ValueError``.

    Examples
    --------
    >>> check_numbers([1, "two"], name="values")
    Traceback (most recent call last):
        ...
    ValueError: values: got [1, 'two'], need one or more finite numbers
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors that need a gradient or hold no data
        array = np.asarray(None)
    if np.ma.isMaskedArray(values):  # its mask is lost
        array = np.asarray(None)
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {values!r}, need one or more finite numbers")
    return array.astype(np.float64)


@contextmanager
def errors_named(where: object) -> Iterator[None]:
    """Put `where` and a colon before the message of a ValueError, TypeError or FileNotFoundError of the block.

    Another exception keeps its message, because its type may need other arguments; it gets `where` as a note.

    Examples
    --------
    >>> with errors_named("grid.yml"):
    ...     _ = check_integer(0, name="seeds")
    Traceback (most recent call last):
        ...
    ValueError: grid.yml: seeds: got 0, need an integer of at least 1
    """
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        # Subclasses, such as UnicodeDecodeError, need other arguments than a message.
        kind = next(kind for kind in (FileNotFoundError, TypeError, ValueError) if isinstance(error, kind))
        raise kind(f"{where}: {error}") from error
    except Exception as error:
        error.add_note(str(where))
        raise


def optional_package(name: str, *, extra: str) -> ModuleType:
    """Import a package that comes with one of selfsim's extras; if it is missing, name the extra.

    Examples
    --------
    >>> optional_package("no_such_package", extra="models")
    Traceback (most recent call last):
        ...
    ModuleNotFoundError: no_such_package is not installed; install it with: pip install ".[models]"
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        message = f'{error.name} is not installed; install it with: pip install ".[{extra}]"'
        raise ModuleNotFoundError(message, name=error.name) from error
