"""Made-up activations: sets of points of known dimension.

In a known set, one neuron is one point. Its coordinates become samples, times the square root of their number, so that
the distances of the feature network are those between the points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import check_choice, check_integer

# Fractal dimension of each set (of the limit that the points approach); None where there is no power law.
KNOWN_DIMENSIONS: Mapping[str, float | None] = {
    "line": 1.0,
    "square": 2.0,
    "cube": 3.0,
    "lattice": 2.0,
    "cantor": math.log(2) / math.log(3),
    "sierpinski": math.log(3) / math.log(2),
    "menger": math.log(20) / math.log(3),
    "ultrametric tree": 1.0,
    "gauss 3d": 3.0,
    "clusters": None,
    "log-normal scales": None,
    "power-law spectrum": None,
    "gauss": None,
}

_CLUSTERS = 8
_SAMPLES = 64  # of the sets without coordinates
# The corners of the 20 pieces of a cube of 27 in which fewer than two coordinates are in the middle.
_MENGER = np.array([place for place in itertools.product((0, 1 / 3, 2 / 3), repeat=3) if place.count(1 / 3) < 2])


def known_activations(name: str, *, n: int = 256, seed: int = 0) -> Tensor:
    """Return activations whose feature network is a known set of points.

    Parameters
    ----------
    name : str
        "line": evenly spaced points from 0 to 1.
        "square", "cube": random points of the unit square or cube.
        "lattice": points of a square grid, row by row; the last row may be incomplete.
        "cantor": left ends of the pieces of the middle-third dust on [0, 1].
        "sierpinski": lower left corners of the pieces of a triangle of side 1.
        "menger": corners of the pieces of the Menger sponge of side 1.
        "ultrametric tree": leaves of a binary tree. Two leaves are ``2**-depth`` of their last common ancestor apart,
        so that the two longest of any three distances are equal.
        "gauss 3d": normal numbers in 3 dimensions; a power law far below their standard deviation of 1.
        "clusters": eight clusters of nearly equal size. Distances are about 0.07 within a cluster and 1.4 between two.
        "log-normal scales": as "gauss", each neuron times its own log-normal factor.
        "power-law spectrum": normal numbers whose covariance has the eigenvalues 1, 1/2, 1/3, …, 1/64.
        "gauss": independent standard normal numbers.
    n : int
        Number of neurons, at least 8. "cantor", "sierpinski" and "menger" are complete at powers of 2, 3 and 20. At
        other numbers, some pieces are divided once more than others.
    seed : int
        Non-negative seed of the random sets. "line", "lattice", "cantor", "sierpinski", "menger" and "ultrametric tree"
        are not random.

    Returns
    -------
    Tensor, shape (samples, n)
        float64. There are as many samples as coordinates: 1 to 3 for the sets that have them, 2 n - 2 for the
        ultrametric tree, else 64.

    Raises
    ------
    ValueError
        Unknown name, fewer than 8 neurons, or a negative seed.

    Notes
    -----
    Time and memory O(samples n). ``selfsim.statistics.synthetic.KNOWN_DIMENSIONS`` has the dimensions of the sets.

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
    n = check_integer(n, name="n", least=_CLUSTERS)
    rng = np.random.default_rng(check_integer(seed, name="seed", least=0))
    match name:
        case "line":
            points = np.linspace(0, 1, n)[:, None]
        case "square" | "cube":
            points = rng.random((n, 2 if name == "square" else 3))
        case "lattice":
            side = math.isqrt(n - 1) + 1
            points = np.stack(np.divmod(np.arange(n), side), 1) / (side - 1)
        case "cantor":
            points = _self_similar(np.array([[0.0], [2 / 3]]), 1 / 3, n)
        case "sierpinski":
            points = _self_similar(np.array([[0.0, 0.0], [0.5, 0.0], [0.25, math.sqrt(3) / 4]]), 1 / 2, n)
        case "menger":
            points = _self_similar(_MENGER, 1 / 3, n)
        case "ultrametric tree":
            points = _tree_leaves(n)
        case "clusters":
            centres = rng.standard_normal((_CLUSTERS, _SAMPLES))
            values = centres[np.arange(n) % _CLUSTERS] + 0.05 * rng.standard_normal((n, _SAMPLES))
            points = values / math.sqrt(_SAMPLES)
        case "gauss 3d":
            points = rng.standard_normal((n, 3))
        case _:
            points = rng.standard_normal((n, _SAMPLES)) / math.sqrt(_SAMPLES)
            if name == "log-normal scales":
                points *= np.exp(rng.standard_normal((n, 1)))
            elif name == "power-law spectrum":
                points /= np.sqrt(np.arange(1, _SAMPLES + 1))
    return torch.from_numpy(points.T * math.sqrt(points.shape[1])).contiguous()


def _self_similar(shifts: NDArray[np.float64], ratio: float, n: int) -> NDArray[np.float64]:
    """Return points ``(n, coordinates)`` of the union of its own copies, shrunk by `ratio` and moved by `shifts`.

    Point i is written in the base of the number of copies. Its lowest digit names the largest copy that it lies in, and
    the next digit the copy inside that one. This fills the pieces of each level evenly.
    """
    base = len(shifts)
    levels = next(level for level in range(1, n + 1) if base**level >= n)
    digits = np.arange(n)[:, None] // base ** np.arange(levels) % base
    return (shifts[digits] * ratio ** np.arange(levels)[:, None]).sum(1)


def _tree_leaves(n: int) -> NDArray[np.float64]:
    """Return the leaves ``(n, 2 n - 2)`` of a binary tree, with one coordinate for each node except the root.

    A node of height h (0 for a leaf) below a node of height H gives its leaves a coordinate of ``sqrt((H² - h²) / 2)``.
    From a leaf up to a common ancestor, the squares then sum to half the squared height of the ancestor.
    """
    columns = []
    branches = [(0, n, 1.0)]
    for first, last, parent_height in branches:  # the list grows during the loop
        middle = (first + last) // 2
        for start, end in ((first, middle), (middle, last)):
            height = parent_height / 2 if end - start > 1 else 0.0
            columns.append(np.zeros(n))
            columns[-1][start:end] = math.sqrt((parent_height**2 - height**2) / 2)
            if height:
                branches.append((start, end, height))
    return np.stack(columns, 1)
