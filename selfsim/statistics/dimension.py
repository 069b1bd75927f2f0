"""The dimension of the cloud of samples in the space of neurons.

Here a point is a sample and its coordinates are the neurons: the cloud that a layer makes of a data set. The nodes of
a feature network are the neurons; its box dimension is another number about other points.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import optional_package
from ..uncertainty import Estimate
from ..validation import check_activations
from .rescaling import rescaled

FEWEST_SAMPLES = 50
_RADII = 20


@dataclass(frozen=True, kw_only=True)
class Dimension(Estimate):
    """An intrinsic dimension, or the reason why there is none.

    Attributes
    ----------
    value : float
    reason : str
    samples : int
        Number of points.
    window : (float, float)
        Radii between which the correlation sum was fitted; of the correlation dimension only.
    residual : float
        Root mean square of what the straight line leaves over, in units of ln C; of the correlation dimension only.
    """

    samples: int
    window: tuple[float, float] = (math.nan, math.nan)
    residual: float = math.nan


def correlation_dimension(activations: Tensor, *, window: tuple[float, float] = (0.005, 0.1)) -> Dimension:
    """Correlation dimension of a layer's samples: how the share of close pairs grows with the radius.

    The slope of ln C(r) against ln r, where C(r) is the share of all pairs of samples at most r apart, over 20 radii
    evenly spaced in ln r.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least 50 samples.
    window : (float, float)
        Shares of pairs between which the line is fitted: in units of C, so that it is in place for any units of r.

    Returns
    -------
    Dimension
        Not estimable with fewer than 50 samples, or where so many coincide that the window begins among these.

    Raises
    ------
    TypeError, ValueError
        Activations of another shape or type, NaN or Inf; a window that is not 0 < low < high <= 1.

    Notes
    -----
    High dimensions come out too low: a cube of 5 dimensions gives about 4.3, a Gauss of 50 dimensions about 20. More
    samples do not help, as the window is in shares of pairs. Time O(samples² neurons), memory O(samples²).

    References
    ----------
    .. [1] P. Grassberger, I. Procaccia, Characterization of strange attractors, Phys. Rev. Lett. 50 (1983).

    Examples
    --------
    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> f"{correlation_dimension(square):.1f}"
    '1.9'
    """
    if not (isinstance(window, (tuple, list)) and len(window) == 2 and 0 < window[0] < window[1] <= 1):
        raise ValueError(f"window: got {window!r}, need shares of pairs (low, high) with 0 < low < high <= 1")
    x = check_activations(activations, min_neurons=1)
    samples = len(x)
    if samples < FEWEST_SAMPLES:
        return _too_few(samples)
    distances = sample_distances(x)[np.triu_indices(samples, 1)]
    # Only the pairs inside the window need an order.
    places = np.multiply(window, len(distances) - 1)
    last = math.ceil(places[1])
    near = np.sort(np.partition(distances, last)[: last + 1])
    low, high = np.interp(places, np.arange(last + 1), near)
    # Not `low`, which lies between two distances, of which the smaller may be 0.
    coincide = not near[int(places[0])] > 0
    if coincide or high - low <= 1e-9 * high:
        pairs = (
            f"at least {window[0]:g} of the pairs" if coincide else f"the pairs between {window[0]:g} and {window[1]:g}"
        )
        found = "coincide" if coincide else "are equally far apart"
        reason = f"{pairs} of samples {found}: there is no range of radii"
        return Dimension(value=math.nan, reason=reason, samples=samples)
    radii = np.geomspace(low, high, _RADII)
    x, y = np.log(radii), np.log(np.searchsorted(near, radii, side="right") / len(distances))
    slope, intercept = np.polyfit(x, y, 1)
    residual = float(np.sqrt(np.mean((y - intercept - slope * x) ** 2)))
    return Dimension(value=float(slope), samples=samples, window=(float(low), float(high)), residual=residual)


def two_nn(activations: Tensor) -> Dimension:
    """Dimension of a layer's samples by TwoNN: how much further the second neighbour is than the first.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least 56 samples that differ.

    Returns
    -------
    Dimension
        Not estimable where fewer than 50 samples count: those apart from all others, less the tenth with the largest
        ratios, whose second neighbour is further than the first.

    Raises
    ------
    TypeError, ValueError
        Activations of another shape or type, NaN or Inf.

    Notes
    -----
    The fit is scikit-dimension's, without the tenth of samples with the largest ratios. It looks at the smallest
    distances only, so noise in the activations counts fully. Time O(samples² neurons), memory O(samples²).

    References
    ----------
    .. [1] E. Facco, M. d'Errico, A. Rodriguez, A. Laio, Estimating the intrinsic dimension of datasets by a minimal
       neighborhood information, Sci. Rep. 7 (2017).

    Examples
    --------
    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> f"{two_nn(square):.1f}"
    '2.1'
    """
    x = check_activations(activations, min_neurons=1)
    samples = len(x)
    if samples < FEWEST_SAMPLES:
        return _too_few(samples)
    square = sample_distances(x)
    np.fill_diagonal(square, np.inf)
    nearest = np.partition(square, 1, axis=1)[:, :2]
    nearest = nearest[nearest[:, 0] > 0]
    if len(nearest) < FEWEST_SAMPLES:
        reason = (
            f"{samples - len(nearest)} of {samples} samples coincide with another, need {FEWEST_SAMPLES} that do not"
        )
        return Dimension(value=math.nan, reason=reason, samples=samples)
    # Samples with two neighbours equally far say nothing, and the tenth with the largest ratios is left out below.
    kept = np.sort(nearest[:, 1] / nearest[:, 0])[: int(len(nearest) * 0.9)]
    count = int((kept > 1 + 1e-9).sum())
    if count < FEWEST_SAMPLES:
        reason = f"{count} of {len(kept)} samples have a second neighbour further than the first, need {FEWEST_SAMPLES}"
        return Dimension(value=math.nan, reason=reason, samples=samples)
    optional_package("skdim", extra="statistics")
    from skdim.id import TwoNN

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(TwoNN(dist=True).fit(nearest).dimension_)
    if not 0 < value < math.inf:
        return Dimension(value=math.nan, reason=f"the fit gives {value:g}, need a number above 0", samples=samples)
    return Dimension(value=value, samples=samples)


def _too_few(samples: int) -> Dimension:
    reason = f"got {samples} samples, need at least {FEWEST_SAMPLES}"
    return Dimension(value=math.nan, reason=reason, samples=samples)


def sample_distances(activations: Tensor) -> np.ndarray:
    """Euclidean distances between all samples, ``(samples, samples)``, float64, in units of their largest value.

    By one matrix product. Pairs so close that it cancels are computed anew from their differences.
    """
    x, _ = rescaled(activations)
    x = x - x.mean(0)
    x = x / x.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    squares = x.square().sum(1)
    sums = squares[:, None] + squares
    distances = sums - 2 * (x @ x.T)
    i, j = (distances < 1e-7 * sums).nonzero(as_tuple=True)
    for part in torch.arange(len(i), device=x.device).split(100_000):
        distances[i[part], j[part]] = (x[i[part]] - x[j[part]]).square().sum(1)
    return distances.sqrt().fill_diagonal_(0).cpu().numpy()
