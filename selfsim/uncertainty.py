"""How sure? Every interval of the package, each saying what it is for, and estimates that may not exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from .checks import check_choice, check_integer, check_number
from .validation import check_activations


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number that data may not suffice to estimate; ``float(estimate)`` is the number, or an error that says why.

    Attributes
    ----------
    value : float
        NaN where it is not estimable, and only there.
    reason : str
        Why it is not estimable; empty where it is.

    Examples
    --------
    >>> float(Estimate(value=2.5))
    2.5
    >>> float(Estimate(value=math.nan, reason="got 3 samples, need at least 50"))
    Traceback (most recent call last):
        ...
    ValueError: Estimate: not estimable: got 3 samples, need at least 50
    """

    value: float
    reason: str = ""

    def __post_init__(self):
        if math.isnan(self.value) != bool(self.reason):
            raise ValueError(
                f"value, reason: got {self.value} and {self.reason!r}, need a reason for NaN and only then"
            )

    @property
    def estimable(self) -> bool:
        """Whether there is a number."""
        return not self.reason

    def __float__(self) -> float:
        if self.reason:
            raise ValueError(f"{type(self).__name__}: not estimable: {self.reason}")
        return float(self.value)

    def __format__(self, spec: str) -> str:
        return f"not estimable: {self.reason}" if self.reason else format(self.value, spec or ".3f")


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes
    ----------
    estimate, low, high : float
    level : float
        Nominal coverage.
    n : int
        Number of values it rests on.
    of : str
        What it is an interval for.
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int
    of: str = ""

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean_interval(values: Sequence[float], *, level: float = 0.95, of: str = "mean of such values") -> Interval:
    """Mean of independent values with Student's t interval; infinitely wide for a single value.

    Parameters
    ----------
    values : sequence of float
        Independent draws, such as results of runs with different seeds.
    level : float
    of : str
        What the mean is an interval for, to be kept beside it.

    Returns
    -------
    Interval

    Examples
    --------
    >>> f"{mean_interval([1.0, 2.0, 3.0]):.2f}"
    '2.00 [-0.48, 4.48]'
    """
    check_number(level, name="level", within="(0, 1)")
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values: got {values!r}, need one or more finite numbers")
    mean = float(array.mean())
    if len(array) == 1:
        return Interval(mean, -math.inf, math.inf, level, 1, of)
    half = float(stats.t.ppf((1 + level) / 2, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array)))
    return Interval(mean, mean - half, mean + half, level, len(array), of)


