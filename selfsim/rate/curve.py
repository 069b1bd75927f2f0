"""The paper's picture of one layer: ln N_B against ln(1 + l_B), with a fitted straight line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..boxes.correlation_sum import surrogate_count
from ..checks import check_choice, check_integer
from ..validation import check_activations
from .distances import NoRange, equal_within, pair_distances
from .paper import counts_below, fractions_of, scale_lengths


@dataclass(frozen=True)
class RateCurve:
    """Box counts of a feature network over the paper's scales, and the straight line fitted to them.

    Attributes
    ----------
    l_B : ndarray, shape (scales,)
        Box sizes.
    counts : ndarray, shape (scales,)
        N_B at each.
    slope, intercept : float
        Least-squares line of ``ln N_B`` on ``ln(1 + l_B)``.
    residual : float
        Root mean square of the line's residuals, in units of ln N_B.
    """

    l_B: np.ndarray
    counts: np.ndarray
    slope: float
    intercept: float
    residual: float

    @property
    def fitted(self) -> np.ndarray:
        """The line's ``ln N_B`` at each size."""
        return self.intercept + self.slope * np.log1p(self.l_B)


def rate_curve(activations: Tensor, *, scales: int = 256, count: str = "surrogate") -> RateCurve:
    """Return the box counts over the paper's scales, with slope, intercept and residual of the fitted line.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least three neurons.
    scales : int
        Number of box sizes, evenly spaced in ``ln(1 + l_B)`` between the shortest and the longest distance.
    count : {"surrogate", "complete-linkage"}
        The paper's correlation-sum formula, or real boxes by agglomeration.

    Returns
    -------
    RateCurve

    Raises
    ------
    TypeError, ValueError
        As `ss_rate`; fewer than three scales.

    Notes
    -----
    Time O(neurons² samples), memory O(neurons²); runs on the CPU.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785.

    Examples
    --------
    >>> import torch
    >>> random = torch.Generator().manual_seed(0)
    >>> curve = rate_curve(torch.randn(64, 100, generator=random))
    >>> bool(curve.slope < 0), round(float(curve.counts[0]))
    (True, 100)
    """
    check_choice(count, ("surrogate", "complete-linkage"), name="count")
    scales = check_integer(scales, name="scales", least=3)
    activations = check_activations(activations, min_neurons=3)
    distances = pair_distances(activations).cpu()
    low, high = float(distances.min()), float(distances.max())
    if not high - low > equal_within(distances.dtype) * high:
        raise NoRange.all_equal(distances.numel(), low, high)
    sizes = scale_lengths(low, high, scales)
    sizes[0], sizes[-1] = low, high  # free of rounding
    if count == "surrogate":
        fraction = fractions_of(counts_below(distances, sizes), len(distances))
        counts = surrogate_count(fraction, activations.shape[1])
    else:
        from ..boxes.complete_linkage import counts_at, merge_heights  # scipy's clustering is slow to import

        counts = counts_at(merge_heights(distances.numpy()), sizes).astype(float)
    x, y = np.log1p(sizes), np.log(counts)
    slope, intercept = np.polyfit(x, y, 1)
    residual = float(np.sqrt(np.mean((y - intercept - slope * x) ** 2)))
    return RateCurve(sizes, counts, float(slope), float(intercept), residual)
