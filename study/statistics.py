"""The statistics of the study: paired comparisons, what a constraint did, and distances from noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import optimize, stats

from selfsim.models.architectures import architecture, create
from selfsim.models.probe import activations
from selfsim.models.seeding import seeded
from selfsim.models.small_builds import PIXELS
from selfsim.rate.rate import ss_rate
from selfsim.statistics.null_models import NullBand, null_band
from selfsim.training.pairs import RATES, Pair, final_value, mean_over_layers, paired_runs, target_of
from selfsim.training.runs import Run
from selfsim.uncertainty import Interval, mean_interval, rank_correlation

from .design import ALPHA, LARGEST_FACTOR, LEAST_FAMILIES, LEAST_PAIRS, UNCONSTRAINED, arm

Pairs = dict[tuple[str, str], list[Pair]]  # by architecture and arm
Key = TypeVar("Key", bound=Hashable)


def pairs(runs: Sequence[Run], *, control: str = UNCONSTRAINED) -> Pairs:
    """Return the pairs of each architecture and arm of the design; see `selfsim.training.pairs.paired_runs`."""
    return paired_runs(runs, arm=arm, control=control)


def measured(run: Run, metric: str) -> float:
    """Return one number of a run; NaN where it does not exist.

    Parameters
    ----------
    run : Run
        One that failed has the accuracy of a guess, so that it stays in. A layer that collapsed has no rate.
    metric : str
        One of `selfsim.training.pairs.PAIRED_METRICS`, "weight_distance", "rate_change" (of the rate after the first
        epoch) or "first_change" (in it).
    """
    if not run.history:
        return 1 / run.built_as["num_classes"] if metric == "accuracy" else math.nan
    if metric == "weight_distance":
        return run.series("weight_distance", split="train")[-1]
    if metric in ("rate_change", "first_change"):
        rates = mean_over_layers(run, "ss_rate")  # the rate before training is at 0
        return float(rates[-1] - rates[1] if metric == "rate_change" else rates[1] - rates[0])
    return final_value(run, metric)


def differences(pairs: Mapping[Key, Sequence[Pair]], metric: str) -> dict[Key, list[float]]:
    """Return treated minus control, pair by pair, for each comparison."""
    return {
        key: [measured(treated, metric) - measured(control, metric) for control, treated in both]
        for key, both in pairs.items()
    }


def compared(values: Mapping[Key, Sequence[float]]) -> pd.DataFrame:
    """Compare with 0: means with Student's 95 % interval, and p-values before and after Holm's correction.

    Parameters
    ----------
    values : mapping to sequence of float
        Paired differences of each comparison; those that do not exist (NaN) are left out and not counted.

    Returns
    -------
    DataFrame
        One row a comparison: ``pairs``, ``interval`` (an `Interval`, None for fewer than three pairs), ``p``,
        ``corrected`` over all rows.
    """
    rows = {}
    for key, row in values.items():
        finite = np.array([value for value in row if math.isfinite(value)])
        interval, p = None, math.nan
        if len(finite) >= LEAST_PAIRS:
            interval = mean_interval(finite.tolist(), of="mean difference over such pairs")
            error = finite.std(ddof=1) / math.sqrt(len(finite))
            t = abs(interval.estimate) / error if error else math.inf if interval.estimate else 0.0
            p = float(2 * stats.t.sf(t, len(finite) - 1))
        rows[key] = {"pairs": len(finite), "interval": interval, "p": p}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["pairs", "interval", "p"])
    return table.assign(corrected=holm(table.p))


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """Correct p-values by Holm's method for as many comparisons as there are; NaN is no comparison."""
    values = np.asarray(p, float)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]  # NaN comes last
    corrected = np.full(len(values), math.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return corrected


def minimal_effect(pairs: int, sd: float = 1.0, *, comparisons: int = 1, power: float = 0.8) -> float:
    """Return the true mean difference that a paired t-test finds with this power, at 5 % over all comparisons."""
    critical = stats.t.ppf(1 - ALPHA / comparisons / 2, pairs - 1)
    # Over the distribution of the estimated spread; scipy's noncentral t has no values far out.
    spreads = stats.chi.ppf((np.arange(2000) + 0.5) / 2000, pairs - 1) / math.sqrt(pairs - 1)

    def missing_power(shift: float) -> float:
        both = stats.norm.sf(critical * spreads - shift) + stats.norm.cdf(-critical * spreads - shift)
        return float(both.mean()) - power

    return sd * optimize.brentq(missing_power, 0, 3 * critical + 4) / math.sqrt(pairs)


def manipulation(pairs: Pairs) -> pd.DataFrame:
    """Check whether the constraint does what it says, for each architecture and arm.

    Returns
    -------
    DataFrame
        The paired differences of the three `RATES` as intervals, ``factor`` of the median distance (geometric mean),
        ``moved`` and ``as_intended``. A layer without a rate is neither.

        *Moved*: the layers' distance from their targets fell, and the interval of its paired difference lies below 0.
        *As intended*: it moved, the three rates went the same way (their intervals lie on one side of 0), and the
        factor is within 3.
    """
    rows = {}
    for key, both in pairs.items():
        row: dict[str, object] = {}
        directions = []
        # Both runs against the target of the constrained one.
        off = compared({key: [off_target(b, b) - off_target(a, b) for a, b in both]}).interval.iloc[0]
        has_rates = all(math.isfinite(measured(run, "ss_rate")) for pair in both for run in pair)
        moved = has_rates and off is not None and off.high < 0
        for metric in RATES:
            row[metric] = interval = compared(differences({key: both}, metric)).interval.iloc[0]
            directions.append(0 if interval is None else (interval.low > 0) - (interval.high < 0))
        logs = [_log_ratio(measured(b, "median_distance"), measured(a, "median_distance")) for a, b in both]
        factor = math.exp(np.mean(logs))
        same_way = directions[0] != 0 and len(set(directions)) == 1
        within = 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR
        rows[key] = row | {"factor": factor, "moved": moved, "as_intended": bool(moved and same_way and within)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*RATES, "factor", "moved", "as_intended"])


