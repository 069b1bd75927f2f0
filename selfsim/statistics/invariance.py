"""The paper's two criteria for invariance across the layers of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..checks import check_choice
from ..uncertainty import Estimate, power_of_two

LIMITS = {"statistical": 0.2, "geometric": 0.1}


@dataclass(frozen=True, kw_only=True)
class Invariance(Estimate):
    """Spread of an estimate over the layers of one network, with the limit of the paper's criterion.

    Attributes
    ----------
    value : float
        Spread of the estimates over layers; NaN where it is not estimable.
    reason : str
    limit : float
        The paper's limit.
    left_out : tuple of str
        Layers without an estimate.
    """

    limit: float
    left_out: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the spread is below the limit; `ValueError` if it is not estimable."""
        return float(self) < self.limit


def invariance_across_layers(
    estimates: Mapping[str, Estimate], *, kind: Literal["statistical", "geometric"]
) -> Invariance:
    """Return the spread of an estimate over the layers of a network.

    Parameters
    ----------
    estimates : mapping of str to Estimate
        The estimate of each layer, by `spectrum_exponent` or `correlation_dimension`, for example.
    kind : {"statistical", "geometric"}
        "statistical": standard deviation (over n) of exponents, limit 0.2.
        "geometric": (largest - smallest) / mean of dimensions, limit 0.1.

    Returns
    -------
    Invariance
        Small for an invariant network. A stable estimate need not be a good one: the exponent of white noise is very
        stable. Not estimable with fewer than two estimates, an infinite one, or a mean dimension of 0 or less.

    Raises
    ------
    TypeError
        Not a mapping to `Estimate`.
    ValueError
        Unknown kind.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, invariance of features.

    Examples
    --------
    >>> layers = {"block 1": Estimate(value=2.0), "block 2": Estimate(value=2.1)}
    >>> invariance_across_layers(layers, kind="statistical").holds
    True
    """
    check_choice(kind, LIMITS, name="kind")
    if not isinstance(estimates, Mapping) or not all(isinstance(e, Estimate) for e in estimates.values()):
        raise TypeError(f"estimates: got {type(estimates).__name__}, need a mapping of layers to Estimate")
    values = np.array([float(estimate) for estimate in estimates.values() if estimate.estimable])
    left_out = tuple(layer for layer, estimate in estimates.items() if not estimate.estimable)
    if len(values) < 2:
        reason = f"{len(values)} of {len(estimates)} layers have an estimate, need at least 2"
    elif not np.isfinite(values).all():
        reason = "an estimate is infinite, need finite ones"
    else:
        unit = power_of_two(values)
        scaled = values / unit
        if kind == "statistical":
            return Invariance(value=float(scaled.std()) * unit, limit=LIMITS[kind], left_out=left_out)
        if scaled.mean() > 0:
            return Invariance(value=float(np.ptp(scaled) / scaled.mean()), limit=LIMITS[kind], left_out=left_out)
        reason = f"the mean dimension is {scaled.mean() * unit:g}, need one above 0 to relate the range to"
    return Invariance(value=float("nan"), reason=reason, limit=LIMITS[kind], left_out=left_out)
