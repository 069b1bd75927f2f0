"""How nearly the correlation sum of a set of distances is a power law: window, means over octaves, line, derivative.

The correlation sum C(r) is the share of pairs at most r apart. In a self-similar set of dimension D it grows like
``r ** D``, so ln r, read at the pair of rank j, is linear in ln j with the slope 1/D.

The same lines work on NumPy arrays (one layer on a CPU) and, without synchronisation, on tensors (on a GPU). Tensors
may have leading axes, a batch of layers. The last axis is that of the pairs.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from ..checks import check_range
from ..rate.area import Array, module_of
from ..rate.distances import MANY_NODES, equal_within

# Pairs up to the start and up to the end of a window.
FEWEST_BEFORE, FEWEST_PAIRS = 20, 200
# Steps per octave of the rank. Means are taken over a full octave.
_STEPS = 8


class Window(NamedTuple):
    """Part of the pairs, sorted by distance, in which the power law is fitted: shares of all pairs."""

    low: float
    high: float

    @property
    def fewest_pairs(self) -> int:
        """The smallest number of pairs that suffices for this window."""
        # Fractions, because the ratio may be beyond the largest float.
        return math.ceil(max(FEWEST_BEFORE / Fraction(self.low), FEWEST_PAIRS / Fraction(self.high)))

    def fits(self, n: int) -> bool:
        """Whether `n` nodes have enough pairs for this window."""
        return n * (n - 1) // 2 >= self.fewest_pairs


def checked_window(window: object) -> Window | None:
    """Return a window given by a caller, or None for the default; else raise ``ValueError``."""
    if window is None:
        return None
    low, high = check_range(window, name="window", within="(0, 1]")
    if high < 4 * low:
        raise ValueError(f"window: got {window!r}, need a high end of at least four times the low end")
    return Window(low, high)


def window_for(n: int, given: Window | None) -> Window:
    """Return the window for `n` nodes: from ``2 / n`` to ``n ** -0.25`` of the pairs by default.

    A point has two neighbours nearer than the start on average, so that the window begins above the spacing of the
    points. Its end falls with n, so that the bias due to the edge of the set vanishes.
    """
    n = max(n, 1)  # a network without nodes has no pairs to leave out
    return given or Window(2 / n, n**-0.25)


@functools.lru_cache
def fewest_nodes(given: Window | None) -> int:
    """Return the smallest number of nodes with enough pairs for a window; 32 for the default."""
    if given is None:
        return next(n for n in range(2, 2**31) if window_for(n, None).fits(n))
    return (math.isqrt(8 * given.fewest_pairs - 7) + 3) // 2  # the smallest n with n (n - 1) / 2 pairs or more


class Ranks(NamedTuple):
    """The ranks of the pairs in a window, and how they are averaged. Depends on the number of nodes and window alone.

    The window is cut into steps of about an eighth of an octave of the rank. A mean takes the steps of one octave, so
    that a set that looks the same at every other power of 2 (a binary tree, Cantor's dust) has a straight line of
    means, although its distances come in steps.
    """

    first: int  # the window holds the sorted pairs first:last
    last: int
    cuts: Array  # (steps + 1,): where the steps begin, from 0, and end
    sizes: Array  # (steps,): pairs in each step
    weight: Array  # (pairs in the window,): extent of each pair on the axis ln rank
    extent: Array  # (means,): extent of each octave
    direction: Array  # (means,): the middles of the octaves, centred, as a unit vector
    length: float  # of that vector before

    @property
    def third(self) -> int:
        """Steps in a third of the window."""
        return -(-len(self.sizes) // 3)


def ranks_of(n: int, window: Window, device: torch.device | None = None) -> Ranks:
    """Return the ranks of a window for `n` nodes, as tensors if a device is named; from a small cache up to 2,100."""
    return (cached_ranks if n <= MANY_NODES else _ranks)(n, window, device)


def _ranks(n: int, window: Window, device: torch.device | None) -> Ranks:
    pairs = n * (n - 1) // 2
    first, last = max(1, round(pairs * window.low)), round(pairs * window.high)
    steps = max(2 * _STEPS, round(_STEPS * math.log2(last / first)))
    edges = np.round(first * (last / first) ** (np.arange(steps + 1) / steps)).astype(np.int64)
    x = np.log(edges)
    middle = (x[_STEPS:] + x[:-_STEPS]) / 2
    centred = middle - middle.mean()
    length = float(np.sqrt(centred @ centred))
    weight = np.log1p(1 / np.arange(first, last))
    extent = x[_STEPS:] - x[:-_STEPS]
    ranks = Ranks(first, last, edges - first, np.diff(edges), weight, extent, centred / length, length)
    if device is None:
        return ranks
    arrays: Any = {k: torch.from_numpy(v).to(device) for k, v in ranks._asdict().items() if isinstance(v, np.ndarray)}
    return ranks._replace(**arrays)


cached_ranks = functools.lru_cache(maxsize=32)(_ranks)


class Fit(NamedTuple):
    """A line fitted to the means of ln distance over octaves of the rank."""

    deviation: Array  # (…): root mean square residual, in standard deviations of the means
    slope: Array  # (…): of ln distance against ln rank: 1 / dimension
    octaves: Array  # (…): log2 of the ratio of the distances at the ends of the window
    weight: Array | None  # (…, pairs in the window): derivative of the deviation, divided by the distance


def fit(distances: Array, ranks: Ranks, *, need_weight: bool = False) -> Fit:
    """Fit the line to the distances of a window, ascending; see `fault` for those that have none."""
    xp = module_of(distances)
    with np.errstate(all="ignore"):
        distances = distances.double() if isinstance(distances, torch.Tensor) else distances.astype(np.float64)
        logs = xp.log(distances / distances[..., -1:])
        sums = xp.cumsum(ranks.weight * logs, -1)
        sums = xp.concatenate([xp.zeros_like(sums[..., :1]), sums], -1)[..., ranks.cuts]
        means = (sums[..., _STEPS:] - sums[..., :-_STEPS]) / ranks.extent
        centred = means - means.mean(-1, keepdims=True)
        along = _dot(centred, ranks.direction)
        residual = centred - along * ranks.direction
        total = _dot(centred, centred)
        deviation = xp.sqrt(_dot(residual, residual) / total)
        weight = None
        if need_weight:
            # Where the line is perfect, the deviation is at its minimum and its derivative is taken as 0.
            by_mean = residual / xp.clip(deviation, 1e-12, None) - deviation * centred
            by_mean = by_mean / (total * ranks.extent)
            none = xp.zeros_like(by_mean[..., :_STEPS])
            by_cut = xp.concatenate([none, by_mean], -1) - xp.concatenate([by_mean, none], -1)
            weight = _repeated(-xp.cumsum(by_cut, -1)[..., :-1], ranks) * ranks.weight / distances**2
        octaves = (logs[..., -1] - logs[..., 0]) / math.log(2)
        return Fit(deviation[..., 0], along[..., 0] / ranks.length, octaves, weight)


def _dot(a: Array, b: Array) -> Array:
    """Scalar products over the last axis, which stays with the length 1."""
    return np.atleast_1d(a @ b) if isinstance(a, np.ndarray) else (a * b).sum(-1, keepdim=True)


def _repeated(by_step: Array, ranks: Ranks) -> Array:
    """Return `by_step` for each pair of the step."""
    if isinstance(by_step, torch.Tensor):
        return torch.repeat_interleave(by_step, ranks.sizes, -1, output_size=len(ranks.weight))
    return np.repeat(by_step, ranks.sizes)


def is_sound(distances: Array, ranks: Ranks) -> Array:
    """Whether the distances of a window, ascending, are above 0, finite, and not equal over a third of the window."""
    starts, ends = distances[..., ranks.cuts[: -ranks.third]], distances[..., ranks.cuts[ranks.third :] - 1]
    with np.errstate(invalid="ignore"):
        differ = (ends - starts > equal_within(distances.dtype) * ends).all(-1)
    return (distances[..., 0] > 0) & (distances[..., -1] < math.inf) & differ


def fault(distances: Array, ranks: Ranks, n: int) -> str:
    """Return why the distances of a window have no fit; empty if `is_sound`. A batch only knows whether."""
    if distances.ndim > 1:
        return "the distances of one layer have no fit"
    if bool(is_sound(distances, ranks)):
        return ""
    pairs = n * (n - 1) // 2
    low, high = float(distances[0]), float(distances[-1])
    if not high < math.inf:
        return f"fewer than {ranks.last} of {pairs} pairs are connected, the end of the window"
    if high == 0:
        return f"more than {ranks.last} of {pairs} pairs coincide, the whole window"
    if low == 0:
        return f"more than {ranks.first} of {pairs} pairs coincide, the start of the window; leave out duplicates"
    if high - low <= equal_within(distances.dtype) * high:
        return f"all {ranks.last - ranks.first} distances in the window are equal (to rounding)"
    return f"one distance takes more than a third of the window of {ranks.last - ranks.first} pairs (on its log axis)"


@functools.lru_cache(maxsize=64)
def noise_deviation(n: int, window: Window) -> float:
    """Return the deviation of distances whose logarithms are normal.

    Distances concentrate when many independent coordinates add up, so this is the limit of noise in many dimensions.
    """
    ranks = ranks_of(n, window)
    shares = (np.arange(ranks.first, ranks.last) + 0.5) / (n * (n - 1) // 2)
    return float(fit(np.exp(special.ndtri(shares)), ranks).deviation)


def line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return the deviation of points from their line, in standard deviations of `y`, and its slope."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(np.std(y - intercept - slope * x) / np.std(y)), float(slope)
