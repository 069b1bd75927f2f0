"""Figures of box covering: boxes that grow, counts and their fits, renormalisation flows."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.figure import Figure

from ..boxes.counts import BoxCounts
from ..boxes.cover import box_cover
from ..boxes.dimension import FractalDimension
from ..boxes.renormalization import degree_tail
from ..rate.network import FeatureNetwork
from .plots import BOXES, FIT, FREE, GREY, THEORY, WIDTH, _closed, _labelled, _panels, draw_boxes, layout, plain_ticks

MARKERS = "osD^vP"
LINES = ("-", "--", ":", "-.")


class Animation:
    """Frames with a slider and a button, in one piece of HTML that loads nothing; shown by a notebook.

    Parameters
    ----------
    frames : sequence of bytes
        PNG pictures.
    captions : sequence of str
        What each frame shows, as text; also the alternative text of its picture.
    name : str
        Of the elements of the page; different for each animation on it.
    """

    def __init__(self, frames: Sequence[bytes], captions: Sequence[str], *, name: str):
        self.frames, self.captions, self.name = list(frames), list(captions), name

    def _repr_html_(self) -> str:
        sources = ["data:image/png;base64," + base64.b64encode(frame).decode() for frame in self.frames]
        # "</" inside a script would end it.
        data = json.dumps([["", *sources[1:]], self.captions]).replace("</", "<\\/")
        first = html.escape(self.captions[0])
        return f"""<div id="{self.name}" style="max-width: 640px">
<img src="{sources[0]}" alt="{first}" style="width: 100%">
<div style="display: flex; gap: 0.8em; align-items: center">
<button type="button" style="min-width: 5em">Play</button>
<input type="range" min="0" max="{len(sources) - 1}" value="0" style="flex: 1" aria-label="box size">
</div>
<p>{first}</p>
</div>
<script>
(() => {{
  const [sources, captions] = {data};
  const box = document.getElementById("{self.name}");
  const [image, button, slider, text] = ["img", "button", "input", "p"].map((tag) => box.querySelector(tag));
  let timer = null;
  sources[0] = image.src;
  const show = () => {{
    image.src = sources[slider.value];
    image.alt = text.textContent = captions[slider.value];
  }};
  const stop = () => {{ clearInterval(timer); timer = null; button.textContent = "Play"; }};
  const step = () => {{
    if (+slider.value === sources.length - 1) return stop();
    slider.value = +slider.value + 1;
    show();
  }};
  slider.addEventListener("input", () => {{ stop(); show(); }});
  button.addEventListener("click", () => {{
    if (timer) return stop();
    if (+slider.value === sources.length - 1) {{ slider.value = 0; show(); }}
    button.textContent = "Pause";
    timer = setInterval(step, 500);
  }});
}})();
</script>"""


def animate_boxes(
    network: FeatureNetwork, sizes: Sequence[float], *, neighbours: int = 3, seed: int = 0, name: str = "growing-boxes"
) -> Animation:
    """Boxes of a feature network that grow with l_B, by complete linkage: at each step boxes only merge.

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
    graph, place = layout(network, neighbours=neighbours, seed=seed)
    frames, captions, colours = [], [], [GREY] * network.n
    for size in sizes:
        boxes = box_cover(network, l_B=size, method="complete-linkage")
        colours = _kept_colours(boxes, colours)
        figure, axes = plt.subplots(figsize=(5.5, 4))
        draw_boxes(axes, graph, place, boxes, colours)
        frames.append(_small_png(figure))
        _closed(figure)
        number = int(boxes.max()) + 1
        captions.append(f"Box size {size:.3g}: {network.n} neurons in {number} box{'es' if number > 1 else ''}")
    return Animation(frames, captions, name=name)


def _small_png(figure: Figure) -> bytes:
    """A picture with 64 colours, which these drawings can do with: a third of the bytes."""
    from PIL import Image

    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png", dpi=120)
    Image.open(whole).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()


def _kept_colours(boxes: np.ndarray, before: list[str]) -> list[str]:
    """A colour for each of the largest boxes, that of most of its nodes before, where they had one."""
    colours, free = [GREY] * len(boxes), list(BOXES)
    sizes = np.bincount(boxes)
    largest = [box for box in np.argsort(-sizes, kind="stable")[: len(BOXES)] if sizes[box] > 1]
    wanted = {}
    for box in largest:
        had = [before[node] for node in np.flatnonzero(boxes == box) if before[node] in free]
        if had:
            wanted[box] = max(free, key=had.count)
            free.remove(wanted[box])
    for box in largest:
        colour = wanted.get(box) or free.pop(0)
        for node in np.flatnonzero(boxes == box):
            colours[node] = colour
    return colours


