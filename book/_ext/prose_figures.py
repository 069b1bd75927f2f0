"""Draw area.svg and pipeline.svg, the two figures of the prose: `python book/_ext/prose_figures.py`.

They are drawn once and kept. The curve of area.svg follows the formulas of the page on the SS rate.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch
from scipy.spatial.distance import pdist

STATIC = Path(__file__).parents[1] / "_static"
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"
plt.rcParams.update({"svg.hashsalt": "selfsim", "font.size": 12, "svg.fonttype": "path"})


def staircase(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions u of the sorted distances, and ln N / ln n of the surrogate to the right of each."""
    n, samples = points.shape
    lengths = np.log1p(np.sort(pdist(points)) / samples**0.5)
    u = (lengths - lengths[0]) / (lengths[-1] - lengths[0])
    fraction = np.arange(1, len(u) + 1) / len(u)
    boxes = n - (n - 1) * np.log1p((n - 1) * fraction) / np.log(n)
    return u, np.log(np.maximum(boxes, 1)) / np.log(n)


def save(figure, name: str) -> None:
    figure.savefig(STATIC / name, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    path = STATIC / name
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def draw_area() -> None:
    u, y = staircase(np.random.default_rng(0).standard_normal((96, 128)))
    shown = np.unique(np.searchsorted(u, np.linspace(0, 1, 300)).clip(max=len(u) - 1))  # 4,560 steps are too fine
    u, y = u[shown], y[shown]
    figure, axes = plt.subplots(figsize=(6.4, 4))
    axes.plot([0, 1], [1, 0], color=GREY, lw=1.5)
    axes.step(u, y, where="post", color=BLUE, lw=2)
    axes.fill_between(u, y, 1 - u, color=ORANGE, alpha=0.3, lw=0)
    axes.text(0.12, 0.62, "power law", color=GREY)
    axes.text(0.5, 0.8, "box counts", color=BLUE)
    axes.text(0.25, 0.805, "area", color="#8a3c00")
    axes.set(xlabel="u, from the smallest to the largest distance", ylabel=r"$\ln N_B\ /\ \ln n$")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "area.svg")


def draw_pipeline() -> None:
    random = np.random.default_rng(4)
    centres = np.array([[0.25, 0.72], [0.72, 0.66], [0.45, 0.24]])
    points = np.concatenate([c + 0.085 * random.standard_normal((6, 2)) for c in centres])
    figure, panels = plt.subplots(1, 4, figsize=(12, 3.2))
    titles = ["hidden neurons", "feature network", "boxes", "SS rate"]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=17)
        panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        panel.axis("off")
    for panel in panels[1:3]:
        for i in range(len(points)):
            for j in range(i):
                panel.plot(*points[[i, j]].T, color=GREY, lw=0.4, alpha=0.55, zorder=1)
    for panel in panels[:3]:
        panel.scatter(*points.T, s=45, color=BLUE, zorder=2)
    for k, color in enumerate([ORANGE, GREEN, "#cc79a7"]):
        low = points[6 * k : 6 * k + 6].min(0) - 0.035
        high = points[6 * k : 6 * k + 6].max(0) + 0.035
        panels[2].add_patch(
            FancyBboxPatch(low, *(high - low), boxstyle="round,pad=0.01", fill=False, edgecolor=color, lw=2.5, zorder=3)
        )
    u, y = staircase(points * 4)
    x = 0.08 + 0.86 * u
    panels[3].plot([0.08, 0.94], [0.92, 0.08], color=GREY, lw=1.5)
    panels[3].step(x, 0.08 + 0.84 * y, where="post", color=BLUE, lw=2)
    panels[3].fill_between(x, 0.08 + 0.84 * y, 0.92 - 0.84 * u, color=ORANGE, alpha=0.35, lw=0)
    panels[3].plot([0.08, 0.08, 0.96], [0.96, 0.08, 0.08], color="black", lw=1)
    save(figure, "pipeline.svg")


if __name__ == "__main__":
    draw_area()
    draw_pipeline()
