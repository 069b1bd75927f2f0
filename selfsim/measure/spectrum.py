"""Power laws of spectra: the covariance of a layer's activations, and matrices of weights.

The paper calls a network statistically scale-invariant whose layers have power-law spectra of about the same exponent.
Nearly every spectrum gets an exponent; whether it is a power law, the distance of the fit and a log-normal tell.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..uncertainty import Estimate, Interval, exponent_interval
from ..validation import check_activations, check_finite, optional_package

FEWEST_VALUES = 50


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
    tail, values : int
        Numbers of values in the tail, and in all.
    """

    start: float = math.nan
    ks_distance: float = math.nan
    tail: int = 0
    values: int = 0
    _fit: object = field(default=None, repr=False, compare=False)

    @property
    def tail_fraction(self) -> float:
        """Share of the values that the power law is fitted to; 0 without a fit."""
        return self.tail / self.values if self.values else 0.0

    @property
    def interval(self) -> Interval:
        """95 % interval of the exponent, as if the values were independent and the start known."""
        return exponent_interval(float(self), self.tail)

    @functools.cached_property
    def against_log_normal(self) -> tuple[float, float]:
        """Vuong's test of the power law against a log-normal on the same tail: normalised log-likelihood ratio, p.

        Above 0 the power law is the likelier one, below 0 the log-normal; p is two-sided.
        """
        float(self)  # says why there is none
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the package warns of its own names and of its optimiser's steps
            ratio, p = self._fit.distribution_compare("power_law", "lognormal", normalized_ratio=True)
        return float(ratio), float(p)

    @property
    def verdict(self) -> str:
        """ "power law" or "log-normal" where one is likelier with p < 0.05, "undecided" else, "not estimable"."""
        if not self.estimable:
            return "not estimable"
        ratio, p = self.against_log_normal
        return "undecided" if not p < 0.05 else "power law" if ratio > 0 else "log-normal"


def power_law(values: np.ndarray) -> PowerLaw:
    """Fit a continuous power law to the tail of positive values.

    Parameters
    ----------
    values : array-like, shape (values,)
        Those that are not above 0 are left out.

    Returns
    -------
    PowerLaw
        Not estimable with fewer than 50 values above 0, or when these are all equal.

    Raises
    ------
    ValueError
        NaN or Inf, or not one-dimensional.

    Notes
    -----
    The fit is the powerlaw package's: the start is the value with the smallest Kolmogorov-Smirnov distance. Time
    O(values²), 20 ms for 400; the comparison with a log-normal takes ten times as long and is made when asked for.

    References
    ----------
    .. [1] A. Clauset, C. R. Shalizi, M. E. J. Newman, Power-law distributions in empirical data, SIAM Review 51 (2009).
    .. [2] J. Alstott, E. Bullmore, D. Plenz, powerlaw: a Python package, PLoS ONE 9 (2014).

    Examples
    --------
    >>> fit = power_law(np.random.default_rng(0).pareto(1.5, 1000) + 1)
    >>> fit.interval.low < 2.5 < fit.interval.high
    True
    >>> power_law(np.ones(3)).reason
    'got 3 values above 0, need at least 50'
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"values: got shape {values.shape}, need finite numbers in one dimension")
    positive = values[values > 0]
    if len(positive) < FEWEST_VALUES:
        reason = f"got {len(positive)} values above 0, need at least {FEWEST_VALUES}"
        return PowerLaw(value=math.nan, reason=reason, values=len(positive))
    if np.ptp(positive) <= 1e-12 * positive.max():
        return PowerLaw(value=math.nan, reason=f"all {len(positive)} values are equal", values=len(positive))
    powerlaw = optional_package("powerlaw", extra="statistics")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        # In units of the median: the package's likelihoods overflow for very large and very small values.
        unit = float(np.median(positive))
        fit = powerlaw.Fit(positive / unit, discrete=False, verbose=0)
        exponent, distance, start = float(fit.alpha), float(fit.D), float(fit.xmin)
    tail = int((positive / unit >= start).sum())
    if not (math.isfinite(exponent) and exponent > 1) or tail < 2:
        return PowerLaw(value=math.nan, reason="no start of the tail gives a finite exponent", values=len(positive))
    return PowerLaw(value=exponent, start=start * unit, ks_distance=distance, tail=tail, values=len(positive), _fit=fit)


def spectrum(activations: Tensor) -> np.ndarray:
    """Eigenvalues of the covariance between the neurons of a layer, from the largest, without those that are rounding.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)

    Returns
    -------
    ndarray, shape (values,)
        float64, at most ``min(samples - 1, neurons)``.

    Examples
    --------
    >>> spectrum(torch.tensor([[0.0, 3.0], [0.0, -3.0]]))
    array([18.])
    """
    x = check_activations(activations).detach()
    values = _squared_singular_values((x.double() - x.double().mean(0)).cpu(), x.dtype)
    return values / max(len(x) - 1, 1)


def spectrum_exponent(activations: Tensor) -> PowerLaw:
    """Exponent of a power law fitted to the eigenvalues of a layer's covariance: the paper's gamma.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least 51 samples and 50 neurons, else there are fewer than 50 eigenvalues.

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
    'exponent 2.7 of 70 eigenvalues; not estimable: got 19 values above 0, need at least 50'
    """
    return power_law(spectrum(activations))


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
    >>> {name: fit.verdict for name, fit in weight_exponents(dict(layer.named_parameters())).items()}
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
        fits[name] = power_law(_squared_singular_values(matrix.cpu().double(), matrix.dtype))
    return fits


def _squared_singular_values(matrix: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Descending, without those that cannot be told from 0 in the precision that the matrix came in."""
    size = matrix.abs().max() if matrix.numel() else matrix.new_zeros(())
    if size == 0:
        return np.zeros(0)
    values = torch.linalg.svdvals(matrix / size)
    return (values[values > values[0] * max(matrix.shape) * torch.finfo(dtype).eps] * size).square().numpy()
