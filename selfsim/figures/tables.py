"""Tables of the book: what one chapter shows, in numbers and in a few sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from ..models.architectures import architecture
from ..models.data import DATASETS
from ..statistics.null_models import NullBand
from ..training.config import TrainConfig
from ..training.pairs import check_paired, final_values, paired_runs, pulled_metric, shared_metrics, target_of
from ..training.runs import Run
from ..uncertainty import Interval, paired_difference

Bands = Sequence[Mapping[str, Sequence[NullBand]]]  # one mapping a run, from layers to one band a null model

METRIC_TITLES = {
    "accuracy": "test accuracy",
    "ss_rate": "SS rate",
    "ss_rate_median_unit": "SS rate in units of the median",
    "ss_rate_left_out": "SS rate without 3 most distant",
    "ss_rate_quantiles": "SS rate between quantiles",
    "median_distance": "median distance",
}
_NARROW = 0.005  # below this width a band is nearly a point, and a distance in its standard deviations means little


def pair_table(free: Sequence[Run], held: Sequence[Run]) -> pd.DataFrame:
    """Tabulate what the constraint changed: means over seeds, and the paired difference with its 95 % interval.

    Parameters
    ----------
    free, held : sequence of Run
        Runs with the same seeds, without and with the constraint.

    Returns
    -------
    pandas.DataFrame
        One row a metric that all runs have; rates and distances are means over layers after the last epoch, accuracy
        is on test.

    Raises
    ------
    ValueError
        Runs whose seeds do not pair, or a seed that is there twice.
    """
    check_paired(free, held, name="free, held")
    rows = {}
    for metric in shared_metrics([*free, *held]):
        a, b = final_values(free, metric), final_values(held, metric)
        rows[METRIC_TITLES[metric]] = {
            "unconstrained": f"{np.mean(a):.3f}",
            "constrained": f"{np.mean(b):.3f}",
            "difference [95 % interval]": _written(paired_difference(b, a)) if len(a) > 1 else "one seed: none",
        }
    return pd.DataFrame(rows).T.rename_axis("measure")


def reach_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Tabulate where the constraint takes each architecture, and what else it moves.

    Parameters
    ----------
    runs : sequence of Run
        Pairs with the same seeds, without and with the constraint, of any architectures.

    Returns
    -------
    pandas.DataFrame
        One row an architecture and constraint: the rates that all runs have, without and with the constraint (means
        over layers and seeds), how much of the way to its target the rate went that the constraint reads, the factor of
        the median distance (geometric mean over seeds), the paired difference of the test accuracy.

    Raises
    ------
    ValueError
        An architecture and constraint with one seed twice.
    """
    rows, found = [], paired_runs(runs)
    several = len(found) > len({name for name, _ in found})
    for (name, constraint), pairs in found.items():
        free, held = zip(*pairs, strict=True)
        row = {"architecture": architecture(name).title} | ({"constraint": constraint} if several else {})
        for metric in [metric for metric in shared_metrics(runs) if metric.startswith("ss_rate")]:
            row[METRIC_TITLES[metric]] = " → ".join(
                f"{np.mean(final_values(side, metric)):.3f}" for side in (free, held)
            )
        row["of the way to the target"] = _way(free, held)
        row["median distance, factor"] = _distance_factor(free, held)
        rows.append(row | {"test accuracy, change": _change(free, held, "accuracy")})
    return pd.DataFrame(rows).set_index("architecture")


def check_bands(runs: Sequence[Run], bands: Bands) -> None:
    """Raise ``ValueError`` where a layer has no band, because its rate is missing."""
    for run, of_run in zip(runs, bands, strict=True):
        if missing := [layer for layer, of_layer in of_run.items() if not of_layer]:
            raise ValueError(
                f"bands: got none for {', '.join(map(repr, missing))} with seed {run.config.seed}; such a layer has "
                "collapsed: all distances are equal, and it has no rate"
            )


def network_table(run: Run) -> pd.DataFrame:
    """Tabulate what was trained: parameters, layers read, images, accuracy of this run."""
    rows = {
        "network": architecture(run.config.architecture).title,
        "parameters": f"{sum(p.numel() for p in run.model.parameters()):,}",
        "layers that are read": f"{len(run.layers)}, from {run.layers[0]} to {run.layers[-1]}",
        "validation accuracy": f"{_validation_accuracy(run):.3f}",
        "test accuracy": f"{run.series('accuracy', split='test')[-1]:.3f}",
    }
    return pd.DataFrame({f"seed {run.config.seed}": rows})


