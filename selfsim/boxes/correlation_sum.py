"""The correlation-sum surrogate: a box count read off the fraction of short pairs (arXiv 2507.17785).

It is the paper's training-time formula, not a count of real boxes: at n = 256 it lies between 0.1 and 16 times the
count by complete linkage. The SS rate uses it by default.
"""

from __future__ import annotations

import numpy as np


def surrogate_count(fraction: np.ndarray, n: int) -> np.ndarray:
    """Boxes that cover `n` nodes when the `fraction` C of pairs is closer than the box size.

    ``N = n - (n - 1) ln(1 + (n - 1) C) / ln n``: n at C = 0 and 1 at C = 1.

    Examples
    --------
    >>> surrogate_count(np.array([0.0, 1.0]), 8)
    array([8., 1.])
    """
    return n - (n - 1) * np.log1p((n - 1) * np.asarray(fraction, dtype=np.float64)) / np.log(n)


def surrogate_drop(fraction: np.ndarray, n: int) -> np.ndarray:
    """``1 - ln N / ln n`` of the surrogate: how far the curve has fallen, from 0 at C = 0 to 1 at C = 1.

    Written with log1p, so that the small steps between neighbouring fractions keep their digits.
    """
    inner = (n - 1) / n * np.log1p((n - 1) * np.asarray(fraction, dtype=np.float64)) / np.log(n)
    return -np.log1p(-inner) / np.log(n)
