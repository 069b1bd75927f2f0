"""Make what the explorer and the first page show of trained networks: `python book/_ext/explorer_data.py`.

It trains the ten architectures as the quick preset does, with the first seed and without constraint (some minutes), and
writes into book/_static: explorer-data.js, explorer-still.png, growing-boxes.html and growing-boxes-still.png.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import selfsim
from matplotlib.figure import Figure
from PIL import Image
from scipy.cluster.hierarchy import linkage
from selfsim.figures.network import draw_boxes
from selfsim.figures.style import BOXES, GREY
from selfsim.models.architectures import architecture
from selfsim.publish.run_list import PROJECT_LIST, Chapter, read_run_list

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "book" / "_static"
EPOCHS = (0, 1, 3, 6)  # and the last one
LAYERS = 4  # of each network, from the first to the last
WIDEST = 256  # neurons of a layer that a page can draw
SAMPLES = 128
POINTS = 40  # of the curve
STILL = ("mlp", "vit_small", "vgg11")
FRONT = "vit_small"  # its last layer is on the first page


class Recorded:
    """The layers of one network at some epochs of its training."""

    def __init__(self, config: selfsim.TrainConfig) -> None:
        self.images = config.load_images()
        self.wanted = {*EPOCHS, config.epochs}
        self.epochs: list[int] = []
        self.layers: dict[str, list[dict[str, Any]]] = {}
        selfsim.train(config, images=self.images, on_epoch=self.record)

    def record(self, epoch: int, model: Any) -> None:
        """Analyze the network after an epoch; `selfsim.train` calls it."""
        if epoch not in self.wanted:
            return
        self.epochs.append(epoch)
        analysis = selfsim.analyze(
            model,
            self.images.batches("validation"),
            layers=list(self.layers) or None,
            samples=SAMPLES,
            statistics=["rate"],
            nulls=["shuffled"],
            progress=False,
        )
        if not self.layers:
            narrow = [name for name in analysis.layers if analysis.rows[name]["neurons"] <= WIDEST]
            places = np.linspace(0, len(narrow) - 1, LAYERS).round().astype(int)
            self.layers = {narrow[place]: [] for place in places}
        for name, states in self.layers.items():
            self.last = network = analysis.network(name)
            before = states[-1]["p"] if states else None
            states.append(state(network, analysis.rows[name], selfsim.rate_curve(analysis.activations[name]), before))


def state(network: selfsim.FeatureNetwork, row: Mapping[str, Any], curve: Any, before: list[int] | None) -> dict:
    """Return one layer at one epoch, in few characters.

    p: x and y of each neuron, 0 to 999. e: both ends of each edge to the two nearest neurons. m: the two clusters of
    each merge, as SciPy numbers them, by height. h: the heights, which are box sizes. c: ln N / ln n of the surrogate
    at evenly spaced places between the shortest and the longest distance in ln(1 + l). d: these two distances. r: the
    rate and its null band.
    """
    graph = network.to_networkx(neighbours=2)
    start = None if before is None else {k: np.array(before[2 * k : 2 * k + 2]) / 500 - 1 for k in range(network.n)}
    for *_, facts in graph.edges(data=True):
        facts["closeness"] = 1 / (1e-9 + facts["length"])
    spread = 2.5 / network.n**0.5
    laid = nx.spring_layout(graph, weight="closeness", k=spread, pos=start, iterations=60, seed=0)
    places = np.array([laid[k] for k in range(network.n)])
    places = (places - places.min(0)) / np.ptp(places, axis=0).max()
    merges = linkage(network.distances, "complete")
    x = np.log1p(curve.l_B)
    y = np.interp(np.linspace(x[0], x[-1], POINTS), x, np.log(curve.counts) / np.log(network.n))
    return {
        "p": (999 * places).round().astype(int).ravel().tolist(),
        "e": [int(node) for edge in graph.edges for node in edge],
        "m": merges[:, :2].astype(int).ravel().tolist(),
        "h": short(merges[:, 2]),
        "c": short(y),
        "d": short([network.distances.min(), network.distances.max()], digits=5),
        "r": short([row["rate"], row["null_low"], row["null_high"]]),
    }


def short(values: Any, *, digits: int = 3) -> list[float]:
    """Return numbers with so many significant digits."""
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, dtype=float)]


def configuration(chapter: Chapter) -> selfsim.TrainConfig:
    """Return the first seed's configuration of a chapter on an architecture, without constraint."""
    names = {one.name for one in fields(selfsim.TrainConfig)}
    given = {name: value for name, value in chapter.parameters.items() if name in names}
    return selfsim.TrainConfig(**given, seed=chapter.parameters["seeds"][0], samples=SAMPLES)


