"""The paper's rate in bounded memory: its distances are computed block by block, and never kept.

For 16,384 neurons the distances alone fill half a gigabyte. The sum over scales needs of them only the ends and
the counts below each scale, and its straight-through gradient is one function of each distance, so that each pass
over the blocks can forget them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..boxes.correlation_sum import surrogate_drop
from ..validation import check_finite
from .distances import all_equal, equal_within, scaled_neurons
from .scales import counts_below, scale_lengths, straight_through_slope, sum_over_scales


class BlockedRate(torch.autograd.Function):
    """The rate at `scales` with the paper's straight-through gradient, in blocks of at most `max_bytes`."""

    @staticmethod
    def forward(ctx, activations: Tensor, scales: int, max_bytes: int, check: bool) -> Tensor:
        vectors, scale = scaled_neurons(activations)
        n = len(vectors)
        pairs = n * (n - 1) // 2
        low, high = _ends(vectors, max_bytes)
        one = float(scale) * activations.shape[0] ** 0.5
        if check and not (high - low > equal_within(vectors.dtype) * high and high < np.inf):
            check_finite(activations)
            raise all_equal(pairs, low / one, high / one)
        at = scale_lengths(low / one, high / one, scales)
        below = sum(counts_below(_upper(block, first), at * one) for first, block in _blocks(vectors, max_bytes))
        fraction = below / pairs
        fraction[0], fraction[-1] = 0.0, (pairs - 1) / pairs
        ctx.save_for_backward(vectors, scale)
        ctx.rest = (at, fraction, one, max_bytes)
        return vectors.new_tensor(sum_over_scales(surrogate_drop(fraction, n)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        vectors, scale = ctx.saved_tensors
        at, fraction, one, max_bytes = ctx.rest
        n = len(vectors)
        centred = vectors - vectors.mean(0)
        gradient = torch.zeros_like(vectors)
        for first, block in _blocks(vectors, max_bytes):
            rows = slice(first, first + len(block))
            slope = straight_through_slope((block / one).view(-1), at, fraction, n).view_as(block) / one
            weight = torch.where(block > 0, slope / block, 0.0)
            # The block has all pairs of its rows with later neurons, and its own rows twice.
            weight[:, : len(block)].triu_(1)
            gradient[rows] += weight.sum(1, keepdim=True) * centred[rows] - weight @ centred[first:]
            gradient[first:] += weight.sum(0)[:, None] * centred[first:] - weight.t() @ centred[rows]
        gradient *= upstream * scale
        return gradient.t().contiguous(), None, None, None


def _blocks(vectors: Tensor, max_bytes: int) -> Iterator[tuple[int, Tensor]]:
    """Distances ``(rows, neurons from the first row on)`` between neighbouring rows and all later neurons."""
    n = len(vectors)
    # A block's distances, and about five arrays of its size that are made of them.
    rows = max(1, max_bytes // (6 * n * vectors.element_size()))
    for first in range(0, n - 1, rows):
        yield (
            first,
            torch.cdist(vectors[first : first + rows], vectors[first:], compute_mode="donot_use_mm_for_euclid_dist"),
        )


def _upper(block: Tensor, first: int) -> Tensor:
    """Each pair once, as a flat tensor."""
    rows = len(block)
    i, j = torch.triu_indices(rows, rows, 1, device=block.device)
    return torch.cat([block[:, :rows][i, j], block[:, rows:].reshape(-1)])


def _ends(vectors: Tensor, max_bytes: int) -> tuple[float, float]:
    """The shortest and the longest distance; NaN where there is any."""
    ends = [torch.aminmax(_upper(block, first)) for first, block in _blocks(vectors, max_bytes)]
    low = torch.stack([e.min for e in ends]).amin()
    high = torch.stack([e.max for e in ends]).amax()
    return low.item(), high.item()