def paired_difference(treated: Sequence[float], control: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean difference of paired runs (same seed, same data order) with Student's t interval.

    Parameters
    ----------
    treated, control : sequence of float, same length
        Pair k shares its seed.
    level : float

    Returns
    -------
    Interval
        Of the mean of ``treated[k] - control[k]``.

    Raises
    ------
    ValueError
        Different lengths, none, or not finite.

    Examples
    --------
    >>> f"{paired_difference([0.91, 0.93, 0.90], [0.90, 0.91, 0.90]):+.3f}"
    '+0.010 [-0.015, +0.035]'
    """
    if len(treated) != len(control):
        raise ValueError(f"treated, control: got {len(treated)} and {len(control)} values, need pairs")
    difference = np.asarray(treated, float) - np.asarray(control, float)
    return mean_interval(difference, level=level, of="mean difference over such pairs")


def rank_correlation(x: Sequence[float], y: Sequence[float], *, level: float = 0.95) -> Interval:
    """Spearman's rank correlation of independent pairs, with an interval that few pairs make wide.

    Parameters
    ----------
    x, y : sequence of float, same length
        At least four pairs.
    level : float

    Returns
    -------
    Interval
        By Fisher's transformation with the standard error of Bonett and Wright.

    Raises
    ------
    ValueError
        Different lengths, fewer than four pairs, not finite, or all values of one side equal.

    References
    ----------
    .. [1] D. G. Bonett, T. A. Wright, Sample size requirements for estimating Pearson, Kendall and Spearman
       correlations, Psychometrika 65 (2000).

    Examples
    --------
    >>> f"{rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]):.2f}"
    '0.80 [-0.46, 0.99]'
    """
    check_number(level, name="level", within="(0, 1)")
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 4:
        raise ValueError(f"x, y: got shapes {x.shape} and {y.shape}, need at least four pairs")
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError("x, y: got values that are not finite or all equal, need finite ones that differ")
    rho = float(stats.spearmanr(x, y).statistic)
    # At +-1 the transformation is infinite; the nearest possible value stands for it.
    inner = min(abs(rho), 1 - 6 / (len(x) ** 3 - len(x))) * math.copysign(1, rho)
    reach = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt((1 + inner**2 / 2) / (len(x) - 3))
    low, high = np.tanh([np.arctanh(inner) - reach, np.arctanh(inner) + reach]).tolist()
    return Interval(rho, min(low, rho), max(high, rho), level, len(x), "rank correlation over such pairs")


def exponent_interval(exponent: float, tail: int, *, level: float = 0.95) -> Interval:
    """Interval for the exponent of a power law, fitted by maximum likelihood to independent values in its tail.

    Parameters
    ----------
    exponent : float
        Of the density ``x ** -exponent`` above a given start, more than 1 and finite.
    tail : int
        Number of values above the start, at least 2.
    level : float

    Raises
    ------
    ValueError
        An exponent, a tail or a level out of range.

    Notes
    -----
    ``(exponent - 1) / sqrt(tail)`` is the standard error. It takes the start for known and the values for independent;
    the eigenvalues of one matrix are neither. For activations, `samples_interval` is about their samples.

    References
    ----------
    .. [1] A. Clauset, C. R. Shalizi, M. E. J. Newman, Power-law distributions in empirical data, SIAM Review 51 (2009).

    Examples
    --------
    >>> f"{exponent_interval(2.5, 100):.2f}"
    '2.50 [2.21, 2.79]'
    """
    check_number(level, name="level", within="(0, 1)")
    if not 1 < exponent < math.inf or not tail >= 2:
        raise ValueError(f"exponent, tail: got {exponent!r} and {tail!r}, need a finite one above 1, and at least 2")
    exponent = float(exponent)
    reach = float(stats.norm.ppf((1 + level) / 2)) * (exponent - 1) / math.sqrt(tail)
    return Interval(
        exponent, exponent - reach, exponent + reach, level, tail, "exponent, for independent values and a known start"
    )


def samples_interval(
    statistic: Callable[[Tensor], Tensor | float],
    activations: Tensor,
    *,
    draws: int = 100,
    seed: int = 0,
    level: float = 0.95,
    method: str = "halves",
) -> Interval:
    """Interval for what a statistic would be, on average, over other samples, as many as these.

    The statistic is for this number of samples: the SS rate depends on it, and the interval does not speak for
    another number. Its width comes from random halves of the samples, drawn without repetition. A bootstrap would
    repeat samples, which lowers the rate.

    Parameters
    ----------
    statistic : callable
        From activations ``(samples, neurons)`` to a number, such as `ss_rate`.
    activations : Tensor, shape (samples, neurons)
        At least four samples, independent of each other.
    draws : int
        Number of halves, at least 2.
    seed : int
    level : float
    method : {"halves", "splits", "pairs"}
        What the width is made of. "halves": their spread (the delete-half jackknife), which for a smooth statistic
        equals that over fresh samples; it suits the SS rate. "splits": the difference of the two halves of a split,
        for a statistic whose variance falls like one over the number of samples, but whose halves exaggerate it, such
        as `two_nn`. "pairs": the covariance of the two halves of a split, for a statistic that is made of all pairs of
        samples, of which a half has only a quarter, such as `correlation_dimension`.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        Fewer than four samples or two draws, a level outside (0, 1), activations that the statistic refuses, or a
        statistic that is not a finite number, or is the same on all halves: such as an exponent at its limit.

    Notes
    -----
    Time: `draws` evaluations on half of the samples, twice as many for "splits" and "pairs". How often it covers the
    truth was simulated (``benchmarks/intervals.py``); the book's pages on the SS rate and on statistics have the
    figures.

    References
    ----------
    .. [1] J. Shao, C. F. J. Wu, A general theory for jackknife variance estimation, Ann. Statist. 17 (1989).

    Examples
    --------
    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> f"{samples_interval(lambda a: a.mean(), x):.2f}"
    '0.01 [-0.11, 0.12]'
    """
    check_number(level, name="level", within="(0, 1)")
    check_integer(draws, name="draws", least=2)
    check_choice(method, ("halves", "splits", "pairs"), name="method")
    activations = check_activations(activations).detach()
    samples = len(activations)
    if samples < 4:
        raise ValueError(f"activations: got {samples} samples, need at least 4 for an interval over samples")
    generator = torch.Generator().manual_seed(seed)
    half = samples // 2
    orders = (torch.randperm(samples, generator=generator).to(activations.device) for _ in range(draws))
    sides = [slice(half)] if method == "halves" else [slice(half), slice(half, 2 * half)]
    values = np.array([[float(statistic(activations[order[side]])) for side in sides] for order in orders])
    estimate = float(statistic(activations))
    if not np.isfinite([estimate, *values.flat]).all():
        raise ValueError(f"statistic: got {estimate}, on halves {values.min()} to {values.max()}, need finite numbers")
    if np.ptp(values) == 0:
        raise ValueError(f"statistic: got {estimate:g} on all {draws} halves, need one that varies over the samples")
    spread = math.sqrt(_variance(values, method) * half / (samples - half))
    reach = float(stats.t.ppf((1 + level) / 2, min(draws, samples) - 1)) * spread
    return Interval(
        estimate, estimate - reach, estimate + reach, level, samples, "mean over other samples, as many as these"
    )


def _variance(values: np.ndarray, method: str) -> float:
    """Variance of a statistic over fresh samples, from its values on halves ``(draws, 1 or 2 sides)`` of one set."""
    # Without repetition a half varies as much as the whole does over fresh samples.
    of_halves = float(values.var(ddof=1))
    if method == "halves":
        return of_halves
    if method == "splits":
        # The two sides are independent, with twice the variance of the whole each.
        return float(np.mean((values[:, 0] - values[:, 1]) ** 2)) / 4
    # Because they are independent, the covariance of the two sides over the splits of one set is minus the variance of
    # the mean over all halves, and that mean is the statistic itself where it is made of pairs. Of a variance a + b,
    # with b due to pairs, halves show a + 3b: it has to lie between a third of theirs and theirs.
    return float(np.clip(-np.cov(values.T)[0, 1], of_halves / 3, of_halves))
