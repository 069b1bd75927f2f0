"""Confidence intervals, each with the quantity it is for, and estimates that state why there is no number."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from .checks import check_choice, check_integer, check_number, check_numbers, check_seed
from .validation import check_activations


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, or the reason why the data do not suffice for one.

    ``float(estimate)`` returns the number, or raises ``ValueError`` with the reason.

    Attributes
    ----------
    value : float
        The number; NaN if and only if it is not estimable.
    reason : str
        Why it is not estimable; empty if it is.

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

    def __post_init__(self) -> None:
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
        Number of values or samples behind the estimate.
    quantity : str
        The quantity that the interval is for, such as "mean difference over such pairs".
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int
    quantity: str = ""

    @property
    def of(self) -> str:
        """Deprecated name of `quantity`."""
        warnings.warn("Interval.of is deprecated, use Interval.quantity", DeprecationWarning, stacklevel=2)
        return self.quantity

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def _interval(estimate: float, reach: float, level: float, n: int, quantity: str, *, values: str) -> Interval:
    """Return the interval ``estimate - reach`` to ``estimate + reach``; `values` names the argument for the message."""
    low, high = estimate - reach, estimate + reach
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{values}: got {estimate:g} ± {reach:g}, need an interval within the range of float64")
    return Interval(estimate, low, high, level, n, quantity)


def power_of_two(values: NDArray[np.float64]) -> float:
    """Return a power of two near the largest value; the squares of values divided by it do not overflow."""
    return float(2.0 ** (math.frexp(np.abs(values).max())[1] - 1))


def mean_interval(values: Sequence[float], *, level: float = 0.95, of: str = "mean of such values") -> Interval:
    """Mean of independent values with Student's t interval; infinitely wide for a single value.

    Parameters
    ----------
    values : sequence of float
        Independent values, such as results of runs with different seeds.
    level : float
        Nominal coverage, between 0 and 1.
    of : str
        The quantity that the interval is for, kept as `Interval.quantity`.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        No values, NaN or Inf, a level out of range, or an interval beyond the range of float64.

    Examples
    --------
    >>> f"{mean_interval([1.0, 2.0, 3.0]):.2f}"
    '2.00 [-0.48, 4.48]'
    """
    level = check_number(level, name="level", within="(0, 1)")
    array = check_numbers(values, name="values")
    unit = power_of_two(array)
    with np.errstate(all="ignore"):
        scaled = array / unit
        mean = float(scaled.mean()) * unit
        if len(array) == 1:
            return Interval(mean, -math.inf, math.inf, level, 1, of)
        quantile = float(special.stdtrit(len(array) - 1, (1 + level) / 2))
        reach = quantile * float(scaled.std(ddof=1)) / math.sqrt(len(array)) * unit
    return _interval(mean, reach, level, len(array), of, values="values")


def paired_difference(treated: Sequence[float], control: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean difference of paired runs (same seed, same data order) with Student's t interval.

    Parameters
    ----------
    treated, control : sequence of float, same length
        The two runs of pair k share their seed.
    level : float
        Nominal coverage, between 0 and 1.

    Returns
    -------
    Interval
        For the mean of ``treated[k] - control[k]``.

    Raises
    ------
    ValueError
        Different lengths, no pairs, NaN or Inf, or a level out of range.

    Examples
    --------
    >>> f"{paired_difference([0.91, 0.93, 0.90], [0.90, 0.91, 0.90]):+.3f}"
    '+0.010 [-0.015, +0.035]'
    """
    after, before = check_numbers(treated, name="treated"), check_numbers(control, name="control")
    if len(after) != len(before):
        raise ValueError(f"treated, control: got {len(after)} and {len(before)} values, need pairs")
    with np.errstate(all="ignore"):
        difference = after - before
    return mean_interval(difference.tolist(), level=level, of="mean difference over such pairs")


