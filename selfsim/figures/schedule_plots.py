"""Figures of the chapter on targets that change during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..statistics.null_models import NullBand
from ..training.runs import Run
from .plots import BANDS, FREE, GREY, HELD, PAIRED, TARGET, WIDTH, _closed, _labelled, _panels, _plot_seeds, over_layers


def plot_targets(
    free: Sequence[Run], settings: Mapping[str, Sequence[Run]], *, bands: Sequence[Mapping[str, Sequence[NullBand]]]
) -> Figure:
    """For each setting, its target and the rate over the epochs, beside the rate without constraint and the null band.

    Parameters
    ----------
    free : sequence of Run
        Without constraint.
    settings : mapping of titles to sequence of Run
    bands : sequence of mapping of layers to NullBand
        One mapping for each run of `free`; the first band of each layer is drawn.

    Returns
    -------
    matplotlib.figure.Figure
        Rates and targets are means over the layers, the ends of the band over layers and runs.
    """
    figure, panels = _panels(len(settings))
    gauss = [band for run in bands for (band, *_) in run.values()]
    low, high = (np.mean([getattr(band, end) for band in gauss]) for end in ("low", "high"))
    for axes, (title, held) in zip(panels, settings.items(), strict=True):
        axes.axhspan(low, high, **BANDS["gauss"], linewidth=0)
        for runs, style in ((free, FREE), (held, HELD)):
            _plot_seeds(axes, [over_layers(run, "ss_rate") for run in runs], style)
        targets = np.mean([over_layers(run, "target", "train") for run in held], 0)
        # The target of an epoch holds from its beginning to its end.
        axes.stairs(targets, np.arange(len(targets) + 1), baseline=None, **TARGET)
        axes.set_title(title, loc="left")
    panels[0].set_ylim(0, None)
    return _labelled(figure, panels, x="epoch", y="SS rate")


def plot_settings(settings: Mapping[str, Sequence[Run]]) -> Figure:
    """What each setting ended with, seed by seed (dots) and in the mean (bars): one panel a measure.

    Parameters
    ----------
    settings : mapping of titles to sequence of Run
        The first is the one without constraint; runs of the same seed are joined.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, panels = plt.subplots(1, len(PAIRED), figsize=(WIDTH, 0.4 * len(settings) + 1.2), sharey=True)
    for axes, (title, value) in zip(panels, PAIRED.items(), strict=True):
        table = np.array([[value(run) for run in runs] for runs in settings.values()])
        axes.plot(table, range(len(table)), color=GREY, zorder=1)
        for row, values in enumerate(table):
            style = FREE if row == 0 else HELD
            axes.scatter(values, [row] * len(values), color=style["color"], marker=style["marker"], s=22, zorder=2)
            axes.plot([values.mean()] * 2, [row - 0.3, row + 0.3], color="black", linewidth=1.5, zorder=3)
        axes.set_title(title, loc="left", fontsize=10)
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
    panels[0].set_yticks(range(len(settings)), settings)
    panels[0].invert_yaxis()
    return _closed(figure)
