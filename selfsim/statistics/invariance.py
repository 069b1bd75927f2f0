"""The paper's two criteria of invariance across the layers of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..checks import check_choice
from ..uncertainty import Estimate

LIMITS = {"statistical": 0.2, "geometric": 0.1}


@dataclass(frozen=True, kw_only=True)
class Invariance(Estimate):
    """One of the paper's criteria for one network.

    Attributes
    ----------
    value : float
        The spread of the estimates over layers; NaN where fewer than two are estimable or they have no spread.
    reason : str
    limit : float
        The paper's.
    left_out : tuple of str
        Layers without an estimate.
    """

    limit: float
    left_out: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the spread is below the limit; an error where there is no spread."""
        return float(self) < self.limit


def invariance_across_layers(estimates: Mapping[str, Estimate], *, kind: str) -> Invariance:
    """How much an estimate differs between the layers of a network, with the paper's limit beside it.

    Parameters
    ----------
    estimates : mapping of layers to Estimate
        Such as `spectrum_exponent` or `correlation_dimension` of each layer.
    kind : {"statistical", "geometric"}
        "statistical": standard deviation (over n) of exponents, limit 0.2. "geometric": (largest - smallest) / mean of
        dimensions, limit 0.1.

    Returns
    -------
    Invariance
        Small means invariant. A stable estimate need not be a good one: the exponent of white noise is very stable.
        Not estimable for fewer than two estimates, for infinite ones, and for dimensions whose mean is not above 0.

    Raises
    ------
    TypeError
        Not a mapping to `Estimate`.
    ValueError
        An unknown kind.

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
    found = [float(estimate) for estimate in estimates.values() if estimate.estimable]
    left_out = tuple(layer for layer, estimate in estimates.items() if not estimate.estimable)
    if len(found) < 2:
        reason = f"{len(found)} of {len(estimates)} layers have an estimate, need at least 2"
    elif not np.isfinite(found).all():
        reason = "an estimate is infinite, need finite ones"
    elif kind == "geometric" and np.mean(found) <= 0:
        reason = f"the mean dimension is {np.mean(found):g}, need one above 0 to relate the range to"
    else:
        spread = np.std(found) if kind == "statistical" else np.ptp(found) / np.mean(found)
        return Invariance(value=float(spread), limit=LIMITS[kind], left_out=left_out)
    return Invariance(value=float("nan"), reason=reason, limit=LIMITS[kind], left_out=left_out)