def still(recorded: Mapping[str, Recorded]) -> Figure:
    """Draw the last layer of three networks before, early in and after training, a tenth as many boxes as neurons."""
    figure, grid = plt.subplots(len(recorded), 3, figsize=(6.4, 2.1 * len(recorded)), constrained_layout=True)
    for row, (name, each) in zip(grid, recorded.items(), strict=True):
        *_, states = each.layers.values()
        for axes, k in zip(row, (0, len(each.epochs) // 2, -1), strict=True):
            draw(axes, states[k], len(states[k]["p"]) // 20)
            rate, low, high = states[k]["r"]
            title = f"{architecture(name).title}, epoch {each.epochs[k]}\n"
            axes.set_title(f"{title}rate {rate:.2f}, shuffled {low:.2f}–{high:.2f}", fontsize=8)
    return figure


def front_still(each: Recorded) -> Figure:
    """Draw four sizes of the first page's animation."""
    *_, states = each.layers.values()
    n = len(states[-1]["p"]) // 2
    figure, grid = plt.subplots(2, 2, figsize=(6, 5.2), constrained_layout=True)
    for axes, number in zip(grid.flat, (n, n // 4, n // 16, 1), strict=True):
        draw(axes, states[-1], number)
        axes.set_title(f"{number} box{'es' if number > 1 else ''}", fontsize=11)
    return figure


def draw(axes: Any, shown: Mapping[str, Any], number: int) -> None:
    """Draw a layer in so many boxes."""
    n = len(shown["p"]) // 2
    members = {node: [node] for node in range(n)}
    for merge in range(n - number):
        members[n + merge] = members.pop(shown["m"][2 * merge]) + members.pop(shown["m"][2 * merge + 1])
    boxes, colours = np.zeros(n, dtype=int), [GREY] * n
    for box, nodes in enumerate(sorted(members.values(), key=len, reverse=True)):
        for node in nodes:
            boxes[node] = box
            colours[node] = BOXES[box] if box < len(BOXES) and len(nodes) > 1 else GREY
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(zip(shown["e"][::2], shown["e"][1::2], strict=True))
    places = {k: np.array([shown["p"][2 * k], -shown["p"][2 * k + 1]]) for k in range(n)}
    draw_boxes(axes, graph, places, boxes, colours)


def save(figure: Figure, name: str) -> None:
    """Write a picture of 128 colours."""
    full = io.BytesIO()
    figure.savefig(full, dpi=160)
    plt.close(figure)
    Image.open(full).convert("RGB").quantize(128).save(STATIC / name, optimize=True)


def main() -> None:
    chapters = read_run_list(ROOT / PROJECT_LIST, "quick").chapters
    configs = [configuration(chapter) for chapter in chapters if chapter.notebook.name == "architecture.ipynb"]
    recorded = {}
    for config in configs:
        recorded[config.architecture] = Recorded(config)
        print(config.architecture, list(recorded[config.architecture].layers), flush=True)
    data = [
        {"name": architecture(name).title, "epochs": each.epochs, "layers": each.layers}
        for name, each in recorded.items()
    ]
    text = re.sub(r"(?<=[\[,:-])0\.", ".", json.dumps(data, separators=(",", ":")))
    (STATIC / "explorer-data.js").write_text(f"window.explorerData = {text};\n", encoding="utf-8")
    save(still({name: recorded[name] for name in STILL}), "explorer-still.png")
    front = recorded[FRONT]
    *_, states = front.layers.values()
    heights = states[-1]["h"]
    places = np.unique(np.linspace(0, 1, 12) ** 0.7 * (len(heights) - 1)).astype(int)
    sizes = [0.5 * heights[0], *(1.001 * heights[place] for place in places[1:])]
    animation = selfsim.figures.animate_boxes(front.last, sizes, neighbours=2)
    animation.first = len(sizes) * 2 // 3
    (STATIC / "growing-boxes.html").write_text(animation._repr_html_().strip() + "\n", encoding="utf-8")
    save(front_still(front), "growing-boxes-still.png")


if __name__ == "__main__":
    main()
