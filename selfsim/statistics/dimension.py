"""Intrinsic dimension of the samples of a layer, as points in the space of its neurons.

This is not the box dimension of the feature network, whose nodes are the neurons.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..checks import check_range, optional_package
from ..rate.distances import raw_distances, scaled_neurons
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
        Number of samples, duplicates included.
    duplicates : int
        Number of samples left out because they coincide with an earlier one.
    window : (float, float)
        Distances between which the correlation sum was fitted, in the unit of the activations; NaN for TwoNN.
    residual : float
        Root mean square deviation of ln C from the fitted line; NaN for TwoNN.
    """

    samples: int
    duplicates: int = 0
    window: tuple[float, float] = (math.nan, math.nan)
    residual: float = math.nan


def correlation_dimension(activations: Tensor, *, window: tuple[float, float] = (0.005, 0.1)) -> Dimension:
    """Correlation dimension of the samples: the slope of ln C(r) against ln r.

    C(r) is the share of all pairs of samples at most r apart. The line is fitted at 20 radii evenly spaced in ln r.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least 50 different samples. Samples that coincide count once.
    window : (float, float)
        Smallest and largest C of the fit, as shares of pairs. The window does not depend on the unit of r.

    Returns
    -------
    Dimension
        Not estimable with fewer than 50 different samples, or if the pairs in the window are equally far apart.

    Raises
    ------
    TypeError, ValueError
        Activations of another shape or type, NaN or Inf; a window that is not 0 < low < high <= 1.

    Notes
    -----
    High dimensions come out too low: about 4.3 for a cube of 5 dimensions, and 20 for normal numbers of 50 dimensions.
    More samples do not help, because the window is in shares of pairs. Time O(samples² neurons), memory O(samples²).

    References
    ----------
    .. [1] P. Grassberger, I. Procaccia, Characterization of strange attractors, Phys. Rev. Lett. 50 (1983).

    Examples
    --------
    >>> import torch
    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> f"{correlation_dimension(square):.1f}"
    '1.9'
    """
    shares = check_range(window, name="window", within="(0, 1]")
    square, unit, blank = _distances_without_duplicates(activations)
    if len(square) < FEWEST_SAMPLES:
        return blank
    distances = square[np.triu_indices(len(square), 1)]
    low, high = np.quantile(distances, shares)
    if high - low <= 1e-9 * high:
        reason = f"the pairs of samples between {window[0]:g} and {window[1]:g} are equally far apart"
        return replace(blank, reason=reason)
    radii = np.geomspace(low, high, _RADII)
    # Ties with a radius count, whatever their rounding. Only the pairs inside the window need an order.
    near = np.sort(distances[distances <= high * (1 + 1e-9)])
    within = np.searchsorted(near, radii * (1 + 1e-9), side="right")
    x, y = np.log(radii), np.log(within / len(distances))
    slope, intercept = np.polyfit(x, y, 1)
    residual = float(np.sqrt(np.mean((y - intercept - slope * x) ** 2)))
    ends = float(low) * unit, float(high) * unit
    return replace(blank, value=float(slope), reason="", window=ends, residual=residual)


def two_nn(activations: Tensor) -> Dimension:
    """TwoNN dimension of the samples, from the ratio of the distances to the second and the first neighbour.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least 56 different samples. Samples that coincide count once.

    Returns
    -------
    Dimension
        Usable are the different samples whose second neighbour is further than the first. Not estimable where these
        are fewer than half, or fewer than 50 without the tenth with the largest ratios.

    Raises
    ------
    TypeError, ValueError
        Activations of another shape or type, NaN or Inf.
    ModuleNotFoundError
        scikit-dimension is not installed.

    Notes
    -----
    The fit is that of scikit-dimension to the usable samples, without the tenth with the largest ratios. It uses the
    smallest distances only, so noise in the activations has its full effect. Time O(samples² neurons), memory
    O(samples²).

    References
    ----------
    .. [1] E. Facco, M. d'Errico, A. Rodriguez, A. Laio, Estimating the intrinsic dimension of datasets by a minimal
       neighborhood information, Sci. Rep. 7 (2017).

    Examples
    --------
    >>> import torch
    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> f"{two_nn(square):.1f}"
    '2.1'
    >>> two_nn(torch.cat([square, square[:500]])).duplicates
    500
    """
    square, _, blank = _distances_without_duplicates(activations)
    if len(square) < FEWEST_SAMPLES:
        return blank
    np.fill_diagonal(square, np.inf)
    nearest = np.partition(square, 1, axis=1)[:, :2]
    # Samples with two equally near neighbours, as on a lattice, say nothing and would raise the dimension.
    usable = nearest[:, 1] > nearest[:, 0] * (1 + 1e-9)
    # The fit leaves out the tenth with the largest ratios.
    if 0.9 * usable.sum() < FEWEST_SAMPLES or usable.mean() < 0.5:
        reason = (
            f"{usable.sum()} of {len(usable)} samples have a second neighbour further than the first, need half of "
            f"them, at least {math.ceil(FEWEST_SAMPLES / 0.9)}"
        )
        return replace(blank, reason=reason)
    fit = optional_package("skdim.id", extra="statistics").TwoNN(dist=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(fit.fit(nearest[usable]).dimension_)
    if not 0 < value < math.inf:
        return replace(blank, reason=f"the fit gives {value:g}, need a number above 0")
    return replace(blank, value=value, reason="")


def _distances_without_duplicates(activations: Tensor) -> tuple[NDArray[np.float64], float, Dimension]:
    """Return the distances between different samples, their unit, and the `Dimension` of too few of them."""
    distances, unit = sample_distances(check_activations(activations))
    samples = len(distances)
    first = ~np.tril(distances == 0, -1).any(1)  # of samples that coincide
    duplicates = samples - int(first.sum())
    if duplicates:
        distances = distances[np.ix_(first, first)]
        reason = f"{duplicates} of {samples} samples coincide with another, need {FEWEST_SAMPLES} different ones"
    else:
        reason = f"got {samples} samples, need at least {FEWEST_SAMPLES}"
    return distances, unit, Dimension(value=math.nan, reason=reason, samples=samples, duplicates=duplicates)


def sample_distances(activations: Tensor) -> tuple[NDArray[np.float64], float]:
    """Return Euclidean distances ``(samples, samples)`` in float64, and their unit."""
    from scipy.spatial.distance import squareform  # takes a fifth of a second to import

    x, unit = rescaled(activations.detach().cpu())
    points, scale = scaled_neurons((x - x.amin(0)).T)  # no neuron far from 0 hides how the others vary
    return squareform(raw_distances(points).numpy(), checks=False), unit / float(scale)
