"""The correlation-sum surrogate: a box count read off the fraction of short pairs (arXiv 2507.17785).

It is the paper's training-time formula, not a count of real boxes: at n = 256 it lies between 0.1 and 16 times the
count by complete linkage. The SS rate uses it by default.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def surrogate_count(fraction: np.ndarray, n: int) -> np.ndarray:
    """Boxes that cover `n` nodes when the `fraction` C of pairs is closer than the box size.

    ``N = n - (n - 1) ln(1 + (n - 1) C) / ln n``: n at C = 0 and 1 at C = 1.

    Examples
    --------
    >>> surrogate_count(np.array([0.0, 1.0]), 8)
    array([8., 1.])
    """
    return n - (n - 1) * np.log1p((n - 1) * np.asarray(fraction, dtype=np.float64)) / np.log(n)


def surrogate_drop(fraction: Any, n: int) -> Any:
    """``1 - ln N / ln n`` of the surrogate: how far the curve has fallen, from 0 at C = 0 to 1 at C = 1.

    Written with log1p, so that the small steps between neighbouring fractions keep their digits. For an array or a
    tensor, in float64.
    """
    on_gpu = isinstance(fraction, torch.Tensor)
    xp, fraction = (torch, fraction.double()) if on_gpu else (np, np.asarray(fraction, dtype=np.float64))
    inner = (n - 1) / n * xp.log1p((n - 1) * fraction) / np.log(n)
    return -xp.log1p(-inner) / np.log(n)
