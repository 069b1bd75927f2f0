"""Figures that compare the families of architectures: one colour a family, one line an architecture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selfsim.figures.plots import FREE, GREY, HELD, WIDTH, _closed, _labelled, _panels, _plot_seeds
from selfsim.models.architectures import architecture
from selfsim.training.runs import Run

from .comparison_tables import TRAINING, excess

# Dark enough for names to be written in them.
FAMILIES = {"MLP": "#0072b2", "attention": "#aa4499", "convolution": "#117733", "pooling": "#b06a00"}
_DASHES = ("-", "--", ":", "-.")


def plot_families(table: pd.DataFrame, measure: str = "surrogate") -> Figure:
    """The comparison at a glance: each architecture's rate before and after training, beside noise of its shape.

    Parameters
    ----------
    table : DataFrame
        What `measured_layers` gives.
    measure : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    means = excess(table, measure)
    names = list(dict.fromkeys(means.architecture))
    # Of a mean over layers, whose nulls are drawn independently.
    layers = table[table.measure == measure].drop_duplicates(["architecture", "training", "layer"])
    spread = layers.groupby(["architecture", "training"]).null_spread.agg(lambda s: np.sqrt((s**2).sum()) / len(s))
    styles = {
        "untrained": {"color": "white", "marker": "D", "markeredgecolor": FREE["color"], "label": "untrained"},
        "unconstrained": FREE | {"label": "trained, unconstrained"},
        "constrained": HELD | {"label": "trained, constrained"},
    }
    figure, axes = plt.subplots(figsize=(7.5, 0.52 * len(names) + 1.5))
    for row, name in enumerate(names):
        for lane, training in enumerate(TRAINING):
            values = means[(means.architecture == name) & (means.training == training)]
            if not len(values):
                continue
            y = row + 0.24 * (lane - 1)
            middle, half = values.null.mean(), 2 * spread[name, training]
            noise = axes.barh(y, 2 * half, left=middle - half, height=0.2, color=GREY)
            dots = styles[training]["markeredgecolor" if lane == 0 else "color"]
            axes.plot(values.value, [y] * len(values), ".", color=dots, markersize=3)
            mark = styles[training] | {"linestyle": "none", "markersize": 7, "label": None}
            axes.plot(values.value.mean(), y, **mark)
    handles = [axes.plot([], [], **style | {"linestyle": "none", "markersize": 7})[0] for style in styles.values()]
    noise.set_label("noise of the same shape (Gauss, mean ± 2 sd)")
    axes.set(xlabel="SS rate, mean over layers (lower: closer to a power law)", xlim=(0, None))
    axes.set_ylim(len(names) - 0.5, -0.5)
    _name_rows(axes, means)
    axes.grid(axis="y", visible=False)
    figure.legend(handles=[*handles, noise], loc="outside lower center", ncols=2)
    return _closed(figure)


def plot_epochs(runs: Sequence[Run], metric: str = "ss_rate", *, y: str = "SS rate, mean over layers") -> Figure:
    """A metric of the layers over the epochs, one panel an architecture: without and with the constraint.

    Parameters
    ----------
    runs : sequence of Run
    metric : str
        A metric of layers in the runs' histories; its mean over layers is drawn, a thin line a seed.
    y : str
        What it is called on the axis.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = list(dict.fromkeys(run.config.architecture for run in runs))
    figure, panels = _panels(len(names), columns=5, height=2.1)
    for axes, name in zip(panels, names, strict=True):
        for style, constrained in ((FREE, False), (HELD, True)):
            chosen = [
                r for r in runs if (r.config.architecture, r.config.constraint is not None) == (name, constrained)
            ]
            lines = [layer_mean(run, metric) for run in chosen]
            if lines:
                _plot_seeds(axes, lines, style | {"marker": ""}, first=int(lines[0].index[0]))
        found = architecture(name)
        axes.set_title(found.title, loc="left", color=FAMILIES[found.family], fontweight="bold", fontsize=10)
    panels[0].set_ylim(0, None)
    figure.supylabel(y, fontsize=11)
    return _labelled(figure, panels, x="epoch")


def layer_mean(run: Run, metric: str) -> pd.Series:
    """A metric's mean over the layers of a run, by epoch."""
    rows = [(row.epoch, row.value) for row in run.history if row.metric == metric and row.layer]
    if not rows:
        raise KeyError(f"no metric {metric!r} of layers in the history of {run.config.architecture}")
    return pd.DataFrame(rows, columns=["epoch", "value"]).groupby("epoch").value.mean()


def plot_depth(table: pd.DataFrame, measure: str = "surrogate") -> Figure:
    """The rate from the first layer read to the last, beyond its null: one line an architecture, one panel a state.

    Parameters
    ----------
    table : DataFrame
        What `measured_layers` gives.
    measure : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    chosen = table[table.measure == measure].assign(excess=lambda t: t.value - t.null)
    figure, panels = _panels(len(TRAINING), height=3.6)
    handles = {}
    for axes, training in zip(panels, TRAINING, strict=True):
        axes.axhline(0, color=GREY, linewidth=3, zorder=0)
        part = chosen[chosen.training == training]
        for (family, name), group in part.groupby(["family", "architecture"], sort=False):
            line = group.groupby("depth").excess.mean()
            within = list(dict.fromkeys(chosen[chosen.family == family].architecture)).index(name)
            style = {"color": FAMILIES[family], "linestyle": _DASHES[within % 4], "marker": "os^D"[within % 4]}
            (handles[name],) = axes.plot(line.index, line, **style)
        axes.set_title(training, loc="left")
    return _labelled(figure, panels, x="depth: first layer to last", y="SS rate minus that of noise", entries=handles)


def plot_measures(table: pd.DataFrame) -> Figure:
    """Every measure of every architecture after training, as its distance from noise in the noise's own spread.

    Parameters
    ----------
    table : DataFrame
        What `measured_layers` gives.

    Returns
    -------
    matplotlib.figure.Figure
    """
    chosen = table[table.training == "unconstrained"].assign(z=lambda t: (t.value - t.null) / t.null_spread)
    grid = chosen.groupby(["architecture", "measure"], sort=False).z.mean().unstack()
    names = list(dict.fromkeys(chosen.architecture))
    grid = grid.loc[names, list(dict.fromkeys(table.measure))]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.45 * len(names) + 1.8))
    # Beyond ten spreads the colour says no more; the number does.
    axes.imshow(grid, cmap="PuOr_r", vmin=-10, vmax=10, aspect="auto")
    for (row, column), value in np.ndenumerate(grid.to_numpy()):
        text = "none" if np.isnan(value) else f"{value:+.1f}"
        color = "white" if abs(value) > 7 else "black"
        axes.annotate(text, (column, row), ha="center", va="center", fontsize=10, color=color)
    axes.set_xticks(range(grid.shape[1]), [textwrap.fill(name, 12) for name in grid], fontsize=10)
    _name_rows(axes, chosen)
    axes.grid(False)
    axes.set_title("(rate − null) / spread of the null, mean over layers; below 0: closer to a power law", loc="left")
    return _closed(figure)


def _name_rows(axes: Axes, table: pd.DataFrame) -> None:
    """The architectures of a table down the side, each in the colour of its family."""
    family = table.groupby("architecture", sort=False).family.first()
    axes.set_yticks(range(len(family)), family.index)
    for label, name in zip(axes.get_yticklabels(), family, strict=True):
        label.set(color=FAMILIES[name], fontweight="bold")
