"""The look of the book's figures, and the panels that they are drawn in.

Without constraint: dark grey, solid, round. With it: vermilion, dashed, square; nothing else but boxes is vermilion.
Null models: pale grey bands, hatched apart. Targets: black, dotted. Fits: wine, dashed. Theory: blue, dotted.
Readers with any colour vision tell these apart (after Okabe and Ito).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

Style = dict[str, Any]  # keywords of matplotlib

UNCONSTRAINED: Style = {"color": "#3b444d", "linestyle": "-", "marker": "o", "label": "unconstrained"}
CONSTRAINED: Style = {"color": "#d55e00", "linestyle": "--", "marker": "s", "label": "constrained"}
TARGET: Style = {"color": "black", "linestyle": ":", "linewidth": 1.4, "zorder": 3, "label": "target"}
FIT: Style = {"color": "#882255", "linestyle": "--", "linewidth": 1.4}
THEORY: Style = {"color": "#0072b2", "linestyle": ":"}
GREY = "#c9ced3"
BANDS: dict[str, Style] = {
    "gauss": {"facecolor": "#dfe3e7", "label": "null: Gauss"},
    "shuffled": {"facecolor": "none", "edgecolor": "#87909a", "hatch": "///", "zorder": 1.1, "label": "null: shuffled"},
}
_OTHER_BAND: Style = {"facecolor": "none", "edgecolor": "#87909a", "hatch": "...", "zorder": 1.2}
BOXES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#882255")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))
# Inches of a figure of several panels: as wide as the text of a page.
WIDTH = 9.5
# Inches of one with two columns, which a phone shows without scrolling.
NARROW = 6.0
# Axes end here, or further where the data do: figures of two chapters can be compared.
HIGHEST = {"rate": 0.55, "deviation": 0.15, "octaves": 3.0}


def use_style() -> None:
    """Set matplotlib to the book's style: readable on a phone, sharp, on a white ground also in dark mode."""
    plt.rcParams.update(
        {
            # Twice the pixels of the screen that a page gives to an inch.
            "figure.dpi": 160,
            "savefig.dpi": 160,
            "figure.facecolor": "white",
            "axes.facecolor": "white",
            "savefig.facecolor": "auto",
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "black"),
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e6e8ea",
            "lines.linewidth": 1.8,
            "lines.markersize": 4,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def band_style(null: str) -> Style:
    """Return how the band of a null model looks; a third one is dotted."""
    return BANDS.get(null, _OTHER_BAND | {"label": f"null: {null}"})


def plain_ticks(axis: Axis) -> None:
    """Put plain numbers on a logarithmic axis: 0.5, 1, 2, 5, not powers of ten."""
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")
    axis.grid(which="minor")


def closed(figure: Figure) -> Figure:
    """Take a figure off pyplot's list of open ones; otherwise a notebook shows it twice."""
    plt.close(figure)
    return figure


def panels(
    number: int, *, columns: int = 3, height: float = 2.6, width: float = WIDTH, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, in rows of so many columns."""
    rows, across = math.ceil(number / columns), min(columns, number)
    size = max(width * across / columns, 5.5), height * rows + 0.5
    figure, grid = plt.subplots(rows, across, figsize=size, sharey=sharey, squeeze=False, layout="constrained")
    for axes in grid.flat[number:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:number])


def common_axis(axes: Axes, quantity: str, *, way: str = "y") -> None:
    """Let an axis run from 0 to the same end in every figure of this quantity, or further where the data do."""
    high = getattr(axes, f"get_{way}lim")()[1]
    getattr(axes, f"set_{way}lim")(0, max(HIGHEST[quantity], high))


def labelled(figure: Figure, grid: Sequence[Axes], *, x: str = "", y: str = "", ncols: int = 5) -> Figure:
    """Label the outer panels and put one legend under all of them, with every label once."""
    spec = grid[0].get_subplotspec()
    columns = spec.get_gridspec().ncols if spec else 1
    for place, axes in enumerate(grid):
        if x and place + columns >= len(grid):
            axes.set_xlabel(x)
        if y and place % columns == 0:
            axes.set_ylabel(y)
    entries: dict[str, Any] = {}
    for axes in grid:
        entries |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(ncols, len(entries)))
    return closed(figure)
