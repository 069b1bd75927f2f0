"""The exact area without sorting: many distances in float32 on a CPU, by a fine histogram.

Sorting the distances of a layer together with their places takes most of the time of a rate. But what a pair adds to
the area depends on its distance and, smoothly, on its rank. So distances that nearly agree are merged: those of one
bin count as equal to their mean, and share the slope of the area there.

Floats that are not negative have the order of their bits. Their leading bits give one of 16 *cells* an octave. Each
cell is cut into equal bins by the bits that follow: several for each pair near the two ends, where one rank matters
most, and wider ones between. Where the curve meets its line, and the slope changes its sign, the pairs of a bin are
sorted after all.

The value is that of sorted distances to about 1e-7, and the gradient to a thousandth of its length, most often to
less than a ten-thousandth (`tests/rate/test_bins.py`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..boxes.correlation_sum import surrogate_drop
from .area import Array, Steps, area, axis_of
from .loops import CELL_BITS, compiled_loops_pay, count_cells, look_up, sorted_with_order, sum_bins
from .options import RateOptions

# With fewer pairs, sorting is as fast.
_FEWEST_PAIRS = 100_000
# Bins for each pair at one of the ends; half as many where so many pairs lie between it and the end.
_PER_PAIR, _RESOLUTION = 4, 250
# At most 2 ** 16 bins in a cell, which stay in the cache.
_MOST_BITS = 16


def bins_pay(raw: Array) -> bool:
    """Whether these distances should go through `area_by_bins`."""
    many = isinstance(raw, np.ndarray) and raw.dtype == np.float32 and len(raw) >= _FEWEST_PAIRS
    return many and compiled_loops_pay(len(raw))


def area_by_bins(
    raw: NDArray, one: NDArray, n: int, options: RateOptions, need_slope: bool
) -> tuple[float, NDArray | None]:
    """The exact rate of the surrogate count, up to the merging of distances; see `rate.value_and_slope`."""
    bits = raw.view(np.uint32)
    axis = axis_of(raw, one.astype(np.float64), options)
    offset, shift, size = _layout(bits)
    counts, sums = np.zeros(size, np.int32), np.zeros(size)
    sum_bins(raw, offset, shift, counts, sums)
    ends = np.array([raw.argmin(), raw.argmax()])  # knots of their own
    for pair in ends:
        cell = bits[pair] >> CELL_BITS
        end = offset[cell] + (bits[pair] >> shift[cell])
        counts[end] -= 1
        sums[end] -= raw[pair]
    filled = np.flatnonzero(counts)
    in_bin = counts[filled]
    knots = np.concatenate([raw[ends[:1]], sums[filled] / in_bin, raw[ends[1:]]])
    passed = np.cumsum(np.concatenate([[1], in_bin]))  # pairs up to each knot
    steps = Steps.from_drop(_drop(passed, n), np.float64)
    value, by_knot, by_ends = area(knots, axis, steps, options, need_slope)
    if by_knot is None:
        return value, None
    by_pair = np.zeros(size, np.float32)
    by_pair[filled] = by_knot[1:-1] / in_bin
    turns = np.flatnonzero(np.diff(np.sign(by_knot[1:-1])))
    crossed = np.union1d(turns, turns + 1)
    by_pair[filled[crossed]] = np.nan
    slope = np.empty_like(raw)
    look_up(raw, offset, shift, by_pair, slope)
    slope[ends] = 0
    if len(crossed):
        singly = np.flatnonzero(np.isnan(slope))
        ascending, order = sorted_with_order(raw[singly])
        knots = np.concatenate([knots[:1], ascending, knots[-1:]])
        in_bin = in_bin[crossed]
        rank = np.repeat(passed[crossed] - np.cumsum(in_bin) + in_bin, in_bin) + np.arange(len(order))
        before, after = _drop(np.stack([rank, rank + 1]), n)
        _, by_knot, _ = area(knots, axis, Steps(before + after, after - before, 0.0), options, True)
        slope[singly[order]] = np.asarray(by_knot)[1:-1]
    for end, change in zip((axis.low, axis.high, axis.unit), by_ends, strict=True):
        if not isinstance(change, float):  # else 0, as of detached ends
            tied = np.flatnonzero(raw == end)
            slope[tied] += change / len(tied)
    return value, slope


def _layout(bits: NDArray) -> tuple[NDArray, NDArray, int]:
    """Return the number of bins, and how to find that of a distance: ``offset[cell] + (bits >> shift[cell])``."""
    pairs = np.zeros(1 << 32 - CELL_BITS, np.int64)
    count_cells(bits, pairs)
    filled = np.flatnonzero(pairs)
    first, last = filled[0], filled[-1] + 1
    cells, pairs = np.arange(first, last), pairs[first:last]
    below = np.cumsum(pairs) - pairs
    to_end = np.minimum(below, len(bits) - below - pairs)
    wanted = _PER_PAIR * pairs / (1 + to_end / _RESOLUTION)
    cut = np.ceil(np.log2(np.maximum(wanted, 1))).clip(0, _MOST_BITS).astype(np.int64)
    stop = np.cumsum(1 << cut)
    offset, shift = np.zeros((2, last), np.int64)
    offset[first:] = stop - (1 << cut) - (cells << cut)
    shift[first:] = CELL_BITS - cut
    return offset, shift, int(stop[-1])


def _drop(pairs: NDArray, n: int) -> NDArray:
    """How far the curve of `n` nodes has fallen where so many pairs are passed."""
    return surrogate_drop(torch.from_numpy(pairs / (n * (n - 1) // 2)), n).numpy()  # torch's logarithms are faster
