"""The figures of the study: paired differences with their intervals, and accuracy against the rate reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from selfsim.figures.plots import FREE, GREY, HELD, WIDTH, _closed, _labelled, _panels
from selfsim.models.architectures import ARCHITECTURES
from selfsim.training.runs import Run

from . import arms as study
from .comparison_plots import FAMILIES
from .findings import title

_COLORS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933")
_OTHER_STYLES = tuple(zip(_COLORS, "^DvPX<>", strict=True))


def plot_differences(panels: Mapping[str, pd.DataFrame], *, factor: float = 1, mark: float | None = None) -> Figure:
    """Paired differences with their intervals: one panel a quantity, one row an architecture, one mark an arm.

    Parameters
    ----------
    panels : mapping of labels of the x-axis to DataFrame
        Rows are (architecture, arm), with an ``interval`` each.
    factor : float
        What values are multiplied by, such as 100 for percentage points.
    mark : float, optional
        Where a dotted line goes: what counts as a gain.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = list(dict.fromkeys(name for table in panels.values() for name, _ in table.index))
    arms = list(dict.fromkeys(what for table in panels.values() for _, what in table.index))
    height = 0.32 * len(names) * max(len(arms), 2) + 1.5
    size = min(3.4 * len(panels) + 4.1, WIDTH), height
    figure, grid = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axes, (label, table) in zip(grid.flat, panels.items(), strict=True):
        axes.axvline(0, color=GREY, linewidth=2, zorder=0)
        if mark is not None:
            axes.axvline(mark, color=FREE["color"], linewidth=1, linestyle=":", label="counts as a gain", zorder=0)
        for what in arms:
            color, marker = arm_style(what, arms)
            rows = [(names.index(n), i) for (n, a), i in table.interval.items() if a == what and i is not None]
            y = [row + 0.6 * ((arms.index(what) + 0.5) / len(arms) - 0.5) for row, _ in rows]
            x = [factor * i.estimate for _, i in rows]
            reach = [[factor * abs(getattr(i, end) - i.estimate) for _, i in rows] for end in ("low", "high")]
            axes.errorbar(x, y, xerr=reach, color=color, marker=marker, linestyle="none", capsize=3, label=what)
        axes.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), [title(name) for name in names])
        axes.grid(axis="y", visible=False)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return _closed(figure)


def plot_dose(runs: Sequence[Run]) -> Figure:
    """Test accuracy against the rate that was reached: one panel an architecture, one mark a run, colours are arms."""
    names = list(dict.fromkeys(run.config.architecture for run in runs))
    arms = list(dict.fromkeys(study.arm(run.config) for run in runs))
    figure, panels = _panels(len(names), columns=2, sharey=False)
    for axes, name in zip(panels, names, strict=True):
        for what in arms:
            color, marker = arm_style(what, arms)
            own = [r for r in runs if (r.config.architecture, study.arm(r.config)) == (name, what)]
            x, y = ([study.measured(run, of) for run in own] for of in ("SS rate", "test accuracy"))
            axes.plot(x, [100 * v for v in y], linestyle="none", color=color, marker=marker, markersize=6, label=what)
        axes.set_title(title(name), loc="left")
    return _labelled(figure, panels, x="SS rate reached", y="test accuracy (%)", ncols=3)


def arm_style(what: str, arms: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of an arm, the book's own for the two that all of it has."""
    if what in (study.FREE, study.DEFAULT):
        style = FREE if what == study.FREE else HELD
        return style["color"], style["marker"]
    others = [arm for arm in arms if arm not in (study.FREE, study.DEFAULT)]
    return _OTHER_STYLES[others.index(what) % len(_OTHER_STYLES)]


def plot_relation(gains: Mapping[str, float], spreads: pd.DataFrame) -> Figure:
    """Gain of each architecture, in points, against how much its layers differ: one panel a kind of invariance.

    Parameters
    ----------
    gains : mapping of str to float
        Of the architectures.
    spreads : DataFrame
        What `study_invariance.spreads` gives.

    Returns
    -------
    matplotlib.figure.Figure
    """
    labels = {"exponent": "exponents: standard deviation", "dimension": "dimensions: range / mean"}
    figure, grid = plt.subplots(1, len(labels), figsize=(WIDTH, 4.2), sharey=True)
    for axes, (kind, label) in zip(grid, labels.items(), strict=True):
        axes.axhline(0, color=GREY, linewidth=2, zorder=0)
        for entry in ARCHITECTURES:
            if entry.name not in gains or entry.name not in spreads.index:
                continue
            kin = [other.name for other in ARCHITECTURES if other.family == entry.family]
            style = {"color": FAMILIES[entry.family], "marker": "os^D"[kin.index(entry.name) % 4], "markersize": 8}
            place = spreads.loc[entry.name, kind], 100 * gains[entry.name]
            axes.plot(*place, linestyle="none", label=entry.title, **style)
        axes.set(xlabel=f"{label} over layers\n(right: less invariant)", xlim=(0, None))
    grid[0].set_ylabel("test accuracy, change in points")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return _closed(figure)
