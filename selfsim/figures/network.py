"""Figures of networks and their boxes: boxes in colour, boxes that grow, and their counts."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..boxes.counts import BoxCounts
from ..boxes.cover import box_cover
from ..rate.network import FeatureNetwork
from .style import BOXES, DASHES, GREY, NARROW, closed, plain_ticks

_SOFT = 0.1  # of a typical length: shorter springs are no stronger, or coincident neurons would tear the drawing apart

Boxes = Sequence[int] | NDArray[np.integer]
Positions = Mapping[Hashable, NDArray[np.float64]]


def plot_feature_network(
    network: FeatureNetwork, boxes: Boxes, *, neighbours: int = 3, title: str = "", seed: int = 0
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
    graph, positions = _layout(network, neighbours=neighbours, seed=seed)
    sizes, largest = _largest(np.asarray(boxes))
    colours = dict(zip(largest, BOXES, strict=False))
    figure, axes = plt.subplots(figsize=(NARROW, 5.2))
    draw_boxes(axes, graph, positions, boxes, [colours.get(int(box), GREY) for box in boxes])
    for box in largest:
        axes.scatter([], [], s=34, color=colours[box], label=f"{sizes[box]} neurons")
    others = int((sizes > 0).sum()) - len(largest)
    if others:
        axes.scatter([], [], s=34, color=GREY, label=f"{others} other boxes" if others > 1 else "1 other box")
    figure.legend(loc="outside lower center", ncols=3)
    axes.set_title(title)
    return closed(figure)


def _largest(boxes: NDArray[np.integer]) -> tuple[NDArray[np.integer], list[int]]:
    """Return the size of every box, and the largest boxes of two nodes or more, as many as there are colours."""
    sizes = np.bincount(boxes)
    return sizes, [int(box) for box in np.argsort(-sizes, kind="stable")[: len(BOXES)] if sizes[box] > 1]


def _layout(network: FeatureNetwork, *, neighbours: int, seed: int) -> tuple[nx.Graph, Positions]:
    """Return the edges to each neuron's nearest others, and a place for every neuron: near ones near, in any unit."""
    graph = network.to_networkx(neighbours=neighbours)
    lengths = nx.get_edge_attributes(graph, "length")
    typical = float(np.median([length for length in lengths.values() if length > 0] or [1.0]))
    closeness = {edge: 1 / (_SOFT + length / typical) for edge, length in lengths.items()}
    nx.set_edge_attributes(graph, closeness, "closeness")
    spread = 2.5 / math.sqrt(network.n)
    options = {"weight": "closeness", "seed": seed, "iterations": 60, "k": spread, "method": "force"}
    return graph, nx.spring_layout(graph, **options)


def draw_boxes(axes: Axes, graph: nx.Graph, positions: Positions, boxes: Boxes, colours: Sequence[str]) -> None:
    """Draw neurons in their colours, edges inside boxes too; large networks with small dots."""
    inside = [(a, b) for a, b in graph.edges if boxes[a] == boxes[b]]
    scale = min(1, (300 / len(graph)) ** 0.5)
    nx.draw_networkx_edges(graph, positions, ax=axes, edge_color="#dfe3e6", width=0.6 * scale)
    edge_colours = [colours[a] for a, _ in inside]
    nx.draw_networkx_edges(graph, positions, ax=axes, edgelist=inside, edge_color=edge_colours, width=1.6 * scale)
    dots = {"node_size": 34 * scale**2, "edgecolors": "white", "linewidths": 0.5 * scale}
    nx.draw_networkx_nodes(graph, positions, ax=axes, node_color=[colours[node] for node in graph], **dots)
    axes.set_axis_off()


