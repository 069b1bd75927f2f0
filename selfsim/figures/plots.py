"""The former place of the functions that draw; `selfsim.figures` has them now."""

from __future__ import annotations

import warnings
from typing import Any

from selfsim import figures


def __getattr__(name: str) -> Any:
    if name not in figures.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"{__name__}.{name} is now selfsim.figures.{name}; the old name will go in the next release"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(figures, name)
