"""Figures of statistics: one estimate a layer, lines over a threshold or the epochs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..uncertainty import Interval
from .style import BOXES, CONSTRAINED, DASHES, UNCONSTRAINED, Style, labelled, panels, plain_ticks

_UNTRAINED = {"color": "#0072b2", "marker": "D", "markerfacecolor": "white", "linestyle": "-."}
# Lines that look the same in every chapter; noise is grey, like every null.
STYLES: dict[str, Style] = {
    "unconstrained": UNCONSTRAINED,
    "constrained": CONSTRAINED,
    "trained": UNCONSTRAINED | {"label": "trained"},
    "untrained": _UNTRAINED | {"label": "untrained"},
    "noise": {"color": "#87909a", "marker": "^", "linestyle": ":", "label": "noise"},
}
_COLORS = (UNCONSTRAINED["color"], *BOXES[:5], "#882255", "#000000")


def plot_layers(
    networks: Mapping[str, Mapping[str, Mapping[str, Interval | None]]], *, y: str, log_y: bool = False
) -> Figure:
    """Plot an estimate of each layer: one panel a network, one line a state, with intervals; gaps where there is none.

    Parameters
    ----------
    networks : mapping of networks to mapping of states to mapping of layers to Interval or None
        The states are "trained", "untrained" and "noise". An interval of no length is drawn as a point.
    y : str
    log_y : bool

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = panels(len(networks), height=3.2)
    for axes, (network, states) in zip(grid, networks.items(), strict=True):
        longest_first = sorted(states.values(), key=len, reverse=True)
        names = list(dict.fromkeys(layer for layers in longest_first for layer in layers))
        for shift, (state, layers) in enumerate(states.items()):
            rows = [(names.index(k) + 1, v.estimate, v.low, v.high) for k, v in layers.items() if v is not None]
            x, estimate, low, high = np.array(rows, dtype=float).reshape(-1, 4).T
            # Beside each other, so that no interval covers another.
            axes.errorbar(
                x + 0.12 * (shift - 1), estimate, (estimate - low, high - estimate), **STYLES[state], capsize=2
            )
        axes.set_title(network, loc="left")
        axes.set(xticks=range(1, len(names) + 1))
        if log_y and any(v is not None for layers in states.values() for v in layers.values()):
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
    return labelled(figure, grid, x="layer", y=y)


def plot_lines(tables: Mapping[str, pd.DataFrame], *, x: str | None = None, y: str = "", log_y: bool = False) -> Figure:
    """Plot panels of lines, one per column over the table's index.

    Three panels in a row if their number allows it, else two. They share the y-axis if `y` names it.

    Parameters
    ----------
    tables : mapping of titles to DataFrame
        At most eight columns in all; a column has the same line in every panel, and missing values leave gaps.
        "trained", "untrained", "noise", "unconstrained" and "constrained" look as elsewhere in the book. An index of
        numbers above zero that spans a factor of more than 10 is drawn on a logarithmic axis.
    x : str, optional
        Label of all x-axes; by default each has the name of its index.
    y : str
    log_y : bool

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns, height = (2, 3.2) if len(tables) % 3 else (3, 2.8)
    figure, grid = panels(len(tables), columns=columns, height=height, sharey=bool(y))
    names = list(dict.fromkeys(column for table in tables.values() for column in table))
    for axes, (title, table) in zip(grid, tables.items(), strict=True):
        index = table.index.to_numpy()
        for k, column in enumerate(names):
            if column not in table:
                continue
            style = STYLES.get(column) or {"color": _COLORS[k], "linestyle": DASHES[k], "marker": "os^Dvp*X"[k]}
            axes.plot(table[column], **style | {"label": column}, markevery=max(1, len(index) // 10))
        _scale_x(axes, index)
        axes.set_yscale("log" if log_y else "linear")
        axes.set_title(title, loc="left")
        if x is None:
            axes.set_xlabel(table.index.name)
    return labelled(figure, grid, x=x or "", y=y, ncols=4)


def _scale_x(axes: Axes, index: NDArray) -> None:
    """Fit the x-axis to an index: names, a range of several orders, or integers."""
    if index.dtype.kind not in "if":
        axes.margins(x=0.2)  # room for the names
    elif index.min() > 0 and index.max() > 10 * index.min():
        axes.set_xscale("log")
        if len(index) <= 10 and index.min() >= 1:
            axes.set_xticks(index, index)
            axes.minorticks_off()
    elif index.dtype.kind == "i":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
