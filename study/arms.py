"""The statistics of the study: paired comparisons, and the verdicts that book/study.md fixed before the runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from scipy import optimize, stats

from selfsim.figures.plots import PAIRED, over_layers
from selfsim.models.architectures import ARCHITECTURES, architecture, create
from selfsim.models.probe import activations
from selfsim.models.seeding import seeded
from selfsim.models.small_builds import PIXELS
from selfsim.rate.rate import ss_rate
from selfsim.statistics.null_models import NullBand, null_band
from selfsim.training.config import TrainConfig
from selfsim.training.runs import Run
from selfsim.uncertainty import Interval, mean_interval, rank_correlation

ALPHA = 0.05
GAIN = 0.01  # the smallest change of the accuracy that matters, by the design
LEAST_PAIRS = 3  # with fewer, nothing was tested
FAMILIES = 10  # which a relation over families needs
FACTOR = 3.0  # by which the median distance may change
SAME_SCALE = (0.9, 1.1)  # and between which it counts as the same
FREE, DEFAULT, PUBLISHED = "unconstrained", "target 0.1, weight 10", "as published"
SUGGESTED, SCALE = "target 0.2, weight 10", "scale alone"  # of stages e and f

Pairs = dict[tuple[str, str], list[tuple[Run, Run]]]


def arm(config: TrainConfig) -> str:
    """What is done to a run, in words: unconstrained, or the constraint's target and weight."""
    if config.constraint is None:
        return FREE
    options = dict(config.constraint)
    if options.get("scale"):
        return SCALE
    target, weight = options.get("target", 0.3 if options.get("paper") else 0.1), options.get("weight", 10)
    if options.get("paper"):
        return PUBLISHED
    if isinstance(target, Mapping):
        return f"{target['schedule']} target" if "schedule" in target else "random targets"
    return f"target {target:g}, weight {weight:g}"


def pairs(runs: Sequence[Run], *, against: str = FREE) -> Pairs:
    """Of each architecture and arm, the pairs (run of `against`, run of this arm) with the same seed."""
    by: dict[tuple[str, str], dict[int, Run]] = {}
    for run in runs:
        by.setdefault((run.config.architecture, arm(run.config)), {})[run.config.seed] = run
    order = [entry.name for entry in ARCHITECTURES]
    found = {}
    for (name, what), treated in sorted(by.items(), key=lambda item: order.index(item[0][0])):
        control = by.get((name, against), {})
        both = [(control[seed], treated[seed]) for seed in sorted(treated) if seed in control]
        if what != against and both:
            found[name, what] = both
    return found


def measured(run: Run, name: str) -> float:
    """One of `plots.PAIRED`, "weight distance" or "change of the rate" of a run; NaN where it does not exist.

    A run that failed has the accuracy of a guess, so that it stays in; a layer that collapsed has no rate.
    """
    if not run.history:
        return 1 / run.built_as["num_classes"] if name == "test accuracy" else math.nan
    if name == "weight distance":
        return run.series("weight_distance", split="train")[-1]
    if name == "change of the rate":
        rates = over_layers(run, "ss_rate")
        return float(rates[-1] - rates[1])  # the rate before training is at 0
    return PAIRED[name](run)


def differences(pairs: Pairs, value: str | Callable[[Run], float]) -> dict[tuple[str, str], list[float]]:
    """Of each comparison, the second run's value minus the first's, pair by pair."""
    of = (lambda run: measured(run, value)) if isinstance(value, str) else value
    return {key: [of(treated) - of(control) for control, treated in both] for key, both in pairs.items()}


