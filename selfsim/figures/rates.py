"""Figures of the SS rate itself: its curves, sets with a known answer, and rates by several counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..rate.curve import RateCurve
from .style import BOXES, FIT, NARROW, THEORY, UNCONSTRAINED, Style, labelled, panels, plain_ticks

# Titles of the sets of `selfsim.known_activations`.
SET_TITLES = {
    "line": "line",
    "square": "square",
    "cube": "cube",
    "lattice": "square lattice",
    "cantor": "Cantor dust",
    "sierpinski": "Sierpinski triangle",
    "menger": "Menger sponge",
    "ultrametric tree": "binary tree",
    "gauss 3d": "noise, 3 dimensions",
    "log-normal scales": "noise, log-normal sizes",
    "power-law spectrum": "noise, power-law spectrum",
    "gauss": "noise, 64 dimensions",
    "clusters": "clusters",
}
_SERIES_STYLES = tuple(zip((BOXES[0], BOXES[1], "#6f7881", *BOXES[2:]), "osD^vp*Xh", strict=True))


def plot_curves(curves: Mapping[str, RateCurve]) -> Figure:
    """Plot the paper's picture of each layer: ln N_B against ln(1 + l_B), the fitted line and the ideal power law.

    Parameters
    ----------
    curves : mapping of layers to RateCurve
        From `selfsim.rate_curve`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = panels(len(curves), columns=2, height=2.2, width=NARROW)
    for axes, (layer, curve) in zip(grid, curves.items(), strict=True):
        x = np.log1p(curve.l_B)
        axes.plot(x[[0, -1]], [np.log(curve.counts[0]), 0], **THEORY, label="power law of $1 + l_B$")
        axes.plot(x, curve.fitted, **FIT, label="fitted line")
        axes.plot(x, np.log(curve.counts), color=UNCONSTRAINED["color"], label="box counts")
        axes.set_title(layer, loc="left")
        fit = f"slope {curve.slope:.2f}\nintercept {curve.intercept:.2f}\nresidual {curve.residual:.2f}"
        ground = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        axes.text(0.97, 0.97, fit, transform=axes.transAxes, ha="right", va="top", fontsize=9, bbox=ground)
    return labelled(figure, grid, x="ln(1 + box size $l_B$)", y="ln $N_B$")


def plot_estimates(
    tables: Mapping[str, Mapping[str, pd.DataFrame]],
    *,
    marks: Mapping[str, float] | None = None,
    log_x: Collection[str] = (),
) -> Figure:
    """Plot estimates with their ranges: one panel a quantity, one row a name, one colour and lane a series.

    Parameters
    ----------
    tables : mapping of x-labels to mapping of series to DataFrame
        Rows are names; columns are ``low``, ``estimate`` and ``high``. A name that a series lacks, or whose estimate is
        missing, has no mark. Series that share no name share a lane.
    marks : mapping of x-labels to float, optional
        Where a panel has a dotted line.
    log_x : collection of str
        The x-labels of panels with a logarithmic axis.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = list(dict.fromkeys(name for panel in tables.values() for table in panel.values() for name in table.index))
    series = list(dict.fromkeys(one for panel in tables.values() for one in panel))
    apart = any(
        len(set().union(*(table.index for table in panel.values()))) < sum(map(len, panel.values()))
        for panel in tables.values()
    )
    lanes = len(series) if apart else 1
    height = len(names) * (0.14 + 0.14 * lanes) + 0.7
    figure, grid = panels(len(tables), columns=len(tables), height=height)
    for axes, (label, panel) in zip(grid, tables.items(), strict=True):
        if marks and label in marks:
            axes.axvline(marks[label], **THEORY)
        for one, table in panel.items():
            lane, (color, marker) = series.index(one), _SERIES_STYLES[series.index(one)]
            shift = 0.6 * ((lane + 0.5) / len(series) - 0.5) if apart else 0.0
            table = table.dropna(subset=["estimate"])
            reach = [table.estimate - table.low, table.high - table.estimate]
            y = [names.index(name) + shift for name in table.index]
            style: Style = {"color": color, "marker": marker, "linestyle": "none", "markersize": 6, "capsize": 2}
            axes.errorbar(table.estimate, y, xerr=reach, **style, label=one)
        if label in log_x:
            axes.set_xscale("log")
            plain_ticks(axes.xaxis)
        axes.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(labelleft=axes is grid[0])
    return labelled(figure, grid)
