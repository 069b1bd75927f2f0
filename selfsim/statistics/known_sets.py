"""Sets whose geometry is known, as activations: what the SS rate is held against.

One neuron is one point. Its coordinates become samples, times the square root of their number, so that the distances
of the feature network are those between the points.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from ..checks import check_choice

# Fractal dimension of each set (of the limit that the points approach); None where no power law is meant.
KNOWN_DIMENSIONS = MappingProxyType(
    {
        "line": 1.0,
        "square": 2.0,
        "cantor": math.log(2) / math.log(3),
        "sierpinski": math.log(3) / math.log(2),
        "ultrametric tree": 1.0,
        "clusters": None,
        "gauss": None,
    }
)

_CLUSTERS = 8
_SAMPLES = 64  # of the sets that have no coordinates of their own


def known_activations(name: str, *, n: int = 256, seed: int = 0) -> Tensor:
    """Activations whose feature network is a known set of points.

    Parameters
    ----------
    name : {"line", "square", "cantor", "sierpinski", "ultrametric tree", "clusters", "gauss"}
        "line": evenly spaced from 0 to 1. "square": random points of the unit square. "cantor": left ends of the
        pieces of the middle-third dust on [0, 1]. "sierpinski": lower left corners of the pieces of a triangle of
        side 1. "ultrametric tree": leaves of a binary tree, two of which are ``2**-depth`` of their last common
        ancestor apart, so that of any three distances the two longest are equal. "clusters": eight of (nearly)
        equal size, in which neurons are about 0.07 apart, and 1.4 from those of others. "gauss": independent
        standard normal numbers.
    n : int
        Number of neurons, at least 8. "cantor" and "sierpinski" are complete at powers of 2 and of 3; else some
        pieces are already divided once more than others.
    seed : int
        Of "square", "clusters" and "gauss"; there is no chance in the others.

    Returns
    -------
    Tensor, shape (samples, n)
        float64, with as many samples as coordinates: 1 (line, cantor), 2 (square, sierpinski), 2 n - 2 (ultrametric
        tree), 64 (clusters, gauss).

    Raises
    ------
    ValueError
        An unknown name, or fewer than 8 neurons.

    Notes
    -----
    Time and memory O(samples n). ``selfsim.statistics.known_sets.KNOWN_DIMENSIONS`` has the sets' dimensions.

    References
    ----------
    .. [1] K. Falconer, Fractal Geometry, 3rd ed., Wiley (2014), ch. 9: self-similar sets and their dimension.

    Examples
    --------
    >>> import selfsim
    >>> known_activations("cantor", n=8)[0, :4] * 27
    tensor([ 0., 18.,  6., 24.], dtype=torch.float64)
    >>> float(selfsim.pair_distances(known_activations("ultrametric tree", n=8)).min())
    0.25
    """
    check_choice(name, KNOWN_DIMENSIONS, name="name")
    if isinstance(n, bool) or not isinstance(n, int) or n < _CLUSTERS:
        raise ValueError(f"n: got {n!r}, need an integer of at least {_CLUSTERS} neurons")
    rng = np.random.default_rng(seed)
    match name:
        case "line":
            points = np.linspace(0, 1, n)[:, None]
        case "square":
            points = rng.random((n, 2))
        case "cantor":
            points = _copies(np.array([[0.0], [2 / 3]]), 1 / 3, n)
        case "sierpinski":
            points = _copies(np.array([[0.0, 0.0], [0.5, 0.0], [0.25, math.sqrt(3) / 4]]), 1 / 2, n)
        case "ultrametric tree":
            points = _leaves(n)
        case "clusters":
            centres = rng.standard_normal((_CLUSTERS, _SAMPLES))
            values = centres[np.arange(n) % _CLUSTERS] + 0.05 * rng.standard_normal((n, _SAMPLES))
            points = values / math.sqrt(_SAMPLES)
        case _:
            points = rng.standard_normal((n, _SAMPLES)) / math.sqrt(_SAMPLES)
    return torch.from_numpy(points.T * math.sqrt(points.shape[1])).contiguous()


def _copies(shifts: np.ndarray, ratio: float, n: int) -> np.ndarray:
    """Points ``(n, coordinates)`` of the set that is made of its own copies, shrunk by `ratio`, moved by `shifts`.

    Point i counts in the base of the number of copies: its lowest digit names the largest copy that it lies in, the
    next one the copy inside that. So the pieces of each level are filled evenly.
    """
    base = len(shifts)
    levels = next(level for level in range(1, n + 1) if base**level >= n)
    digits = np.arange(n)[:, None] // base ** np.arange(levels) % base
    return (shifts[digits] * ratio ** np.arange(levels)[:, None]).sum(1)


def _leaves(n: int) -> np.ndarray:
    """Leaves ``(n, 2 n - 2)`` of a binary tree, with one coordinate for each of its nodes but the root.

    A node at whose height h (0 for a leaf) leaves part, below one of height H, gives its leaves a coordinate of
    ``sqrt((H² - h²) / 2)``. From a leaf up to a common ancestor the squares then sum to half its height squared.
    """
    columns = []
    branches = [(0, n, 1.0)]
    for first, last, height in branches:  # grows while it is gone through
        middle = (first + last) // 2
        for start, end in ((first, middle), (middle, last)):
            own = height / 2 if end - start > 1 else 0.0
            columns.append(np.zeros(n))
            columns[-1][start:end] = math.sqrt((height**2 - own**2) / 2)
            if own:
                branches.append((start, end, own))
    return np.stack(columns, 1)
