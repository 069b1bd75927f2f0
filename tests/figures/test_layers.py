"""Figures of invariance and small worlds: they show what they were given, and leave out what there is not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from selfsim import figures
from selfsim.uncertainty import Interval


def test_layers_without_an_estimate_are_gaps():
    layers = {"a": Interval(2.0, 1.5, 2.5, 0.95, 9), "b": None, "c": Interval(4.0, 4.0, 4.0, 0.95, 9)}
    panels = {"mlp": {"trained": layers, "noise": dict.fromkeys("abc")}}
    axes = figures.plot_layers(panels, y="sigma", log_y=True).axes[0]
    trained, noise = axes.containers
    assert trained.lines[0].get_ydata().tolist() == [2.0, 4.0]
    assert np.round(trained.lines[0].get_xdata()).tolist() == [1, 3]
    assert noise.lines[0].get_ydata().tolist() == []
    assert (axes.get_ylabel(), axes.get_yscale(), axes.get_title(loc="left")) == ("sigma", "log", "mlp")


def test_a_layer_stands_at_its_own_place_where_a_state_lacks_others():
    point = Interval(1.0, 1.0, 1.0, 0.95, 9)
    axes = figures.plot_layers({"mlp": {"trained": {"a": point, "b": point}, "noise": {"b": point}}}, y="").axes[0]
    assert [np.round(bars.lines[0].get_xdata()).tolist() for bars in axes.containers] == [[1, 2], [2]]
    assert axes.get_xticks().tolist() == [1, 2]
    axes = figures.plot_layers({"mlp": {"trained": {"b": point}, "noise": {"a": point, "b": point}}}, y="").axes[0]
    assert [np.round(bars.lines[0].get_xdata()).tolist() for bars in axes.containers] == [[2], [1, 2]]


def test_lines_have_a_panel_each_keep_gaps_and_hide_unused_panels():
    table = pd.DataFrame({"trained": [0.1, np.nan, 0.3], "noise": [0.0, 0.1, 0.2]}, index=[0.01, 0.1, 1.0])
    figure = figures.plot_lines(dict.fromkeys(["one", "two", "three", "four", "five"], table), x="share", y="value")
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False]
    assert [line.get_label() for line in figure.axes[0].lines] == ["trained", "noise"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "", "share", "share", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["value", "", "value", "", "value", ""]
    assert {axes.get_xscale() for axes in figure.axes[:5]} == {"log"}
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), table["trained"])


def test_lines_over_names():
    table = pd.DataFrame({"first": [1.0, 2.0], "second": [2.0, 1.0]}, index=["raw", "scaled"]).rename_axis("unit")
    figure = figures.plot_lines({"a": table, "b": table}, y="rate")
    assert [axes.get_xlabel() for axes in figure.axes] == ["unit", "unit"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["first", "second"]


def test_paths():
    table = pd.DataFrame({"unconstrained": [1.0, 2.0], "constrained": [1.0, 3.0]}).rename_axis("epoch")
    axes = figures.plot_lines({"rate": table, "sigma": table}).axes
    assert [a.get_title(loc="left") for a in axes] == ["rate", "sigma"]
    assert axes[0].lines[1].get_ydata().tolist() == [1.0, 3.0]
    assert axes[0].get_xlabel() == "epoch"


def test_a_network_without_any_estimate_is_an_empty_panel():
    nothing = {"trained": {"a": None, "b": None}, "noise": {"a": None, "b": None}}
    some = {"trained": {"a": Interval(2.0, 1.0, 3.0, 0.95, 9), "b": None}, "noise": {"a": None, "b": None}}
    figure = figures.plot_layers({"none": nothing, "some": some}, y="exponent", log_y=True)
    figure.canvas.draw()  # a logarithmic axis without numbers would raise
    assert figure.axes[1].get_yscale() == "log"
