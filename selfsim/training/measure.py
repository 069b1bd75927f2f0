"""What a constraint holds to its target: the SS rate, or the deviation from a power law."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..rate.options import RateOptions
from ..rate.rate import ss_rate


@dataclass(frozen=True)
class ScalingOptions:
    """The options of `scaling_deviation`."""

    window: tuple[float, float] | None = None
    check: bool = True


Measure = RateOptions | ScalingOptions


def measured(activations: Tensor, measure: Measure) -> Tensor:
    """Return the rate, or the deviation, of one layer ``(samples, neurons)``."""
    if isinstance(measure, RateOptions):
        return ss_rate(activations, **vars(measure))
    from ..statistics.scaling import scaling_deviation  # brings in scipy and networkx

    return scaling_deviation(activations, **vars(measure))
