"""Compared with what? Null models, their bands, z-scores and p-values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import check_choice, check_integer, check_number
from ..validation import check_activations
from .rescaling import rescaled

NULLS = ("gauss", "gauss-covariance", "shuffled")


def null_activations(activations: Tensor, *, null: str, seed: int) -> Tensor:
    """One draw of activations without the structure of the given ones, of the same shape.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
    null : {"gauss", "gauss-covariance", "shuffled"}
        "gauss": independent standard normal numbers, scaled to the activations' overall standard deviation.
        "gauss-covariance": normal numbers with the mean of each neuron and the covariance between neurons that the
        activations have.
        "shuffled": each neuron keeps its values, in an order over samples of its own, so that nothing is left of
        what neurons have in common but their single distributions.
    seed : int
        Of this draw; no other random state is touched.

    Returns
    -------
    Tensor, shape (samples, neurons)
        On the CPU whatever the device of the input, so that a seed gives the same draw everywhere, then moved.

    Raises
    ------
    ValueError
        An unknown null, or activations that cannot be used.

    Examples
    --------
    >>> x = torch.arange(6.0).reshape(3, 2)
    >>> null_activations(x, null="shuffled", seed=0).sort(0).values.equal(x)
    True
    """
    check_choice(null, NULLS, name="null")
    activations = check_activations(activations).detach()
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(activations.shape, generator=generator, dtype=torch.float64)
    if null == "shuffled":
        # numpy sorts rows several times faster than torch sorts columns.
        order = torch.from_numpy(np.argsort(draw.t().contiguous().numpy(), axis=1)).t()
        return activations.gather(0, order.to(activations.device))
    x, unit = rescaled(activations.cpu())
    if null == "gauss":
        return (draw * x.std(correction=0) * unit).to(activations)
    # Mixing the centred samples with normal weights gives their covariance without forming it.
    weights = torch.randn(len(x), len(x), generator=generator, dtype=torch.float64) / max(len(x) - 1, 1) ** 0.5
    return ((x.mean(0) + weights @ (x - x.mean(0))) * unit).to(activations)


@dataclass(frozen=True)
class NullBand:
    """Values of a statistic on null draws.

    Attributes
    ----------
    values : ndarray, shape (draws,)
    null : str
        The null model; the name of the function where the caller brought one.
    level : float
        Share of draws that the band holds.
    """

    values: np.ndarray
    null: str
    level: float = 0.95

    def __repr__(self) -> str:
        return f"NullBand({self.low:.4g} to {self.high:.4g}, {self.draws} draws of {self.null}, level={self.level:g})"

    @property
    def low(self) -> float:
        """Lower end of the band, a quantile of the draws."""
        return float(np.quantile(self.values, (1 - self.level) / 2))

    @property
    def high(self) -> float:
        """Upper end of the band, a quantile of the draws."""
        return float(np.quantile(self.values, (1 + self.level) / 2))

    def z_score(self, value: float) -> float:
        """Distance of `value` from the draws' mean, in their standard deviations.

        Raises
        ------
        ValueError
            All draws are equal, or differ by no more than the rounding of single precision: there is no unit to
            measure in. Or a value that is not finite.
        """
        _check_finite_value(value)
        spread = float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0
        if spread <= 1e-7 * np.abs(self.values).max():
            raise ValueError(
                f"z_score: all {len(self.values)} null draws give {self.values[0]:.6g}; no spread to measure in"
            )
        return (float(value) - float(np.mean(self.values))) / spread

    @property
    def draws(self) -> int:
        """Number of null draws. No p-value is below ``1 / (1 + draws)``, and without ties none below twice that."""
        return len(self.values)

    def p_value(self, value: float) -> float:
        """Two-sided p-value of `value`, by its rank among the draws.

        It is ``(1 + k) / (1 + draws)``, with k the number of draws that stand as near to an end of the order of all of
        them, `value` included, as `value` does. Under the null model every order is equally likely, so the test holds
        its level for any statistic and any number of draws. The smallest is ``1 / (1 + draws)``; without ties there
        is a draw at the other end, and the smallest is ``2 / (1 + draws)``.

        Raises
        ------
        ValueError
            A value that is not finite.

        Examples
        --------
        >>> NullBand(np.arange(99.0), "gauss").p_value(500.0)
        0.02
        """
        _check_finite_value(value)
        pooled = np.append(self.values, float(value))
        order = np.sort(pooled)
        from_below = np.searchsorted(order, pooled, side="right")
        from_above = len(order) - np.searchsorted(order, pooled, side="left")
        depth = np.minimum(from_below, from_above)
        return float(np.mean(depth <= depth[-1]))


def _check_finite_value(value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"value: got {value!r}, need a finite number to hold against null draws")


def null_band(
    statistic: Callable[..., Tensor | float] | Mapping[str, Callable[..., Tensor | float]],
    activations: Tensor | None = None,
    *,
    null: str | Callable[[int], object] = "gauss",
    draws: int = 100,
    seed: int = 0,
    level: float = 0.95,
) -> NullBand | dict[str, NullBand]:
    """What a statistic gives on activations without structure, at the same numbers of neurons and samples.

    Parameters
    ----------
    statistic : callable
        From activations ``(samples, neurons)`` to a number, such as `ss_rate` or `correlation_dimension`. Or a mapping
        of names to such: all of them on the same draws.
    activations : Tensor, shape (samples, neurons), optional
        What draws of a named null model are made from; not used where `null` is a function.
    null : {"gauss", "gauss-covariance", "shuffled"} or callable
        See `null_activations`. Or the caller's own null model: a function from a seed to whatever `statistic` takes,
        such as the activations of an untrained network of that seed, or `rewired` on a graph.
    draws : int
        Number of draws, at least 2; draw k has the seed ``seed + k``.
    seed : int
    level : float
        Share of draws inside the band.

    Returns
    -------
    NullBand, or dict of str to NullBand

    Raises
    ------
    ValueError
        Fewer than 2 draws, a level outside (0, 1), an unknown null, no statistic, or one that a draw does not suffice
        to estimate.
    TypeError
        A named null without activations.

    Examples
    --------
    >>> band = null_band(lambda x: x.mean(), torch.randn(50, 4), draws=40)
    >>> band.low < 0 < band.high
    True
    >>> untrained = [torch.randn(50, 4), torch.randn(50, 4)]
    >>> null_band(lambda x: x.mean(), null=lambda seed: untrained[seed], draws=2).draws
    2
    """
    check_integer(draws, name="draws", least=2)
    check_number(level, name="level", within="(0, 1)")
    if isinstance(statistic, Mapping) and not statistic:
        raise ValueError("statistic: got an empty mapping, need at least one statistic")
    if callable(null):
        made, name = null, getattr(null, "__name__", type(null).__name__)
    else:
        check_choice(null, NULLS, name="null")
        activations = check_activations(activations)
        made, name = lambda draw: null_activations(activations, null=null, seed=draw), null
    statistics = statistic if isinstance(statistic, Mapping) else {"": statistic}
    values = {key: np.empty(draws) for key in statistics}
    for k in range(draws):
        draw = made(seed + k)
        for key, compute in statistics.items():
            values[key][k] = value = float(compute(draw))
            if not math.isfinite(value):
                raise ValueError(f"statistic: got {value} on null draw {k}, need finite numbers")
    bands = {key: NullBand(found, name, level) for key, found in values.items()}
    return bands if isinstance(statistic, Mapping) else bands[""]