def compared(values: Mapping[Hashable, Sequence[float]]) -> pd.DataFrame:
    """Means with Student's 95 % interval, p-values against 0, and these corrected by Holm's method over all rows.

    Parameters
    ----------
    values : mapping to sequence of float
        Paired differences of each comparison; those that do not exist (NaN) are left out and not counted.

    Returns
    -------
    DataFrame
        One row a comparison: ``pairs``, ``interval`` (an `Interval`, None for fewer than three pairs), ``p``,
        ``corrected``.
    """
    rows = {}
    for key, found in values.items():
        found = np.array([value for value in found if math.isfinite(value)])
        interval, p = None, math.nan
        if len(found) >= LEAST_PAIRS:
            interval = mean_interval(found.tolist(), of="mean difference over such pairs")
            error = found.std(ddof=1) / math.sqrt(len(found))
            far = abs(interval.estimate) / error if error else math.inf if interval.estimate else 0.0
            p = float(2 * stats.t.sf(far, len(found) - 1))
        rows[key] = {"pairs": len(found), "interval": interval, "p": p}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["pairs", "interval", "p"])
    return table.assign(corrected=holm(table.p))


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected by Holm's method for as many comparisons as there are; NaN is no comparison."""
    p = np.asarray(p, float)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]  # NaN comes last
    corrected = np.full(len(p), math.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected


def minimal_effect(pairs: int, sd: float = 1.0, *, comparisons: int = 1, power: float = 0.8) -> float:
    """The true mean difference that a paired t-test finds with this power, at 5 % over all comparisons."""
    critical = stats.t.ppf(1 - ALPHA / comparisons / 2, pairs - 1)
    # Over the distribution of the estimated spread; scipy's noncentral t has no values far out.
    spreads = stats.chi.ppf((np.arange(2000) + 0.5) / 2000, pairs - 1) / math.sqrt(pairs - 1)

    def missing(shift: float) -> float:
        both = stats.norm.sf(critical * spreads - shift) + stats.norm.cdf(-critical * spreads - shift)
        return float(both.mean()) - power

    return sd * optimize.brentq(missing, 0, 3 * critical + 4) / math.sqrt(pairs)


def manipulation(pairs: Pairs) -> pd.DataFrame:
    """Does the constraint do what it says? One row an architecture and arm.

    Columns are intervals of the paired differences of the rate and its two robust kin, the ``factor`` of the median
    distance (geometric mean), ``moved`` and ``did``. *Moved*: the layers' distance from their targets fell, and the
    interval of its paired difference lies below 0. *Did*: it moved, the two kin went the same way (their intervals lie
    on that side of 0), and the factor is within 3. A layer without a rate is neither.
    """
    rows = {}
    kin = {"SS rate": "rate", "SS rate without\n3 most distant": "without 3", "SS rate between\nquantiles": "quantiles"}
    for key, both in pairs.items():
        row, ways = {}, []
        gone = compared({key: [_off_target(b, b.config) - _off_target(a, b.config) for a, b in both]})
        whole = all(math.isfinite(measured(run, "SS rate")) for pair in both for run in pair)
        moved = whole and gone.interval.iloc[0] is not None and gone.interval.iloc[0].high < 0
        for title, column in kin.items():
            row[column] = compared(differences({key: both}, title)).interval.iloc[0]
            ways.append(0 if row[column] is None else (row[column].low > 0) - (row[column].high < 0))
        logs = [math.log(measured(b, "median distance") / measured(a, "median distance")) for a, b in both]
        row["factor"] = math.exp(np.mean(logs))
        together = ways[0] != 0 and len(set(ways)) == 1
        within = 1 / FACTOR <= row["factor"] <= FACTOR
        rows[key] = row | {"moved": moved, "did": bool(moved and together and within)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*kin.values(), "factor", "moved", "did"])


def scale_factor(both: Sequence[tuple[Run, Run]]) -> float:
    """By what the median distances of the second runs differ: geometric mean over layers and pairs, 1 if equal.

    NaN where there are no such pairs.
    """
    logs = [
        math.log(
            treated.series("median_distance", layer=layer)[-1] / control.series("median_distance", layer=layer)[-1]
        )
        for control, treated in both
        if control.history and treated.history  # a run that failed has none
        for layer in control.layers
    ]
    return math.exp(np.mean(logs)) if logs else math.nan


def _off_target(run: Run, constrained: TrainConfig) -> float:
    """Mean over layers of the distance between a run's rate and the target that a constraint ends with.

    NaN for a constraint that has no target for the rate.
    """
    if constrained.constraint.get("scale"):
        return math.nan
    target = constrained.constraint.get("target", 0.3 if constrained.constraint.get("paper") else 0.1)

    def last(of) -> float:
        if not isinstance(of, Mapping):
            return of
        return of.get("end", of.get("goal", of.get("target", math.nan)))

    by_layer = isinstance(target, Mapping) and "schedule" not in target
    rates = {layer: run.series("ss_rate", layer=layer)[-1] for layer in run.layers} if run.history else {"": math.nan}
    return float(np.mean([abs(rate - last(target[layer] if by_layer else target)) for layer, rate in rates.items()]))


