"""Independent, slow transcriptions of the formulas, in float64: what the package is checked against.

Written from the formulas alone, with loops where the package has none. Nothing here is imported by the package.
"""

from __future__ import annotations

import math

import numpy as np
import torch


def lengths(activations: torch.Tensor) -> torch.Tensor:
    """Edge lengths of ``(samples, neurons)``, pair by pair, differentiable."""
    x = activations.double()
    samples, n = x.shape
    return torch.stack([((x[:, i] - x[:, j]) ** 2).sum() / samples for i in range(n) for j in range(i + 1, n)]).sqrt()


def paper_rate(activations: torch.Tensor, scales: int = 256) -> float:
    """The paper's SS rate: the sum over scales of |ideal - observed| of the surrogate count."""
    d = lengths(activations.detach()).numpy()
    n, pairs = activations.shape[1], len(d)
    low, high = d.min(), d.max()
    total = 0.0
    for i in range(scales):
        s = i / (scales - 1)
        size = (1 + low) * ((1 + high) / (1 + low)) ** s - 1
        fraction = np.mean(d < size)
        if i == 0:
            fraction = 0.0
        if i == scales - 1:
            fraction = (pairs - 1) / pairs
        count = n - (n - 1) * math.log(1 + (n - 1) * fraction) / math.log(n)
        total += abs((1 - s) - math.log(count) / math.log(n))
    return 2 / scales * total


def straight_through_gradient(activations: torch.Tensor, scales: int = 256) -> torch.Tensor:
    """The paper's gradient by autograd through the scales x pairs sigmoid, without the two end scales."""
    x = activations.detach().double().requires_grad_()
    d = lengths(x)
    n = x.shape[1]
    low, high = d.min().item(), d.max().item()
    s = torch.arange(scales, dtype=torch.float64) / (scales - 1)
    sizes = (1 + low) * ((1 + high) / (1 + low)) ** s - 1
    hard = (d.detach()[None, :] < sizes[:, None]).double().mean(1)
    soft = n * torch.sigmoid(sizes[:, None] - d[None, :]).mean(1)
    fraction = soft + (hard - soft).detach()
    count = n - (n - 1) * torch.log(1 + (n - 1) * fraction) / math.log(n)
    gap = ((1 - s) - torch.log(count) / math.log(n)).abs()
    (2 / scales * gap[1:-1].sum()).backward()
    return x.grad


def area_rate(activations: torch.Tensor, *, detach_ends: bool = False) -> torch.Tensor:
    """The exact area by a loop over the intervals between sorted distances, differentiable by autograd."""
    d = lengths(activations).sort().values
    n, pairs = activations.shape[1], len(d)
    low, high = (d[0].detach(), d[-1].detach()) if detach_ends else (d[0], d[-1])
    u = (torch.log(1 + d) - torch.log(1 + low)) / (torch.log(1 + high) - torch.log(1 + low))
    if detach_ends:
        # The two knots at the ends are the constants themselves.
        u = torch.cat([u[:1].detach(), u[1:-1], u[-1:].detach()])
    total = torch.zeros((), dtype=torch.float64)
    for j in range(1, pairs):
        count = n - (n - 1) * math.log(1 + (n - 1) * j / pairs) / math.log(n)
        height = math.log(count) / math.log(n)
        right, left = u[j] - (1 - height), u[j - 1] - (1 - height)
        total = total + right * right.abs() / 2 - left * left.abs() / 2
    return 2 * total


def agglomerate(d: np.ndarray) -> list[float]:
    """Heights of the merges by the paper's procedure: edges from short to long, two boxes become one when every edge
    between them has been passed."""
    n = round((1 + math.sqrt(1 + 8 * len(d))) / 2)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    box = list(range(n))
    passed: dict[tuple[int, int], int] = {}
    size = dict.fromkeys(range(n), 1)
    heights = []
    for k in np.argsort(d, kind="stable"):
        a, b = sorted((box[pairs[k][0]], box[pairs[k][1]]))
        if a == b:
            continue
        passed[a, b] = passed.get((a, b), 0) + 1
        if passed[a, b] < size[a] * size[b]:
            continue
        heights.append(float(d[k]))
        box = [a if label == b else label for label in box]
        size[a] += size.pop(b)
        for c in size:
            if c != a:
                key, gone = tuple(sorted((a, c))), tuple(sorted((b, c)))
                passed[key] = passed.get(key, 0) + passed.pop(gone, 0)
    return heights