class Animation:
    """Frames with a slider and a button, as one piece of HTML that loads nothing; a notebook shows it.

    Parameters
    ----------
    frames : sequence of bytes
        PNG pictures.
    captions : sequence of str
        What each frame shows, as text; also the alternative text of its picture.
    name : str
        The id of the HTML element; different for each animation on a page.
    first : int
        Number of the frame that is shown until someone moves the slider.
    """

    def __init__(self, frames: Sequence[bytes], captions: Sequence[str], *, name: str, first: int = 0) -> None:
        self.frames, self.captions, self.name, self.first = list(frames), list(captions), name, first

    def _repr_html_(self) -> str:
        sources = ["data:image/png;base64," + base64.b64encode(frame).decode() for frame in self.frames]
        others = [source if k != self.first else "" for k, source in enumerate(sources)]
        return Template(Path(__file__).with_name("animation.html").read_text(encoding="utf-8")).substitute(
            name=self.name,
            first=self.first,
            first_source=sources[self.first],
            first_caption=html.escape(self.captions[self.first]),
            last=len(sources) - 1,
            # "</" inside a script would end it.
            data=json.dumps([others, self.captions]).replace("</", "<\\/"),
        )


def animate_boxes(
    network: FeatureNetwork, sizes: Sequence[float], *, neighbours: int = 3, seed: int = 0, name: str = "growing-boxes"
) -> Animation:
    """Animate the boxes of a feature network that grow with l_B, by complete linkage: at each step boxes only merge.

    Parameters
    ----------
    network : FeatureNetwork
    sizes : sequence of float
        One frame each, ascending.
    neighbours : int
        Edges drawn: those to each neuron's nearest others.
    seed : int
        Of the layout.
    name : str
        See `Animation`.

    Returns
    -------
    Animation
    """
    graph, positions = _layout(network, neighbours=neighbours, seed=seed)
    frames, captions, colours = [], [], [GREY] * network.n
    for size in sizes:
        boxes = np.asarray(box_cover(network, l_B=size, method="complete-linkage"))
        colours = continued_colours(boxes, colours)
        figure, axes = plt.subplots(figsize=(5.5, 4))
        draw_boxes(axes, graph, positions, boxes, colours)
        frames.append(_small_png(closed(figure)))
        number = int(boxes.max()) + 1
        captions.append(f"Box size {size:.3g}: {network.n} neurons in {number} box{'es' if number > 1 else ''}")
    return Animation(frames, captions, name=name)


def _small_png(figure: Figure) -> bytes:
    """Return a picture with 64 colours, enough for these drawings and a third of the bytes."""
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=120)
    Image.open(full).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()


def continued_colours(boxes: NDArray[np.integer], before: Sequence[str]) -> list[str]:
    """Return the colour of each node's box: of the largest boxes, the colour that most of its nodes had before."""
    unused, colours = list(BOXES), {}
    _, largest = _largest(boxes)
    for box in largest:
        former = [before[node] for node in np.flatnonzero(boxes == box).tolist() if before[node] in unused]
        if former:
            colours[box] = max(unused, key=former.count)
            unused.remove(colours[box])
    for box in largest:
        if box not in colours:
            colours[box] = unused.pop(0)
    return [colours.get(int(box), GREY) for box in boxes]


def plot_counts(counts: Mapping[str, BoxCounts]) -> Figure:
    """Plot box counts over sizes on logarithmic axes, one line per entry, with a band of one spread over seeds.

    Parameters
    ----------
    counts : mapping of labels to BoxCounts
        All over the same kind of size.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(6, 4))
    for k, (label, each) in enumerate(counts.items()):
        color = BOXES[k % len(BOXES)]
        axes.plot(each.sizes, each.counts, color=color, linestyle=DASHES[k % len(DASHES)], label=label)
        if each.spread.any():
            low, high = np.maximum(each.counts - each.spread, 0.5), each.counts + each.spread
            axes.fill_between(each.sizes, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel=f"box size ${each.size_name}$", ylabel="number of boxes $N_B$", xscale="log", yscale="log")
    plain_ticks(axes.xaxis)
    axes.legend()
    return closed(figure)