def rate_table(free: Sequence[Run], held: Sequence[Run] = (), *, bands: Bands, metric: str = "ss_rate") -> pd.DataFrame:
    """Tabulate the SS rate of each layer before and after training, beside its null bands.

    Parameters
    ----------
    free, held : sequence of Run
        Runs with the same seeds, without and (if there are any) with the constraint.
    bands : sequence of mapping of layers to sequence of NullBand
        One mapping for each run of `free`: its own layers' bands, one a null model.
    metric : str
        The rate in the runs' histories; "ss_rate_median_unit" is the one that the constraint reads by default. The
        bands should be those of the same rate.

    Returns
    -------
    pandas.DataFrame
        One row a layer, all means over seeds: rates, the ends of each null band, and, without `held`, the z-score of
        each run's rate in its own band ("narrow" where such a band is nearly a point).
    """
    check_bands(free, bands)
    rows = {}
    for layer in free[0].layers:
        row = {"untrained": _mean_rate(free, layer, metric, 0), "trained": _mean_rate(free, layer, metric)}
        if held:
            row["constrained"] = _mean_rate(held, layer, metric)
        for of_null in zip(*(run[layer] for run in bands), strict=True):
            low, high = np.mean([(band.low, band.high) for band in of_null], axis=0)
            row[f"null: {of_null[0].null}"] = f"{low:.3f} to {high:.3f}"
            if not held:
                row[f"z ({of_null[0].null})"] = _mean_z(free, layer, of_null, metric)
        rows[layer] = row
    return pd.DataFrame(rows).T.rename_axis("layer")


def images_in_words(config: TrainConfig) -> str:
    """Name the images that a run was trained on."""
    return (f"{config.train_images:,} images of " if config.train_images else "") + DATASETS[config.dataset]


def summary(
    free: Sequence[Run],
    held: Sequence[Run],
    *,
    bands: Bands,
    target: float,
    metric: str = "ss_rate",
    metric_bands: Bands | None = None,
) -> str:
    """Answer a chapter's questions in Markdown, from its numbers: noise, the pull, the layer as a whole, the price.

    Parameters
    ----------
    free, held, bands
        As in `rate_table`, of the SS rate.
    target : float
        The constraint's.
    metric : str
        The rate that the constraint reads.
    metric_bands : sequence of mapping of layers to sequence of NullBand, optional
        The bands of that rate; by default `bands`.
    """
    check_paired(free, held, name="free, held")
    check_bands(free, bands)
    outside = np.array(
        [
            [not band.low <= _rate(run, layer, "ss_rate") <= band.high for band in of_run[layer]]
            for run, of_run in zip(free, bands, strict=True)
            for layer in run.layers
        ]
    )
    first = bands[0][free[0].layers[0]]
    pulled = bands if metric_bands is None else metric_bands
    lowest = [{layer: min(band.low for band in of_layer) for layer, of_layer in run.items()} for run in pulled]
    below = [_rate(run, layer, metric) < low[layer] for run, low in zip(held, lowest, strict=True) for layer in low]
    apart = " and ".join(
        f"{number} outside the {'Gaussian' if band.null == 'gauss' else band.null} band"
        for band, number in zip(first, outside.sum(0), strict=True)
    )
    by_chance = (1 - min(band.level for band in first)) * len(outside)
    before, after = (f"{np.mean(final_values(runs, metric)):.3f}" for runs in (free, held))
    change = f", a change of {_difference(free, held, metric):+.3f}" if len(free) > 1 else ""
    layers = _by_layer(free, held, metric)
    left_out, quantiles = (_change(free, held, metric) for metric in ("ss_rate_left_out", "ss_rate_quantiles"))
    return _with_minus_signs(
        (
            f"- **Does a trained layer differ from noise?** Trained on {images_in_words(free[0].config)} without "
            f"constraint, the SS rate (in absolute units) lies outside every null band in {outside.all(1).sum()} of "
            f"{len(outside)} cases (layers: {len(free[0].layers)}, seeds: {len(free)}). "
            f"By chance at most {by_chance:.2g} would. "
            f"Band by band: {apart}.",
            f"- **Can the constraint move it?** With the target {target:g}, the mean {METRIC_TITLES[metric]} goes "
            f"from {before} to {after}{change}. {layers}Under the constraint, the rate lies below every band in "
            f"{sum(below)} of {len(below)} cases.",
            f"- **Do the layers follow as a whole?** {_follows(free, held, metric)} In absolute units, the mean rate "
            f"without the three most distant neurons changes by {left_out}, the rate between quantiles by {quantiles}, "
            f"and the median distance by a factor of {_distance_factor(free, held)}.",
            f"- **At what price?** {_price(free, held)}",
        )
    )


