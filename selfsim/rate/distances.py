"""Edge lengths of the feature network: distances between neurons, safe at any magnitude, and their gradient.

Neuron ``i`` is the vector of its activations on the samples; the edge between two neurons has the length
``||v_i - v_j|| / sqrt(samples)`` (arXiv 2507.17785, the feature network's adjacency).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..validation import check_activations
from .loops import compiled_loops_pay, distances_of_rows, fill_rows, keep_freed_memory

# What depends on the number of nodes alone is cached for up to so many.
MANY_NODES = 2_100
NO_DERIVATIVE = "ss_rate, scaling_deviation: the gradient has no derivative; need a loss with first derivatives only"
# Rows of a block on a CPU: few enough for the cache, enough for the matrix product.
_ROWS = 256


def scaled_neurons(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Return each layer of ``(…, samples, neurons)`` times a power of two, contiguous, and these powers ``(…)``.

    They bring the spread of the layer near 1 and keep every digit. Without them, float32 activations of 1e30 or 1e-30
    have no finite, or no non-zero, squared distance. No synchronisation on a GPU.
    """
    # A constant added to all neurons changes no distance, so the size that matters is that of the spread.
    low, high = activations.amin((-2, -1)), activations.amax((-2, -1))
    spread = (high - low).clamp(max=torch.finfo(activations.dtype).max)
    most = 1000 if activations.dtype == torch.float64 else 120  # the power of two is to be a normal number
    exponent = torch.frexp(spread).exponent.clamp(-most, most)
    scale = torch.exp2((-exponent).to(activations.dtype))
    return (activations * scale[..., None, None]).contiguous(), scale


def raw_distances(neurons: Tensor, rows: slice | None = None) -> Tensor:
    """Euclidean distances ``(…, pairs)`` between the columns of ``(…, samples, neurons)``, in scipy's order of pairs.

    With `rows`, only those between these neurons and all later ones, which are contiguous in that order. Differences
    are taken before squares, so a common offset costs no digits. Only tensors on a GPU may have leading axes or all
    rows at once; elsewhere they are as fast layer by layer.
    """
    n = neurons.shape[-1]
    first, stop = (0, n) if rows is None else (rows.start, rows.stop)
    pairs = _pairs_before(stop, n) - _pairs_before(first, n)
    if one_layer_on_cpu(neurons) and compiled_loops_pay(pairs):
        keep_freed_memory()
        array = neurons.numpy()
        distances = np.empty(pairs, dtype=array.dtype)  # numpy asks for large pages, torch does not
        distances_of_rows(array, first, stop, distances)
        return torch.from_numpy(distances)
    if stop - first == n and not one_layer_on_cpu(neurons) and neurons.dtype == torch.float32:
        return distances_by_product(neurons)
    vectors = neurons.mT.contiguous()
    if neurons.ndim > 2:
        square = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
        return square.flatten(-2).index_select(-1, _places(_in_square, n, square.device))
    if stop - first == n:
        return torch.pdist(vectors)
    block = torch.cdist(vectors[first:stop], vectors[first:], compute_mode="donot_use_mm_for_euclid_dist")
    return block[_above_diagonal(block)]


def distances_by_product(neurons: Tensor) -> Tensor:
    """All distances from one matrix product in float64, for float32 neurons on a GPU, where `pdist` takes far longer.

    The product keeps the digits of a distance down to 1e-4 of the norms of its two neurons, half of them at 1e-6, and
    one below 1e-7 is 0.
    Neurons whose largest activations differ in float32 are farther apart. Those that agree in all of these, and differ
    in activations below 1e-7 of them alone, count as coincident.
    """
    centred = without_offset(neurons.double())
    product = centred.mT @ centred
    squares = product.diagonal(dim1=-2, dim2=-1)
    ends = squares[..., :, None] + squares[..., None, :]
    found = product.mul_(-2).add_(ends)
    found.masked_fill_(found <= ends.mul_(1e-14), 0)
    pairs = found.flatten(-2).index_select(-1, _places(_in_square, found.shape[-1], found.device))
    return pairs.sqrt_().to(neurons.dtype)


def _in_square(n: int, device: torch.device) -> Tensor:
    """Place of each pair ``(pairs,)`` in the flattened square."""
    i, j = torch.triu_indices(n, n, 1, dtype=_integers(n * n), device=device)
    return i.mul_(n).add_(j)


