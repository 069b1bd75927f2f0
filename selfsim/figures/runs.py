"""Figures of training runs: their images, rates over the epochs, and what each setting ended with."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..models.images import Images
from ..statistics.null_models import NullBand
from ..training.pairs import final_value, mean_over_layers, shared_metrics
from ..training.runs import Run
from .style import (
    CONSTRAINED,
    GREY,
    NARROW,
    TARGET,
    UNCONSTRAINED,
    Style,
    band_style,
    closed,
    common_axis,
    labelled,
    panels,
)
from .tables import METRIC_TITLES, Bands, check_bands


def plot_images(images: Images) -> Figure:
    """Draw one training image of each class (the first twenty classes), as the network gets it."""
    classes = images.classes[:20]
    columns = min(5, len(classes))
    rows = math.ceil(len(classes) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(1.1 * columns, 1.3 * rows), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    some = "" if len(classes) == len(images.classes) else f", {len(classes)} of {len(images.classes)} classes"
    figure.suptitle(images.title + some, fontsize=10)
    for number, (axes, name) in enumerate(zip(grid.flat, classes, strict=False)):
        picture = images.train.images[(images.train.labels == number).nonzero()[0, 0]].permute(1, 2, 0)
        axes.imshow(picture.squeeze(-1), cmap="gray_r")
        axes.set_title(name if len(name) <= 14 else f"{name[:13]}…", fontsize=8)
    return closed(figure)


def plot_rates(
    free: Sequence[Run],
    held: Sequence[Run],
    *,
    bands: Bands,
    target: float | None = None,
    metric: str = "ss_rate",
) -> Figure:
    """Plot the SS rate of every layer over the epochs, with and without constraint, beside its null bands.

    Parameters
    ----------
    free, held : sequence of Run
        Runs with the same seeds, without and with the constraint. Each run is a thin line, their mean a thick one.
    bands : sequence of mapping of layers to sequence of NullBand
        For each run of `free`, what activations without structure give at the same numbers of neurons and samples: one
        band a null model, as `Analysis.bands_of` gives them.
        Drawn from the mean of their lower ends to that of their upper ones.
    target : float, optional
        The constraint's.
    metric : str
        The rate in the runs' histories; "ss_rate_median_unit" is the one that the constraint reads by default. The
        bands should be those of the same rate.

    Returns
    -------
    matplotlib.figure.Figure
    """
    check_bands(free, bands)
    figure, grid = panels(len(free[0].layers), columns=2, height=2.0, width=NARROW)
    for axes, layer in zip(grid, free[0].layers, strict=True):
        for of_null in zip(*(run[layer] for run in bands), strict=True):
            _draw_band(axes, of_null)
        for runs, style in ((free, UNCONSTRAINED), (held, CONSTRAINED)):
            draw_seeds(axes, [by_epoch(run, metric, layer) for run in runs], style)
        if target is not None:
            axes.axhline(target, **TARGET)
        axes.set_title(layer, loc="left")
    common_axis(grid[0], "rate")
    return labelled(figure, grid, x="epoch", y=textwrap.fill(METRIC_TITLES[metric], 17), ncols=3)


def plot_targets(
    free: Sequence[Run], settings: Mapping[str, Sequence[Run]], *, bands: Bands, metric: str = "ss_rate"
) -> Figure:
    """Plot the target and the rate of each setting over the epochs, beside the rate without constraint.

    Parameters
    ----------
    free : sequence of Run
        Without constraint.
    settings : mapping of titles to sequence of Run
    bands : sequence of mapping of layers to sequence of NullBand
        One mapping for each run of `free`; the first band of each layer is drawn.
    metric : str
        As in `plot_rates`.

    Returns
    -------
    matplotlib.figure.Figure
        Rates and targets are means over the layers, the ends of the band over layers and runs.
    """
    check_bands(free, bands)
    figure, grid = panels(len(settings))
    for axes, (title, constrained) in zip(grid, settings.items(), strict=True):
        _draw_band(axes, [band for run in bands for (band, *_) in run.values()])
        for runs, style in ((free, UNCONSTRAINED), (constrained, CONSTRAINED)):
            draw_seeds(axes, [by_epoch(run, metric) for run in runs], style)
        targets = np.mean([mean_over_layers(run, "target", split="train") for run in constrained], 0)
        # The target of an epoch holds from its beginning to its end.
        axes.stairs(targets, np.arange(len(targets) + 1), baseline=None, **TARGET)
        axes.set_title(title, loc="left")
    grid[0].set_ylim(0, None)
    return labelled(figure, grid, x="epoch", y=textwrap.fill(METRIC_TITLES[metric], 17))


def plot_pairs(free: Sequence[Run], held: Sequence[Run]) -> Figure:
    """Plot what the constraint changed, seed by seed: accuracy, rates, median distance.

    Parameters
    ----------
    free, held : sequence of Run
        Runs with the same seeds, without and with the constraint. Each line is one pair; rates and distances are
        means over layers after the last epoch, accuracy is on the test images.

    Returns
    -------
    matplotlib.figure.Figure
    """
    return plot_settings({"unconstrained": free, "constrained": held})


def plot_settings(settings: Mapping[str, Sequence[Run]]) -> Figure:
    """Plot what each setting ended with: runs as dots, means as bars, one panel a metric that all have.

    Parameters
    ----------
    settings : mapping of titles to sequence of Run
        The first is the one without constraint; runs of the same seed are joined.

    Returns
    -------
    matplotlib.figure.Figure
    """
    metrics = shared_metrics(run for runs in settings.values() for run in runs)
    rows = [
        {"setting": title, "seed": run.config.seed, "metric": metric, "value": final_value(run, metric)}
        for title, runs in settings.items()
        for run in runs
        for metric in metrics
    ]
    table = pd.DataFrame(rows)
    palette = dict.fromkeys(settings, CONSTRAINED["color"]) | {next(iter(settings)): UNCONSTRAINED["color"]}
    figure, grid = panels(len(metrics), columns=2, height=0.4 * len(settings) + 0.8, width=NARROW)
    for axes, metric in zip(grid, metrics, strict=True):
        common: dict[str, Any] = {"data": table[table.metric == metric], "x": "value", "y": "setting", "ax": axes}
        sns.lineplot(**common, units="seed", estimator=None, sort=False, orient="y", color=GREY, zorder=1)
        sns.stripplot(**common, hue="setting", palette=palette, jitter=False, size=6, legend=False)
        sns.pointplot(**common, errorbar=None, linestyle="none", marker="|", markersize=18, color="black", zorder=3)
        axes.set_title(textwrap.fill(METRIC_TITLES[metric], 18), loc="left", fontsize=10)
        axes.set(xlabel="", ylabel="")
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        if metric.startswith("ss_rate"):
            common_axis(axes, "rate", way="x")
    return closed(figure)


def draw_seeds(axes: Axes, series: Sequence[pd.Series], style: Style) -> None:
    """Draw a series of each run, by epoch, as a thin line and their mean as a thick one."""
    table = pd.DataFrame(series).sort_index(axis=1)
    for _, run in table.iterrows():
        axes.plot(run.dropna(), color=style["color"], linestyle=style["linestyle"], linewidth=0.7, alpha=0.5)
    mean = table.mean(skipna=False).dropna()  # of all runs: a mean of some would jump
    axes.plot(mean, **style, markevery=max(1, len(mean) // 8))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def by_epoch(run: Run, metric: str, layer: str | None = None) -> pd.Series:
    """Return a metric of one layer, or its mean over the layers, by the epoch after which it was measured."""
    values = mean_over_layers(run, metric) if layer is None else run.series(metric, layer=layer)
    epochs = {row.epoch for row in run.history if (row.metric, row.split) == (metric, "validation")}
    return pd.Series(values, sorted(epochs))


def _draw_band(axes: Axes, bands: Sequence[NullBand]) -> None:
    """Shade from the mean of the lower ends of some bands to that of the upper ones."""
    low, high = (np.mean([getattr(band, end) for band in bands]) for end in ("low", "high"))
    axes.axhspan(low, high, **band_style(bands[0].null), linewidth=0)
