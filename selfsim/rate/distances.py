"""Edge lengths of the feature network: distances between neurons, differentiable and safe at any magnitude.

Neuron ``i`` is the vector of its activations on the samples; the edge between two neurons has the length
``||v_i - v_j|| / sqrt(samples)`` (arXiv 2507.17785, the feature network's adjacency).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..validation import check_activations
from .loops import compiled_loops_pay, distances_of_rows, fill_rows, keep_freed_memory

# Rows of a block on a CPU: few enough for its cache, enough for the matrix product.
_ROWS = 256
# Pairs from which on the system would take freed memory back.
_MUCH = 100_000


class Scaled(NamedTuple):
    """Activations brought near 1 by an exact power of two, so that no square overflows or vanishes."""

    neurons: Tensor  # (samples, neurons), contiguous
    scale: Tensor  # 0-dim; `neurons` are the activations times this


def scaled_neurons(activations: Tensor) -> Scaled:
    """Divide ``(samples, neurons)`` by a power of two near their spread.

    A power of two keeps every digit. Without it, float32 activations of 1e30 or 1e-30 have no finite, or no
    non-zero, squared distance. No synchronisation on a GPU.
    """
    # A constant added to all neurons changes no distance, so the size that matters is that of the spread.
    low, high = torch.aminmax(activations)
    spread = (high - low).clamp(max=torch.finfo(activations.dtype).max)
    most = 1000 if activations.dtype == torch.float64 else 120  # the power of two is to be a normal number
    exponent = torch.frexp(spread).exponent.clamp(-most, most)
    scale = torch.exp2((-exponent).to(activations.dtype))
    return Scaled((activations * scale).contiguous(), scale)


def raw_distances(neurons: Tensor, rows: slice | None = None) -> Tensor:
    """Euclidean distances ``(pairs,)`` between the columns of ``(samples, neurons)``, in scipy's order of pairs.

    With `rows`, only those between these neurons and all later ones: a part of the whole without a gap. Differences
    are taken before squares, so that a common offset costs no digits.
    """
    n = neurons.shape[1]
    first, stop = (0, n) if rows is None else (rows.start, rows.stop)
    pairs = _pairs_before(stop, n) - _pairs_before(first, n)
    if neurons.device.type == "cpu" and compiled_loops_pay(pairs):
        if pairs >= _MUCH:
            keep_freed_memory()
        array = neurons.numpy()
        distances = np.empty(pairs, dtype=array.dtype)  # numpy asks for large pages, torch does not
        distances_of_rows(array, first, stop, distances)
        return torch.from_numpy(distances)
    if stop - first == n and neurons.device.type == "cuda" and neurons.dtype == torch.float32:
        return distances_by_product(neurons)
    vectors = neurons.t().contiguous()
    if stop - first == n:
        return torch.pdist(vectors)
    block = torch.cdist(vectors[first:stop], vectors[first:], compute_mode="donot_use_mm_for_euclid_dist")
    return block[_above_diagonal(block)]


def distances_by_product(neurons: Tensor) -> Tensor:
    """The same from one matrix product in float64, for float32 neurons on a card, whose `pdist` takes far longer.

    The product keeps the digits of a distance down to 1e-7 of the neurons' norms; below that float32 neurons have none.
    """
    centred = neurons.double()
    centred -= centred.mean(1, keepdim=True)
    product = centred.t() @ centred
    squares = product.diagonal()
    i, j = torch.triu_indices(*product.shape, 1, device=product.device)
    ends = squares[i] + squares[j]
    found = ends - 2 * product[i, j]
    return torch.where(found > 1e-14 * ends, found, 0.0).sqrt().to(neurons.dtype)


def add_gradient(gradient: Tensor, centred: Tensor, weight: Tensor, rows: slice) -> None:
    """Add to `gradient` what the pairs of `rows` with later neurons contribute; all ``(samples, neurons)``.

    A value whose derivative by the distance of i and j is ``weight_ij * distance_ij`` has the gradient ``rowsum(W) X
    - W X``: two matrix products for a block of rows instead of a pass over pairs and samples. The two terms nearly
    cancel where neurons share an offset, which would cost digits: X is to be `centred`.
    """
    first, stop = rows.start, rows.stop
    block = weight.new_empty(stop - first, centred.shape[1] - first)
    square, beyond = block[:, : stop - first], block[:, stop - first :]
    if weight.device.type == "cpu" and compiled_loops_pay(len(weight)):
        fill_rows(weight.numpy(), block.numpy())
    else:
        block.zero_()[_above_diagonal(block)] = weight
        square += square.t().clone()
    gradient[:, rows] += centred[:, rows] * block.sum(1) - centred[:, first:] @ block.t()
    if stop < centred.shape[1]:
        gradient[:, stop:] += centred[:, stop:] * beyond.sum(0) - centred[:, rows] @ beyond


def _above_diagonal(block: Tensor) -> tuple[Tensor, Tensor]:
    """Where a block (rows, neurons from the first row on) has each of its pairs, in the order of pairs."""
    i, j = torch.triu_indices(*block.shape, 1, device=block.device)
    return i, j


def row_blocks(neurons: Tensor, max_bytes: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Neighbouring rows, and their pairs with all later neurons, which with what is made of them fit `max_bytes`."""
    n = neurons.shape[1]
    if max_bytes is None:  # a block that stays in a processor's cache; a GPU takes all at once
        size = _ROWS if neurons.device.type == "cpu" else n
    else:  # about six arrays of the size of the block
        size = max(1, max_bytes // (6 * n * neurons.element_size()))
    for first in range(0, n - 1, size):
        stop = min(first + size, n)
        yield slice(first, stop), slice(_pairs_before(first, n), _pairs_before(stop, n))


def _pairs_before(row: int, n: int) -> int:
    return row * (2 * n - row - 1) // 2


def by_distance(value: Tensor, distances: Tensor) -> Tensor:
    """`value` divided by each distance; 0 for a pair at distance 0, which has no direction."""
    ratio = value / distances
    if distances.device.type != "cpu" or distances.min() == 0:
        ratio = torch.where(distances > 0, ratio, 0.0)
    return ratio


def square_form(condensed: Tensor, n: int) -> Tensor:
    """Symmetric ``(n, n)`` matrix with zero diagonal from condensed ``(pairs,)`` values."""
    square = condensed.new_zeros(n, n)
    i, j = torch.triu_indices(n, n, 1, device=condensed.device)
    square[i, j] = condensed
    return square + square.t()


def equal_within(dtype: torch.dtype) -> float:
    """Relative difference below which two distances of this type are equal but for rounding."""
    return 8 * torch.finfo(dtype).eps


def have_range(low: float, high: float, dtype: torch.dtype) -> bool:
    """Whether two distances are finite and differ by more than rounding; not so where one is NaN."""
    return low < high < math.inf and high - low > equal_within(dtype) * high


def all_equal(pairs: int, low: float, high: float) -> ValueError:
    """The error for activations whose distances span no range."""
    return ValueError(
        f"activations: all {pairs} distances between neurons are equal (to rounding), from {low:.6g} to {high:.6g}; "
        "need at least two different ones"
    )


class OfDistances(torch.autograd.Function):
    """A scalar function of all pair distances, with the gradient to the activations in one matrix product.

    ``evaluate(distances, one, need_slope)`` gets the raw condensed distances and the raw distance that stands for
    the length 1; it returns the value (0-dim) and its derivative by each raw distance (or None).
    """

    @staticmethod
    def forward(ctx, activations: Tensor, evaluate: Callable) -> Tensor:
        neurons, scale = scaled_neurons(activations)
        distances = raw_distances(neurons)
        one = scale * activations.shape[0] ** 0.5
        value, slope = evaluate(distances, one, ctx.needs_input_grad[0])
        if slope is None:
            ctx.mark_non_differentiable(value)
        else:
            ctx.save_for_backward(neurons, scale, distances, slope)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        if not ctx.saved_tensors:
            return None, None
        neurons, scale, distances, slope = ctx.saved_tensors
        centred = neurons - neurons.mean(1, keepdim=True)
        gradient = torch.zeros_like(neurons)
        for rows, pairs in row_blocks(neurons):
            add_gradient(gradient, centred, by_distance(slope[pairs], distances[pairs]), rows)
        return gradient * (upstream * scale), None


def pair_distances(activations: Tensor | np.ndarray) -> Tensor:
    """Lengths of all edges of the feature network, ``||v_i - v_j|| / sqrt(samples)``, condensed.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        Any device and float type; half precision is computed in float32.

    Returns
    -------
    Tensor, shape (neurons * (neurons - 1) / 2,)
        In scipy's order of pairs: (0, 1), (0, 2), …, (1, 2), …; without gradient.

    Raises
    ------
    TypeError, ValueError
        Not a floating-point tensor, not two-dimensional, no samples, fewer than 2 neurons, NaN or Inf.

    Notes
    -----
    Time O(neurons² samples), memory O(neurons²).

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785.

    Examples
    --------
    >>> import torch
    >>> pair_distances(torch.tensor([[0.0, 3.0, 0.0], [0.0, 4.0, 1.0]])) * 2**0.5
    tensor([5.0000, 1.0000, 4.2426])
    """
    activations = check_activations(activations, min_neurons=2).detach()
    if activations.device.type not in ("cpu", "cuda"):
        return pair_distances(activations.cpu()).to(activations.device)
    neurons, scale = scaled_neurons(activations)
    return raw_distances(neurons) / scale / activations.shape[0] ** 0.5
