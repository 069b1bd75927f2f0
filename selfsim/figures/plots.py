"""Figures of the book, in one visual language.

Without constraint: dark grey, solid, round. With it: vermilion, dashed, square; nothing else but boxes is vermilion.
Null models: pale grey bands, hatched apart. Targets: black, dotted. Fits: wine, dashed. Theory: blue, dotted.
Intervals: a veil of the line's colour. Readers with any colour vision tell these apart (after Okabe and Ito).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from ..models.images import Images
from ..rate.curve import RateCurve
from ..rate.network import FeatureNetwork
from ..statistics.null_models import NullBand
from ..training.runs import Run

FREE = {"color": "#3b444d", "linestyle": "-", "marker": "o", "label": "unconstrained"}
HELD = {"color": "#d55e00", "linestyle": "--", "marker": "s", "label": "constrained"}
TARGET = {"color": "black", "linestyle": ":", "linewidth": 1.4, "zorder": 3, "label": "target"}
FIT = {"color": "#882255", "linestyle": "--", "linewidth": 1.4}
THEORY = {"color": "#0072b2", "linestyle": ":"}
GREY = "#c9ced3"
BANDS = {
    "gauss": {"facecolor": "#dfe3e7", "label": "null: Gauss"},
    "shuffled": {"facecolor": "none", "edgecolor": "#87909a", "hatch": "///", "label": "null: shuffled"},
}
BOXES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#882255")
# Inches of a figure of several panels: as wide as the text of a page, its letters as tall.
WIDTH = 9.5


def use_style() -> None:
    """Set matplotlib to the book's style: readable on a phone, sharp, on a white ground also in dark mode."""
    plt.rcParams.update(
        {
            # Twice the pixels of the screen that a page gives to an inch.
            "figure.dpi": 160,
            "savefig.dpi": 160,
            "figure.facecolor": "white",
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


def plot_images(images: Images) -> Figure:
    """One training image of each class (the first twenty classes), as the network gets it."""
    classes = images.classes[:20]
    columns = min(10, len(classes))
    rows = math.ceil(len(classes) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(0.9 * columns, 1.15 * rows), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle(images.title, fontsize=10)
    for number, (axes, name) in enumerate(zip(grid.flat, classes, strict=False)):
        picture = images.train.images[(images.train.labels == number).nonzero()[0, 0]].permute(1, 2, 0)
        axes.imshow(picture.squeeze(-1), cmap="gray_r")
        axes.grid(False)
        axes.set_title(name, fontsize=8)
    return _closed(figure)


def plot_feature_network(
    network: FeatureNetwork, boxes: Sequence[int] | np.ndarray, *, neighbours: int = 3, title: str = "", seed: int = 0
) -> Figure:
    """Draw a feature network, every neuron in the colour of its box.

    Parameters
    ----------
    network : FeatureNetwork
    boxes : array of int, shape (n,)
        From `selfsim.box_cover`. The largest eight boxes get a colour, the others are grey.
    neighbours : int
        Edges drawn: those to each neuron's nearest others. The network itself is complete.
    title : str
    seed : int
        Of the layout.

    Returns
    -------
    matplotlib.figure.Figure
    """
    graph, place = layout(network, neighbours=neighbours, seed=seed)
    sizes = np.bincount(boxes)
    largest = [int(b) for b in np.argsort(-sizes, kind="stable")[: len(BOXES)] if sizes[b] > 1]
    colour = {box: BOXES[rank] for rank, box in enumerate(largest)}
    figure, axes = plt.subplots(figsize=(7, 5))
    draw_boxes(axes, graph, place, boxes, [colour.get(int(box), GREY) for box in boxes])
    for box in largest:
        axes.scatter([], [], s=34, color=colour[box], label=f"{sizes[box]} neurons")
    others = int((sizes > 0).sum()) - len(largest)
    if others:
        axes.scatter([], [], s=34, color=GREY, label=f"{others} other boxes" if others > 1 else "1 other box")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="Boxes", alignment="left")
    axes.set_title(title)
    return _closed(figure)


def layout(network: FeatureNetwork, *, neighbours: int, seed: int) -> tuple[nx.Graph, dict]:
    """The edges to each neuron's nearest others, and a place for every neuron: near ones near."""
    graph = network.to_networkx(neighbours=neighbours)
    closeness = {(a, b): 1 / (1e-9 + d["length"]) for a, b, d in graph.edges(data=True)}
    nx.set_edge_attributes(graph, closeness, "closeness")
    place = nx.spring_layout(graph, weight="closeness", seed=seed, iterations=60, k=2.5 / math.sqrt(network.n))
    return graph, place


def draw_boxes(axes: Axes, graph: nx.Graph, place: Mapping, boxes: Sequence[int], colours: Sequence[str]) -> None:
    """Neurons in their colours, edges inside boxes too; large networks with small dots."""
    inside = [(a, b) for a, b in graph.edges if boxes[a] == boxes[b]]
    thin = min(1, (300 / len(graph)) ** 0.5)
    nx.draw_networkx_edges(graph, place, ax=axes, edge_color="#dfe3e6", width=0.6 * thin)
    shown = [colours[a] for a, _ in inside]
    nx.draw_networkx_edges(graph, place, ax=axes, edgelist=inside, edge_color=shown, width=1.6 * thin)
    dots = {"node_size": 34 * thin**2, "edgecolors": "white", "linewidths": 0.5 * thin}
    nx.draw_networkx_nodes(graph, place, ax=axes, node_color=[colours[node] for node in graph], **dots)
    axes.set_axis_off()


def plot_curves(curves: Mapping[str, RateCurve]) -> Figure:
    """The paper's picture of each layer: ln N_B against ln(1 + l_B), the fitted line and the ideal power law.

    Parameters
    ----------
    curves : mapping of layers to RateCurve
        From `selfsim.rate_curve`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, panels = _panels(len(curves))
    for axes, (layer, curve) in zip(panels, curves.items(), strict=True):
        x = np.log1p(curve.l_B)
        axes.plot(x[[0, -1]], [np.log(curve.counts[0]), 0], **THEORY, label="ideal power law")
        axes.plot(x, curve.fitted, **FIT, label="fitted line")
        axes.plot(x, np.log(curve.counts), color=FREE["color"], label="box counts")
        axes.set_title(layer, loc="left")
        axes.text(
            0.97,
            0.97,
            f"slope {curve.slope:.2f}\nintercept {curve.intercept:.2f}\nresidual {curve.residual:.2f}",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
        )
    return _labelled(figure, panels, x="ln(1 + box size $l_B$)", y="ln $N_B$")


def plot_rates(
    free: Sequence[Run],
    held: Sequence[Run],
    *,
    bands: Sequence[Mapping[str, Sequence[NullBand]]],
    target: float | None = None,
) -> Figure:
    """SS rate of every layer over the epochs, with and without constraint, beside its null bands.

    Parameters
    ----------
    free, held : sequence of Run
        Runs with the same seeds, without and with the constraint. Drawn: each run, thin, and their mean.
    bands : sequence of mapping of layers to NullBand
        Of each run of `free`, what activations without structure give at the same numbers of neurons and samples.
        Drawn: from the mean of their lower ends to that of their upper ones.
    target : float, optional
        The constraint's.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, panels = _panels(len(free[0].layers))
    top = 0.0
    for axes, layer in zip(panels, free[0].layers, strict=True):
        for own in zip(*(run[layer] for run in bands), strict=True):
            low, high = (np.mean([getattr(band, end) for band in own]) for end in ("low", "high"))
            axes.axhspan(low, high, **BANDS[own[0].null], linewidth=0)
            top = max(top, high)
        for runs, style in ((free, FREE), (held, HELD)):
            top = max(top, _plot_seeds(axes, [run.series("ss_rate", layer=layer) for run in runs], style))
        if target is not None:
            axes.axhline(target, **TARGET)
        axes.set_title(layer, loc="left")
    panels[0].set_ylim(0, 1.08 * top)
    return _labelled(figure, panels, x="epoch", y="SS rate")


def _plot_seeds(axes: Axes, series: Sequence[Sequence[float]], style: dict, *, first: int = 0) -> float:
    """A thin line per run and their mean; the largest value that has to be seen."""
    values = np.array(series)
    epochs = first + np.arange(values.shape[1])
    for run in values if len(values) > 1 else ():
        axes.plot(epochs, run, color=style["color"], linestyle=style["linestyle"], linewidth=0.7, alpha=0.5)
    axes.plot(epochs, values.mean(0), **style, markevery=max(1, len(epochs) // 8))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    return float(values.max())


def plot_pairs(free: Sequence[Run], held: Sequence[Run]) -> Figure:
    """What the constraint changed, seed by seed: accuracy, the rate and its robust kin, median distance.

    Parameters
    ----------
    free, held : sequence of Run
        Runs with the same seeds, without and with the constraint. Each line is one pair; rates and distances are
        means over layers after the last epoch, accuracy is on the test images.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, panels = _panels(len(PAIRED), columns=len(PAIRED), height=2.5, sharey=False)
    for axes, (title, value) in zip(panels, PAIRED.items(), strict=True):
        for a, b in zip(free, held, strict=True):
            axes.plot([0, 1], [value(a), value(b)], color=GREY, zorder=1)
        for place, runs, style in ((0, free, FREE), (1, held, HELD)):
            values = [value(run) for run in runs]
            axes.scatter([place] * len(runs), values, color=style["color"], marker=style["marker"], s=36, zorder=2)
        axes.set_xticks([0, 1], ["uncon-\nstrained", "con-\nstrained"])
        axes.set_xlim(-0.4, 1.4)
        axes.set_title(title, loc="left", fontsize=10)
        axes.margins(y=0.2)
    return _closed(figure)


def over_layers(run: Run, metric: str, split: str = "validation") -> np.ndarray:
    """Mean over the layers of one metric, for every epoch that has it."""
    return np.mean([run.series(metric, split=split, layer=layer) for layer in run.layers], 0)


# What a pair of runs is compared by: a title, and the number of one run.
PAIRED = {
    "test accuracy": lambda run: run.series("accuracy", split="test")[-1],
    "SS rate": lambda run: float(over_layers(run, "ss_rate")[-1]),
    "SS rate without\n3 most distant": lambda run: float(over_layers(run, "ss_rate_left_out")[-1]),
    "SS rate between\nquantiles": lambda run: float(over_layers(run, "ss_rate_quantiles")[-1]),
    "median distance": lambda run: float(over_layers(run, "median_distance")[-1]),
}


def plain_ticks(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis: 0.5, 1, 2, 5, not powers of ten."""
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")
    axis.grid(which="minor")


def _closed(figure: Figure) -> Figure:
    """Taken off pyplot's list of open figures, or a notebook would show it a second time."""
    plt.close(figure)
    return figure


def _panels(
    number: int, *, columns: int = 3, height: float = 2.6, sharex: bool = False, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, in rows of so many columns, with room for a legend below them."""
    rows, across = math.ceil(number / columns), min(columns, number)
    width = max(WIDTH * across / columns, 5.5)
    figure, grid = plt.subplots(
        rows, across, figsize=(width, height * rows + 0.5), sharex=sharex, sharey=sharey, squeeze=False
    )
    for axes in grid.flat[number:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:number])


def _labelled(
    figure: Figure, panels: Sequence[Axes], *, x: str = "", y: str = "", entries: Mapping | None = None, ncols: int = 5
) -> Figure:
    """Labels at the outer panels, one legend under all of them: of the first panel, or these names and handles."""
    columns = panels[0].get_subplotspec().get_gridspec().ncols
    for place, axes in enumerate(panels):
        if x and place + columns >= len(panels):
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)  # shared axes have their numbers in the last row only
        if y and place % columns == 0:
            axes.set_ylabel(y)
    handles, labels = panels[0].get_legend_handles_labels() if entries is None else (entries.values(), entries.keys())
    figure.legend(handles, labels, loc="outside lower center", ncols=min(ncols, len(labels)))
    return _closed(figure)
