"""Figures of the chapters on invariance and on small worlds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ..uncertainty import Interval
from .plots import FREE, HELD, _closed

STATES = {
    "trained": {"color": "#0072b2", "marker": "o", "linestyle": "-"},
    "untrained": {"color": "#d55e00", "marker": "s", "linestyle": "--"},
    "noise": {"color": "#4d5761", "marker": "^", "linestyle": ":"},
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
    figure, grid = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.7), sharey=True, squeeze=False)
    for axes, (network, states) in zip(grid.flat, panels.items(), strict=True):
        for shift, (state, layers) in enumerate(states.items()):
            found = [
                (i, v.estimate, v.estimate - v.low, v.high - v.estimate)
                for i, v in enumerate(layers.values(), 1)
                if v is not None
            ]
            x, middle, below, above = np.array(found, dtype=float).reshape(-1, 4).T
            # Beside each other, so that no interval covers another.
            axes.errorbar(x + 0.12 * (shift - 1), middle, (below, above), **STATES[state], capsize=2, label=state)
        axes.set_title(network, loc="left")
        axes.set(xlabel="layer", xticks=range(1, len(next(iter(states.values()))) + 1))
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    grid[0, 0].set_ylabel(y)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return _closed(figure)


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
    columns = 3
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(10, 2.6 * rows + 0.6), sharex=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (statistic, table) in zip(grid.flat, panels.items(), strict=False):
        for state in table:
            every = max(1, len(table) // 8)
            axes.plot(table.index, table[state], **STATES[state], label=state, markevery=every)
        axes.set_title(statistic, loc="left")
        axes.set_xscale("log")
        axes.set_yscale("log" if log_y else "linear")
    for axes in grid[-1]:
        axes.set_xlabel(x)
    for axes in grid[:, 0]:
        axes.set_ylabel(y)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return _closed(figure)


def plot_paths(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """A quantity a panel over the epochs, without and with the constraint.

    Parameters
    ----------
    panels : mapping of titles to DataFrame (epochs, "unconstrained" and "constrained")

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = plt.subplots(1, len(panels), figsize=(3.5 * len(panels), 3.3), squeeze=False)
    for axes, (title, table) in zip(grid.flat, panels.items(), strict=True):
        for style in (FREE, HELD):
            axes.plot(table.index, table[style["label"]], **style)
        axes.set_title(title, loc="left")
        axes.set_xlabel(table.index.name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return _closed(figure)


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
    figure, grid = plt.subplots(1, len(others), figsize=(4.8 * len(others), 3.8), sharey=True, squeeze=False)
    for axes, column in zip(grid.flat, others, strict=True):
        axes.axhline(0, color="#4d5761", linewidth=1)
        axes.plot(table[column], table[gain], linestyle="none", marker="o", markersize=6, color="#0072b2")
        # Neighbours in height have their names on different sides.
        for k, (name, row) in enumerate(table.dropna(subset=[column]).sort_values(gain).iterrows()):
            place = {"xytext": (5, 5), "ha": "left"} if k % 2 else {"xytext": (-5, -11), "ha": "right"}
            axes.annotate(name, (row[column], row[gain]), textcoords="offset points", fontsize=8, **place)
        axes.set_xlabel(column)
        axes.margins(x=0.2, y=0.1)
    grid[0, 0].set_ylabel(gain)
    return _closed(figure)
