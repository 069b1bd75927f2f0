"""The SS rate by boxes: complete linkage, with its derivative, and greedy colouring."""

from __future__ import annotations

import math

import numpy as np

from ..boxes.complete_linkage import counts_at, merge_heights, merge_pairs
from ..boxes.greedy_coloring import cover
from ..boxes.inputs import Distances
from .area import Axis, Steps, add_at_ends, area, axis_of, end_places
from .options import RateOptions
from .paper import PAPER_SCALES, sum_over_scales


def rate_by_linkage(
    raw: np.ndarray, one: np.ndarray, n: int, options: RateOptions, need_slope: bool
) -> tuple[float, np.ndarray | None]:
    """The rate of boxes by complete linkage, a staircase with n - 1 steps at the heights of the merges.

    The height of a merge is the distance of one pair, so the derivative ``(pairs,)`` is sparse.
    """
    axis = axis_of(raw, one, options)
    pairs = merge_pairs(raw) if need_slope else None
    heights = merge_heights(raw).astype(raw.dtype) if pairs is None else raw[pairs]
    drop = 1 - np.log(n - np.arange(1, n - 1)) / math.log(n)
    value, by_knot, by_ends = area(heights, axis, Steps.from_drop(drop, raw.dtype), options, need_slope)
    if options.scales is not None:
        value = _rate_of_counts(counts_at(_places(heights, axis), np.linspace(0, 1, options.scales)), n)
    if by_knot is None:
        return value, None
    by_pair = np.zeros_like(raw)
    by_pair[pairs] = by_knot
    add_at_ends(by_pair, np.argsort(raw)[list(end_places(len(raw), options))], by_ends)
    return value, by_pair


def rate_by_coloring(raw: np.ndarray, one: np.ndarray, n: int, options: RateOptions) -> float:
    """The rate of greedy colouring, counted at each scale."""
    axis = axis_of(raw, one, options)
    distances = Distances(n, None, hops=False, given=_places(raw, axis))
    limits = (distances.limit("l_B", scale) for scale in np.linspace(0, 1, options.scales or PAPER_SCALES))
    return _rate_of_counts(np.array([cover(distances, limit, None).max() + 1 for limit in limits]), n)


def _places(distances: np.ndarray, axis: Axis) -> np.ndarray:
    """Places on the axis from 0 to 1; what is shorter than its beginning lies below 0, and so below every scale."""
    offsets = axis.offsets(distances)
    return np.where(offsets < 0, -1.0, axis.positions(offsets))


def _rate_of_counts(counts: np.ndarray, n: int) -> float:
    return sum_over_scales(1 - np.log(counts) / math.log(n))