def rank_correlation(x: Sequence[float], y: Sequence[float], *, level: float = 0.95) -> Interval:
    """Spearman's rank correlation of independent pairs, with an interval that few pairs make wide.

    Parameters
    ----------
    x, y : sequence of float, same length
        At least four pairs.
    level : float
        Nominal coverage, between 0 and 1.

    Returns
    -------
    Interval
        By Fisher's transformation with the standard error of Bonett and Wright.

    Raises
    ------
    ValueError
        Different lengths, fewer than four pairs, NaN or Inf, all values of one side equal, or a level out of range.

    References
    ----------
    .. [1] D. G. Bonett, T. A. Wright, Sample size requirements for estimating Pearson, Kendall and Spearman
       correlations, Psychometrika 65 (2000).

    Examples
    --------
    >>> f"{rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]):.2f}"
    '0.80 [-0.46, 0.99]'
    """
    level = check_number(level, name="level", within="(0, 1)")
    a, b = check_numbers(x, name="x"), check_numbers(y, name="y")
    if len(a) != len(b) or len(a) < 4:
        raise ValueError(f"x, y: got {len(a)} and {len(b)} values, need at least four pairs")
    if (a == a[0]).all() or (b == b[0]).all():
        raise ValueError("x, y: got values that are all equal, need ones that differ")
    from scipy.stats import spearmanr  # slow to import

    rho = float(spearmanr(a, b).statistic)
    # The transformation is infinite at -1 and 1: stop half a step of the correlation before them.
    inner = min(abs(rho), 1 - 6 / (len(a) ** 3 - len(a))) * math.copysign(1, rho)
    reach = float(special.ndtri((1 + level) / 2)) * math.sqrt((1 + inner**2 / 2) / (len(a) - 3))
    low, high = np.tanh([np.arctanh(inner) - reach, np.arctanh(inner) + reach]).tolist()
    return Interval(rho, min(low, rho), max(high, rho), level, len(a), "rank correlation over such pairs")


def exponent_interval(exponent: float, tail: int, *, level: float = 0.95) -> Interval:
    """Interval for a power-law exponent, fitted by maximum likelihood to independent values in the tail.

    Parameters
    ----------
    exponent : float
        Exponent of the density ``x ** -exponent`` above a given start, finite and above 1.
    tail : int
        Number of values above the start, at least 2.
    level : float
        Nominal coverage, between 0 and 1.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        An exponent, a tail or a level out of range.

    Notes
    -----
    The standard error is ``(exponent - 1) / sqrt(tail)``. It assumes a known start and independent values. Neither
    holds for the eigenvalues of one matrix. For activations, use `samples_interval`.

    References
    ----------
    .. [1] A. Clauset, C. R. Shalizi, M. E. J. Newman, Power-law distributions in empirical data, SIAM Review 51 (2009).

    Examples
    --------
    >>> f"{exponent_interval(2.5, 100):.2f}"
    '2.50 [2.21, 2.79]'
    """
    level = check_number(level, name="level", within="(0, 1)")
    exponent = check_number(exponent, name="exponent", within="(1, inf)")
    tail = check_integer(tail, name="tail", least=2)
    reach = float(special.ndtri((1 + level) / 2)) * (exponent - 1) / math.sqrt(tail)
    quantity = "exponent, for independent values and a known start"
    return _interval(exponent, reach, level, tail, quantity, values="exponent")