def relation(gains: Mapping[str, float], spreads: Mapping[str, float], *, comparisons: int = 1) -> Interval | None:
    """Of C5: rank correlation of gain and invariance, which is a small spread; None for fewer than ten architectures.

    The level of its interval is 95 % over all `comparisons` together, by Bonferroni's method.
    """
    both = [name for name in gains if math.isfinite(spreads.get(name, math.nan))]
    if len(both) < FAMILIES:
        return None
    level = 1 - ALPHA / comparisons
    return rank_correlation([gains[name] for name in both], [-spreads[name] for name in both], level=level)


# Where rates lie: beside noise of the same shape.


def null_score(run: Run) -> dict[str, float]:
    """Of every layer, its last rate's distance from Gaussian noise with as many neurons and samples, in its spread.

    The noise has the layer's median distance, since the rate depends on the scale.
    """
    scores = {}
    for layer, neurons in _widths(run.config.architecture, run.config.size, tuple(run.layers)).items():
        rate = run.series("ss_rate", layer=layer)[-1]
        scores[layer] = math.nan
        if math.isfinite(rate):
            # In steps of a quarter of a decade, over which the noise's rate changes by less than its own spread.
            decade = round(4 * math.log10(run.series("median_distance", layer=layer)[-1])) / 4
            scores[layer] = _band(neurons, run.config.samples, decade).z_score(rate)
    return scores


def mean_score(run: Run) -> float:
    """Mean over layers of `null_score`."""
    return float(np.mean(list(null_score(run).values()))) if run.history else math.nan


def between(runs: Sequence[Run], value: Callable[[Run], float] = mean_score) -> dict[str, list[float]]:
    """Differences of every two architectures without constraint, seed by seed; keys say which minus which."""
    table = _unconstrained(runs, value)
    by = table.groupby(["seed", "title"]).value.last().unstack()
    return {f"{b} − {a}": (by[b] - by[a]).dropna().tolist() for a, b in itertools.combinations(table.title.unique(), 2)}


def convolutions(runs: Sequence[Run], value: Callable[[Run], float] = mean_score) -> list[float]:
    """Mean of the convolutional architectures minus that of the others, without constraint, seed by seed.

    Seeds that not all of them have are left out: with other architectures, a group has another mean.
    """
    table = _unconstrained(runs, value)
    of_seed = table.groupby("seed").value.transform("size")
    table = table[of_seed == of_seed.max()]
    sides = table.groupby(["seed", table.family == "convolution"]).value.mean().unstack().reindex(columns=[True, False])
    return (sides[True] - sides[False]).dropna().tolist()


def _unconstrained(runs: Sequence[Run], value: Callable[[Run], float]) -> pd.DataFrame:
    """A value of every run without constraint, beside its seed and what architecture it has."""
    free = [(run, architecture(run.config.architecture)) for run in runs if run.config.constraint is None]
    rows = [(run.config.seed, entry.title, entry.family, value(run)) for run, entry in free]
    return pd.DataFrame(rows, columns=["seed", "title", "family", "value"])


@lru_cache(maxsize=64)
def _widths(name: str, size: str, layers: tuple[str, ...]) -> dict[str, int]:
    with seeded(0):
        model = create(name, size=size, num_classes=2)  # widths do not depend on the classes
    images = [torch.zeros(2, 3, PIXELS[size], PIXELS[size])]
    return {
        layer: x.shape[1] for layer, x in activations(model, images, layers=layers, samples=2, device="cpu").items()
    }


@lru_cache(maxsize=512)
def _band(neurons: int, samples: int, decade: float) -> NullBand:
    # Gaussian numbers of standard deviation s lie s * sqrt(2) apart.
    like = torch.randn(samples, neurons, generator=torch.Generator().manual_seed(0)) * 10**decade / math.sqrt(2)
    return null_band(ss_rate, like, null="gauss", draws=40)
