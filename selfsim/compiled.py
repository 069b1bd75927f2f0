"""Loops that numba compiles when they are first called.

numba is an extra (``pip install ".[boxes]"`` in the clone) and is imported at the first call of a compiled loop, not
before. Without it the same functions run as plain Python, with the same results and some hundred times slower.
"""

from __future__ import annotations

import functools
import importlib.util
import types
import warnings
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class compiled(Generic[P, R]):
    """A loop over arrays that numba compiles at its first call; the machine code stays on disk for later processes.

    Parameters
    ----------
    function : callable
        Called with positional arguments only. It may call numpy, and compiled loops of its own file.
    fastmath : set of str or bool
        Freedoms with the rounding of floats, by LLVM's names: "contract" fuses products into sums, "reassoc" reorders
        sums, so that they run on vectors.

    Attributes
    ----------
    plain : callable
        The function itself.
    """

    def __init__(self, function: Callable[P, R], *, fastmath: set[str] | bool = False):
        self.plain, self.fastmath = function, fastmath
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R:
        return self.machine_code(*arguments, **named)

    @functools.cached_property
    def machine_code(self) -> Callable[P, R]:
        """What numba makes of the function; the function itself where numba is missing."""
        numba = _numba()
        if numba is None:
            return self.plain
        # numba cannot call this class: the loops that the function names are replaced by their machine code.
        known = self.plain.__globals__
        used = {name: known[name] for name in self.plain.__code__.co_names if isinstance(known.get(name), compiled)}
        function = self.plain
        if used:
            names = {**known, **{name: loop.machine_code for name, loop in used.items()}}
            function = types.FunctionType(function.__code__, names, function.__name__)
            functools.update_wrapper(function, self.plain)
        # By "numpy", a division by zero gives infinity. Python's check of every divisor keeps loops off vectors.
        options = {"nogil": True, "fastmath": self.fastmath, "error_model": "numpy"}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep machine code in: compile in every process
            return numba.njit(**options)(function)


@functools.cache
def numba_is_installed() -> bool:
    """Return whether loops will be compiled; numba is looked for, not imported."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def _numba() -> types.ModuleType | None:
    try:
        import numba
    except ImportError:
        warnings.warn(
            'numba is not installed, box covering runs as plain Python: pip install ".[boxes]" in the clone',
            stacklevel=4,
        )
        return None
    return numba
