"""Power laws of spectra: the covariance of a layer's activations, and matrices of weights.

The paper calls a network statistically scale-invariant whose layers have power-law spectra of about the same exponent.
Nearly every spectrum gets an exponent; whether it is a power law, the distance of the fit and a log-normal tell.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..uncertainty import Estimate, Interval, exponent_interval
from ..validation import check_activations, check_finite
from .rescaling import rescaled

FEWEST_VALUES = 50
FEWEST_IN_TAIL = 10


@dataclass(frozen=True, kw_only=True)
class PowerLaw(Estimate):
    """A power law fitted to the tail of some values; its `value` is the exponent of the density ``x ** -exponent``.

    Attributes
    ----------
    value : float
        The exponent, by maximum likelihood above `start`; NaN where it is not estimable.
    reason : str
        Why it is not.
    start : float
        Where the tail begins: there the fit's Kolmogorov-Smirnov distance is smallest.
    ks_distance : float
        The largest difference between the distribution of the tail and the fitted one. Below about
        ``1 / sqrt(tail)`` for a power law.
    at_limit : bool
        Whether the exponent is the largest that was allowed, so that the data say only that it is no smaller.
    tail, values : int
        Numbers of values in the tail, and in all.
    tail_values : ndarray, shape (tail,)
        Ascending.
    """

    start: float = math.nan
    ks_distance: float = math.nan
    at_limit: bool = False
    tail: int = 0
    values: int = 0
    tail_values: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    @property
    def tail_fraction(self) -> float:
        """Share of the values that the power law is fitted to; 0 without a fit."""
        return self.tail / self.values if self.values else 0.0

    @property
    def interval(self) -> Interval:
        """95 % interval, as if the values were independent and the start known; `ValueError` at the limit."""
        if self.at_limit:
            raise ValueError(f"PowerLaw: no interval: {self.value:g} is the largest exponent allowed, not an estimate")
        return exponent_interval(float(self), self.tail)

    @functools.cached_property
    def log_normal_p(self) -> float:
        """p-value of the power law against a log-normal on the same tail, small where the log-normal fits better.

        The logarithms of a power law's tail are exponential, those of a log-normal's vary less in relation to their
        mean. The p-value is the share of 999 exponential samples, as large as the tail, that vary as little: the
        uniformly most powerful unbiased test.
        """
        float(self)  # says why there is none
        drawn = np.random.default_rng(0).exponential(size=(999, self.tail))
        variation = [y.std(axis=-1) / y.mean(axis=-1) for y in (np.log(self.tail_values / self.start), drawn)]
        return float((1 + (variation[1] <= variation[0]).sum()) / 1000)

    @property
    def verdict(self) -> str:
        """ "log-normal" where it fits the tail better (p < 0.05), "power law not rejected" else, or "not estimable"."""
        if not self.estimable:
            return "not estimable"
        return "log-normal" if self.log_normal_p < 0.05 else "power law not rejected"


def power_law(values: np.ndarray, *, largest_exponent: float = math.inf) -> PowerLaw:
    """Fit a continuous power law to the tail of positive values.

    Parameters
    ----------
    values : array-like, shape (values,)
        Those that are not above 0 are left out.
    largest_exponent : float
        More than 1. Where the fit is steeper, this one is taken, and there is no interval. The powerlaw package
        allows 3 by default: values that fall faster then get an exponent of about 3, whatever they are.

    Returns
    -------
    PowerLaw
        Not estimable with fewer than 50 values above 0, or when these are all equal.

    Raises
    ------
    ValueError
        NaN or Inf, or not one-dimensional; a largest exponent that is not above 1.

    Notes
    -----
    The start is the value, with at least 10 above it, for which the Kolmogorov-Smirnov distance is smallest. Exponent,
    start and distance equal those of the powerlaw package 2.0 at the same largest exponent where the exponent lies
    inside the range; at the limit, as for noise, ours takes the limit, and that package a start at which the exponent
    is below it. Time O(values²): 5 ms for 400; the comparison with a log-normal is made when it is asked for.

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
    if not largest_exponent > 1:
        raise ValueError(f"largest_exponent: got {largest_exponent!r}, need a number above 1")
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"values: got shape {values.shape}, need finite numbers in one dimension")
    positive = values[values > 0]
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


