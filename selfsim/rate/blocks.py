"""The paper's rate in bounded memory: its distances are computed block by block, and not kept unless they are few.

For 16,384 neurons the distances alone fill half a gigabyte. The sum over scales needs of them only the ends and
the counts below each scale, and its straight-through gradient is one function of each distance, so that each pass
over the blocks can forget them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..boxes.correlation_sum import surrogate_drop
from ..validation import check_finite
from .distances import add_gradient, all_equal, by_distance, have_range, raw_distances, row_blocks, scaled_neurons
from .scales import bump_sum, counts_below, scale_lengths, straight_through_weight, sum_over_scales

# Bytes of distances that are cheaper to keep than to compute three times.
_KEPT = 2**22


class RateOverScales(torch.autograd.Function):
    """The rate at `scales` with the paper's straight-through gradient, in blocks of at most `max_bytes`."""

    @staticmethod
    def forward(ctx, activations: Tensor, scales: int, max_bytes: int | None, check: bool) -> Tensor:
        neurons, scale = scaled_neurons(activations)
        n = neurons.shape[1]
        pairs = n * (n - 1) // 2
        blocks = list(row_blocks(neurons, max_bytes))
        few = len(blocks) == 1 or (max_bytes is None and pairs * neurons.element_size() <= _KEPT)
        kept = raw_distances(neurons) if few else None

        def distances(rows: slice, pairs: slice) -> Tensor:
            return raw_distances(neurons, rows) if kept is None else kept[pairs]

        ends = torch.stack([torch.stack(torch.aminmax(distances(*block))) for block in blocks])
        low, high = ends[:, 0].amin().item(), ends[:, 1].amax().item()
        ctx.save_for_backward(neurons, scale)
        ctx.rest = None
        one = float(scale) * activations.shape[0] ** 0.5
        if not have_range(low, high, neurons.dtype):
            if check:
                check_finite(activations)
                raise all_equal(pairs, low / one, high / one)
            return torch.full_like(scale, math.nan)
        at = scale_lengths(low / one, high / one, scales)
        fraction = sum(counts_below(distances(*block), at * one) for block in blocks) / pairs
        fraction[0], fraction[-1] = 0.0, (pairs - 1) / pairs
        ctx.rest = (at, fraction, one, blocks, distances)
        return neurons.new_tensor(sum_over_scales(surrogate_drop(fraction, n)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        neurons, scale = ctx.saved_tensors
        if ctx.rest is None:
            return torch.full_like(neurons, math.nan), None, None, None
        at, fraction, one, blocks, distances = ctx.rest
        slope = bump_sum(at, straight_through_weight(fraction, neurons.shape[1]), neurons.dtype)
        centred = neurons - neurons.mean(1, keepdim=True)
        gradient = torch.zeros_like(neurons)
        for rows, pairs in blocks:
            raw = distances(rows, pairs)
            add_gradient(gradient, centred, by_distance(slope(raw / one), raw), rows)
        return gradient * (upstream * scale / one), None, None, None