def _in_pairs(n: int, device: torch.device) -> Tensor:
    """Place among the pairs of each entry of the flattened square ``(n * n,)``; for the diagonal, any."""
    j = torch.arange(n, dtype=_integers(n * n), device=device)
    above = (j * (2 * n - 1 - j) // 2 - j - 1)[:, None] + j
    return torch.where(j[:, None] < j, above, above.mT).clamp_(min=0).flatten()


def _integers(most: int) -> torch.dtype:
    return torch.int32 if most < 2**31 else torch.int64


def _places(build: Callable[[int, torch.device], Tensor], n: int, device: torch.device) -> Tensor:
    """Return what `build` gives, on a GPU from a small cache up to n = 2,100 (18 MB each at most)."""
    return _cached_places(build, n, device) if n <= MANY_NODES and device.type != "cpu" else build(n, device)


@functools.lru_cache(maxsize=32)
def _cached_places(build: Callable[[int, torch.device], Tensor], n: int, device: torch.device) -> Tensor:
    # From the CPU: made while a CUDA graph is captured, they would be empty until it runs; the copy raises there.
    return build(n, torch.device("cpu")).to(device)


def without_offset(neurons: Tensor) -> Tensor:
    """Subtract from each sample the number nearest to 0 between its smallest and its largest activation.

    No difference between neurons changes. A common offset goes, and neurons near 0 keep their digits, which those of
    the mean would swamp.
    """
    low, high = torch.aminmax(neurons, dim=-1, keepdim=True)
    return neurons - low.new_zeros(()).clamp(low, high)


def add_gradient(gradient: Tensor, centred: Tensor, weight: Tensor, rows: slice) -> None:
    """Add to `gradient` ``(samples, neurons)`` what the pairs of `rows` with later neurons contribute.

    A value whose derivative with respect to the distance of i and j is ``weight_ij * distance_ij`` has the gradient
    ``rowsum(W) X - W X``: two matrix products for a block of rows instead of a pass over pairs and samples. The two
    terms nearly cancel where neurons share an offset, which would cost digits, so X comes from `without_offset`.
    """
    first, stop = rows.start, rows.stop
    n = centred.shape[-1]
    block = weight.new_empty(stop - first, n - first)
    if weight.device.type == "cpu" and compiled_loops_pay(len(weight)):
        fill_rows(weight.numpy(), block.numpy())
    else:
        block.zero_()[_above_diagonal(block)] = weight
        block[:, : stop - first] += block[:, : stop - first].t().clone()
    gradient[:, rows] += centred[:, rows] * block.sum(1) - centred[:, first:] @ block.t()
    if stop < n:
        beyond = block[:, stop - first :]
        gradient[:, stop:] += centred[:, stop:] * beyond.sum(0) - centred[:, rows] @ beyond


def _above_diagonal(block: Tensor) -> tuple[Tensor, ...]:
    """Indices of each pair in a block ``(rows, neurons from the first row on)``, in the order of pairs."""
    return torch.triu_indices(block.shape[0], block.shape[1], 1, device=block.device).unbind()


def row_blocks(neurons: Tensor, max_bytes: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of rows and their pairs with all later neurons; the work on a block fits `max_bytes`."""
    n = neurons.shape[-1]
    if max_bytes is None:  # a block that stays in the processor's cache
        size = _ROWS
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
        ratio.masked_fill_(distances == 0, 0)
    return ratio


def square_form(condensed: Tensor, n: int) -> Tensor:
    """Symmetric ``(…, n, n)`` matrix with zero diagonal from condensed ``(…, pairs)`` values."""
    square = condensed.index_select(-1, _places(_in_pairs, n, condensed.device)).unflatten(-1, (n, n))
    square.diagonal(dim1=-2, dim2=-1).zero_()
    return square


def one_layer_on_cpu(neurons: Tensor) -> bool:
    """Whether these are the neurons of one layer on a CPU, which NumPy takes; a batch on a CPU goes as on a GPU."""
    return neurons.device.type == "cpu" and neurons.ndim == 2


def equal_within(dtype: Any) -> float:
    """Relative difference below which two distances of this type, of torch or NumPy, are equal but for rounding."""
    return 8 * float((torch if isinstance(dtype, torch.dtype) else np).finfo(dtype).eps)


class NoRange(ValueError):
    """The distances of a layer span no range, so the rate has no axis."""

    @classmethod
    def all_equal(cls, pairs: int, low: float, high: float) -> NoRange:
        """The error for distances that are all equal."""
        return cls(
            f"activations: all {pairs} distances between neurons are equal (to rounding), from {low:.6g} to "
            f"{high:.6g}; need at least two different ones"
        )


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
    return edge_lengths(check_activations(activations, min_neurons=2).detach())


def edge_lengths(activations: Tensor) -> Tensor:
    """The same for checked activations, or for any of the right shape: NaN and Inf give NaN."""
    if activations.device.type not in ("cpu", "cuda"):
        return edge_lengths(activations.cpu()).to(activations.device)
    neurons, scale = scaled_neurons(activations)
    return raw_distances(neurons) / (scale * activations.shape[0] ** 0.5)
