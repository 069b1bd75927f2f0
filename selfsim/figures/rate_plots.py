"""Figures of the chapter on what the SS rate measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage
from torch import Tensor

from ..rate.curve import RateCurve, rate_curve
from ..rate.distances import pair_distances
from ..statistics.null_models import NullBand
from ..statistics.synthetic import KNOWN_DIMENSIONS
from .plots import BANDS, BOXES, FREE, THEORY, WIDTH, _closed, _labelled, _panels

# What a set of `selfsim.known_activations` is called in figures, tables and sentences.
SET_TITLES = {
    "line": "line",
    "square": "square",
    "cantor": "Cantor dust",
    "sierpinski": "Sierpinski triangle",
    "ultrametric tree": "binary tree (ultrametric)",
    "clusters": "clusters",
    "gauss": "Gaussian noise",
}
# How a count is drawn, by what it is called in figures and tables.
COUNTS = {
    "surrogate": {"color": BOXES[0], "marker": "o"},
    "complete linkage": {"color": BOXES[1], "marker": "s"},
    "greedy colouring": {"color": BOXES[2], "marker": "^"},
}
# Lines differ in colour, dashes and marker.
_COLORS = (FREE["color"], *BOXES[:5], "#882255", "#000000")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))


def plot_known_sets(sets: Mapping[str, Tensor], *, rates: Mapping[str, float], bands: Mapping[str, NullBand]) -> Figure:
    """Each set as points, above its box-counting curve and the ideal power law; the area between them is shaded.

    Parameters
    ----------
    sets : mapping of titles to Tensor (samples, neurons)
        Drawn from the lowest rate to the highest. Those with a title of `SET_TITLES` get their dimension beside it.
    rates : mapping of titles to float
    bands : mapping of titles to NullBand

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows, columns = -(-(len(sets) + 1) // 4), 4
    figure, grid = plt.subplots(
        2 * rows, columns, figsize=(WIDTH, 4 * rows), gridspec_kw={"height_ratios": [0.85, 1] * rows}
    )
    pairs = np.stack([grid[::2].flat, grid[1::2].flat], 1)  # a drawing and the curve below it
    panels, empty = pairs[: len(sets)], pairs[len(sets) :]
    for axes in empty.flat:
        axes.set_visible(False)
    for (above, below), title in zip(panels, sorted(sets, key=rates.__getitem__), strict=True):
        _draw_set(above, title, sets[title])
        _draw_area(below, rate_curve(sets[title]))
        band = bands[title]
        place = "below" if rates[title] < band.low else "above" if rates[title] > band.high else "inside"
        verdict = f"SS rate {rates[title]:.2f}: {place} noise\n({band.low:.2f} to {band.high:.2f})"
        below.set_title(verdict, loc="left", fontsize=10)
        below.set(xticks=[0, 1], yticks=[0, 1])
    figure.supxlabel("box size: logarithmic, from the shortest distance to the longest", fontsize=11)
    figure.supylabel("number of boxes: ln $N_B$ / ln n", fontsize=11)
    figure.legend(*panels[0][1].get_legend_handles_labels(), loc="lower right", bbox_to_anchor=(0.99, 0.16))
    return _closed(figure)


def _draw_set(axes: Axes, title: str, activations: Tensor) -> None:
    """The points where they have one or two coordinates, a tree for an ultrametric set, else a projection."""
    x = activations.numpy()
    if title == SET_TITLES["ultrametric tree"]:
        tree = linkage(pair_distances(activations).numpy(), "complete")
        dendrogram(tree, ax=axes, no_labels=True, color_threshold=0, above_threshold_color=BOXES[0])
    elif len(x) == 1:
        axes.vlines(x[0], 0.3, 0.7, color=BOXES[0], linewidth=1.3)
        axes.set_ylim(0, 1)
    else:
        centred = x - x.mean(1, keepdims=True)
        place = centred if len(x) == 2 else (np.linalg.svd(centred, full_matrices=False)[2] * 10)[:2]
        axes.scatter(*place, s=3, color=BOXES[0])
        axes.set_aspect("equal", adjustable="datalim")
    dimension = {SET_TITLES[name]: known for name, known in KNOWN_DIMENSIONS.items()}.get(title)
    label = title if dimension is None else f"{title}\ndimension {dimension:.3g}"
    axes.set_title(label, loc="left", fontweight="bold", fontsize=9)
    axes.set_axis_off()


def _draw_area(axes: Axes, curve: RateCurve) -> None:
    u = np.log1p(curve.l_B)
    u = (u - u[0]) / (u[-1] - u[0])
    y = np.log(curve.counts) / np.log(curve.counts[0])
    axes.fill_between(u, y, 1 - u, color="#e69f00", alpha=0.45, linewidth=0, label="half the SS rate")
    axes.plot(u, y, color=FREE["color"], label="box counts")
    axes.plot([0, 1], [1, 0], **THEORY, label="perfect power law")


def plot_against_bands(rates: Mapping[str, pd.DataFrame], bands: Mapping[str, Mapping]) -> Figure:
    """Rates of each set by each count, each beside its own null band.

    Parameters
    ----------
    rates : mapping of panel titles to DataFrame (sets, counts)
    bands : mapping of panel titles to mapping of (set, count) to NullBand

    Returns
    -------
    matplotlib.figure.Figure
    """
    sets = next(iter(rates.values())).index
    figure, panels = _panels(len(rates), columns=2, height=0.62 * len(sets) + 0.9, sharex=True)
    for axes, (title, table) in zip(panels, rates.items(), strict=True):
        for lane, count in enumerate(table):
            y = np.arange(len(sets)) + 0.24 * (lane - (len(table.columns) - 1) / 2)
            found = [bands[title][name, count] for name in sets]
            low, high = (np.array([getattr(band, end) for band in found]) for end in ("low", "high"))
            bars = axes.barh(y, high - low, left=low, height=0.2, color=BANDS["gauss"]["facecolor"])
            axes.plot(table[count], y, **COUNTS[count], linestyle="none", markersize=6, label=count)
        bars.set_label("null band of this count")
        axes.set_yticks(range(len(sets)), sets)
        axes.set_title(title, loc="left")
    panels[0].set(xlim=(0, None), ylim=(len(sets) - 0.5, -0.5))
    return _labelled(figure, panels, x="SS rate")


def plot_agreement(layers: pd.DataFrame, sets: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> Figure:
    """Rates by one count against those by another: of layers (dots) and of known sets (their initial letters).

    Parameters
    ----------
    layers, sets : DataFrame (layers or sets, counts)
    pairs : sequence of (str, str)
        The two counts of each panel.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, panels = _panels(len(pairs), height=3.2, sharey=False)
    for axes, (a, b) in zip(panels, pairs, strict=True):
        axes.scatter(layers[a], layers[b], s=18, color=FREE["color"], label="made-up layer")
        axes.scatter(sets[a], sets[b], s=130, marker="o", facecolor="#d9ebf5", edgecolor=BOXES[0], label="known set")
        for name, row in sets.iterrows():
            axes.annotate(name[0].upper() + name[1], (row[a], row[b]), ha="center", va="center", fontsize=8)
        axes.set(xlabel=f"rate by {a}", ylabel=f"rate by {b}", xlim=(0, None), ylim=(0, None))
    return _labelled(figure, panels)


def plot_lines(
    panels: Mapping[str, pd.DataFrame],
    *,
    y: str,
    bands: Mapping[str, tuple[str, np.ndarray, np.ndarray]] | None = None,
    log_y: bool = False,
) -> Figure:
    """Panels of lines: one per column over the table's index, with the index's name below.

    Parameters
    ----------
    panels : mapping of titles to DataFrame
        At most eight columns in all; a column has the same line in every panel. An index of numbers above zero that
        spans a factor of more than 10 is drawn on a logarithmic axis.
    y : str
    bands : mapping of titles to (label, low, high) over the index, optional
    log_y : bool

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = _panels(len(panels), columns=2, height=3.2)
    names = list(dict.fromkeys(column for table in panels.values() for column in table))
    handles = {}
    for axes, (title, table) in zip(grid, panels.items(), strict=True):
        x = table.index.to_numpy()
        if title in (bands or {}):
            label, *ends = bands[title]
            look = BANDS["gauss"] if label.startswith("null") else {"facecolor": _COLORS[0], "alpha": 0.2}
            handles[label] = axes.fill_between(x, *ends, **look, linewidth=0)
        for column in table:
            line = table[column].dropna()
            k = names.index(column)
            style = {"color": _COLORS[k], "linestyle": _DASHES[k], "marker": "os^Dvp*X"[k]}
            (handles[column],) = axes.plot(line.index, line, **style, markevery=max(1, len(line) // 10))
        if table.index.dtype.kind in "if" and x.min() > 0 and x.max() > 10 * x.min():
            axes.set_xscale("log")
            if len(x) <= 10 and x.min() >= 1:
                axes.set_xticks(x, x)
                axes.minorticks_off()
        elif table.index.dtype.kind not in "if":
            axes.margins(x=0.2)  # room for the names
        axes.set_yscale("log" if log_y else "linear")
        axes.set_xlabel(table.index.name)
        axes.set_title(title, loc="left")
    return _labelled(figure, grid, y=y, entries=handles, ncols=4)
