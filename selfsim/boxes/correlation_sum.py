"""The correlation-sum surrogate: a box count read off the fraction of short pairs (arXiv 2507.17785).

It is the paper's training-time formula, not a count of real boxes: at n = 256 it was measured between 0.1 and
16 times the agglomerative count. It is what the SS rate uses by default, under this name only.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

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


class Steps(NamedTuple):
    """The steps of a staircase that falls by a little at each of its knots, between its first and its last.

    With ``drop_j`` how far it has fallen after knot j, the inner knots have ``total = drop_{j-1} + drop_j`` and
    ``rise = drop_j - drop_{j-1}``; `ends` is ``drop_1² + (1 - drop_last)²``.
    """

    total: np.ndarray  # (knots - 2,)
    rise: np.ndarray  # (knots - 2,)
    ends: float

    @classmethod
    def of(cls, drop: np.ndarray, dtype: np.dtype) -> Steps:
        """From `drop` after each knot but the last, ``(knots - 1,)``, float64."""
        # Differences are taken before rounding to float32: neighbours agree in nearly all its digits.
        ends = float(drop[0] ** 2 + (1 - drop[-1]) ** 2)
        return cls((drop[1:] + drop[:-1]).astype(dtype), np.diff(drop).astype(dtype), ends)

    def part(self, first: int, length: int) -> Steps:
        """The steps of some neighbouring inner knots."""
        return Steps(self.total[first : first + length], self.rise[first : first + length], self.ends)


class SurrogateSteps:
    """The steps of the surrogate's curve for `n` nodes, made when they are asked for: for many nodes.

    Kept, the steps of 8,192 nodes would fill a quarter of a gigabyte.
    """

    def __init__(self, n: int, dtype: np.dtype):
        self.n, self.pairs, self.dtype = n, n * (n - 1) // 2, dtype
        self.ends = Steps.of(surrogate_drop(np.array([1, self.pairs - 1]) / self.pairs, n), dtype).ends

    def part(self, first: int, length: int) -> Steps:
        """The steps of some neighbouring inner knots."""
        if self.dtype == np.float64:
            drop = surrogate_drop(np.arange(first + 1, first + length + 2) / self.pairs, self.n)
            return Steps.of(drop, self.dtype)._replace(ends=self.ends)
        # The middle of a step stands for its ends, and its derivative times its length for their difference: with
        # millions of steps, both to more digits than float32 has.
        n, log_n = self.n, np.log(self.n)
        fraction = np.arange(first + 1.5, first + 1 + length) / self.pairs
        if fraction[0] < 0.5:
            grown = ((n - 1) * fraction).astype(np.float32)
            left = 1 - np.log1p(grown) * np.float32((n - 1) / n / log_n)
            grown += 1
        else:  # what is left of the curve is small here: counted from its end
            missing = ((n - 1) / n * (1 - fraction)).astype(np.float32)
            left = np.float32(1 / n) - np.log1p(-missing) * np.float32((n - 1) / n / log_n)
            grown = np.float32(n) * (1 - missing)
        rise = np.float32((n - 1) ** 2 / n / log_n**2 / self.pairs) / (grown * left)
        return Steps(np.log(left) * np.float32(-2 / log_n), rise, self.ends)


def surrogate_steps(n: int, dtype: np.dtype) -> Steps | SurrogateSteps:
    """Steps of the surrogate's curve for `n` nodes: one at each of the sorted pair distances.

    They depend on `n` alone, so a training run, which asks for them at every step, finds them in a small cache
    (up to n = 2,100: 18 MB each at most).
    """
    return _kept_steps(n, np.dtype(dtype)) if n <= 2100 else SurrogateSteps(n, np.dtype(dtype))


@functools.lru_cache(maxsize=8)
def _kept_steps(n: int, dtype: np.dtype) -> Steps:
    pairs = n * (n - 1) // 2
    return Steps.of(surrogate_drop(np.arange(1, pairs) / pairs, n), dtype)