def _best_start(ordered: np.ndarray, largest_exponent: float) -> tuple[float, float, float, int]:
    """The start whose fitted power law is nearest to the values above it; exponent, distance, number of values."""
    logs, n = np.log(ordered), len(ordered)
    best = (math.nan, math.nan, math.inf, 0)
    for first in np.unique(ordered[: n - FEWEST_IN_TAIL + 1], return_index=True)[1]:
        above = logs[first:] - logs[first]
        mean = above.mean()
        if mean == 0:  # all that is left are equal values
            break
        exponent = min(1 + 1 / float(mean), largest_exponent)
        tail = n - first
        distance = np.abs(-np.expm1(-above * (exponent - 1)) - np.arange(tail) / tail).max()
        if distance < best[2]:
            best = (float(ordered[first]), exponent, float(distance), int(tail))
    return best


def spectrum(activations: Tensor) -> np.ndarray:
    """Eigenvalues of the covariance between the neurons of a layer, from the largest, without those that are rounding.

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
        Activations of another shape or type, NaN or Inf, or so large or small that float64 does not hold their squares.

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
    """Exponent of a power law fitted to the eigenvalues of a layer's covariance: the paper's gamma.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least 51 samples and 50 neurons, else there are fewer than 50 eigenvalues. Where the largest is beyond
        1e100, or below 1e-100, start and tail are in a unit of their own.
    largest_exponent : float
        See `power_law`. At 3, the range of the usual software, the exponents of steep spectra are all near 3.

    Returns
    -------
    PowerLaw
        With the goodness of the fit, the share of eigenvalues in the tail, the comparison with a log-normal, or the
        reason why there is no exponent.

    Raises
    ------
    TypeError, ValueError
        Activations of another shape or type, NaN or Inf.

    Notes
    -----
    Time O(samples neurons min(samples, neurons)), memory O(samples neurons). The exponent is that of the density of
    eigenvalues; sorted by rank r they fall like ``r ** (-1 / (exponent - 1))``. It depends on the number of samples:
    noise in the covariance spreads its eigenvalues. `samples_interval` gives an interval over samples.

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


def weight_exponents(weights: Mapping[str, Tensor]) -> dict[str, PowerLaw]:
    """Exponent of a power law fitted to the squared singular values of each matrix of weights.

    Parameters
    ----------
    weights : mapping of names to Tensor
        Such as ``dict(model.named_parameters())``. Tensors of one dimension (biases, gains) are passed over; those of
        more than two, as of convolutions, are taken as matrices ``(outputs, inputs times positions)``.

    Returns
    -------
    dict of str to PowerLaw
        Not estimable where the smaller side is below 50.

    Raises
    ------
    TypeError, ValueError
        Not a mapping of tensors; NaN or Inf, with the weight's name.

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
    if not isinstance(weights, Mapping) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise TypeError(f"weights: got {type(weights).__name__}, need a mapping of names to tensors")
    fits = {}
    for name, weight in weights.items():
        if weight.ndim < 2 or not weight.is_floating_point():
            continue
        matrix = weight.detach().flatten(1)
        check_finite(matrix, name=f"weights[{name!r}]")
        fits[name] = power_law(_squared_singular_values(rescaled(matrix)[0].cpu(), matrix.dtype))
    return fits


def _spectrum_in_unit(activations: Tensor) -> tuple[np.ndarray, float]:
    """Eigenvalues of the covariance, descending, in units of the square of what is returned with them."""
    x, unit = rescaled(activations)
    return _squared_singular_values((x - x.mean(0)).cpu(), activations.dtype) / max(len(x) - 1, 1), unit


def _squared_singular_values(matrix: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Descending, without those that cannot be told from 0 in the precision that the matrix came in.

    Half precision counts as single: its rounding of the entries adds some noise to all singular values, and is no bound
    below which they mean nothing.
    """
    size = matrix.abs().max() if matrix.numel() else matrix.new_zeros(())
    if size == 0:
        return np.zeros(0)
    values = torch.linalg.svdvals(matrix / size)
    eps = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return (values[values > values[0] * max(matrix.shape) * eps] * size).square().numpy()