def scale_factor(both: Sequence[Pair]) -> float:
    """Return the factor between median distances: geometric mean over layers and pairs, NaN without pairs."""
    logs = [
        _log_ratio(*(run.series("median_distance", layer=layer)[-1] for run in (treated, control)))
        for control, treated in both
        if control.history and treated.history  # a run that failed has none
        for layer in control.layers
    ]
    return math.exp(np.mean(logs)) if logs else math.nan


def _log_ratio(one: float, other: float) -> float:
    """Return the logarithm of a ratio of median distances; NaN where one is 0, as most neurons are dead."""
    return math.log(one / other) if one > 0 and other > 0 else math.nan


def off_target(run: Run, constrained: Run) -> float:
    """Return the mean distance of layers from the last target of a constraint; NaN if it has none."""
    if (constrained.config.constraint or {}).get("scale"):
        return math.nan
    target = target_of(constrained.config)

    def last(target: float | Mapping) -> float:
        if not isinstance(target, Mapping):
            return target
        return target.get("end", target.get("goal", target.get("target", math.nan)))

    rates = {layer: run.series("ss_rate", layer=layer)[-1] for layer in run.layers} if run.history else {"": math.nan}
    if isinstance(target, Mapping) and "schedule" not in target:
        return float(np.mean([abs(rate - last(target[layer])) for layer, rate in rates.items()]))
    return float(np.mean([abs(rate - last(target)) for rate in rates.values()]))


def relation(gains: Mapping[str, float], spreads: Mapping[str, float], *, comparisons: int = 1) -> Interval | None:
    """Correlate gain with invariance, which is a small spread, by rank (C5); None for fewer than ten architectures.

    The level of the interval is 95 % over all `comparisons` together, by Bonferroni's method.
    """
    both = [name for name in gains if math.isfinite(spreads.get(name, math.nan))]
    if len(both) < LEAST_FAMILIES:
        return None
    level = 1 - ALPHA / comparisons
    return rank_correlation([gains[name] for name in both], [-spreads[name] for name in both], level=level)