def plot_counts(counts: Mapping[str, BoxCounts], *, log_size: bool = True) -> Figure:
    """Box counts over sizes on logarithmic axes, one line per entry, with a band of one spread over seeds.

    Parameters
    ----------
    counts : mapping of labels to BoxCounts
        All over the same kind of size.
    log_size : bool
        Whether the sizes too are on a logarithmic axis: a power law is a line on two, an exponential decay on one.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(6, 4))
    for k, (label, one) in enumerate(counts.items()):
        axes.plot(one.sizes, one.counts, color=BOXES[k], linestyle=LINES[k % 4], label=label)
        if one.spread.any():
            low, high = np.maximum(one.counts - one.spread, 0.5), one.counts + one.spread
            axes.fill_between(one.sizes, low, high, color=BOXES[k], alpha=0.2, linewidth=0)
    axes.set_yscale("log")
    if log_size:
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    axes.set_xlabel(f"box size ${next(iter(counts.values())).size_name}$")
    axes.set_ylabel("number of boxes $N_B$")
    axes.legend()
    return _closed(figure)


def plot_dimensions(
    counts: Mapping[str, BoxCounts], fits: Mapping[str, FractalDimension], *, exact: Mapping[str, float]
) -> Figure:
    """Counts of several networks, each with its fit inside the window and the slope that theory gives.

    Parameters
    ----------
    counts, fits : mapping of labels to BoxCounts and to their FractalDimension
    exact : mapping of labels to float
        Exact dimensions, of those networks that have one.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, panels = _panels(len(counts), height=2.8)
    for axes, (label, one) in zip(panels, counts.items(), strict=True):
        fit = fits[label]
        line = np.exp(fit.intercept - fit.d_B * np.log(fit.sizes))
        axes.loglog(one.sizes, one.counts, ".", color=GREY, label="all counts")
        axes.loglog(fit.sizes, fit.counts, "o", color=FREE["color"], label="counts in the window")
        axes.loglog(fit.sizes, line, **FIT, label="fit")
        if label in exact:
            middle = len(fit.sizes) // 2
            theory = line[middle] * (fit.sizes / fit.sizes[middle]) ** -exact[label]
            axes.loglog(fit.sizes, theory, **THEORY, label="exact slope")
        known = f", exact {exact[label]:.2f}" if label in exact else ""
        axes.set_title(f"{label}\ndimension {fit.d_B:.2f}{known}", loc="left")
        axes.set_xlabel(f"box size ${fit.size_name}$")
    return _labelled(figure, panels, y="number of boxes $N_B$")


def plot_flow(flow: Sequence[nx.Graph], *, steps: int = 3, seed: int = 0) -> Figure:
    """A renormalisation flow: the first networks of it drawn, and the tails of their degree distributions.

    Parameters
    ----------
    flow : sequence of networkx.Graph
        From `selfsim.renormalization_flow`.
    steps : int
        How many networks are shown.
    seed : int
        Of the layouts.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown = list(flow)[:steps]
    figure, panels = plt.subplots(1, len(shown) + 1, figsize=(WIDTH, 2.7))
    for k, (axes, graph) in enumerate(zip(panels, shown, strict=False)):
        place = (
            nx.kamada_kawai_layout(graph) if len(graph) <= 200 else nx.spring_layout(graph, seed=seed, iterations=200)
        )
        degrees = np.array([degree for _, degree in graph.degree()])
        nx.draw_networkx_edges(graph, place, ax=axes, edge_color=GREY, width=0.7)
        nx.draw_networkx_nodes(graph, place, ax=axes, node_size=4 + 60 * degrees / degrees.max(), node_color=BOXES[k])
        axes.set_title(f"step {k}: {len(graph)} nodes" if k else f"{len(graph)} nodes", loc="left")
        axes.set_axis_off()
        values, tail = degree_tail(graph)
        panels[-1].loglog(values, tail, MARKERS[k] + LINES[k % 4], color=BOXES[k], label=f"step {k}")
    panels[-1].set_xlabel("degree")
    panels[-1].set_ylabel("share of nodes with\nat least this degree")
    panels[-1].legend()
    plain_ticks(panels[-1].xaxis)
    return _closed(figure)
