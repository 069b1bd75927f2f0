"""The figure of an analysis: rate, deviation from a power law and scaling range of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..statistics.null_models import NullBand
from .style import CONSTRAINED, NARROW, TARGET, UNCONSTRAINED, band_style, common_axis, labelled, panels

Rows = Mapping[str, Mapping[str, Any]]
Bands = Mapping[str, Mapping[str, Mapping[str, NullBand]]]

_TITLES = {
    "rate": "SS rate",
    "deviation": "deviation from a power law",
    "octaves": "octaves of the scaling range",
}


def plot_analysis(rows: Rows, bands: Bands, *, other: Rows | None = None) -> Figure:
    """Plot an analysis layer by layer, with its null bands; see the `plot` of `selfsim.analyze`'s result.

    Parameters
    ----------
    rows : mapping of layers to mapping of columns to values
    bands : mapping of layers to mapping of null models to mapping of columns to NullBand
    other : mapping of layers to mapping of columns to values, optional
        Rows of a second analysis.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        Neither the rate nor the scaling is there.
    """
    columns = [column for column in _TITLES if any(column in row for row in rows.values())]
    if not columns:
        raise ValueError("statistics: got neither 'rate' nor 'scaling', need one of them for a figure")
    figure, grid = panels(len(columns), columns=1, height=2.0, width=NARROW, sharey=False)
    for axes, column in zip(grid, columns, strict=True):
        _draw_bands(axes, bands, column)
        _draw_line(axes, rows, column, UNCONSTRAINED | {"label": "layer"})
        if other is not None:
            by_place = {layer: other.get(layer, {}) for layer in rows}
            _draw_line(axes, by_place, column, CONSTRAINED | {"label": "same layer of the other"})
        if column == "octaves":
            axes.axhline(1, **TARGET | {"label": "one octave"})
        axes.set_title(_TITLES[column], loc="left")
        common_axis(axes, column)
        if len(rows) <= 6 and max(map(len, rows)) <= 12:  # else numbers, which need less room
            axes.set_xticks(range(1, len(rows) + 1), list(rows), rotation=30, ha="right")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.4, len(rows) + 0.6)  # the same places in every panel
    return labelled(figure, grid, x="layer", ncols=3)


def _draw_bands(axes: Axes, bands: Bands, column: str) -> None:
    for null in dict.fromkeys(null for of_layer in bands.values() for null in of_layer):
        of_column = [of_layer.get(null, {}).get(column) for of_layer in bands.values()]
        ends = [(np.nan, np.nan) if band is None else (band.low, band.high) for band in of_column]
        low, high = np.array(ends).T
        if np.isfinite(low).any():
            place = np.arange(1, len(low) + 1)
            axes.bar(place, high - low, bottom=low, width=0.8, linewidth=0, **band_style(null))


def _draw_line(axes: Axes, rows: Rows, column: str, style: dict[str, Any]) -> None:
    values = [float(row.get(column, np.nan)) for row in rows.values()]
    axes.plot(np.arange(1, len(values) + 1), values, **style)