def samples_interval(
    statistic: Callable[[Tensor], Tensor | float | Estimate],
    activations: Tensor,
    *,
    draws: int = 100,
    seed: int = 0,
    level: float = 0.95,
    method: Literal["halves", "splits", "pairs"] = "halves",
) -> Interval:
    """Interval for the mean of a statistic over other sets of samples of the same size.

    Many statistics, the SS rate among them, depend on the number of samples: the interval holds for this number only.
    Its width comes from random halves of the samples, drawn without replacement. A bootstrap would repeat samples,
    which lowers the rate.

    Parameters
    ----------
    statistic : callable
        From activations ``(samples, neurons)`` to a number, such as `ss_rate`.
    activations : Tensor, shape (samples, neurons)
        At least four independent samples.
    draws : int
        Number of random halves or splits, at least 2.
    seed : int
        Seed of the random halves.
    level : float
        Nominal coverage, between 0 and 1.
    method : {"halves", "splits", "pairs"}
        How the variance is estimated.
        "halves": from the spread over halves (delete-half jackknife). For a smooth statistic, this equals the spread
        over fresh samples. Use it for the SS rate.
        "splits": from the difference between the two halves of a split. Use it for a statistic whose variance falls
        like one over the number of samples but is exaggerated by halves, such as `two_nn`.
        "pairs": from the covariance of the two halves of a split. Use it for a statistic of all pairs of samples, such
        as `correlation_dimension`, because a half has only a quarter of the pairs.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        Fewer than four samples or two draws, a level outside (0, 1), or activations that the statistic refuses. Also a
        statistic that is not finite, or equal on all halves, such as an exponent at its limit.

    Notes
    -----
    Time: `draws` evaluations on half of the samples, twice as many for "splits" and "pairs". The coverage was simulated
    (``benchmarks/intervals.py``); the pages on the SS rate and on statistics list the results.

    References
    ----------
    .. [1] J. Shao, C. F. J. Wu, A general theory for jackknife variance estimation, Ann. Statist. 17 (1989).

    Examples
    --------
    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> f"{samples_interval(lambda a: a.mean(), x):.2f}"
    '0.01 [-0.11, 0.12]'
    """
    level = check_number(level, name="level", within="(0, 1)")
    draws = check_integer(draws, name="draws", least=2)
    check_choice(method, ("halves", "splits", "pairs"), name="method")
    if not callable(statistic):
        raise TypeError(f"statistic: got {type(statistic).__name__}, need a function of activations")
    activations = check_activations(activations).detach()
    samples = len(activations)
    if samples < 4:
        raise ValueError(f"activations: got {samples} samples, need at least 4 for an interval over samples")
    generator = torch.Generator().manual_seed(check_seed(seed))
    half = samples // 2
    orders = (torch.randperm(samples, generator=generator).to(activations.device) for _ in range(draws))
    sides = [slice(half)] if method == "halves" else [slice(half), slice(half, 2 * half)]
    values = np.array([[float(statistic(activations[order[side]])) for side in sides] for order in orders])
    estimate = float(statistic(activations))
    if not np.isfinite([estimate, *values.flat]).all():
        raise ValueError(f"statistic: got {estimate}, on halves {values.min()} to {values.max()}, need finite numbers")
    if (values == values.flat[0]).all():
        raise ValueError(f"statistic: got {estimate:g} on all {draws} halves, need one that varies over the samples")
    unit = power_of_two(values)
    with np.errstate(all="ignore"):
        spread = math.sqrt(_variance(values / unit, method, samples)) * unit
    reach = float(special.stdtrit(min(draws, samples) - 1, (1 + level) / 2)) * spread
    return _interval(estimate, reach, level, samples, "mean over other samples, as many as these", values="statistic")


def _variance(values: NDArray[np.float64], method: str, samples: int) -> float:
    """Variance of a statistic over fresh samples, from its values on halves ``(draws, 1 or 2 sides)`` of one set."""
    half = samples // 2
    # Drawn without replacement, a half varies as much as the full set does over fresh samples.
    of_halves = float(values.var(ddof=1)) * half / (samples - half)
    if method == "halves":
        return of_halves
    if method == "splits":
        # The two sides are independent, and each has samples / half times the variance of the full set.
        return float(np.mean((values[:, 0] - values[:, 1]) ** 2)) / 2 * half / samples
    # The two sides are independent, so their covariance over the splits of one set is minus the variance of the mean
    # over all halves. For a statistic of pairs, this mean is the statistic itself. If its variance is a + b, where b is
    # due to pairs, halves show a + 3b: the variance lies between a third of theirs and theirs.
    return float(np.clip(-np.cov(values.T)[0, 1], of_halves / 3, of_halves))
