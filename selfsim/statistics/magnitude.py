"""Numbers of any magnitude, in a unit in which their squares are finite and not 0."""

from __future__ import annotations

import math

from torch import Tensor


def in_unit(values: Tensor) -> tuple[Tensor, float]:
    """Values in float64, and the unit they are in: 1, or a power of two where the largest is far from 1.

    Far is beyond 1e100, or below 1e-100. A power of two keeps every digit.

    Examples
    --------
    >>> import torch
    >>> in_unit(torch.tensor([3.0, 4.0]))
    (tensor([3., 4.], dtype=torch.float64), 1.0)
    >>> float(in_unit(torch.tensor([1e300], dtype=torch.float64))[0]) < 2
    True
    """
    values = values.detach().double()
    largest = float(values.abs().max()) if values.numel() else 0.0
    unit = 1.0 if largest == 0 or 1e-100 < largest < 1e100 else 2.0 ** (math.frexp(largest)[1] - 1)
    return values / unit, unit
