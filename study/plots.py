"""The figures of the studies' pages: differences with intervals, doses, the comparison of the families, the answer."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selfsim.figures.rates import SET_TITLES
from selfsim.figures.runs import by_epoch, draw_seeds
from selfsim.figures.style import (
    CONSTRAINED,
    DASHES,
    GREY,
    UNCONSTRAINED,
    WIDTH,
    Style,
    closed,
    labelled,
    panels,
    plain_ticks,
    use_style,
)
from selfsim.models.architectures import ARCHITECTURES, architecture
from selfsim.training.runs import Run
from selfsim.uncertainty import Interval

from .answer import FIGURE, few
from .answer_text import ARMS, SHORT
from .comparison import TRAINING, excess
from .convergence_statistics import LEAST_PAIRS, SMALLEST_EFFECT, by_family, over_families
from .convergence_tables import Convergence
from .design import DEFAULT, arm
from .design import UNCONSTRAINED as NO_CONSTRAINT
from .findings import title
from .statistics import measured

# Dark enough for names to be written in them.
FAMILY_COLORS = {"MLP": "#0072b2", "attention": "#aa4499", "convolution": "#117733", "pooling": "#b06a00"}
# The known sets of the first page: alike at every scale, then noise and clusters.
_SETS = ("line", "square", "cantor", "sierpinski", "menger", "ultrametric tree", "gauss", "clusters")
_ARM_COLORS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933")
_OTHER_STYLES = tuple(zip(_ARM_COLORS, "^DvPX<>", strict=True))


def plot_differences(tables: Mapping[str, pd.DataFrame], *, factor: float = 1, mark: float | None = None) -> Figure:
    """Plot paired differences with intervals: one panel a quantity, one row an architecture, one mark an arm.

    Parameters
    ----------
    tables : mapping of labels of the x-axis to DataFrame
        Rows are (architecture, arm), with an ``interval`` each.
    factor : float
        Multiplies all values, such as 100 for percentage points.
    mark : float, optional
        The smallest gain that matters, as a dotted line.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = list(dict.fromkeys(name for table in tables.values() for name, _ in table.index))
    arms = list(dict.fromkeys(name for table in tables.values() for _, name in table.index))
    height = 0.32 * len(names) * max(len(arms), 2) + 1.5
    size = min(3.4 * len(tables) + 4.1, WIDTH), height
    figure, grid = plt.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False)
    for axes, (label, table) in zip(grid.flat, tables.items(), strict=True):
        axes.axvline(0, color=GREY, linewidth=2, zorder=0)
        if mark is not None:
            axes.axvline(mark, color=UNCONSTRAINED["color"], linewidth=1, linestyle=":", label="counts as a gain")
        for lane, arm_name in enumerate(arms):
            color, marker = _arm_style(arm_name, arms)
            rows = [(names.index(n), i) for (n, a), i in table.interval.items() if a == arm_name and i is not None]
            y = [row + 0.6 * ((lane + 0.5) / len(arms) - 0.5) for row, _ in rows]
            x, low, high = factor * np.array([(i.estimate, i.low, i.high) for _, i in rows]).reshape(-1, 3).T
            style = {"color": color, "marker": marker, "linestyle": "none", "capsize": 3}
            axes.errorbar(x, y, xerr=(x - low, high - x), **style, label=arm_name)
        axes.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), [title(name) for name in names])
        axes.grid(axis="y", visible=False)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return closed(figure)


def plot_dose(runs: Sequence[Run]) -> Figure:
    """Plot test accuracy against the rate reached: one panel an architecture, one mark a run, colours are arms."""
    names = list(dict.fromkeys(run.config.architecture for run in runs))
    arms = list(dict.fromkeys(arm(run.config) for run in runs))
    figure, grid = panels(len(names), columns=2, sharey=False)
    for axes, name in zip(grid, names, strict=True):
        for arm_name in arms:
            color, marker = _arm_style(arm_name, arms)
            of_arm = [run for run in runs if (run.config.architecture, arm(run.config)) == (name, arm_name)]
            x, y = ([measured(run, metric) for run in of_arm] for metric in ("ss_rate", "accuracy"))
            axes.scatter(x, [100 * v for v in y], color=color, marker=marker, label=arm_name)
        axes.set_title(title(name), loc="left")
    return labelled(figure, grid, x="SS rate reached", y="test accuracy (%)", ncols=3)


