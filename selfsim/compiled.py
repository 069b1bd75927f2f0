"""Loops that numba compiles when they are first called.

numba is an extra (``pip install ".[boxes]"`` in the clone) and is imported at the first call of a compiled loop, not
before. Without it the same functions run as plain Python: right, and some hundred times slower.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable


def compiled(function: Callable, *, fastmath: set[str] | bool = False) -> Callable:
    """Compile a loop over arrays at its first call, and keep the machine code on disk for the next process.

    Parameters
    ----------
    function : callable
        Of positional arguments only, self-contained: it may call numpy, but no other compiled loop.
    fastmath : set of str or bool
        Freedoms with the rounding of floats, by LLVM's names: "contract" fuses products into sums, "reassoc" reorders
        sums, so that they run on vectors.

    Returns
    -------
    callable
        With the plain function as its attribute ``plain``.
    """

    @functools.cache
    def build() -> Callable:
        numba = _numba()
        if numba is None:
            return function
        try:
            return numba.njit(cache=True, fastmath=fastmath)(function)
        except RuntimeError:  # no folder to keep machine code in: compile in every process
            return numba.njit(fastmath=fastmath)(function)

    @functools.wraps(function)
    def call(*arguments):
        return build()(*arguments)

    call.plain = function
    return call


@functools.cache
def numba_is_installed() -> bool:
    """Whether compiled loops would be compiled; numba is looked for, not imported."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def _numba():
    try:
        import numba
    except ImportError:
        warnings.warn(
            'numba is not installed, box covering runs as plain Python: pip install ".[boxes]" in the clone',
            stacklevel=4,
        )
        return None
    return numba
