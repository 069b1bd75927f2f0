"""Edge lengths of the feature network: distances between neurons, differentiable and safe at any magnitude.

Neuron ``i`` is the vector of its activations on the samples; the edge between two neurons has the length
``||v_i - v_j|| / sqrt(samples)`` (arXiv 2507.17785, the feature network's adjacency).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import squareform
from torch import Tensor

from ..validation import check_activations


class Scaled(NamedTuple):
    """Neurons as rows, brought near 1 by an exact power of two, so that no square overflows or vanishes."""

    vectors: Tensor  # (neurons, samples)
    exponent: Tensor  # 0-dim; the activations are vectors * 2**exponent


def scaled_neurons(activations: Tensor) -> Scaled:
    """Transpose ``(samples, neurons)`` to neurons as rows and divide by a power of two near their largest value.

    A power of two keeps every digit. Without it, float32 activations of 1e30 or 1e-30 have no finite, or no
    non-zero, squared distance. No synchronisation on a GPU.
    """
    vectors = activations.t()
    # A constant added to all neurons changes no distance, so the size that matters is that of the spread.
    spread = vectors.amax() - vectors.amin()
    exponent = torch.frexp(spread).exponent.clamp(-120, 120)
    # ldexp would build 2**120 in one factor of the same dtype: in range for float32, and exact.
    scale = torch.exp2((-exponent).to(vectors.dtype))
    return Scaled((vectors * scale).contiguous(), exponent)


def raw_distances(vectors: Tensor) -> Tensor:
    """Condensed Euclidean distances ``(pairs,)`` between the rows, in scipy's order of pairs.

    Differences are taken before squares, so that a common offset costs no digits.
    """
    return torch.pdist(vectors)


def square_form(condensed: Tensor, n: int) -> Tensor:
    """Symmetric ``(n, n)`` matrix with zero diagonal from condensed ``(pairs,)`` values."""
    if condensed.device.type == "cpu":
        return torch.from_numpy(squareform(condensed.detach().numpy(), checks=False))
    square = condensed.new_zeros(n, n)
    i, j = torch.triu_indices(n, n, 1, device=condensed.device)
    square[i, j] = condensed
    return square + square.t()


def gradient_of_distances(vectors: Tensor, distances: Tensor, slope: Tensor) -> Tensor:
    """Gradient ``(neurons, samples)`` of a value whose derivative by each raw pair distance is `slope`.

    With ``W_ij = slope_ij / distance_ij`` it is ``rowsum(W) * X - W X``: one matrix product instead of a pass
    over pairs and samples. A pair at distance 0 has no direction and gets none.
    """
    weight = torch.where(distances > 0, slope / distances, 0.0)
    matrix = square_form(weight, vectors.shape[0])
    # Centred, the two terms nearly cancel less: an offset of 1000 would cost three digits.
    centred = vectors - vectors.mean(0)
    return centred * matrix.sum(1, keepdim=True) - matrix @ centred


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
    """A scalar function of all pair distances, with the gradient to the neurons in one matrix product.

    ``evaluate(distances, need_slope)`` gets the raw condensed distances and returns the value (0-dim) and its
    derivative by each distance (or None).
    """

    @staticmethod
    def forward(ctx, vectors: Tensor, evaluate: Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]) -> Tensor:
        distances = raw_distances(vectors)
        value, slope = evaluate(distances, ctx.needs_input_grad[0])
        if slope is None:
            ctx.mark_non_differentiable(value)
        else:
            ctx.save_for_backward(vectors, distances, slope)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        if not ctx.saved_tensors:
            return None, None
        return upstream * gradient_of_distances(*ctx.saved_tensors), None


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
    ValueError
        Not two-dimensional, no samples, fewer than 2 neurons, NaN or Inf.

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
    vectors, exponent = scaled_neurons(activations)
    return raw_distances(vectors) * torch.exp2(exponent.to(vectors.dtype)) / activations.shape[0] ** 0.5
