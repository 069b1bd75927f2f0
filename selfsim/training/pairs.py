"""Pairs of runs that share a seed, and the metrics by which pairs are compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..models.architectures import ARCHITECTURES
from .config import TrainConfig
from .data_record import fingerprints_of
from .runs import Run

# Each is one number a run: the accuracy on the test images, or a mean over layers after the last epoch.
# Runs of version 0.1 have no rate in units of the median.
RATES = ("ss_rate", "ss_rate_left_out", "ss_rate_quantiles")  # the last two do not hang on a single neuron or pair
MEDIAN_UNIT = "ss_rate_median_unit"
PAIRED_METRICS = ("accuracy", "ss_rate", MEDIAN_UNIT, *RATES[1:], "median_distance")

# What both runs of a pair have in common; their recipes may differ, as tuned learning rates do.
_SHARED = ("size", "dataset", "train_images", "validation_images", "test_images", "subset", "samples", "epochs")

Pair = tuple[Run, Run]  # control, treated


def mean_over_layers(run: Run, metric: str, split: str = "validation") -> NDArray[np.float64]:
    """Return the mean over layers of one metric, for every epoch that has it.

    Parameters
    ----------
    run : Run
    metric : str
        A metric of layers, such as ``"ss_rate"``.
    split : str

    Returns
    -------
    ndarray, shape (epochs,)

    Raises
    ------
    KeyError
        The history has no such metric.
    """
    return np.mean([run.series(metric, split=split, layer=layer) for layer in run.layers or [""]], axis=0)


def final_value(run: Run, metric: str) -> float:
    """Return the value of one of `PAIRED_METRICS` at the end of a run."""
    if metric == "accuracy":
        return run.series("accuracy", split="test")[-1]
    return float(mean_over_layers(run, metric)[-1])


def final_values(runs: Sequence[Run], metric: str) -> list[float]:
    """Return `final_value` of every run; raise ``ValueError`` where a layer has collapsed and has none."""
    values = [final_value(run, metric) for run in runs]
    for run, value in zip(runs, values, strict=True):
        if math.isnan(value):
            layers = [layer for layer in run.layers if math.isnan(run.series(metric, layer=layer)[-1])]
            raise ValueError(
                f"{metric}: got none for {', '.join(map(repr, layers))} with seed {run.config.seed}; such a layer has "
                "collapsed: all distances are equal"
            )
    return values


def pulled_metric(config: TrainConfig) -> str | None:
    """Return the metric of a run's history that its constraint pulls; None if it pulls one that the history lacks."""
    options = config.constraint or {}
    if options.get("scale"):
        return "median_distance"
    others = options.get("measure") == "scaling" or options.get("count", "surrogate") != "surrogate"
    if others or any(options.get(name) for name in ("quantiles", "leave_out", "standardize")):
        return None
    return MEDIAN_UNIT if options.get("unit") == "median" else "ss_rate"


def target_of(config: TrainConfig) -> float | Mapping:
    """Return the target of a run's constraint on the rate as it was given, or the default that stands for it."""
    options = config.constraint or {}
    return options.get("target", 0.3 if options.get("paper") else 0.1)


def shared_metrics(runs: Iterable[Run]) -> list[str]:
    """Return those of `PAIRED_METRICS` that the histories of all runs have."""
    known = [{row.metric for row in run.history} for run in runs]
    return [metric for metric in PAIRED_METRICS if all(metric in names for names in known)]


def check_paired(control: Sequence[Run], treated: Sequence[Run], *, name: str = "control, treated") -> None:
    """Raise ``ValueError`` unless both have one run of each seed, in the same order, and at least one."""
    seeds, others = ([run.config.seed for run in runs] for runs in (control, treated))
    if seeds != others or not seeds:
        raise ValueError(f"{name}: got seeds {seeds} and {others}, need the same, at least one")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{name}: got seeds {seeds}, need each once: copies of a run are one observation")


def constraint_text(config: TrainConfig) -> str:
    """Return the options of a run's constraint that are not at their defaults as text, or "unconstrained"."""
    if config.constraint is None:
        return "unconstrained"
    default = TrainConfig("mlp", constraint={}).constraint or {}
    usual = default if default.keys() <= config.constraint.keys() else {}  # else one of another kind
    own = {option: value for option, value in config.constraint.items() if usual.get(option, ...) != value}
    return json.dumps(own, sort_keys=True)


def paired_runs(
    runs: Sequence[Run], *, arm: Callable[[TrainConfig], str] = constraint_text, control: str = "unconstrained"
) -> dict[tuple[str, str], list[Pair]]:
    """Return the pairs of each architecture and arm: a control and a treated run with the same seed.

    Parameters
    ----------
    runs : sequence of Run
        In any order. A run without a partner is left out.
    arm : callable
        From a configuration to the name of what was done; by default the constraint, as text.
    control : str
        The arm against which the others are paired.

    Returns
    -------
    dict of (architecture, arm) to list of (Run, Run)
        Architectures in the order of the book, pairs by seed.

    Raises
    ------
    ValueError
        Two runs of one architecture and arm with the same seed; a pair of different size, data or epochs.
    """
    by_arm: dict[tuple[str, str], dict[int, Run]] = {}
    for run in runs:
        key = run.config.architecture, arm(run.config)
        if other := by_arm.setdefault(key, {}).get(run.config.seed):
            one, two = vars(other.config), vars(run.config)
            differ = ", ".join(name for name in one if one[name] != two[name]) or "nothing"
            raise ValueError(
                f"runs: got two of {key[0]}, {key[1]}, with the seed {run.config.seed}, which differ in {differ}; need "
                "each once: copies of a run are one observation, and runs that differ otherwise do not belong together"
            )
        by_arm[key][run.config.seed] = run
    order = [entry.name for entry in ARCHITECTURES]
    pairs = {}
    for (architecture, name), treated in sorted(by_arm.items(), key=lambda item: order.index(item[0][0])):
        controls = by_arm.get((architecture, control), {})
        both = [(controls[seed], treated[seed]) for seed in sorted(treated) if seed in controls]
        if name != control and both:
            pairs[architecture, name] = both
        for pair in both:
            of_control, of_treated = (vars(run.config) for run in pair)
            differing = [option for option in _SHARED if of_control[option] != of_treated[option]]
            images = [dict(fingerprints_of(run)) for run in pair]
            if all(images) and images[0] != images[1]:
                differing.append("images")
            if differing:
                raise ValueError(
                    f"runs: got a pair of {architecture} with the seed {pair[0].config.seed} that differs in "
                    f"{', '.join(differing)}; need pairs that share images, {', '.join(_SHARED)}"
                )
    return pairs


def accuracy_gains(runs: Sequence[Run]) -> dict[str, float]:
    """Return the mean change of the test accuracy under the constraint, for every architecture that has pairs.

    Raises
    ------
    ValueError
        Runs with several constraints of one architecture, or with one seed twice.
    """
    gains: dict[str, float] = {}
    for (architecture, constraint), pairs in paired_runs(runs).items():
        if architecture in gains:
            raise ValueError(f"runs: got several constraints of {architecture}, one of them {constraint}, need one")
        gains[architecture] = float(
            np.mean([final_value(treated, "accuracy") - final_value(control, "accuracy") for control, treated in pairs])
        )
    return gains
