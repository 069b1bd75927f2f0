"""Edge lengths of the feature network: distances between neurons, differentiable and safe at any magnitude.

Neuron ``i`` is the vector of its activations on the samples; the edge between two neurons has the length
``||v_i - v_j|| / sqrt(samples)`` (arXiv 2507.17785, the feature network's adjacency).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import get_blas_funcs
from torch import Tensor

from ..validation import check_activations


class Scaled(NamedTuple):
    """Neurons as rows, brought near 1 by an exact power of two, so that no square overflows or vanishes."""

    vectors: Tensor  # (neurons, samples)
    scale: Tensor  # 0-dim; vectors are the activations times this


def scaled_neurons(activations: Tensor) -> Scaled:
    """Transpose ``(samples, neurons)`` to neurons as rows and divide by a power of two near their spread.

    A power of two keeps every digit. Without it, float32 activations of 1e30 or 1e-30 have no finite, or no
    non-zero, squared distance. No synchronisation on a GPU.
    """
    # A constant added to all neurons changes no distance, so the size that matters is that of the spread.
    low, high = torch.aminmax(activations)
    exponent = torch.frexp(high - low).exponent.clamp(-120, 120)
    scale = torch.exp2((-exponent).to(activations.dtype))
    return Scaled((activations.t() * scale).contiguous(), scale)


def raw_distances(vectors: Tensor) -> Tensor:
    """Condensed Euclidean distances ``(pairs,)`` between the rows, in scipy's order of pairs.

    Differences are taken before squares, so that a common offset costs no digits.
    """
    return torch.pdist(vectors)


def gradient_of_distances(vectors: Tensor, distances: Tensor, slope: Tensor) -> Tensor:
    """Gradient ``(neurons, samples)`` of a value whose derivative by each raw pair distance is `slope`.

    With ``W_ij = slope_ij / distance_ij`` it is ``rowsum(W) * X - W X``: one matrix product instead of a pass
    over pairs and samples. A pair at distance 0 has no direction and gets none.
    """
    weight = slope / distances
    if distances.device.type != "cpu" or distances.min() == 0:
        weight = torch.where(distances > 0, weight, 0.0)
    # Centred, the two terms nearly cancel less: an offset of 1000 would cost three digits.
    centred = vectors - vectors.mean(0)
    # With a column of ones, the product gives the sums of rows as well.
    columns = torch.cat([centred, centred.new_ones(len(centred), 1)], 1)
    product = _symmetric_times(weight, columns)
    return centred * product[:, -1:] - product[:, :-1]


def _symmetric_times(condensed: Tensor, columns: Tensor) -> Tensor:
    """``W @ columns`` for the symmetric matrix with zero diagonal that `condensed` stands for."""
    n = len(columns)
    if condensed.device.type != "cpu":
        return square_form(condensed, n) @ columns
    # BLAS reads one triangle only, so the other need not be written.
    upper = np.empty((n, n), dtype=condensed.numpy().dtype)
    values, start = condensed.numpy(), 0
    for i in range(n - 1):
        stop = start + n - i - 1
        upper[i, i + 1 :] = values[start:stop]
        start = stop
    np.fill_diagonal(upper, 0)
    symm = get_blas_funcs("symm", (upper,))
    return torch.from_numpy(symm(1.0, upper.T, columns.numpy().T, side=1, lower=1).T)


def square_form(condensed: Tensor, n: int) -> Tensor:
    """Symmetric ``(n, n)`` matrix with zero diagonal from condensed ``(pairs,)`` values."""
    square = condensed.new_zeros(n, n)
    i, j = torch.triu_indices(n, n, 1, device=condensed.device)
    square[i, j] = condensed
    return square + square.t()


def equal_within(dtype: torch.dtype) -> float:
    """Relative difference below which two distances of this type are equal but for rounding."""
    return 8 * torch.finfo(dtype).eps


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
        vectors, scale = scaled_neurons(activations)
        distances = raw_distances(vectors)
        one = scale * activations.shape[0] ** 0.5
        value, slope = evaluate(distances, one, ctx.needs_input_grad[0])
        if slope is None:
            ctx.mark_non_differentiable(value)
        else:
            ctx.save_for_backward(vectors, scale, distances, slope)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        if not ctx.saved_tensors:
            return None, None
        vectors, scale, distances, slope = ctx.saved_tensors
        gradient = gradient_of_distances(vectors, distances, slope) * (upstream * scale)
        # In the layout of the activations: a transposed one would send what comes after through another path of
        # the matrix library, and a constraint of weight 0 would change the last bits of a training.
        return gradient.t().contiguous(), None


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
    vectors, scale = scaled_neurons(activations)
    return raw_distances(vectors) / scale / activations.shape[0] ** 0.5