def _arm_style(name: str, arms: Sequence[str]) -> tuple[str, str]:
    """Return colour and marker of an arm; unconstrained and the target of 0.1 look as everywhere in the book."""
    if name in (NO_CONSTRAINT, DEFAULT):
        style = UNCONSTRAINED if name == NO_CONSTRAINT else CONSTRAINED
        return style["color"], style["marker"]
    others = [other for other in arms if other not in (NO_CONSTRAINT, DEFAULT)]
    return _OTHER_STYLES[others.index(name) % len(_OTHER_STYLES)]


def plot_relation(gains: Mapping[str, float], spreads: pd.DataFrame) -> Figure:
    """Plot the gain of each architecture against how much its layers differ: one panel a kind of invariance.

    Parameters
    ----------
    gains : mapping of str to float
        Change of the accuracy of each architecture.
    spreads : DataFrame
        As `layers.spreads` gives it.

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
            family = [other.name for other in ARCHITECTURES if other.family == entry.family]
            style = {
                "color": FAMILY_COLORS[entry.family],
                "marker": "os^D"[family.index(entry.name) % 4],
                "markersize": 8,
            }
            place = spreads.loc[entry.name, kind], 100 * gains[entry.name]
            axes.plot(*place, linestyle="none", label=entry.title, **style)
        axes.set(xlabel=f"{label} over layers\n(right: less invariant)", xlim=(0, None))
    grid[0].set_ylabel("test accuracy, change in points")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return closed(figure)


def plot_families(table: pd.DataFrame, measure: str = "surrogate") -> Figure:
    """Plot each architecture's mean rate before and after training, beside noise of its shape.

    Parameters
    ----------
    table : DataFrame
        As `comparison.measured_layers` gives it.
    measure : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    means = excess(table, measure)
    names = list(dict.fromkeys(means.architecture))
    # The spread of a mean over layers, whose nulls are independent.
    layers = table[table.measure == measure].drop_duplicates(["architecture", "training", "layer"])
    spread = layers.groupby(["architecture", "training"]).null_spread.agg(lambda s: np.sqrt((s**2).sum()) / len(s))
    styles = {
        "untrained": {"color": "white", "marker": "D", "markeredgecolor": UNCONSTRAINED["color"], "label": "untrained"},
        "unconstrained": UNCONSTRAINED | {"label": "trained, unconstrained"},
        "constrained": CONSTRAINED | {"label": "trained, constrained"},
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
    axes.set(xlabel="SS rate, mean over layers", xlim=(0, None))
    axes.set_ylim(len(names) - 0.5, -0.5)
    _name_rows(axes, means)
    axes.grid(axis="y", visible=False)
    figure.legend(handles=[*handles, noise], loc="outside lower center", ncols=2)
    return closed(figure)


def plot_epochs(runs: Sequence[Run], metric: str = "ss_rate", *, y: str = "SS rate, mean over layers") -> Figure:
    """Plot a metric over the epochs, one panel an architecture: without and with the constraint.

    Parameters
    ----------
    runs : sequence of Run
    metric : str
        A metric of layers in the runs' histories; its mean over layers is drawn, a thin line a seed.
    y : str
        Label of the axis.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = list(dict.fromkeys(run.config.architecture for run in runs))
    figure, grid = panels(len(names), columns=5, height=2.1)
    for axes, name in zip(grid, names, strict=True):
        for style, constrained in ((UNCONSTRAINED, False), (CONSTRAINED, True)):
            series = [
                by_epoch(run, metric)
                for run in runs
                if (run.config.architecture, run.config.constraint is not None) == (name, constrained)
            ]
            if series:
                draw_seeds(axes, series, style | {"marker": ""})
        entry = architecture(name)
        axes.set_title(entry.title, loc="left", color=FAMILY_COLORS[entry.family], fontweight="bold", fontsize=10)
    grid[0].set_ylim(0, None)
    figure.supylabel(y, fontsize=11)
    return labelled(figure, grid, x="epoch")


def plot_depth(table: pd.DataFrame, measure: str = "surrogate") -> Figure:
    """Plot the rate minus its null from the first layer to the last: one line an architecture, one panel a state.

    Parameters
    ----------
    table : DataFrame
        As `comparison.measured_layers` gives it.
    measure : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    chosen = table[table.measure == measure].assign(excess=lambda t: t.value - t.null)
    figure, grid = panels(len(TRAINING), height=3.6)
    for axes, training in zip(grid, TRAINING, strict=True):
        axes.axhline(0, color=GREY, linewidth=3, zorder=0)
        part = chosen[chosen.training == training]
        for (family, name), group in part.groupby(["family", "architecture"], sort=False):
            line = group.groupby("depth").excess.mean()
            rank = list(dict.fromkeys(chosen[chosen.family == family].architecture)).index(name) % 4
            style: Style = {"color": FAMILY_COLORS[family], "linestyle": DASHES[rank], "marker": "os^D"[rank]}
            axes.plot(line.index, line, label=name, **style)
        axes.set_title(training, loc="left")
    return labelled(figure, grid, x="depth: first layer to last", y="SS rate minus that of noise")


def plot_measures(table: pd.DataFrame) -> Figure:
    """Plot every measure of every architecture after training: its distance from noise, in standard deviations of it.

    Parameters
    ----------
    table : DataFrame
        As `comparison.measured_layers` gives it.

    Returns
    -------
    matplotlib.figure.Figure
    """
    chosen = table[table.training == "unconstrained"].assign(z=lambda t: (t.value - t.null) / t.null_spread)
    scores = chosen.groupby(["architecture", "measure"], sort=False).z.mean().unstack()
    scores = scores.loc[list(dict.fromkeys(chosen.architecture)), list(dict.fromkeys(table.measure))]
    text = scores.map(lambda z: "none" if np.isnan(z) else f"{z:+.1f}")
    figure, axes = plt.subplots(figsize=(WIDTH, 0.45 * len(scores) + 1.8))
    # Beyond ten standard deviations the number says more than the colour.
    colours = {"cmap": "PuOr_r", "vmin": -10, "vmax": 10, "cbar": False}
    sns.heatmap(scores.fillna(0), annot=text, fmt="", annot_kws={"fontsize": 10}, ax=axes, **colours)
    for label, z in zip(axes.texts, scores.to_numpy().flat, strict=True):
        label.set_color("white" if abs(z) > 6 else "black")
    axes.set(xlabel="", ylabel="")
    axes.grid(False)
    axes.tick_params(length=0)
    columns = [textwrap.fill(name, 12) for name in scores]
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=10, rotation=0)
    _name_rows(axes, chosen, shift=0.5)
    axes.set_title("(rate − null) / sd of the null, mean over layers; below 0: lower than noise", loc="left")
    return closed(figure)


