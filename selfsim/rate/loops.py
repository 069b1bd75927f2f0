"""The rate's inner loops over pairs of neurons, compiled by numba: each replaces several passes over memory.

Every caller has a version in NumPy or torch, for where numba is not installed or where the pairs are too few to pay
for its import (`compiled_loops_pay`). Pairs are in scipy's condensed order throughout.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..compiled import compiled, numba_is_installed

# Importing numba costs half a second, so small layers stay in NumPy.
_MANY_PAIRS = 2_000


def compiled_loops_pay(pairs: int) -> bool:
    """Whether a layer with this many pairs should use the loops below."""
    return pairs >= _MANY_PAIRS and numba_is_installed()


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MB of freed memory for the next call instead of returning it; costs nothing.

    Fresh pages at every training step would take a third of the time of a rate. Freeing an untouched chunk of nearly
    32 MB raises glibc's own threshold; on other systems nothing happens.
    """
    np.empty(2**25 - 2**16, dtype=np.uint8)


@functools.partial(compiled, fastmath={"contract"})
def distances_of_rows(x: NDArray, first: int, stop: int, out: NDArray) -> None:
    """Write to `out` the distances between the neurons ``first:stop`` and all later ones; `x` is (samples, neurons).

    Differences are taken before squares: as fast as a matrix product, and safe from cancellation. Four neurons and two
    samples at a time meet a tile of neurons that stays in the cache.
    """
    samples, n = x.shape
    width = 1024
    # Rows a power of two apart would share a place in the cache and take twice the time.
    sums = np.empty((4, width + 80), dtype=x.dtype)
    before = n * first - first * (first + 1) // 2
    for tile in range(first, n, width):
        end = min(n, tile + width)
        for i in range(first, min(stop, end), 4):
            j = max(tile, i)
            i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
            s0, s1, s2, s3 = sums[0, : end - j], sums[1, : end - j], sums[2, : end - j], sums[3, : end - j]
            sums[:, : end - j] = 0
            for k in range(0, samples - 1, 2):
                a, b = x[k], x[k + 1]
                a0, a1, a2, a3 = a[i], a[i1], a[i2], a[i3]
                b0, b1, b2, b3 = b[i], b[i1], b[i2], b[i3]
                a, b = a[j:end], b[j:end]
                for c in range(end - j):
                    u, v = a[c], b[c]
                    s0[c] += (u - a0) ** 2 + (v - b0) ** 2
                    s1[c] += (u - a1) ** 2 + (v - b1) ** 2
                    s2[c] += (u - a2) ** 2 + (v - b2) ** 2
                    s3[c] += (u - a3) ** 2 + (v - b3) ** 2
            if samples % 2:
                a = x[samples - 1]
                for c in range(end - j):
                    s0[c] += (a[j + c] - a[i]) ** 2
                    s1[c] += (a[j + c] - a[i1]) ** 2
                    s2[c] += (a[j + c] - a[i2]) ** 2
                    s3[c] += (a[j + c] - a[i3]) ** 2
            for row in range(i, min(i + 4, stop)):
                start = n * row - row * (row + 1) // 2 - row - 1 - before
                begin = max(j, row + 1)
                summed = sums[row - i, begin - j : end - j]
                target = out[start + begin : start + end]
                for c in range(end - begin):
                    target[c] = np.sqrt(summed[c])


@compiled
def sorted_by_radix(bits: NDArray, packed: NDArray, spare: NDArray) -> NDArray:
    """Return unsigned 32-bit numbers in ascending order, then their places; overwrites two buffers of 64-bit numbers.

    A stable radix sort of pairs (number, place), eight bits at a time, over as many bits as the numbers span. The 256
    places that it writes to stay in the processor's address tables; thousands would not.
    """
    lowest, highest = bits[0], bits[0]
    for value in bits:
        lowest, highest = min(lowest, value), max(highest, value)
    passes = 1
    while passes < 4 and (highest - lowest) >> np.uint32(8 * passes):
        passes += 1
    places = np.zeros((4, 256), dtype=np.uint32)
    one, byte = np.uint32(1), np.uint32(255)
    for p in range(len(bits)):
        key = bits[p] - lowest
        packed[p] = (np.uint64(key) << np.uint64(32)) | np.uint64(p)
        places[0, key & byte] += one
        places[1, (key >> np.uint32(8)) & byte] += one
        places[2, (key >> np.uint32(16)) & byte] += one
        places[3, key >> np.uint32(24)] += one
    for d in range(passes):
        place, start = places[d], np.uint32(0)
        for digit in range(256):
            place[digit], start = start, start + place[digit]
        shift = np.uint64(32 + 8 * d)
        if d < passes - 1:
            for entry in packed:
                digit = (entry >> shift) & np.uint64(255)
                spare[place[digit]] = entry
                place[digit] += one
            packed, spare = spare, packed
    result = spare.view(np.uint32)
    for entry in packed:
        digit = (entry >> shift) & np.uint64(255)
        at = place[digit]
        place[digit] = at + one
        result[at] = np.uint32(entry >> np.uint64(32)) + lowest
        result[len(bits) + at] = entry & np.uint64(0xFFFFFFFF)
    return result


