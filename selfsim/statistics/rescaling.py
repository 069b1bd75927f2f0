"""Rescale numbers of any magnitude so that their squares neither overflow nor vanish."""

from __future__ import annotations

import math

from torch import Tensor


def rescaled(values: Tensor) -> tuple[Tensor, float]:
    """Return ``values / unit`` in float64, and `unit`: a power of two, so that every digit is kept.

    The unit is 1 where the largest value lies between 1e-100 and 1e100.

    Examples
    --------
    >>> import torch
    >>> rescaled(torch.tensor([3.0, 4.0]))
    (tensor([3., 4.], dtype=torch.float64), 1.0)
    >>> float(rescaled(torch.tensor([1e300], dtype=torch.float64))[0]) < 2
    True
    """
    values = values.detach().double()
    largest = float(values.abs().max()) if values.numel() else 0.0
    unit = 1.0 if largest == 0 or 1e-100 < largest < 1e100 else 2.0 ** (math.frexp(largest)[1] - 1)
    return values / unit, unit