def _name_rows(axes: Axes, table: pd.DataFrame, *, shift: float = 0) -> None:
    """Name the rows after the architectures of a table, each in the colour of its family."""
    family = table.groupby("architecture", sort=False).family.first()
    axes.set_yticks(np.arange(len(family)) + shift, family.index, rotation=0)
    for label, name in zip(axes.get_yticklabels(), family, strict=True):
        label.set(color=FAMILY_COLORS[name], fontweight="bold")


def plot_forest(tables: Convergence) -> Figure:
    """Plot the change of accuracy: one row a family, by arm; from four families on, a diamond for their pool.

    Parameters
    ----------
    tables : Convergence
        At least one comparison.

    Returns
    -------
    matplotlib.figure.Figure
    """
    comparisons = by_family(tables)
    pools = over_families(tables, comparisons)
    labels: list[str] = []
    heads: list[int] = []
    points: list[tuple[int, Interval, bool]] = []
    for name in ARMS:
        heads.append(len(labels))
        labels.append(SHORT[name])
        own = comparisons[comparisons.index.get_level_values("arm") == name]
        for (family, _), row in own.iterrows():
            if row.pairs >= LEAST_PAIRS:
                points.append((len(labels), row.interval, False))
                labels.append(architecture(family).title)
        if name in pools.index and not few(pools):
            points.append((len(labels), pools.interval[name], True))
            labels.append("families together")
        elif not len(own):
            labels[-1] += ": not run"
    figure, axes = plt.subplots(figsize=(6.5, 0.27 * len(labels) + 0.9))
    axes.axvline(0, color=GREY, linewidth=2, zorder=0)
    for edge in (-100 * SMALLEST_EFFECT, 100 * SMALLEST_EFFECT):
        axes.axvline(edge, color=UNCONSTRAINED["color"], linewidth=1, linestyle=":")
    for pooled, style in (
        (False, {"color": UNCONSTRAINED["color"], "marker": "o"}),
        (True, {"color": CONSTRAINED["color"], "marker": "D", "markersize": 7}),
    ):
        rows = [(y, 100 * np.array([i.estimate, i.low, i.high])) for y, i, of in points if of == pooled]
        if rows:
            y = [row for row, _ in rows]
            x, low, high = np.array([values for _, values in rows]).T
            axes.errorbar(x, y, xerr=(x - low, high - x), linestyle="none", capsize=3, **style)
    axes.set(ylim=(len(labels) - 0.5, -0.5), xlabel="change of test accuracy, in points")
    axes.set_yticks(range(len(labels)), labels)
    for place in heads:
        axes.get_yticklabels()[place].set_fontweight("bold")
        if place:
            axes.axhline(place - 0.5, color=GREY, linewidth=0.8)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return closed(figure)


