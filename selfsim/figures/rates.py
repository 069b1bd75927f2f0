"""Figures of the SS rate itself: its curves, sets with a known answer, and rates by several counts."""

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
from .style import BANDS, BOXES, FIT, THEORY, UNCONSTRAINED, WIDTH, closed, labelled, panels

# Titles of the sets of `selfsim.known_activations`.
SET_TITLES = {
    "line": "line",
    "square": "square",
    "cantor": "Cantor dust",
    "sierpinski": "Sierpinski triangle",
    "ultrametric tree": "binary tree (ultrametric)",
    "clusters": "clusters",
    "gauss": "Gaussian noise",
}
_COUNT_STYLES = tuple(zip(BOXES, "os^Dvp*X", strict=True))


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
    figure, grid = panels(len(curves))
    for axes, (layer, curve) in zip(grid, curves.items(), strict=True):
        x = np.log1p(curve.l_B)
        axes.plot(x[[0, -1]], [np.log(curve.counts[0]), 0], **THEORY, label="ideal power law")
        axes.plot(x, curve.fitted, **FIT, label="fitted line")
        axes.plot(x, np.log(curve.counts), color=UNCONSTRAINED["color"], label="box counts")
        axes.set_title(layer, loc="left")
        fit = f"slope {curve.slope:.2f}\nintercept {curve.intercept:.2f}\nresidual {curve.residual:.2f}"
        ground = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        axes.text(0.97, 0.97, fit, transform=axes.transAxes, ha="right", va="top", fontsize=9, bbox=ground)
    return labelled(figure, grid, x="ln(1 + box size $l_B$)", y="ln $N_B$")


def plot_known_sets(sets: Mapping[str, Tensor], *, rates: Mapping[str, float], bands: Mapping[str, NullBand]) -> Figure:
    """Draw each set as points, above its box-counting curve; half the SS rate is the area to the ideal power law.

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
    rows = -(-(len(sets) + 1) // 4)
    heights = {"height_ratios": [0.85, 1] * rows}
    figure, grid = plt.subplots(2 * rows, 4, figsize=(WIDTH, 4 * rows), gridspec_kw=heights)
    places = np.stack([grid[::2].flat, grid[1::2].flat], 1)  # a drawing and the curve below it
    for axes in places[len(sets) :].flat:
        axes.set_visible(False)
    for (above, below), title in zip(places, sorted(sets, key=rates.__getitem__), strict=False):
        _draw_set(above, title, sets[title])
        _draw_area(below, rate_curve(sets[title]))
        rate, band = rates[title], bands[title]
        side = "below" if rate < band.low else "above" if rate > band.high else "inside"
        verdict = f"SS rate {rate:.2f}: {side} noise\n({band.low:.2f} to {band.high:.2f})"
        below.set_title(verdict, loc="left", fontsize=10)
        below.set(xticks=[0, 1], yticks=[0, 1])
    figure.supxlabel("box size: logarithmic, from the shortest distance to the longest", fontsize=11)
    figure.supylabel("number of boxes: ln $N_B$ / ln n", fontsize=11)
    figure.legend(*places[0][1].get_legend_handles_labels(), loc="lower right", bbox_to_anchor=(0.99, 0.16))
    return closed(figure)


def _draw_set(axes: Axes, title: str, activations: Tensor) -> None:
    """Draw the points where they have one or two coordinates, a tree for an ultrametric set, else a projection."""
    x = activations.numpy()
    if title == SET_TITLES["ultrametric tree"]:
        tree = linkage(pair_distances(activations).numpy(), "complete")
        dendrogram(tree, ax=axes, no_labels=True, color_threshold=0, above_threshold_color=BOXES[0])
    elif len(x) == 1:
        axes.vlines(x[0], 0.3, 0.7, color=BOXES[0], linewidth=1.3)
        axes.set_ylim(0, 1)
    else:
        centred = x - x.mean(1, keepdims=True)
        across, up = centred if len(x) == 2 else (np.linalg.svd(centred, full_matrices=False)[2] * 10)[:2]
        axes.scatter(across, up, s=3, color=BOXES[0])
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
    axes.plot(u, y, color=UNCONSTRAINED["color"], label="box counts")
    axes.plot([0, 1], [1, 0], **THEORY, label="ideal power law")


def plot_against_bands(rates: Mapping[str, pd.DataFrame], bands: Mapping[str, Mapping]) -> Figure:
    """Plot the rates of each set by each count, each beside its own null band.

    Parameters
    ----------
    rates : mapping of panel titles to DataFrame (sets, counts)
    bands : mapping of panel titles to mapping of (set, count) to NullBand

    Returns
    -------
    matplotlib.figure.Figure
    """
    sets = next(iter(rates.values())).index
    figure, grid = panels(len(rates), columns=2, height=0.62 * len(sets) + 0.9, sharex=True)
    for axes, (title, table) in zip(grid, rates.items(), strict=True):
        for lane, (count, (color, marker)) in enumerate(zip(table, _COUNT_STYLES, strict=False)):
            y = np.arange(len(sets)) + 0.24 * (lane - (len(table.columns) - 1) / 2)
            ends = np.array([(band.low, band.high) for band in (bands[title][name, count] for name in sets)])
            bars = axes.barh(y, np.ptp(ends, axis=1), left=ends[:, 0], height=0.2, color=BANDS["gauss"]["facecolor"])
            axes.plot(table[count], y, marker, color=color, markersize=6, label=count)
        bars.set_label("null band of this count")
        axes.set_yticks(range(len(sets)), sets)
        axes.set_title(title, loc="left")
    grid[0].set(xlim=(0, None), ylim=(len(sets) - 0.5, -0.5))
    return labelled(figure, grid, x="SS rate")


def plot_agreement(layers: pd.DataFrame, sets: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> Figure:
    """Plot rates by one count against those by another: of layers (dots) and of known sets (their initial letters).

    Parameters
    ----------
    layers, sets : DataFrame (layers or sets, counts)
    pairs : sequence of (str, str)
        The two counts of each panel.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = panels(len(pairs), height=3.2, sharey=False)
    for axes, (a, b) in zip(grid, pairs, strict=True):
        axes.scatter(layers[a], layers[b], s=18, color=UNCONSTRAINED["color"], label="made-up layer")
        axes.scatter(sets[a], sets[b], s=130, facecolor="#d9ebf5", edgecolor=BOXES[0], label="known set")
        for name, row in sets.iterrows():
            axes.annotate(name[0].upper() + name[1], (row[a], row[b]), ha="center", va="center", fontsize=8)
        axes.set(xlabel=f"rate by {a}", ylabel=f"rate by {b}", xlim=(0, None), ylim=(0, None))
    return labelled(figure, grid)