# Rates beside noise of the same shape.


def null_score(run: Run) -> dict[str, float]:
    """Return the distance of each layer's last rate from Gaussian noise, in the noise's standard deviations.

    The noise has as many neurons and samples, and the layer's median distance, since the rate depends on the scale.
    """
    scores = {}
    for layer, neurons in _widths(run.config.architecture, run.config.size, tuple(run.layers)).items():
        rate = run.series("ss_rate", layer=layer)[-1]
        scores[layer] = math.nan
        if math.isfinite(rate) and run.series("median_distance", layer=layer)[-1] > 0:
            # In steps of a quarter of a decade, over which the noise's rate changes by less than its own spread.
            decade = round(4 * math.log10(run.series("median_distance", layer=layer)[-1])) / 4
            scores[layer] = _noise_band(neurons, run.config.samples, decade).z_score(rate)
    return scores


def mean_score(run: Run) -> float:
    """Return the mean over layers of `null_score`."""
    return float(np.mean(list(null_score(run).values()))) if run.history else math.nan


def unconstrained_runs(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each architecture that had no constraint and did not fail."""
    by_architecture: dict[str, list[Run]] = {}
    for run in runs:
        if run.config.constraint is None and run.history:
            by_architecture.setdefault(run.config.architecture, []).append(run)
    return by_architecture


def architecture_scores(runs: Sequence[Run], value: Callable[[Run], float] = mean_score) -> dict[str, list[float]]:
    """Return a value of every run without constraint, by architecture."""
    found = {name: [value(run) for run in of_name] for name, of_name in unconstrained_runs(runs).items()}
    return {name: [score for score in scores if not math.isnan(score)] for name, scores in found.items()}


def same_distribution(scores: Mapping[str, Sequence[float]]) -> float:
    """Return the p-value of the Kruskal–Wallis test over architectures; NaN for fewer than three seeds in one."""
    if len(scores) < 2 or min(map(len, scores.values())) < LEAST_PAIRS:
        return math.nan
    return float(stats.kruskal(*scores.values()).pvalue)


def convolution_difference(scores: Mapping[str, Sequence[float]]) -> Interval | None:
    """Return the mean of the convolutional architectures minus that of the others, with Welch's 95 % interval.

    An architecture counts once, with its mean over seeds. None for fewer than two on one side.
    """
    sides: dict[bool, list[float]] = {True: [], False: []}
    for name, values in scores.items():
        if len(values) >= LEAST_PAIRS:
            sides[architecture(name).family == "convolution"].append(float(np.mean(values)))
    return welch(sides[True], sides[False], "difference of the means of such architectures")[0]


def welch(a: Sequence[float], b: Sequence[float], quantity: str) -> tuple[Interval | None, float]:
    """Return mean(a) − mean(b) with Welch's 95 % interval, and the p-value; None and NaN for fewer than two values."""
    if min(len(a), len(b)) < 2:
        return None, math.nan
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval()
    difference = float(np.mean(a) - np.mean(b))
    return Interval(difference, float(low), float(high), 0.95, len(a) + len(b), quantity), float(test.pvalue)


@lru_cache(maxsize=64)
def _widths(name: str, size: str, layers: tuple[str, ...]) -> dict[str, int]:
    with seeded(0):
        model = create(name, size=size, num_classes=2)  # widths do not depend on the classes
    images = [torch.zeros(2, 3, PIXELS[size], PIXELS[size])]
    return {
        layer: x.shape[1] for layer, x in activations(model, images, layers=layers, samples=2, device="cpu").items()
    }


@lru_cache(maxsize=512)
def _noise_band(neurons: int, samples: int, decade: float) -> NullBand:
    # Gaussian numbers of standard deviation s lie s * sqrt(2) apart.
    like = torch.randn(samples, neurons, generator=torch.Generator().manual_seed(0)) * 10**decade / math.sqrt(2)
    return null_band(ss_rate, like, null="gauss", draws=40)