def plot_scaling(known: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the octaves of known sets above those of the layers of trained networks, one row a set or network.

    Parameters
    ----------
    known : sequence of mappings
        The rows of ``known_sets.json``; those of 128 points are drawn.
    layers : sequence of mappings
        The rows of ``trained_scaling.json``; those of trained networks are drawn.

    Returns
    -------
    matplotlib.figure.Figure
    """
    sets = pd.DataFrame(known).query("n == 128").pivot(index="set", columns="measure", values="mean")
    trained = pd.DataFrame(layers).query("state == 'trained'").dropna(subset=["octaves"])
    rows = [
        (SET_TITLES[name], [sets["scaling: octaves"][name]], [sets["scaling: scales"][name] == 1]) for name in _SETS
    ]
    for name in dict.fromkeys(trained.architecture):
        own = trained[trained.architecture == name]
        rows.append((architecture(name).title, own.octaves, own.scales == True))  # noqa: E712
    figure, axes = plt.subplots(figsize=(6.5, 0.27 * len(rows) + 1.1))
    axes.axvline(1, color=UNCONSTRAINED["color"], linewidth=1, linestyle=":")
    for y, (_, lengths, follow) in enumerate(rows):
        x, scaling = np.asarray(lengths), np.asarray(follow, dtype=bool)
        color = CONSTRAINED["color"] if y < len(_SETS) else UNCONSTRAINED["color"]
        axes.plot(x[scaling], np.full(scaling.sum(), y), "o", color=color)
        axes.plot(x[~scaling], np.full((~scaling).sum(), y), "o", color=color, markerfacecolor="white")
    axes.axhline(len(_SETS) - 0.5, color=GREY, linewidth=0.8)
    axes.set(xscale="log", ylim=(len(rows) - 0.5, -0.5), xlabel="octaves of the scaling range")
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    plain_ticks(axes.xaxis)
    axes.tick_params(axis="y", length=0)
    for label, fill in (("follows a power law", UNCONSTRAINED["color"]), ("not shown", "white")):
        axes.plot([], [], "o", color=UNCONSTRAINED["color"], markerfacecolor=fill, label=label)
    figure.legend(loc="outside lower center", ncols=2)
    return closed(figure)


def write_figures(tables: Convergence, benchmarks: Path, folder: Path) -> None:
    """Write the scaling of known sets and layers into `folder`, and the forest plot if there is a comparison."""
    known, trained = (
        json.loads((benchmarks / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("known_sets", "trained_scaling")
    )
    with plt.rc_context():
        use_style()
        _save(plot_scaling(known["sets"], trained["layers"]), folder / "scaling.svg")
        _save(plot_forest(tables), folder / FIGURE)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, the same bytes each time."""
    with plt.rc_context({"svg.hashsalt": "selfsim", "svg.fonttype": "path"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
