"""The correlation-sum surrogate: a box count read off the fraction of short pairs (arXiv 2507.17785).

It is the paper's training-time formula, not a count of real boxes: at n = 256 it was measured between 0.1 and
16 times the agglomerative count. It is what the SS rate uses by default, under this name only.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


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


@functools.lru_cache(maxsize=8)
def _cached_steps(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    pairs = n * (n - 1) // 2
    drop = surrogate_drop(np.arange(1, pairs) / pairs, n)
    rise = np.diff(drop)
    return tuple(torch.from_numpy(a).to(device=device, dtype=dtype) for a in (drop, rise))


def surrogate_steps(n: int, *, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Step heights of the surrogate curve of `n` nodes, after each of the first pairs - 1 distances.

    They depend on `n` alone, so a training run, which asks for them at every step, finds them in a small cache
    (for n up to 3,000: 36 MB at most).

    Returns
    -------
    drop : Tensor, shape (pairs - 1,)
        ``1 - ln N / ln n`` after 1, 2, …, pairs - 1 distances have been passed.
    rise : Tensor, shape (pairs - 2,)
        Differences between neighbours in `drop`, taken in float64.
    """
    compute = _cached_steps if n <= 3000 else _cached_steps.__wrapped__
    return compute(n, dtype, device)
