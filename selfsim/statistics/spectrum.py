"""Power-law fits of spectra: of the covariance of a layer's activations, and of weight matrices.

The paper calls a network statistically scale-invariant if the spectra of its layers are power laws with about the same
exponent. Nearly every spectrum gets an exponent. The goodness of the fit and the comparison with a log-normal tell
whether it is a power law.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..checks import check_number
from ..uncertainty import Estimate, Interval, exponent_interval
from ..validation import as_tensor, check_activations, check_finite
from .rescaling import rescaled

FEWEST_VALUES = 50
FEWEST_IN_TAIL = 10


@dataclass(frozen=True, kw_only=True)
class PowerLaw(Estimate):
    """A power law fitted to the tail of some values; `value` is the exponent of the density ``x ** -exponent``.

    Attributes
    ----------
    value : float
        Maximum-likelihood exponent above `start`; NaN where it is not estimable.
    reason : str
        Why it is not estimable.
    start : float
        Start of the tail: the value for which `ks_distance` is smallest.
    ks_distance : float
        Kolmogorov-Smirnov distance: the largest difference between the distribution of the tail and the fit. It is
        about ``1 / sqrt(tail)`` or less for a power law.
    at_limit : bool
        Whether the exponent is the largest one allowed. The data then give a lower bound only.
    tail, values : int
        Numbers of values in the tail, and in total.
    tail_values : ndarray, shape (tail,)
        Ascending.
    """

    start: float = math.nan
    ks_distance: float = math.nan
    at_limit: bool = False
    tail: int = 0
    values: int = 0
    tail_values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    @property
    def tail_fraction(self) -> float:
        """Share of the values in the tail; 0 without a fit."""
        return self.tail / self.values if self.values else 0.0

    @property
    def interval(self) -> Interval:
        """95 % interval for independent values and a known start; `ValueError` at the limit."""
        if self.at_limit:
            raise ValueError(f"PowerLaw: no interval: {self.value:g} is the largest exponent allowed, not an estimate")
        return exponent_interval(float(self), self.tail)

    @functools.cached_property
    def fit_p(self) -> float:
        """p-value of the fit, small where the tail is no power law.

        It is the share of 999 power-law samples of the same size whose Kolmogorov-Smirnov distance to their own fit is
        at least `ks_distance`. The search for the start makes `ks_distance` smaller, so a power law is rejected less
        often than the p-value says.
        """
        drawn = np.pad(np.sort(self._exponential_samples(), axis=1), ((0, 0), (1, 0)))  # a sample has its start
        fitted = -np.expm1(-drawn / drawn.mean(1, keepdims=True))
        distances = np.abs(fitted - np.arange(self.tail) / self.tail).max(1)
        return float((1 + (distances >= self.ks_distance).sum()) / 1000)

    @functools.cached_property
    def log_normal_p(self) -> float:
        """p-value of the power law against a log-normal on the same tail, small where the log-normal fits better.

        Above the start of the tail, the logarithms of a power law are exponential. Those of a log-normal vary less in
        relation to their mean. The p-value is the share of 999 exponential samples of the same size that vary as
        little: the uniformly most powerful unbiased test.
        """
        drawn = self._exponential_samples()
        variation = [y.std(axis=-1) / y.mean(axis=-1) for y in (np.log(self.tail_values[1:] / self.start), drawn)]
        return float((1 + (variation[1] <= variation[0]).sum()) / 1000)

    def _exponential_samples(self) -> NDArray[np.float64]:
        """Samples of what lies above the start of the tail, which is a value of it."""
        float(self)  # raises ValueError if there is no fit
        return np.random.default_rng(0).exponential(size=(999, self.tail - 1))

    @property
    def verdict(self) -> str:
        """The outcome of both tests, at 5 %.

        "power law rejected" where the fit is bad (`fit_p`), else "log-normal" where a log-normal fits better
        (`log_normal_p`), else "power law not rejected"; "not estimable" without a fit.
        """
        if not self.estimable:
            return "not estimable"
        if self.fit_p < 0.05:
            return "power law rejected"
        return "log-normal" if self.log_normal_p < 0.05 else "power law not rejected"


def power_law(values: ArrayLike, *, largest_exponent: float = math.inf) -> PowerLaw:
    """Fit a continuous power law to the tail of positive values.

    Parameters
    ----------
    values : array-like, shape (values,)
        Values of 0 and below are left out.
    largest_exponent : float
        Above 1. A steeper fit gets this exponent and no interval. The powerlaw package allows 3 by default: all values
        that fall faster then get an exponent of about 3.

    Returns
    -------
    PowerLaw
        Not estimable with fewer than 50 values above 0, or if these are all equal.

    Raises
    ------
    ValueError
        Values that are NaN, Inf or not one-dimensional; a largest exponent that is not above 1.

    Notes
    -----
    The start is the value, with at least 10 from it on, for which the Kolmogorov-Smirnov distance is smallest.
    Exponent, start and distance equal those of the powerlaw package 2.0 for values without ties, unless the exponent
    is at the limit, as for noise. That package then moves to a start with an exponent below the limit. Time
    O(values²): 5 ms for 400. The two p-values are computed on first use, in O(1000 tail) time and memory.

    References
    ----------
    .. [1] A. Clauset, C. R. Shalizi, M. E. J. Newman, Power-law distributions in empirical data, SIAM Review 51 (2009).
    .. [2] Y. Malevergne, V. Pisarenko, D. Sornette, Testing the Pareto against the lognormal distributions with the
       uniformly most powerful unbiased test, Phys. Rev. E 83 (2011).

    Examples
    --------
    >>> fit = power_law(np.random.default_rng(0).pareto(1.5, 1000) + 1)
    >>> fit.interval.low < 2.5 < fit.interval.high
    True
    >>> power_law(np.ones(3)).reason
    'got 3 values above 0, need at least 50'
    """
    largest_exponent = check_number(largest_exponent, name="largest_exponent", within="(1, inf]")
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"values: got shape {array.shape}, need finite numbers in one dimension")
    positive = array[array > 0]
    if len(positive) < FEWEST_VALUES:
        reason = f"got {len(positive)} values above 0, need at least {FEWEST_VALUES}"
        return PowerLaw(value=math.nan, reason=reason, values=len(positive))
    if np.ptp(positive) <= 1e-12 * positive.max():
        return PowerLaw(value=math.nan, reason=f"all {len(positive)} values are equal", values=len(positive))
    ordered = np.sort(positive)
    start, exponent, distance, tail = _best_start(ordered, largest_exponent)
    return PowerLaw(
        value=exponent,
        start=start,
        ks_distance=distance,
        at_limit=exponent == largest_exponent,
        tail=tail,
        values=len(ordered),
        tail_values=ordered[-tail:],
    )


def _best_start(ordered: NDArray[np.float64], largest_exponent: float) -> tuple[float, float, float, int]:
    """Return the start with the smallest Kolmogorov-Smirnov distance, its exponent, this distance, and the tail."""
    logs, n = np.log(ordered), len(ordered)
    best = (math.nan, math.nan, math.inf, 0)
    for first in np.unique(ordered[: n - FEWEST_IN_TAIL + 1], return_index=True)[1]:
        above = logs[first:] - logs[first]
        mean = above.mean()
        if mean == 0:  # all remaining values are equal
            break
        exponent = min(1 + 1 / float(mean), largest_exponent)
        tail = n - first
        distance = np.abs(-np.expm1(-above * (exponent - 1)) - np.arange(tail) / tail).max()
        if distance < best[2]:
            best = (float(ordered[first]), exponent, float(distance), int(tail))
    return best


def spectrum(activations: Tensor) -> NDArray[np.float64]:
    """Eigenvalues of the covariance between the neurons of a layer, descending, without rounding errors of 0.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)

    Returns
    -------
    ndarray, shape (values,)
        float64, at most ``min(samples - 1, neurons)``.

    Raises
    ------
    TypeError, ValueError
        Activations of another shape or type, NaN or Inf, or whose squares overflow or underflow float64.

    Notes
    -----
    Time O(samples neurons min(samples, neurons)), memory O(samples neurons).

    Examples
    --------
    >>> spectrum(torch.tensor([[0.0, 3.0], [0.0, -3.0]]))
    array([18.])
    """
    values, unit = _spectrum_in_unit(check_activations(activations))
    size = unit * unit
    if not 1e-290 < size < 1e290:
        raise ValueError(f"activations: got values of about {unit:.0e}, whose squares float64 does not hold")
    return values * size


def spectrum_exponent(activations: Tensor, *, largest_exponent: float = math.inf) -> PowerLaw:
    """Power-law exponent of the eigenvalues of a layer's covariance: the paper's gamma.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least 51 samples and 50 neurons, for 50 eigenvalues. If the largest activation is above 1e100 or below
        1e-100, start and tail are in another unit.
    largest_exponent : float
        See `power_law`. At 3, the limit of the usual software, all steep spectra have exponents near 3.

    Returns
    -------
    PowerLaw
        The exponent with the goodness of the fit and the share of eigenvalues in the tail, or the reason why there is
        none.

    Raises
    ------
    TypeError, ValueError
        Activations of another shape or type, NaN or Inf.

    Notes
    -----
    Time O(samples neurons min(samples, neurons)), memory O(samples neurons). The exponent is that of the density of
    eigenvalues; sorted by rank r, they fall like ``r ** (-1 / (exponent - 1))``. It depends on the number of samples,
    because noise in the covariance spreads its eigenvalues. `samples_interval` gives an interval over samples.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, statistical scale invariance.

    Examples
    --------
    >>> noise = torch.randn(400, 100, generator=torch.Generator().manual_seed(0))
    >>> fit = spectrum_exponent(noise)
    >>> f"exponent {fit:.1f} of {fit.tail} eigenvalues; {spectrum_exponent(noise[:20]):.1f}"
    'exponent 6.7 of 22 eigenvalues; not estimable: got 19 values above 0, need at least 50'
    """
    values, _ = _spectrum_in_unit(check_activations(activations))
    return power_law(values, largest_exponent=largest_exponent)


def weight_exponents(weights: Mapping[str, Tensor | NDArray[np.floating]]) -> dict[str, PowerLaw]:
    """Power-law exponent of the squared singular values of each weight matrix.

    Parameters
    ----------
    weights : mapping of str to Tensor or ndarray
        Such as ``dict(model.named_parameters())``. Tensors of one dimension (biases, gains) and of integers are left
        out. Tensors of more than two dimensions (convolutions) become matrices ``(outputs, inputs times positions)``.

    Returns
    -------
    dict of str to PowerLaw
        Not estimable if the smaller side is below 50.

    Raises
    ------
    TypeError, ValueError
        Not a mapping of tensors or arrays; NaN or Inf, with the weight's name.

    References
    ----------
    .. [1] C. H. Martin, M. W. Mahoney, Implicit self-regularization in deep neural networks, JMLR 22 (2021).

    Examples
    --------
    >>> layer = torch.nn.Linear(8, 4)
    >>> fits = weight_exponents(dict(layer.named_parameters()))
    >>> {name: fit.verdict for name, fit in fits.items()}
    {'weight': 'not estimable'}
    """
    if not isinstance(weights, Mapping) or not all(isinstance(w, Tensor | np.ndarray) for w in weights.values()):
        raise TypeError(f"weights: got {type(weights).__name__}, need a mapping of names to tensors or arrays")
    fits = {}
    for name, given in weights.items():
        weight = as_tensor(given, name=f"weights[{name!r}]") if isinstance(given, np.ndarray) else given
        if weight.ndim < 2 or not weight.is_floating_point():
            continue
        matrix = weight.detach().flatten(1)
        check_finite(matrix, name=f"weights[{name!r}]")
        fits[name] = power_law(_squared_singular_values(rescaled(matrix)[0].cpu(), matrix.dtype))
    return fits


def _spectrum_in_unit(activations: Tensor) -> tuple[NDArray[np.float64], float]:
    """Return descending eigenvalues of the covariance, divided by ``unit ** 2``, and the unit."""
    x, unit = rescaled(activations)
    values = _squared_singular_values((x - x.mean(0)).cpu(), activations.dtype)
    return values[: len(x) - 1] / max(len(x) - 1, 1), unit  # one is 0, but for the rounding of the mean


def _squared_singular_values(matrix: Tensor, dtype: torch.dtype) -> NDArray[np.float64]:
    """Return squared singular values, descending, without those that are 0 up to rounding in `dtype`.

    Half precision counts as single: its rounding adds noise to all singular values, but small ones keep their meaning.
    """
    size = matrix.abs().max() if matrix.numel() else matrix.new_zeros(())
    if size == 0:
        return np.zeros(0)
    values = torch.linalg.svdvals(matrix / size)
    eps = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return (values[values > values[0] * max(matrix.shape) * eps] * size).square().numpy()
