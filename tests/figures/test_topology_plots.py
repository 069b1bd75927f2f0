"""Figures of invariance and small worlds: they show what they were given, and leave out what there is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from selfsim.figures import topology_plots
from selfsim.uncertainty import Interval


def test_layers_without_an_estimate_are_gaps():
    layers = {"a": Interval(2.0, 1.5, 2.5, 0.95, 9), "b": None, "c": Interval(4.0, 4.0, 4.0, 0.95, 9)}
    panels = {"mlp": {"trained": layers, "noise": dict.fromkeys("abc")}}
    axes = topology_plots.plot_layers(panels, y="sigma", log_y=True).axes[0]
    trained, noise = axes.containers
    assert trained.lines[0].get_ydata().tolist() == [2.0, 4.0]
    assert np.round(trained.lines[0].get_xdata()).tolist() == [1, 3]
    assert noise.lines[0].get_ydata().tolist() == []
    assert (axes.get_ylabel(), axes.get_yscale(), axes.get_title(loc="left")) == ("sigma", "log", "mlp")


def test_sweep_has_a_panel_each_and_hides_the_rest():
    table = pd.DataFrame({"trained": [0.1, np.nan, 0.3], "noise": [0.0, 0.1, 0.2]}, index=[0.01, 0.1, 1.0])
    figure = topology_plots.plot_sweep(dict.fromkeys(["one", "two", "three", "four"], table), x="share", y="value")
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2
    assert [line.get_label() for line in figure.axes[0].lines] == ["trained", "noise"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "share", "share", "share", "", ""]
    assert (figure.axes[0].get_ylabel(), figure.axes[1].get_ylabel()) == ("value", "")
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), table["trained"])


def test_paths():
    table = pd.DataFrame({"unconstrained": [1.0, 2.0], "constrained": [1.0, 3.0]}).rename_axis("epoch")
    axes = topology_plots.plot_paths({"rate": table, "sigma": table}).axes
    assert [a.get_title(loc="left") for a in axes] == ["rate", "sigma"]
    assert axes[0].lines[1].get_ydata().tolist() == [1.0, 3.0]
    assert axes[0].get_xlabel() == "epoch"


@pytest.mark.parametrize("missing", [0, 1])
def test_gains_name_every_point(missing):
    table = pd.DataFrame({"gain": [0.1, -0.1, 0.0], "spread": [1.0, 2.0, 3.0]}, index=["a", "b", "c"])
    table.iloc[0, 1] = np.nan if missing else 1.0
    (axes,) = topology_plots.plot_gains(table, gain="gain").axes
    assert sorted(text.get_text() for text in axes.texts) == ["a", "b", "c"][missing:]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("spread", "gain")
