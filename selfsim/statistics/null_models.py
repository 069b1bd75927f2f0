"""Null models: draws without structure, and bands, z-scores and p-values of a statistic on them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import as_number, check_choice, check_integer, check_number, check_seed, errors_named
from ..uncertainty import Estimate
from ..validation import check_activations
from .rescaling import rescaled

NULLS = ("gauss", "gauss-covariance", "shuffled")
# Distances of the draws that a GPU takes at once, about 40 bytes each.
_NUMBERS_AT_ONCE = 2**24
# The draws are activations, or whatever a caller's null model returns.
Statistic = Callable[[Any], Tensor | float | Estimate]


def null_activations(activations: Tensor, *, null: str, seed: int) -> Tensor:
    """Return one draw of activations without the structure of the given ones, of the same shape.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
    null : {"gauss", "gauss-covariance", "shuffled"}
        "gauss": independent normal numbers of mean 0, with the overall standard deviation of the activations.
        "gauss-covariance": normal numbers with the mean of each neuron and the covariance between neurons.
        "shuffled": the values of each neuron in a random order over samples. Each neuron keeps its distribution, and
        nothing that neurons share is left.
    seed : int
        Seed of this draw; no other random state is used or changed.

    Returns
    -------
    Tensor, shape (samples, neurons)
        Type (float32 for half precision) and device of `activations`. It is drawn on the CPU, so that a seed gives the
        same draw on every device.

    Raises
    ------
    TypeError, ValueError
        An unknown null model, or activations of another shape or type, NaN or Inf.

    Notes
    -----
    Time and memory O(samples neurons); for "gauss-covariance" time O(samples² neurons), memory O(samples²) more.

    Examples
    --------
    >>> x = torch.arange(6.0).reshape(3, 2)
    >>> null_activations(x, null="shuffled", seed=0).sort(0).values.equal(x)
    True
    """
    return _null_model(activations, null)([seed])[0]


def _null_model(activations: Tensor, null: str) -> Callable[[Sequence[int]], Tensor]:
    """Return the function from seeds to their draws; what does not depend on the seed is computed once."""
    check_choice(null, NULLS, name="null")
    activations = check_activations(activations).detach()
    if null != "shuffled":
        x, unit = rescaled(activations.cpu())
        mean, deviation = x.mean(0), x.std(correction=0)
        centred = x - mean

    def on_cpu(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(check_seed(seed))
        draw = torch.randn(activations.shape, generator=generator, dtype=torch.float64, device="cpu")
        if null == "shuffled":  # the order of each neuron's samples
            # NumPy sorts rows several times faster than torch sorts columns.
            return torch.from_numpy(np.argsort(draw.t().contiguous().numpy(), axis=1)).t()
        if null == "gauss":
            return draw * deviation * unit
        # Mixing the centred samples with normal weights gives their covariance without forming it.
        n = len(activations)
        weights = torch.randn(n, n, generator=generator, dtype=torch.float64) / max(n - 1, 1) ** 0.5
        return (mean + weights @ centred) * unit

    def draws_of(seeds: Sequence[int]) -> Tensor:
        drawn = torch.stack([on_cpu(seed) for seed in seeds])
        if null == "shuffled":
            return activations.expand(drawn.shape).gather(-2, drawn.to(activations.device))
        return drawn.to(activations)

    return draws_of


@dataclass(frozen=True)
class NullBand:
    """Values of a statistic on null draws, and the band that holds a fresh draw with a given probability.

    Attributes
    ----------
    values : ndarray, shape (draws,)
        The statistic on each draw.
    null : str
        The null model, or the name of the caller's function.
    level : float
        Probability that the band holds a fresh draw. m draws hold at most ``(m - 1) / (m + 1)``, from the smallest to
        the largest: a larger level is lowered to this one. A level of 0.95 needs 39 draws.

    Examples
    --------
    >>> NullBand(np.arange(99.0), "gauss")
    NullBand(1.5 to 96.5, 99 draws of gauss, level=0.95)
    >>> NullBand(np.arange(10.0), "gauss")
    NullBand(0 to 9, 10 draws of gauss, level=0.818)
    """

    values: NDArray[np.float64]
    null: str
    level: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", min(self.level, (self.draws - 1) / (self.draws + 1)))

    def __repr__(self) -> str:
        return f"NullBand({self.low:.4g} to {self.high:.4g}, {self.draws} draws of {self.null}, level={self.level:.3g})"

    @property
    def low(self) -> float:
        """Lower end of the band."""
        return self._quantile((1 - self.level) / 2)

    @property
    def high(self) -> float:
        """Upper end of the band."""
        return self._quantile((1 + self.level) / 2)

    def _quantile(self, share: float) -> float:
        # A fresh draw is below the k-th smallest of m with probability k / (m + 1), for every continuous distribution.
        return float(np.quantile(self.values, share, method="weibull"))

    @property
    def draws(self) -> int:
        """Number of null draws."""
        return len(self.values)

    def z_score(self, value: float) -> float:
        """Return the distance of `value` from the mean of the draws, in standard deviations of the draws.

        Raises
        ------
        ValueError
            All draws are equal, up to the rounding of single precision, or a value that is not finite.
        """
        value = check_number(value, name="value")
        scale = float(np.abs(self.values).max()) or 1.0  # so that no square overflows
        scaled = self.values / scale
        spread = float(np.std(scaled, ddof=1)) if self.draws > 1 else 0.0
        if spread <= 1e-7:
            raise ValueError(f"z_score: all {self.draws} null draws give {self.values[0]:.6g}, need draws that differ")
        return (value / scale - float(np.mean(scaled))) / spread

    def p_value(self, value: float) -> float:
        """Return the two-sided p-value of `value`, by its rank among the draws.

        It is ``(1 + k) / (1 + draws)``. With `value` and all draws sorted together, k is the number of draws that are
        as near to an end of the order as `value`. Under the null model all orders are equally likely, so the test holds
        its level for any statistic and any number of draws. The smallest p-value is ``2 / (1 + draws)``, because some
        draw is at the other end; with ties at that end it can be ``1 / (1 + draws)``.

        Raises
        ------
        ValueError
            A value that is not finite.

        Examples
        --------
        >>> NullBand(np.arange(99.0), "gauss").p_value(500.0)
        0.02
        """
        pooled = np.append(self.values, check_number(value, name="value"))
        order = np.sort(pooled)
        from_below = np.searchsorted(order, pooled, side="right")
        from_above = len(order) - np.searchsorted(order, pooled, side="left")
        depth = np.minimum(from_below, from_above)
        return float(np.mean(depth <= depth[-1]))


class _BandKeywords(TypedDict, total=False):
    null: str | Callable[[int], object]
    draws: int
    seed: int
    level: float


@overload
def null_band(
    statistic: Statistic, activations: Tensor | None = None, **options: Unpack[_BandKeywords]
) -> NullBand: ...
@overload
def null_band(
    statistic: Mapping[str, Statistic], activations: Tensor | None = None, **options: Unpack[_BandKeywords]
) -> dict[str, NullBand]: ...
def null_band(
    statistic: Statistic | Mapping[str, Statistic],
    activations: Tensor | None = None,
    *,
    null: str | Callable[[int], object] = "gauss",
    draws: int = 100,
    seed: int = 0,
    level: float = 0.95,
) -> NullBand | dict[str, NullBand]:
    """Return the band of a statistic on activations without structure, with as many neurons and samples.

    Parameters
    ----------
    statistic : callable or mapping of str to callable
        From activations ``(samples, neurons)`` to a number, such as `ss_rate` or `correlation_dimension`. All
        statistics of a mapping are computed on the same draws.
    activations : Tensor, shape (samples, neurons), optional
        Source of the draws of a named null model; not used if `null` is a function.
    null : {"gauss", "gauss-covariance", "shuffled"} or callable
        See `null_activations`. Or a function from a seed to an argument of `statistic`, such as the activations of an
        untrained network of that seed, or `rewired` on a graph.
    draws : int
        Number of draws, at least 2; draw k has the seed ``seed + k``. A level of 0.95 needs 39.
    seed : int
    level : float
        Probability that the band holds a fresh draw. Too few draws lower it: see `NullBand.level`.

    Returns
    -------
    NullBand, or dict of str to NullBand

    Raises
    ------
    ValueError
        Fewer than 2 draws, a level outside (0, 1), an unknown null model, no statistic, or a statistic that is not
        finite or not estimable on a draw. Errors of a statistic name the draw.
    TypeError
        A named null model without activations, or a statistic that returns no number.

    Notes
    -----
    Time: `draws` times one draw and the statistics on it. On a CPU, the draws of a named null model and the rates (or
    scaling deviations) of these are computed in as many threads as ``torch.get_num_threads()``, two draws a thread in
    memory; on a GPU, those of many draws are computed in one call. The values do not depend on it. Give options by
    `functools.partial`, as in ``partial(ss_rate, ends=...)``: a caller's own function, a lambda among them, runs in
    the caller's thread, draw by draw.

    References
    ----------
    .. [1] H. A. David, H. N. Nagaraja, Order Statistics, 3rd ed., Wiley (2003), ch. 7: intervals for a fresh draw.

    Examples
    --------
    >>> band = null_band(lambda x: x.mean(), torch.randn(50, 4), draws=40)
    >>> band.low < 0 < band.high
    True
    >>> untrained = [torch.randn(50, 4), torch.randn(50, 4)]
    >>> null_band(lambda x: x.mean(), null=lambda seed: untrained[seed], draws=2).draws
    2
    """
    draws = check_integer(draws, name="draws", least=2)
    level = check_number(level, name="level", within="(0, 1)")
    seed = check_seed(seed)
    statistics = statistic if isinstance(statistic, Mapping) else {"": statistic}
    if not statistics:
        raise ValueError("statistic: got an empty mapping, need at least one statistic")
    seeds = range(seed, seed + draws)
    if callable(null):
        name = getattr(null, "__name__", type(null).__name__)
        found = _on_draws(null, statistics, seeds, threaded=False)
    else:
        name = check_choice(null, NULLS, name="null")
        given = check_activations(activations)  # type: ignore[arg-type] # None is refused there
        model = _null_model(given, name)
        if given.device.type == "cuda":
            found = _on_stacked_draws(model, statistics, seeds, at_once=max(1, _NUMBERS_AT_ONCE // given.shape[1] ** 2))
        else:
            found = _on_draws(lambda seed: model([seed])[0], statistics, seeds, threaded=given.device.type == "cpu")
    for compute in statistics.values():
        if not callable(compute):
            raise TypeError(f"statistic: got {type(compute).__name__}, need a function of activations")
    values = {key: np.empty(draws) for key in statistics}
    for k, of_draw in enumerate(found):
        for key, value in of_draw.items():
            values[key][k] = value
            if not math.isfinite(value):
                raise ValueError(f"statistic: got {value} on null draw {k}, need finite numbers")
    bands = {key: NullBand(of_statistic, name, level) for key, of_statistic in values.items()}
    return bands if isinstance(statistic, Mapping) else bands[""]


def _on_draws(
    draw_null: Callable[[int], Any], statistics: Mapping[str, Statistic], seeds: Sequence[int], *, threaded: bool
) -> Iterator[dict[str, float]]:
    """Yield the statistics of the draw of each seed, in order.

    With `threaded`, draws are made in as many threads as ``torch.get_num_threads()``, and so are the SS rate and the
    scaling deviation of each. A caller's own statistic runs in the caller's thread.
    """
    in_thread = {key: compute for key, compute in statistics.items() if _is_own(compute)}

    def on_draw(seed: int) -> tuple[int, Any, dict[str, float]]:
        draw = draw_null(seed)
        return seed, draw, _numbers(in_thread, draw, seed - seeds[0])

    threads = torch.get_num_threads() if threaded else 1
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        ahead = 2 * threads  # so many draws are in memory at a time
        for first in range(0, len(seeds), ahead):
            part = seeds[first : first + ahead]
            for seed, draw, found in pool.map(on_draw, part) if pool else map(on_draw, part):
                others = {key: compute for key, compute in statistics.items() if key not in in_thread}
                yield found | _numbers(others, draw, seed - seeds[0])


def _on_stacked_draws(
    model: Callable[[Sequence[int]], Tensor], statistics: Mapping[str, Statistic], seeds: Sequence[int], *, at_once: int
) -> Iterator[dict[str, float]]:
    """Yield the same on a GPU, where the SS rate and the scaling deviation take many draws in one call."""
    for first in range(0, len(seeds), at_once):
        draws = model(seeds[first : first + at_once])
        known: dict[str, list[float]] = {}
        for key, compute in statistics.items():
            if _is_own(compute):
                batched: Any = compute
                with suppress(ValueError):  # it is raised below, with the number of the draw
                    known[key] = batched(draws).cpu().tolist()
        others = {key: compute for key, compute in statistics.items() if key not in known}
        for k, draw in enumerate(draws):
            yield {key: of_draws[k] for key, of_draws in known.items()} | _numbers(others, draw, first + k)


def _numbers(statistics: Mapping[str, Statistic], draw: Any, place: int) -> dict[str, float]:
    found = {}
    for key, compute in statistics.items():
        with errors_named(f"statistic{f' {key!r}' if key else ''} on null draw {place}"):
            found[key] = as_number(compute(draw))
    return found


def _is_own(statistic: Statistic) -> bool:
    """Whether this is the SS rate or the scaling deviation, which may run in threads and take batches."""
    function = statistic.func if isinstance(statistic, functools.partial) else statistic
    name = getattr(function, "__module__", None), getattr(function, "__name__", None)
    return name in (("selfsim.rate.rate", "ss_rate"), ("selfsim.statistics.scaling", "scaling_deviation"))
