"""Figures of the chapter on what the rate measures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from selfsim import figures
from selfsim.figures.rates import SET_TITLES
from selfsim.statistics.synthetic import KNOWN_DIMENSIONS


def test_every_set_of_known_dimension_has_a_title():
    assert set(KNOWN_DIMENSIONS) == set(SET_TITLES)
    assert len(set(SET_TITLES.values())) == len(SET_TITLES)


def estimates(values: dict[str, float]) -> pd.DataFrame:
    middle = pd.Series(values)
    return pd.DataFrame({"low": middle - 1, "estimate": middle, "high": middle + 2})


def drawn(axes):
    """Name, middle and range of every mark in a panel."""
    rows = []
    for container in axes.containers:
        points, _, (bars,) = container
        for x, y, segment in zip(*points.get_data(), bars.get_segments(), strict=True):
            rows.append((container.get_label(), float(x), round(float(y), 3), *np.round(segment[:, 0], 3).tolist()))
    return rows


def test_estimates_have_a_row_for_each_name_and_a_range_and_missing_ones_have_none():
    panel = {"one": estimates({"a": 1.0, "b": np.nan}), "two": estimates({"c": 5.0})}
    figure = figures.plot_estimates({"value": panel}, marks={"value": 3.0})
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert drawn(axes) == [("one", 1.0, 0.0, 0.0, 3.0), ("two", 5.0, 2.0, 4.0, 7.0)]
    assert [line.get_xdata() for line in axes.lines if line.get_linestyle() == ":"] == [[3.0, 3.0]]


def test_series_with_the_same_names_stand_beside_each_other():
    panel = {"one": estimates({"a": 1.0, "b": 2.0}), "two": estimates({"a": 3.0, "b": 4.0})}
    (axes,) = figures.plot_estimates({"value": panel}).axes
    places = {(label, x): y for label, x, y, *_ in drawn(axes)}
    apart = {"value": {"one": estimates({"a": 1.0}), "two": estimates({"b": 1.0})}, "other": panel}
    assert {y for _, _, y, *_ in drawn(figures.plot_estimates(apart).axes[1])} == set(places.values())
    assert places == {("one", 1.0): -0.15, ("one", 2.0): 0.85, ("two", 3.0): 0.15, ("two", 4.0): 1.15}
