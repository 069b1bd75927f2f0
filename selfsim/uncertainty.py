"""Compared with what? Null models, null bands, z-scores, and intervals of paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from .validation import check_activations, check_choice

NULLS = ("gauss", "gauss-covariance", "shuffled")


def null_activations(activations: Tensor, *, null: str, seed: int) -> Tensor:
    """One draw of activations without the structure of the given ones, of the same shape.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
    null : {"gauss", "gauss-covariance", "shuffled"}
        "gauss": independent standard normal numbers, scaled to the activations' overall standard deviation.
        "gauss-covariance": normal numbers with the mean of each neuron and the covariance between neurons that the
        activations have.
        "shuffled": each neuron keeps its values, in an order over samples of its own, so that nothing is left of
        what neurons have in common but their single distributions.
    seed : int
        Of this draw; no other random state is touched.

    Returns
    -------
    Tensor, shape (samples, neurons)
        On the CPU whatever the device of the input, so that a seed gives the same draw everywhere, then moved.

    Raises
    ------
    ValueError
        An unknown null, or activations that cannot be used.

    Examples
    --------
    >>> x = torch.arange(6.0).reshape(3, 2)
    >>> null_activations(x, null="shuffled", seed=0).sort(0).values.equal(x)
    True
    """
    check_choice(null, NULLS, name="null")
    activations = check_activations(activations).detach()
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(activations.shape, generator=generator, dtype=torch.float64)
    if null == "shuffled":
        return activations.gather(0, draw.argsort(0).to(activations.device))
    x = activations.cpu().double()
    if null == "gauss":
        return (draw * x.std(correction=0)).to(activations)
    # Mixing the centred samples with normal weights gives their covariance without forming it.
    weights = torch.randn(len(x), len(x), generator=generator, dtype=torch.float64) / max(len(x) - 1, 1) ** 0.5
    return (x.mean(0) + weights @ (x - x.mean(0))).to(activations)


@dataclass(frozen=True)
class NullBand:
    """Values of a statistic on null draws.

    Attributes
    ----------
    values : ndarray, shape (draws,)
    null : str
        The null model.
    level : float
        Share of draws that the band holds.
    """

    values: np.ndarray
    null: str
    level: float = 0.95

    @property
    def low(self) -> float:
        """Lower end of the band, a quantile of the draws."""
        return float(np.quantile(self.values, (1 - self.level) / 2))

    @property
    def high(self) -> float:
        """Upper end of the band, a quantile of the draws."""
        return float(np.quantile(self.values, (1 + self.level) / 2))

    def z_score(self, value: float) -> float:
        """Distance of `value` from the draws' mean, in their standard deviations.

        Raises
        ------
        ValueError
            All draws are equal: there is no unit to measure in.
        """
        spread = float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0
        if spread == 0:
            raise ValueError(
                f"z_score: all {len(self.values)} null draws give {self.values[0]:.6g}; no spread to measure in"
            )
        return (float(value) - float(np.mean(self.values))) / spread


def null_band(
    statistic: Callable[[Tensor], Tensor | float],
    activations: Tensor,
    *,
    null: str = "gauss",
    draws: int = 100,
    seed: int = 0,
    level: float = 0.95,
) -> NullBand:
    """What a statistic gives on activations without structure, at the same numbers of neurons and samples.

    Parameters
    ----------
    statistic : callable
        From activations ``(samples, neurons)`` to a number, such as `ss_rate`.
    activations : Tensor, shape (samples, neurons)
    null : {"gauss", "gauss-covariance", "shuffled"}
        See `null_activations`.
    draws : int
        Number of draws, at least 2; draw k has the seed ``seed + k``.
    seed : int
    level : float
        Share of draws inside the band.

    Returns
    -------
    NullBand

    Raises
    ------
    ValueError
        Fewer than 2 draws, a level outside (0, 1), an unknown null.

    Examples
    --------
    >>> band = null_band(lambda x: x.mean(), torch.randn(50, 4), draws=40)
    >>> band.low < 0 < band.high
    True
    """
    if draws < 2:
        raise ValueError(f"draws: got {draws!r}, need at least 2")
    if not 0 < level < 1:
        raise ValueError(f"level: got {level!r}, need a share between 0 and 1")
    values = [float(statistic(null_activations(activations, null=null, seed=seed + k))) for k in range(draws)]
    return NullBand(np.array(values), null, level)


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
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean of independent values with Student's t interval; infinitely wide for a single value.

    Examples
    --------
    >>> f"{mean_interval([1.0, 2.0, 3.0]):.2f}"
    '2.00 [-0.48, 4.48]'
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values: got {values!r}, need one or more finite numbers")
    mean = float(array.mean())
    if len(array) == 1:
        return Interval(mean, -math.inf, math.inf, level, 1)
    half = float(stats.t.ppf((1 + level) / 2, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array)))
    return Interval(mean, mean - half, mean + half, level, len(array))


def paired_difference(treated: Sequence[float], control: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean difference of paired runs (same seed, same data order) with Student's t interval.

    Parameters
    ----------
    treated, control : sequence of float, same length
        Pair k shares its seed.

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
    return mean_interval(np.asarray(treated, float) - np.asarray(control, float), level=level)


def samples_interval(
    statistic: Callable[[Tensor], Tensor | float],
    activations: Tensor,
    *,
    draws: int = 100,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval for what a statistic would be, on average, over other samples, as many as these.

    The statistic is for this number of samples: the SS rate depends on it, and the interval does not speak for
    another number. Its width comes from the spread over random halves of the samples, drawn without repetition (the
    delete-half jackknife): for a smooth statistic that equals the spread over fresh samples. A bootstrap would
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

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        Fewer than four samples or two draws, or activations that the statistic refuses.

    Notes
    -----
    Time: `draws` evaluations on half of the samples. How often it covers the truth was simulated
    (``benchmarks/intervals.py``); the book's page on the SS rate has the figures.

    References
    ----------
    .. [1] J. Shao, C. F. J. Wu, A general theory for jackknife variance estimation, Ann. Statist. 17 (1989).

    Examples
    --------
    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> f"{samples_interval(lambda a: a.mean(), x):.2f}"
    '0.01 [-0.11, 0.12]'
    """
    activations = check_activations(activations).detach()
    samples = len(activations)
    if samples < 4:
        raise ValueError(f"activations: got {samples} samples, need at least 4 for an interval over samples")
    if draws < 2:
        raise ValueError(f"draws: got {draws!r}, need at least 2")
    generator = torch.Generator().manual_seed(seed)
    half = samples // 2
    halves = (torch.randperm(samples, generator=generator)[:half].to(activations.device) for _ in range(draws))
    values = np.array([float(statistic(activations[chosen])) for chosen in halves])
    # Without repetition a half varies as much as the whole does over fresh samples, but for odd numbers.
    spread = values.std(ddof=1) * math.sqrt(half / (samples - half))
    estimate = float(statistic(activations))
    reach = float(stats.t.ppf((1 + level) / 2, min(draws, samples) - 1)) * spread
    return Interval(estimate, estimate - reach, estimate + reach, level, samples)
