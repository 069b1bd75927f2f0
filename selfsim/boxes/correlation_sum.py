"""The correlation-sum surrogate: a box count read off the fraction of short pairs (arXiv 2507.17785).

It is the paper's training-time formula, not a count of real boxes: at n = 256 it lies between 0.1 and 16 times the
count by complete linkage. The SS rate uses it by default.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def surrogate_count(fraction: Any, n: int) -> Any:
    """Boxes that cover `n` nodes when the `fraction` C of pairs is closer than the box size.

    ``N = n - (n - 1) ln(1 + (n - 1) C) / ln n``: n at C = 0 and 1 at C = 1. For an array or a tensor, in float64.

    Examples
    --------
    >>> surrogate_count(np.array([0.0, 1.0]), 8)
    array([8., 1.])
    """
    return n - (n - 1) * _log_mass(fraction, n) / np.log(n)


def surrogate_drop(fraction: Any, n: int) -> Any:
    """``1 - ln N / ln n`` of the surrogate: how far the curve has fallen, from 0 at C = 0 to 1 at C = 1.

    Written with log1p, so that the small steps between neighbouring fractions keep their digits. For an array or a
    tensor, in float64.
    """
    inner = (n - 1) / n * _log_mass(fraction, n) / np.log(n)
    return -_log1p(-inner) / np.log(n)


def _log_mass(fraction: Any, n: int) -> Any:
    """Logarithm of the mean number of nodes within the box size, the node itself included."""
    double = fraction.double() if hasattr(fraction, "double") else np.asarray(fraction, dtype=np.float64)
    return _log1p((n - 1) * double)


def _log1p(values: Any) -> Any:
    """Return ``log(1 + values)`` of an array or a tensor, without importing torch, which boxes do without."""
    return values.log1p() if hasattr(values, "log1p") else np.log1p(values)
