"""Box sizes under their two names: l_B limits the distance between two nodes, r_B that from the centre."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..checks import check_integer, check_number, check_numbers
from .inputs import Distances


def check_sizes(l_B: float | None, r_B: float | None) -> tuple[str, float]:
    """Return the name and the value of the one size that is given.

    Raises
    ------
    ValueError
        Both or neither, or a size that is not a finite number above 0.

    Examples
    --------
    >>> check_sizes(3, None)
    ('l_B', 3.0)
    """
    if (l_B is None) == (r_B is None):
        got = "neither" if l_B is None else "both"
        raise ValueError(
            f"l_B, r_B: got {got}, need exactly one: l_B (distances inside a box are less) or r_B (distances to its "
            "centre are at most this)"
        )
    name, size = ("r_B", r_B) if l_B is None else ("l_B", l_B)
    return name, check_number(size, name=name, within="(0, inf)")


def check_size_list(sizes: Sequence[float] | NDArray, *, name: str) -> NDArray[np.float64]:
    """Return sizes in ascending order ``(sizes,)``; raise ``ValueError`` unless all are finite and above 0."""
    array = check_numbers(sizes, name=name)
    if not (array > 0).all():
        raise ValueError(f"{name}: got {sizes!r}, need sizes above 0")
    return np.sort(array)


def default_sizes(distances: Distances, *, name: str, scales: int) -> NDArray[np.float64]:
    """Return sizes from single nodes to one box per component.

    For hops, all integers: l_B from 1 to the diameter + 1, r_B from 1 to the radius (at least 1). Else `scales`
    sizes evenly spaced in ln(1 + size) from the shortest distance to just above the longest.
    """
    if distances.hops:
        square = distances.square
        farthest = square.max(1, where=square < np.iinfo(square.dtype).max, initial=0).astype(np.int64)
        if name == "l_B":
            return np.arange(1.0, farthest.max(initial=0) + 2)
        # From the best centre of each component; one of them needs the largest radius.
        component = distances.components()
        radius = np.full(component.max(initial=-1) + 1, distances.n)
        np.minimum.at(radius, component, farthest)
        return np.arange(1.0, radius.max(initial=1) + 1)
    check_integer(scales, name="scales", least=2)
    lengths = distances.condensed
    positive = lengths[(lengths > 0) & np.isfinite(lengths)]
    if not len(positive):
        return np.array([1.0])
    shortest, longest = float(positive.min()), float(positive.max())
    sizes = np.expm1(np.linspace(np.log1p(shortest), np.log1p(longest), scales)).clip(shortest, longest)
    # Sizes are limits that distances stay below: the ends, free of rounding, and one step beyond the longest.
    sizes[0], sizes[-1] = shortest, math.nextafter(longest, math.inf)
    return sizes
