"""Figures of the chapters on invariance and on small worlds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..uncertainty import Interval
from .plots import BOXES, FREE, GREY, HELD, _closed, _labelled, _panels, plain_ticks

# Trained is what other chapters call unconstrained; noise is grey, like every null.
STATES = {
    "trained": FREE | {"label": "trained"},
    "untrained": {
        "color": "#0072b2",
        "marker": "D",
        "markerfacecolor": "white",
        "linestyle": "-.",
        "label": "untrained",
    },
    "noise": {"color": "#87909a", "marker": "^", "linestyle": ":", "label": "noise"},
}


def plot_layers(
    panels: Mapping[str, Mapping[str, Mapping[str, Interval | None]]], *, y: str, log_y: bool = False
) -> Figure:
    """An estimate of each layer: one panel a network, one line a state, with intervals; gaps where there is none.

    Parameters
    ----------
    panels : mapping of networks to mapping of states to mapping of layers to Interval or None
        The states are "trained", "untrained" and "noise". An interval of no length is drawn as a point.
    y : str
    log_y : bool

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = _panels(len(panels), height=3.2)
    for axes, (network, states) in zip(grid, panels.items(), strict=True):
        for shift, (state, layers) in enumerate(states.items()):
            found = [
                (i, v.estimate, v.estimate - v.low, v.high - v.estimate)
                for i, v in enumerate(layers.values(), 1)
                if v is not None
            ]
            x, middle, below, above = np.array(found, dtype=float).reshape(-1, 4).T
            # Beside each other, so that no interval covers another.
            axes.errorbar(x + 0.12 * (shift - 1), middle, (below, above), **STATES[state], capsize=2)
        axes.set_title(network, loc="left")
        axes.set(xticks=range(1, len(next(iter(states.values()))) + 1))
        if log_y:
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
    return _labelled(figure, grid, x="layer", y=y)


def plot_sweep(panels: Mapping[str, pd.DataFrame], *, x: str, y: str = "", log_y: bool = False) -> Figure:
    """A statistic a panel over a threshold or rank, one line a state; gaps where the graph does not have it.

    Parameters
    ----------
    panels : mapping of titles to DataFrame (thresholds or ranks, states)
        Three in a row.
    x, y : str
    log_y : bool

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = _panels(len(panels), sharex=True, sharey=False)
    for axes, (statistic, table) in zip(grid, panels.items(), strict=True):
        for state in table:
            every = max(1, len(table) // 8)
            axes.plot(table.index, table[state], **STATES[state], markevery=every)
        axes.set_title(statistic, loc="left")
        axes.set_xscale("log")
        axes.set_yscale("log" if log_y else "linear")
        if table.index.max() < 10 * table.index.min():
            plain_ticks(axes.xaxis)
    return _labelled(figure, grid, x=x, y=y)


def plot_paths(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """A quantity a panel over the epochs, without and with the constraint.

    Parameters
    ----------
    panels : mapping of titles to DataFrame (epochs, "unconstrained" and "constrained")

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = _panels(len(panels), height=2.8, sharey=False)
    for axes, (title, table) in zip(grid, panels.items(), strict=True):
        for style in (FREE, HELD):
            axes.plot(table.index, table[style["label"]], **style)
        axes.set_title(title, loc="left")
        axes.set_xlabel(table.index.name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _labelled(figure, grid)


def plot_gains(table: pd.DataFrame, *, gain: str) -> Figure:
    """The gain of each architecture against each of its invariances, by name.

    Parameters
    ----------
    table : DataFrame (architectures, gain and invariances)
    gain : str
        The column that is drawn upwards; the others get a panel each.

    Returns
    -------
    matplotlib.figure.Figure
    """
    others = [column for column in table if column != gain]
    figure, grid = _panels(len(others), columns=2, height=3.6)
    for axes, column in zip(grid, others, strict=True):
        points = table.dropna(subset=[column]).sort_values(column)
        axes.axhline(0, color=GREY, linewidth=2, zorder=0)
        axes.plot(points[column], points[gain], linestyle="none", marker="o", markersize=6, color=BOXES[0])
        # The names stand in a row above, in the order of the points, so that none covers another.
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "relpos": (0, 0), "shrinkA": 0}
        name_at = {"textcoords": "axes fraction", "rotation": 50, "fontsize": 9, "arrowprops": line}
        for place, (name, row) in zip(np.linspace(0.02, 0.98, len(points)), points.iterrows(), strict=True):
            axes.annotate(name, (row[column], row[gain]), xytext=(place, 1.02), **name_at)
        axes.set_xlabel(column)
        axes.margins(x=0.1, y=0.1)
    grid[0].set_ylabel(gain)
    return _closed(figure)