def _with_minus_signs(lines: Iterable[str]) -> str:
    return re.sub(r"(?<=[ \[])-(?=\d)", "\u2212", "\n".join(lines))


def _validation_accuracy(run: Run) -> float:
    """Return the validation accuracy of the weights whose test accuracy the run has."""
    metric = "accuracy_ema" if run.config.select == "ema" else "accuracy"
    *_, epoch = [row.epoch for row in run.history if (row.split, row.metric) == ("test", "accuracy")]
    found = {row.epoch: row.value for row in run.history if (row.split, row.metric) == ("validation", metric)}
    return found[epoch]


def _way(free: Sequence[Run], held: Sequence[Run]) -> str:
    """Return the share of the way from the rate without constraint to the target, where there is one target."""
    metric, target = pulled_metric(held[0].config), target_of(held[0].config)
    if not isinstance(target, float | int) or metric not in shared_metrics([*free, *held]):
        return "–"
    before, after = (float(np.mean(final_values(side, metric))) for side in (free, held))
    return f"{100 * (before - after) / (before - target):.0f} %" if abs(before - target) > 0.01 else "–"


def _written(interval: Interval) -> str:
    if interval.high - interval.low < 1e-9:  # as the accuracies of few test images can be
        return f"{interval.estimate:+.3f} in each pair"
    return f"{interval:+.3f}"


def _change(free: Sequence[Run], held: Sequence[Run], metric: str) -> str:
    if len(free) > 1:
        return _written(_difference(free, held, metric))
    return f"{final_values(held, metric)[0] - final_values(free, metric)[0]:+.3f}"


def _distance_factor(free: Sequence[Run], held: Sequence[Run]) -> str:
    before, after = (np.array(final_values(runs, "median_distance")) for runs in (free, held))
    return f"{np.exp(np.log(after / before).mean()):.2f}"


def _by_layer(free: Sequence[Run], held: Sequence[Run], metric: str) -> str:
    """Name the layers in which the mean rate over seeds has changed most in either direction."""
    changes = {
        layer: np.mean([_rate(run, layer, metric) for run in held])
        - np.mean([_rate(run, layer, metric) for run in free])
        for layer in free[0].layers
    }
    low, high = min(changes, key=changes.__getitem__), max(changes, key=changes.__getitem__)
    if low == high:
        return ""
    return f"Layer by layer, the change lies between {changes[low]:+.3f} ({low}) and {changes[high]:+.3f} ({high}). "


def _follows(free: Sequence[Run], held: Sequence[Run], metric: str) -> str:
    """Say whether the two robust rates are shown to go where the constraint pulled the rate."""
    if len(free) < 2:
        return "One seed cannot show it."
    pull = np.sign(np.mean(final_values(held, metric)) - np.mean(final_values(free, metric)))
    robust = [_difference(free, held, name) for name in ("ss_rate_left_out", "ss_rate_quantiles")]
    shown = sum(min(pull * change.low, pull * change.high) > 0 for change in robust)
    return ("It is not shown.", "On average, in part.", "On average, yes.")[shown]


def _price(free: Sequence[Run], held: Sequence[Run]) -> str:
    if len(free) < 2:
        return "With a single seed nothing can be said about the accuracy."
    gain = _difference(free, held, "accuracy")
    if gain.high - gain.low < 1e-9:
        changes = f"changes by {100 * gain.estimate:+.1f} points" if gain.estimate else "is the same"
        return f"In each of {gain.n} pairs of seeds the test accuracy {changes}: without a spread there is no interval."
    no_change = "so no change is shown"
    verdict = no_change if gain.low <= 0 <= gain.high else "a gain" if gain.estimate > 0 else "a loss"
    points = f"{100 * gain.estimate:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    return f"Over {gain.n} paired seeds the test accuracy changes by {points}, {verdict}."


def _difference(free: Sequence[Run], held: Sequence[Run], metric: str) -> Interval:
    return paired_difference(final_values(held, metric), final_values(free, metric))


def _mean_z(runs: Sequence[Run], layer: str, bands: Sequence[NullBand], metric: str) -> str:
    if any(band.high - band.low < _NARROW for band in bands):
        return "narrow"
    return f"{np.mean([band.z_score(_rate(run, layer, metric)) for run, band in zip(runs, bands, strict=True)]):+.1f}"


def _rate(run: Run, layer: str, metric: str, epoch: int = -1) -> float:
    return run.series(metric, layer=layer)[epoch]


def _mean_rate(runs: Sequence[Run], layer: str, metric: str, epoch: int = -1) -> str:
    return f"{np.mean([_rate(run, layer, metric, epoch) for run in runs]):.3f}"
