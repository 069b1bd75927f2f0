"""Whether a layer is self-similar: how nearly its distances follow a power law, over which range, and its dimension.

Read `correlation_law` for the fit and `scaling_gradient` for its gradient. Here are its intervals, and what else can be
asked the same question: distances, networks by hops, and box counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..boxes.counts import BoxCounts
from ..boxes.dimension import fractal_dimension
from ..boxes.inputs import Coverable, Distances, as_distances
from ..checks import check_choice, check_flag, check_integer, check_number, check_seed
from ..rate.distances import raw_distances, scaled_neurons
from ..uncertainty import Estimate, Interval, samples_interval
from ..validation import by_layer, check_activations
from . import correlation_law as law
from .scaling_gradient import deviations

# Distances between nodes of a network are whole numbers: fewer different ones fit any law.
_FEWEST_POINTS = 6  # hops: trees of preferential attachment, small worlds, fit a power of four or five


@overload
def scaling_deviation(
    activations: Tensor, *, window: tuple[float, float] | None = None, check: bool = True
) -> Tensor: ...
@overload
def scaling_deviation(
    activations: Mapping[str, Tensor], *, window: tuple[float, float] | None = None, check: bool = True
) -> dict[str, Tensor]: ...
def scaling_deviation(
    activations: Tensor | Mapping[str, Tensor], *, window: tuple[float, float] | None = None, check: bool = True
) -> Tensor | dict[str, Tensor]:
    """Return how far a layer's distances are from a power law, from 0 (a perfect one) to 1; differentiable.

    It is `Scaling.deviation`. A small value alone is no sign of self-similarity: the distances of noise in many
    dimensions span a fraction of an octave, over which every law is nearly a power law. Read it beside
    `Scaling.octaves`.

    Parameters
    ----------
    activations : Tensor, shape (..., samples, neurons), or mapping of names to such
        At least 32 neurons and one sample. Leading axes are a batch; `torch.func.vmap` works as well. Half precision is
        computed in float32.
    window : (float, float), optional
        See `scaling`.
    check : bool
        Whether to raise where there is no deviation, at the cost of one synchronisation on a GPU. Without the check,
        such activations give NaN.

    Returns
    -------
    Tensor, shape (...), or dict of such
        0-dim without a batch. In the dtype of the activations (float32 for half precision), on their device.

    Raises
    ------
    TypeError
        Not a tensor, or not of a floating-point type.
    ValueError
        Too few neurons for the window, no samples, NaN or Inf, coincident neurons or equal distances that fill the
        start or a third of the window. For a mapping, names the layer.

    Notes
    -----
    It does not change when the neurons, as points, are rotated, moved, permuted or scaled. Its gradient passes through
    all pairs in the window, which have about the same weight in every octave of the rank, so no few neurons carry it.
    Time O(neurons² (samples + log neurons)), memory O(neurons²), forward and backward. Where distances are tied, the
    derivative is one of the one-sided ones.

    References
    ----------
    .. [1] P. Grassberger, I. Procaccia, Characterization of strange attractors, Phys. Rev. Lett. 50 (1983).

    Examples
    --------
    >>> x = torch.rand(2, 128, generator=torch.Generator().manual_seed(0), requires_grad=True)
    >>> deviation = scaling_deviation(x)
    >>> deviation.backward()
    >>> bool(deviation < 0.1), x.grad.shape
    (True, torch.Size([2, 128]))
    """
    given, check = law.checked_window(window), check_flag(check, name="check")
    if isinstance(activations, Mapping):
        return by_layer(activations, lambda layer: deviations(layer, given, check))
    return deviations(activations, given, check)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """Whether distances follow a power law, or the reason why this cannot be told.

    Attributes
    ----------
    deviation : Estimate
        Root mean square distance of the curve from its line, on log axes, in standard deviations of the curve: from 0
        (a perfect power law) to 1.
    dimension : Estimate
        Exponent of the power law; not estimable with less than an octave.
    octaves : Estimate
        log2 of the longest over the shortest distance in the window.
    threshold : float
        The deviation below which a set counts as scaling; see `scaling`.
    window : (float, float)
        Shares of all pairs between which the line is fitted; for box counts, the smallest and the largest size.
    chosen : str
        How the window was chosen.
    n : int
        Number of nodes.
    intervals : mapping of str to Interval
        By the name of the estimate; each has its `quantity`. Empty if no draws were asked for, or half of the nodes
        have too few pairs for the window, as with fewer than 82 nodes for the default one.
    """

    deviation: Estimate
    dimension: Estimate
    octaves: Estimate
    threshold: float
    window: tuple[float, float]
    chosen: str
    n: int
    intervals: Mapping[str, Interval] = dataclasses.field(default_factory=dict)

    @property
    def scales(self) -> bool:
        """Whether the set scales: at least one octave, and a deviation below the threshold."""
        return self.dimension.estimable and self.deviation.value < self.threshold

    @property
    def reason(self) -> str:
        """Why there is no dimension; empty if there is one."""
        return self.dimension.reason

    def __format__(self, spec: str) -> str:
        if not self.deviation.estimable:
            return f"{self.deviation:{spec}}"
        found = f"deviation {self.deviation:{spec}} over {self.octaves:{spec}} octaves"
        return f"{found}, dimension {self.dimension:{spec}}"


def scaling(
    activations: Tensor | Coverable | BoxCounts,
    *,
    window: tuple[float, float] | None = None,
    threshold: float | None = None,
    weight: str | None = None,
    over: str = "neurons",
    draws: int = 40,
    seed: int = 0,
    level: float = 0.95,
) -> Scaling:
    """Tell whether the neurons of a layer, as points, are self-similar: deviation from a power law, octaves, dimension.

    In a self-similar set of dimension D, the share of pairs at most r apart grows like ``r ** D``. The pairs are sorted
    by distance, and a line is fitted to ln r against the logarithm of the rank, over a window of ranks. The result is
    the line's relative residual (`Scaling.deviation`), one over its slope (`Scaling.dimension`), and the range of
    distances in the window (`Scaling.octaves`). A set scales if it does so over at least an octave. The default window
    spans ``log2(n ** 0.75 / 2)`` octaves of rank, and shows at most about as many dimensions: about 5 with 128 nodes.

    `fractal_dimension` fits a line to box counts. For box counts, this function is that fit: its dimension, and the
    square root of ``1 - r_squared`` as its deviation. For points and networks, it needs no boxes and counts pairs, so
    the dimension is the correlation dimension. The two are equal for sets that are as dense everywhere; in general the
    box dimension is larger. `correlation_dimension` is that of the *samples*; here the points are neurons.

    Parameters
    ----------
    activations : Tensor, networkx graph, distances or BoxCounts
        A tensor ``(samples, neurons)``: each neuron is a point. Anything else as `box_cover` takes it: a
        `FeatureNetwork`, a NumPy array of distances (square, or condensed in scipy's order), a networkx graph or
        sparse matrix (shortest paths by hops, or along `weight`). Or the counts of `box_counts`.
    window : (float, float), optional
        Shares of pairs, sorted by distance, between which the line is fitted. By default ``2 / n`` to
        ``n ** -0.25``: from just above the spacing of the points to well below the size of the set. Networks by hops
        begin with the first hop. For box counts, the smallest and the largest size: see `fractal_dimension`.
    threshold : float, optional
        The deviation below which a set with an octave scales, such as ``null_band(...).low``. By default that of noise
        in many dimensions, whose log distances are normal: 0.073 for 128 neurons, 0.080 for 1,024. For networks by
        hops, that of exponential growth on the same points, the law of a small world, less the margin of 2 units of
        Akaike's criterion; for box counts, that of exponential decay.
    weight : str, optional
        Edge attribute with lengths, for a networkx graph.
    over : {"neurons", "samples"}
        What the intervals are for: the mean over other sets of as many neurons of the same law (for distances: over
        other points), or over other sets of as many samples. Networks by hops have none, box counts that of the
        dimension from `fractal_dimension`.
    draws : int
        Number of random halves for the intervals; 0 for none.
    seed : int
        Seed of the halves.
    level : float
        Nominal coverage of the intervals.

    Returns
    -------
    Scaling
        Deviation, dimension and octaves are not estimable with fewer than 32 nodes (for the default window), with
        coincident nodes at its start, with one distance over more than a third of it, with fewer than six
        different hops, or with too few box counts for `fractal_dimension`. With less than an octave, the dimension is
        not estimable.

    Raises
    ------
    TypeError, ValueError
        Activations, distances, graphs or counts that are none; NaN or Inf; a window that is not
        ``0 < low <= high / 4 <= 0.25``; another option out of its range.

    Notes
    -----
    ln r is averaged over octaves of the rank, which keeps the steps of discrete scaling (trees, Cantor's dust) from
    counting as deviation. On hops k, the line is fitted to the mean number of nodes within k hops against ``k + 1/2``,
    the radius that makes lattices exact; pairs of two components do not count. Many small components still lower the
    dimension, so take the largest. Time O(n² samples + n² log n), and about as long again for each draw of the
    intervals; memory O(n²).

    References
    ----------
    .. [1] P. Grassberger, I. Procaccia, Characterization of strange attractors, Phys. Rev. Lett. 50 (1983).
    .. [2] A. Clauset, C. R. Shalizi, M. E. J. Newman, Power-law distributions in empirical data, SIAM Review 51
       (2009): why a straight line in a log-log plot is not enough.

    Examples
    --------
    >>> import selfsim
    >>> fit = scaling(selfsim.known_activations("sierpinski", n=729))
    >>> f"{fit:.2f}", fit.scales
    ('deviation 0.04 over 3.81 octaves, dimension 1.68', True)
    >>> noise = scaling(torch.randn(64, 128, generator=torch.Generator().manual_seed(0)))
    >>> noise.scales, noise.reason
    (False, '0.26 octaves of distances in the window, need 1')
    """
    level = check_number(level, name="level", within="(0, 1)")
    draws, seed = check_integer(draws, name="draws", least=0), check_seed(seed)
    check_choice(over, ("neurons", "samples"), name="over")
    if draws == 1:
        raise ValueError("draws: got 1, need 0 (no intervals) or at least 2")
    if threshold is not None:
        threshold = check_number(threshold, name="threshold", within="[0, inf)")
    if isinstance(activations, BoxCounts):
        return _of_counts(activations, window, threshold, level)
    given = law.checked_window(window)
    if over == "samples" and not isinstance(activations, Tensor):
        raise ValueError(f"over: got 'samples' for {type(activations).__name__}, which has none; need 'neurons'")
    points = _as_points(activations, weight)
    if points.hops:
        return _of_hops(points, given, threshold)
    found = _of_distances(points, given, threshold)
    if not (draws and found.deviation.estimable):
        return found
    if isinstance(activations, Tensor) and over == "samples":
        sets, method, distances_of = activations.detach().cpu(), "halves", _raw_distances
        quantity = "mean over other samples, as many as these"
    else:
        sets, method = torch.arange(points.n, dtype=torch.float64)[:, None], "pairs"
        distances_of = functools.partial(_among, points)
        quantity = "mean over other neurons of the same law, as many as these"
    intervals = _intervals(sets, distances_of, found, method, quantity, draws=draws, seed=seed, level=level)
    return dataclasses.replace(found, intervals=intervals)


def _as_points(data: Tensor | Coverable, weight: str | None) -> Distances:
    """Return the distances between the nodes; those of activations in any unit."""
    if isinstance(data, Tensor):
        if weight is not None:
            raise ValueError(f"weight: got {weight!r} for activations, which have no edges; need None")
        x = check_activations(data, min_neurons=2).detach().cpu()
        return Distances(x.shape[1], None, hops=False, given=_raw_distances(x))
    try:
        return as_distances(data, weight=weight)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("graph: ", "activations: ", 1)) from error


def _raw_distances(activations: Tensor) -> NDArray[np.floating]:
    return raw_distances(scaled_neurons(activations)[0]).numpy()


def _among(points: Distances, nodes: Tensor) -> NDArray[np.floating]:
    """Return the distances between some of the nodes, whose numbers are ``(nodes, 1)``."""
    from scipy.spatial.distance import squareform  # takes a fifth of a second to import

    chosen = np.sort(nodes[:, 0].long().numpy())  # a gather in order is faster
    return squareform(points.square[np.ix_(chosen, chosen)], checks=False)


_NAMES = ("deviation", "dimension", "octaves")


def _within(distances: NDArray[np.floating], ranks: law.Ranks) -> NDArray[np.floating]:
    """Return the distances in the window, ascending."""
    return np.sort(np.partition(distances, ranks.last - 1)[: ranks.last])[ranks.first :]


def _numbers(within: NDArray[np.floating], ranks: law.Ranks) -> tuple[float, float, float]:
    """Return deviation, dimension and octaves."""
    found = law.fit(within, ranks)
    return float(found.deviation), 1 / float(found.slope), float(found.octaves)


def _of_distances(points: Distances, given: law.Window | None, threshold: float | None) -> Scaling:
    window = law.window_for(points.n, given)
    chosen = "given" if given else "2 / n to n ** -0.25 of all pairs"
    result = functools.partial(_result, window=window, chosen=chosen, n=points.n)
    if not window.fits(points.n):
        reason = f"got {points.n} nodes, need at least {law.fewest_nodes(given)}: {law.FEWEST_BEFORE} pairs up to the "
        return result(reason=f"{reason}start of the window, and {law.FEWEST_PAIRS} up to its end")
    ranks = law.ranks_of(points.n, window)
    within = _within(points.condensed, ranks)
    if reason := law.fault(within, ranks, points.n):
        return result(reason=reason)
    if threshold is None:
        threshold = law.noise_deviation(points.n, window)
    return result(_numbers(within, ranks), threshold=threshold)


def _of_hops(points: Distances, given: law.Window | None, threshold: float | None) -> Scaling:
    """Fit the mean number of nodes within k hops, the node itself included, to ``k + 1/2``."""
    # Nodes of two components are no pair, isolated ones no nodes.
    nodes = max(int(np.count_nonzero(np.diff(points.adjacency.indptr))), 2)
    window = given or law.Window(0.0, law.window_for(nodes, None).high)
    chosen = "given" if given else "the first hop to n ** -0.25 of the connected pairs"
    result = functools.partial(_result, window=window, chosen=chosen, n=points.n)
    hops = points.condensed
    hops = hops[np.isfinite(hops)].astype(np.int64)
    if len(hops) * window.high < law.FEWEST_PAIRS:
        return result(reason=f"got {points.n} nodes, need {law.FEWEST_PAIRS} pairs up to the end of the window")
    within = np.cumsum(np.bincount(hops)[1:])
    shares = within / len(hops)
    (kept,) = np.nonzero((shares >= window.low) & (shares <= window.high))
    if len(kept) < _FEWEST_POINTS:
        return result(reason=f"{len(kept)} different hops in the window, need {_FEWEST_POINTS}: a larger network")
    radius, mass = np.log(kept + 1.5), np.log1p(2 * within[kept] / nodes)
    deviation, slope = law.line(mass, radius)
    if threshold is None:
        threshold = law.line(kept.astype(np.float64), mass)[0] * math.exp(-1 / len(kept))
    return result((deviation, 1 / slope, float(radius[-1] - radius[0]) / math.log(2)), threshold=threshold)


def _of_counts(counts: BoxCounts, window: Any, threshold: float | None, level: float) -> Scaling:
    try:
        found = fractal_dimension(counts, window=window, level=level)
    except ValueError as error:
        if not str(error).startswith("counts: "):
            raise
        nowhere = law.Window(math.nan, math.nan)
        return _result(reason=str(error).removeprefix("counts: "), window=nowhere, chosen="none", n=counts.n)
    power, decay = (math.sqrt(max(1 - r, 0)) for r in (found.r_squared, found.r_squared_exponential))
    interval = Interval(
        found.d_B, found.low, found.high, level, len(found.sizes), "box dimension, for the scatter of these counts"
    )
    return _result(
        (power, found.d_B, math.log2(found.window[1] / found.window[0])),
        threshold=decay if threshold is None else threshold,
        window=law.Window(*found.window),
        chosen=found.chosen,
        n=counts.n,
        intervals={"dimension": interval},
    )


def _result(
    numbers: tuple[float, float, float] = (math.nan, math.nan, math.nan),
    *,
    window: law.Window,
    chosen: str,
    n: int,
    threshold: float = math.nan,
    reason: str = "",
    intervals: Mapping[str, Interval] | None = None,
) -> Scaling:
    deviation, dimension, octaves = numbers
    short = reason
    if not reason and octaves < 1:
        short, dimension = f"{octaves:.2f} octaves of distances in the window, need 1", math.nan
    return Scaling(
        deviation=Estimate(value=deviation, reason=reason),
        dimension=Estimate(value=dimension, reason=short),
        octaves=Estimate(value=octaves, reason=reason),
        threshold=threshold,
        window=(window.low, window.high),
        chosen=chosen,
        n=n,
        intervals={} if short else intervals or {},
    )


def _intervals(
    sets: Tensor,
    distances_of: Callable[[Tensor], NDArray[np.floating]],
    found: Scaling,
    method: Any,
    quantity: str,
    **options: Any,
) -> dict[str, Interval]:
    """Return an interval for each estimate, from its spread over random halves of `sets`."""
    window, known = law.Window(*found.window), {}

    def statistic(chosen: Tensor, place: int) -> float:
        key = hash(chosen.numpy().tobytes())  # the three estimates have the same halves
        if key not in known:
            distances = distances_of(chosen)
            n = (1 + math.isqrt(1 + 8 * len(distances))) // 2
            if not window.fits(n):
                raise ValueError(f"activations: got {n} nodes in a half, too few pairs for the window")
            ranks = law.ranks_of(n, window)
            within = _within(distances, ranks)
            known[key] = _numbers(within, ranks) if law.is_sound(within, ranks) else (math.nan,) * 3
        return known[key][place]

    intervals = {}
    for place, name in enumerate(_NAMES):
        if getattr(found, name).estimable:
            with contextlib.suppress(ValueError):  # half does not suffice
                compute = functools.partial(statistic, place=place)
                interval = samples_interval(compute, sets, method=method, **options)
                intervals[name] = dataclasses.replace(interval, low=max(interval.low, 0.0), quantity=quantity)
    return intervals
