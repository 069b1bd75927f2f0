"""The exact area without sorting: many distances in float32 on a CPU, by a fine histogram.

Sorting the distances of a layer together with their places takes most of the time of a rate. But what a pair adds to
the area depends on its distance and, smoothly, on its rank. So distances that nearly agree are merged: those of one
bin count as equal to their mean, and share the slope of the area there.

Floats that are not negative have the order of their bits. The leading bits of their range divide it into *cells*, and
the bits that follow divide each cell into equal bins. Near the two ends of the axis, where one rank matters most, there
are several bins for each pair; farther in they are wider. Pairs are sorted after all in bins that hold too many of
them, and in those where the curve meets its line, so that the slope changes its sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..boxes.correlation_sum import surrogate_drop
from .area import Array, Steps, area, axis_of, end_places
from .loops import bin_of, compiled_loops_pay, count_cells, look_up, sorted_with_order, sum_bins
from .options import RateOptions

# With fewer pairs, sorting is as fast.
_FEWEST_PAIRS = 200_000
# Cells are at most two to this power, so that what is known of them stays in the processor's first cache.
_CELLS = 10
# Bins for each pair at one of the ends; half as many where so many pairs lie between it and the end.
_PER_PAIR, _RESOLUTION = 4, 250
# A cell has at most two to this power of them, which stay in the second cache.
_BINS = 16
# The pairs of a bin are sorted if they are more than this share of those between it and the nearer end; and all pairs
# of the layer, if these are more than this share of them.
_MOST_MERGED, _MOST_SORTED = 1 / 50, 1 / 4


def bins_pay(raw: Array) -> bool:
    """Whether these distances should go through `area_by_bins`."""
    many = isinstance(raw, np.ndarray) and raw.dtype == np.float32 and len(raw) >= _FEWEST_PAIRS
    return many and compiled_loops_pay(len(raw))


class Layout(NamedTuple):
    """Where the bins lie: that of a distance is ``offset[cell] + (number >> shift[cell])``.

    Here ``number = bits - lowest``, and ``cell = number >> cell_bits``.
    """

    lowest: np.uint32
    cell_bits: int
    offset: NDArray[np.int64]  # (cells,)
    shift: NDArray[np.int64]  # (cells,)
    size: int  # bins of all cells

    @classmethod
    def of(cls, bits: NDArray, lowest: np.uint32, highest: np.uint32, ranks: Sequence[int]) -> Layout:
        """The bins for distances with these bits, for an axis between these ranks."""
        cell_bits = max(0, int(highest - lowest).bit_length() - _CELLS)
        pairs = np.zeros((int(highest - lowest) >> cell_bits) + 1, np.int64)
        count_cells(bits, lowest, cell_bits, pairs)
        below = np.cumsum(pairs) - pairs
        wanted = _PER_PAIR * pairs / (1 + _to_end(below, pairs, ranks) / _RESOLUTION)
        cut = np.ceil(np.log2(np.maximum(wanted, 1))).astype(np.int64).clip(0, min(_BINS, cell_bits))
        stop = np.cumsum(1 << cut)
        offset = stop - (1 << cut) - (np.arange(len(pairs)) << cut)
        return cls(lowest, cell_bits, offset, cell_bits - cut, int(stop[-1]))


def area_by_bins(
    raw: NDArray, one: NDArray, n: int, options: RateOptions, need_slope: bool
) -> tuple[float, NDArray | None]:
    """The exact rate of the surrogate count, up to the merging of distances; see `rate.value_and_slope`.

    The slope is None without `need_slope`, and for a layer most of whose pairs have to be sorted after all.
    """
    bits, pairs = raw.view(np.uint32), len(raw)
    axis = axis_of(raw, one.astype(np.float64), options)
    ends = np.array([raw.argmin(), raw.argmax()])  # knots of their own
    ranks = end_places(pairs, options)[:2]
    layout = Layout.of(bits, bits[ends[0]], bits[ends[1]], ranks)
    counts, sums = np.zeros(layout.size, np.int64), np.zeros(layout.size)
    sum_bins(raw, layout, counts, sums)
    for pair in ends:
        place = bin_of(bits[pair], layout)
        counts[place] -= 1
        sums[place] -= raw[pair]
    filled = np.flatnonzero(counts)
    in_bin = counts[filled]
    knots = np.concatenate([raw[ends[:1]], sums[filled] / in_bin, raw[ends[1:]]])
    passed = np.cumsum(np.concatenate([[1], in_bin]))  # pairs up to each knot
    steps = Steps.from_drop(_drop(passed, n), np.float64)
    value, by_knot, by_ends = area(knots, axis, steps, options, need_slope)
    if by_knot is None:
        return value, None
    by_pair = np.zeros(layout.size, np.float32)
    by_pair[filled] = by_knot[1:-1] / in_bin
    # Where the curve meets its line, slopes of neighbours differ in sign, or that of a bin is less than its step gives.
    # Beyond quantiles all are 0.
    of_bin = by_knot[1:-1]
    alone = in_bin > 1 + _MOST_MERGED * _to_end(passed[:-1], in_bin, ranks)
    turns = np.diff(np.sign(of_bin)) != 0
    alone[1:] |= turns
    alone[:-1] |= turns
    by_step = 2 * steps.rise * axis.slope(axis.offsets(knots[1:-1]))
    alone |= (abs(of_bin) < (1 - 1e-9) * by_step) & (of_bin != 0)
    alone &= in_bin > 1
    if in_bin[alone].sum() > _MOST_SORTED * pairs:
        return value, None
    by_pair[filled[alone]] = np.nan
    slope = np.empty_like(raw)
    look_up(raw, layout, by_pair, slope)
    slope[ends] = 0
    if alone.any():
        singly = np.flatnonzero(np.isnan(slope))
        ascending, order = sorted_with_order(raw[singly])
        in_bin = in_bin[alone]
        rank = np.repeat(passed[:-1][alone] - np.cumsum(in_bin) + in_bin, in_bin) + np.arange(len(order))
        before, after = _drop(np.stack([rank, rank + 1]), n)
        knots = np.concatenate([knots[:1], ascending, knots[-1:]])
        _, by_knot, _ = area(knots, axis, Steps(before + after, after - before, 0.0), options, True)
        slope[singly[order]] = np.asarray(by_knot)[1:-1]
    for end, change in zip((axis.low, axis.high, axis.unit), by_ends, strict=True):
        if not isinstance(change, float):  # else 0, as of detached ends
            tied = np.flatnonzero(raw == end)
            slope[tied] += change / len(tied)
    return value, slope


def _to_end(below: NDArray, pairs: NDArray, ranks: Sequence[int]) -> NDArray:
    """Pairs between each bin, with so many `pairs` and so many `below`, and the nearer of two ranks."""
    return np.minimum(*(np.maximum(below - rank, rank - below - pairs).clip(0) for rank in ranks))


def _drop(pairs: NDArray, n: int) -> NDArray:
    """How far the curve of `n` nodes has fallen where so many pairs are passed."""
    return surrogate_drop(torch.from_numpy(pairs / (n * (n - 1) // 2)), n).numpy()  # torch's logarithms are faster
