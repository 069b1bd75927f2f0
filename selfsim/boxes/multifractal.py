"""Generalised dimensions by sandboxes: how the number of nodes around a node grows with the radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..checks import check_integer, check_number, check_numbers
from .inputs import Coverable, as_distances
from .sizes import check_size_list


@dataclass(frozen=True)
class Multifractal:
    """Mass exponents τ(q) and generalised dimensions D_q.

    Attributes
    ----------
    q : ndarray, shape (orders,)
    tau : ndarray, shape (orders,)
        (q - 1) D_q.
    D : ndarray, shape (orders,)
        D_0 is the box dimension, D_1 the information and D_2 the correlation dimension.
    low, high : ndarray, shape (orders,)
        Interval of D_q from bootstrap samples of the centres.
    r_B : ndarray, shape (radii,)
        The radii fitted.
    log_moments : ndarray, shape (orders, radii)
        The logarithm of the moment, divided by q - 1; fitted against ln r.
    """

    q: NDArray
    tau: NDArray
    D: NDArray
    low: NDArray
    high: NDArray
    r_B: NDArray
    log_moments: NDArray


def multifractal(
    graph: Coverable,
    *,
    q: Sequence[float] = (-4, -2, 0, 1, 2, 4),
    r_B: Sequence[float] | None = None,
    centres: int | None = None,
    weight: str | None = None,
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
) -> Multifractal:
    """Return the generalised dimensions D_q of a graph or point set, by the sandbox method.

    The mass M(r) of a node is the number of nodes within r of it. With the mean over centres,
    ``mean((M(r) / n)^(q - 1))`` grows as ``r^τ(q)``; for q = 1 the mean of the logarithm takes its place.

    Parameters
    ----------
    graph, weight
        As for `box_cover`; connected.
    q : sequence of float
        Orders. Negative ones weigh the emptiest places, large ones the densest.
    r_B : sequence of float, optional
        Radii to fit. By default, in hops the integers up to a quarter of the largest distance from a centre. With
        lengths, 12 radii evenly spaced in ln r: from the median distance to the nearest other node to that quarter.
    centres : int, optional
        Number of random nodes to take as centres; by default all nodes.
    seed : int
        Seeds the choice of centres and the bootstrap.
    resamples : int
        Bootstrap samples.
    level : float
        Nominal coverage of the intervals.

    Returns
    -------
    Multifractal

    Raises
    ------
    TypeError, ValueError
        A graph that cannot be covered or has several components, fewer than three radii, numbers out of range.

    Notes
    -----
    Time O(n (n + edges) + resamples centres radii orders), memory O(n²). The intervals cover the scatter between
    centres, not the bias of short radii. With fewer than some hundred centres they are too narrow for ``|q| > 2``: at
    60 centres and a level of 0.95, they hold the value over all centres in about two of three draws.

    References
    ----------
    .. [1] T. Tél, Á. Fülöp, T. Vicsek, Determination of fractal dimensions for geometrical multifractals, Physica A
       159 (1989).
    .. [2] J.-L. Liu, Z.-G. Yu, V. Anh, Determination of multifractal dimensions of complex networks by means of the
       sandbox algorithm, Chaos 25 (2015).

    Examples
    --------
    >>> import networkx as nx
    >>> spectrum = multifractal(nx.cycle_graph(200), q=[0, 2], r_B=[8, 16, 32])
    >>> spectrum.D.round(2)
    array([0.97, 0.97])
    """
    orders = check_numbers(q, name="q")
    level = check_number(level, name="level", within="(0, 1)")
    resamples = check_integer(resamples, name="resamples")
    distances = as_distances(graph, weight=weight)
    if distances.n < 2 or distances.components().any():
        raise ValueError(f"graph: got {distances.n} nodes in several components or none, need a connected graph")
    rng = np.random.default_rng(check_integer(seed, name="seed", least=0))
    square = distances.square
    if centres is not None:
        centres = check_integer(centres, name="centres", least=2)
        if centres > distances.n:
            raise ValueError(f"centres: got {centres!r}, need 2 to {distances.n}")
        square = square[rng.choice(distances.n, centres, replace=False)]
    radii = _radii(square, distances.hops) if r_B is None else check_size_list(r_B, name="r_B")
    if (different := len(np.unique(radii))) < 3:
        raise ValueError(f"r_B: got {different} radii, need at least 3 to fit a slope; a larger graph, or other radii")
    logs = np.log(np.stack([(square <= radius).sum(1) for radius in radii], 1) / distances.n)  # (centres, radii)
    moments = _log_moments(logs, np.full((1, len(logs)), 1 / len(logs)), orders)[0]
    D = _slopes(radii, moments)
    picks = rng.multinomial(len(logs), np.full(len(logs), 1 / len(logs)), size=resamples) / len(logs)
    spread = _slopes(radii, _log_moments(logs, picks, orders))
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Multifractal(orders, (orders - 1) * D, D, low, high, radii, moments)


def _radii(square: NDArray, hops: bool) -> NDArray:
    longest = float(square.max())
    if hops:
        return np.arange(1.0, longest // 4 + 1)
    nearest = np.median(np.partition(square, 1, axis=1)[:, 1])
    if not 0 < nearest < longest / 4:
        raise ValueError(f"r_B: no range of radii to choose (nearest {nearest:.3g}, longest {longest:.3g}); give r_B")
    return np.geomspace(nearest, longest / 4, 12)


def _log_moments(logs: NDArray, weights: NDArray, orders: NDArray) -> NDArray:
    """Logarithm of the weighted mean of mass^(q - 1), over q - 1: ``(resamples, orders, radii)``."""
    moments = np.empty((len(weights), len(orders), logs.shape[1]))
    for k, order in enumerate(orders):
        if abs(order - 1) < 1e-9:
            moments[:, k] = weights @ logs
            continue
        powers = (order - 1) * logs
        top = powers.max(0)  # taken out, so that large orders neither overflow nor vanish
        moments[:, k] = (np.log(weights @ np.exp(powers - top)) + top) / (order - 1)
    return moments


def _slopes(radii: NDArray, moments: NDArray) -> NDArray:
    """Least-squares slopes against ln r, over the last axis."""
    x = np.log(radii) - np.log(radii).mean()
    return moments @ x / (x @ x)