@functools.partial(compiled, fastmath={"contract", "reassoc", "nsz"})
def staircase_pass(
    offsets: NDArray, logs: NDArray, last: Any, length: Any, inside: bool, total: NDArray, rise: NDArray, slope: NDArray
) -> tuple[float, float, float, float]:
    """Return what `area.staircase` does, in one pass, and write its derivative at each knot to `slope`."""
    area = before = beyond = turned = 0.0
    one = offsets.dtype.type(1)
    for j in range(len(offsets)):
        u = min(max(logs[j] / length, one - one), one)
        if offsets[j] >= last:
            u = one
        m, step = u + u - total[j], rise[j]
        distance = abs(m)
        rest = max(step - distance, one - one)
        area += step * distance + rest * rest / (one + one)
        half = min(max(m, -step), step)
        if inside and (offsets[j] <= 0 or offsets[j] >= last):
            half = one - one
        by_u = half + half
        by_offset = by_u / (offsets[j] + one)
        before += by_u * (one - u)
        beyond += by_u * u
        turned -= by_offset * offsets[j]
        slope[j] = by_offset
    return area, before, beyond, turned


@compiled
def scatter(values: NDArray, order: NDArray, out: NDArray) -> None:
    """``out[order] = values``."""
    for p in range(len(order)):
        out[order[p]] = values[p]


@compiled
def count_cells(bits: NDArray, lowest: np.uint32, cell_bits: int, counts: NDArray) -> None:
    """Count the distances, given by their `bits`, in each cell; see `bins.Layout`."""
    for number in bits:
        counts[(number - lowest) >> np.uint32(cell_bits)] += 1


@compiled
def bin_of(bits: np.uint32, layout: Any) -> int:
    """Return the bin of the distance with these bits in a `bins.Layout`."""
    number = bits - layout.lowest
    cell = number >> np.uint32(layout.cell_bits)
    return layout.offset[cell] + (number >> layout.shift[cell])


@compiled
def sum_bins(values: NDArray, layout: Any, counts: NDArray, sums: NDArray) -> None:
    """Count and sum the distances in each bin."""
    bits = values.view(np.uint32)
    for p in range(len(values)):
        place = bin_of(bits[p], layout)
        counts[place] += 1
        sums[place] += values[p]


@compiled
def look_up(values: NDArray, layout: Any, table: NDArray, out: NDArray) -> None:
    """Write to `out` what the `table` has for the bin of each distance."""
    bits = values.view(np.uint32)
    for p in range(len(values)):
        out[p] = table[bin_of(bits[p], layout)]


@compiled
def fill_rows(weight: NDArray, block: NDArray) -> None:
    """Write the condensed `weight` to `block` (rows, neurons from the first row on), its first square symmetric."""
    rows, n = block.shape
    start = 0
    for i in range(rows):
        block[i, i] = 0
        block[i, i + 1 :] = weight[start : start + n - i - 1]
        for j in range(i):
            block[i, j] = block[j, i]
        start += n - i - 1


@compiled
def count_between(values: NDArray, limits: NDArray, table: NDArray, shift: int, counts: NDArray) -> None:
    """Add to ``counts[k]`` the number of `values` that exactly k of the ascending `limits` do not exceed.

    All are integers: the bits of non-negative floats, which have the same order. ``table[(value - limits[0]) >>
    shift]`` is a k to start from that is not too high.
    """
    lowest, last = limits[0], len(table) - 1
    for value in values:
        k = 0 if value < lowest else table[min((value - lowest) >> shift, last)]
        while k < len(limits) and value >= limits[k]:
            k += 1
        counts[k] += 1


@functools.partial(compiled, fastmath={"contract"})
def chebyshev_sum(coefficients: NDArray, middle: float, half: float, values: NDArray, out: NDArray) -> None:
    """Write to `out` a Chebyshev series on ``middle ± half`` at each of the `values`, by Clenshaw's recurrence."""
    strip = 512
    x, twice, one, two = np.empty((4, strip), dtype=values.dtype)
    for start in range(0, len(values), strip):
        size = min(strip, len(values) - start)
        piece, target = values[start : start + size], out[start : start + size]
        for c in range(size):
            x[c] = (piece[c] - middle) / half
            twice[c] = x[c] + x[c]
            one[c] = two[c] = 0
        for k in range(len(coefficients) - 1, 0, -1):
            coefficient = coefficients[k]
            for c in range(size):
                two[c] = twice[c] * one[c] - two[c] + coefficient
            one, two = two, one
        for c in range(size):
            target[c] = x[c] * one[c] - two[c] + coefficients[0]


def sorted_with_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative distances ``(pairs,)`` in ascending order, and the order; `numpy.argsort`, but fast for float32.

    Non-negative floats sort like their bits, and a radix sort of integers takes a fifth of the time.
    """
    if values.dtype != np.float32:
        order = np.argsort(values, kind="stable")
        return values[order], order
    if not compiled_loops_pay(len(values)):
        bits, places = torch.from_numpy(values.view(np.int32)).sort(stable=True)  # by radix, in most builds of torch
        return bits.numpy().view(np.float32), places.numpy()
    packed, spare = np.empty(len(values), dtype=np.uint64), np.empty(len(values), dtype=np.uint64)
    result = sorted_by_radix(values.view(np.uint32), packed, spare)
    return result[: len(values)].view(np.float32), result[len(values) :]


def unsorted(ascending: Any, order: Any) -> Any:
    """The array, or tensor with leading axes, with ``array[order] = ascending``."""
    if isinstance(ascending, torch.Tensor):
        return torch.empty_like(ascending).scatter_(-1, order, ascending)
    array = np.empty_like(ascending)
    if compiled_loops_pay(len(ascending)):
        scatter(ascending, order, array)
    else:
        array[order] = ascending
    return array
