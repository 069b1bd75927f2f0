"""Tables of the book: what one chapter shows, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..models.architectures import architecture
from ..models.data import DATASETS
from ..statistics.null_models import NullBand
from ..training.config import TrainConfig
from ..training.runs import Run
from ..uncertainty import mean_interval, paired_difference
from .plots import PAIRED

Bands = Sequence[Mapping[str, Sequence[NullBand]]]  # of each run, of each layer: one a null model
_NARROW = 0.005  # a band of less is nearly a point, and a distance in its standard deviations says little


def pair_table(free: Sequence[Run], held: Sequence[Run]) -> pd.DataFrame:
    """What the constraint changed: means over seeds and the paired difference with its 95 % interval.

    Parameters
    ----------
    free, held : sequence of Run
        Runs with the same seeds, without and with the constraint.

    Returns
    -------
    pandas.DataFrame
        One row a measure; rates and distances are means over layers after the last epoch, accuracy is on test.

    Raises
    ------
    ValueError
        Runs whose seeds do not pair.
    """
    seeds = [[run.config.seed for run in runs] for runs in (free, held)]
    if seeds[0] != seeds[1] or not seeds[0]:
        raise ValueError(f"free, held: got seeds {seeds[0]} and {seeds[1]}, need the same, at least one")
    rows = []
    for title, value in PAIRED.items():
        a, b = [value(run) for run in free], [value(run) for run in held]
        rows.append(
            {
                "measure": title.replace("\n", " "),
                "unconstrained": f"{mean_interval(a).estimate:.3f}",
                "constrained": f"{mean_interval(b).estimate:.3f}",
                "difference [95 % interval]": f"{paired_difference(b, a):+.3f}" if len(a) > 1 else "one seed: none",
            }
        )
    return pd.DataFrame(rows).set_index("measure")


def network_table(run: Run) -> pd.DataFrame:
    """What was trained: parameters, layers read, images, accuracy of this run."""
    rows = {
        "network": architecture(run.config.architecture).title,
        "parameters": f"{sum(p.numel() for p in run.model.parameters()):,}",
        "layers that are read": f"{len(run.layers)}, from {run.layers[0]} to {run.layers[-1]}",
        "validation accuracy": f"{run.series('accuracy')[-1]:.3f}",
        "test accuracy": f"{run.series('accuracy', split='test')[-1]:.3f}",
    }
    return pd.DataFrame({"value": rows}).rename_axis(f"seed {run.config.seed}")


def rate_table(free: Sequence[Run], held: Sequence[Run] = (), *, bands: Bands) -> pd.DataFrame:
    """SS rate of each layer before and after training, beside its null bands.

    Parameters
    ----------
    free, held : sequence of Run
        Runs with the same seeds, without and (if there are any) with the constraint.
    bands : sequence of mapping of layers to NullBand
        One mapping for each run of `free`: its own layers' bands.

    Returns
    -------
    pandas.DataFrame
        One row a layer, all means over seeds: rates, the ends of each null band, and, without `held`, the z-score of
        each run's rate in its own band ("narrow" where such a band is nearly a point).
    """
    rows = []
    for layer in free[0].layers:
        row = {"layer": layer, "untrained": _mean_rate(free, layer, 0), "trained": _mean_rate(free, layer, -1)}
        if held:
            row["constrained"] = _mean_rate(held, layer, -1)
        for own in zip(*(run[layer] for run in bands), strict=True):
            ends = (np.mean([getattr(band, end) for band in own]) for end in ("low", "high"))
            row[f"null: {own[0].null}"] = " to ".join(f"{end:.3f}" for end in ends)
            if not held:
                row[f"z ({own[0].null})"] = _mean_z(free, layer, own)
        rows.append(row)
    return pd.DataFrame(rows).set_index("layer")


def _mean_z(runs: Sequence[Run], layer: str, bands: Sequence[NullBand]) -> str:
    if any(band.high - band.low < _NARROW for band in bands):
        return "narrow"
    scores = [band.z_score(_rate(run, layer)) for run, band in zip(runs, bands, strict=True)]
    return f"{np.mean(scores):+.1f}"


def images_of(config: TrainConfig) -> str:
    """Which images a run was trained on, in words."""
    return (f"{config.train_images:,} images of " if config.train_images else "") + DATASETS[config.dataset]


def summary(free: Sequence[Run], held: Sequence[Run], *, bands: Bands, target: float) -> str:
    """Three sentences, in Markdown, made from the numbers of one chapter."""
    layers = free[0].layers
    inside = sum(
        any(band.low <= _rate(run, layer) <= band.high for band in own[layer])
        for run, own in zip(free, bands, strict=True)
        for layer in layers
    )
    rate, rest, accuracy = (
        [[PAIRED[name](run) for run in runs] for runs in (free, held)]
        for name in ("SS rate", "SS rate without\n3 most distant", "test accuracy")
    )
    shown = images_of(free[0].config)
    first = (
        f"After training on {shown} without constraint, the SS rate lies inside a null band in {inside} of "
        f"{len(layers) * len(free)} cases (layers: {len(layers)}, seeds: {len(free)}): there it cannot be told from "
        "noise by this number."
    )
    before, after, before_rest, after_rest = (f"{np.mean(values):.3f}" for values in [*rate, *rest])
    moved = f"by {paired_difference(rate[1], rate[0]):+.3f}, " if len(free) > 1 else ""
    second = (
        f"The constraint (target {target:g}) took the mean rate from {before} to {after}, {moved}and the rate without "
        f"the three most distant neurons from {before_rest} to {after_rest}."
    )
    if len(free) < 2:
        return f"{first} {second} With a single seed nothing can be said about the accuracy."
    gain = paired_difference(accuracy[1], accuracy[0])
    verdict = (
        "which cannot be told from no change"
        if gain.low <= 0 <= gain.high
        else ("a gain" if gain.estimate > 0 else "a loss")
    )
    points = f"{100 * gain.estimate:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    third = f"Over {gain.n} paired seeds the test accuracy changed by {points}, {verdict}."
    return f"{first} {second} {third}"


def _rate(run: Run, layer: str, epoch: int = -1) -> float:
    return run.series("ss_rate", layer=layer)[epoch]


def _mean_rate(runs: Sequence[Run], layer: str, epoch: int) -> str:
    return f"{np.mean([_rate(run, layer, epoch) for run in runs]):.3f}"
