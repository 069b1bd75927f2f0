"""The table of known sets is what its measures give, and its areas under the curve are those of the definition.

Not shown here: what the table means (the chapter on what the rate measures), and the measures themselves.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

import selfsim
from benchmarks import known_sets
from selfsim.statistics.synthetic import KNOWN_DIMENSIONS

STORED = json.loads((Path(__file__).parents[2] / known_sets.OUTPUT).read_text(encoding="utf-8"))
ROWS = pd.DataFrame(STORED["sets"]).set_index(["n", "measure", "set"])
AREAS = pd.DataFrame(STORED["auc"]).set_index(["n", "measure", "against", "unit"])


def agrees(measure: str, name: str, n: int) -> None:
    for key, array in known_sets.measured(measure, name, n, known_sets.DRAWS[n]).items():
        stored = ROWS.loc[n, key, name]
        known = array[np.isfinite(array[:, 0]), 0]
        assert len(known) == stored.numbers, (n, key, name)
        if len(known):
            assert known.mean() == pytest.approx(stored["mean"], rel=1e-4, abs=1e-6), (n, key, name)


@pytest.mark.parametrize("measure", known_sets.MEASURES)
def test_the_small_part_of_the_table_is_what_the_measures_give(measure):
    for name in ("cantor", "gauss"):
        agrees(measure, name, 64)


@pytest.mark.long
@pytest.mark.parametrize("measure", known_sets.MEASURES)
def test_the_table_of_128_neurons_is_what_the_measures_give(measure):
    for row in known_sets.rows_of(measure, 128, known_sets.DRAWS[128])["auc"]:
        stored = AREAS.loc[128, row["measure"], row["against"], row["unit"]]
        assert row["auc"] == pytest.approx(stored.auc, abs=0.005)
    for name in KNOWN_DIMENSIONS:
        agrees(measure, name, 128)


def test_the_table_has_every_set_size_and_measure():
    assert set(ROWS.index.unique("n")) == set(known_sets.DRAWS)
    assert {key.partition(":")[0] for key in ROWS.index.unique("measure")} == set(known_sets.MEASURES)
    assert set(ROWS.index.unique("set")) == set(KNOWN_DIMENSIONS) >= {*known_sets.FRACTALS}
    assert len(KNOWN_DIMENSIONS) >= 12


@pytest.mark.parametrize("against", ["noise", "clusters"])
@pytest.mark.parametrize("unit", ["one", "any"])
def test_scaling_reaches_its_goal_and_no_unit_moves_it(against, unit):
    assert AREAS.loc[(128, "scaling", against, unit), "auc"] >= 0.99


def test_the_octave_and_not_the_deviation_tells_noise_from_fractals():
    """Most noise is below the threshold of the deviation, in less than an octave."""
    noise = ROWS.loc[128].xs("gauss", level="set")["mean"]
    assert noise["scaling: below threshold"] > 0.5 > noise["scaling: octaves"]
    by_set = pd.DataFrame(STORED["auc of each set against noise"]).set_index(["n", "set"])
    assert set(by_set.loc[128].index) == set(known_sets.FRACTALS)
    assert by_set.loc[128].auc.mean() == pytest.approx(AREAS.loc[128, known_sets.ALONE, "noise", "one"].auc)


@pytest.mark.parametrize(("dimension", "reached"), [(4, True), (5, True), (6, False), (8, False)])
def test_128_points_show_an_octave_up_to_five_dimensions(dimension, reached):
    clouds = torch.rand(20, dimension, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (np.mean([selfsim.scaling(x, draws=0).octaves.value for x in clouds]) >= 1) == reached


def test_areas_are_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    fractals, others = rng.normal(size=(30, 3)), rng.normal(0.5, 1, size=(20, 3))
    truth = np.r_[np.ones(fractals.size), np.zeros(others.size)]
    found = known_sets.area_under_curve(fractals, others)
    assert found["auc"] == pytest.approx(roc_auc_score(truth, -np.r_[fractals.ravel(), others.ravel()]))
    assert found["low"] < found["auc"] < found["high"]


@pytest.mark.parametrize(("fractals", "others", "area"), [
    ([0.0, np.nan], [1.0, 1.0], 0.75),  # without a number, each order counts half
    ([np.inf, 0.0], [np.inf, np.inf], 0.75),  # less than an octave is the largest value, and a tie
    ([np.nan, np.nan], [1.0, 2.0], 0.5),
    ([1.0, 2.0], [3.0, 4.0], 1.0),
    ([3.0, 4.0], [1.0, 2.0], 0.0),
])  # fmt: skip
def test_areas_without_numbers_with_ties_and_at_the_ends(fractals, others, area):
    found = known_sets.area_under_curve(np.array(fractals)[:, None], np.array(others)[:, None])
    assert found["auc"] == area
    assert 0 <= found["low"] <= area <= found["high"] <= 1
    assert found["low"] < found["high"]


def test_intervals_of_areas_hold_the_truth():
    rng, truth, held = np.random.default_rng(0), stats.norm.cdf(1.5 / np.sqrt(2)), 0
    for _ in range(400):
        found = known_sets.area_under_curve(rng.normal(size=(40, 1)), rng.normal(1.5, 1, size=(20, 1)))
        held += found["low"] <= truth <= found["high"]
    assert 0.92 <= held / 400 <= 0.985


def test_a_draw_reads_seven_of_eight_neurons():
    x, again, other = (known_sets.drawn("cantor", 64, draw) for draw in (0, 0, 1))
    assert x.shape == (1, 64) and len(x.unique()) == 64
    assert x.equal(again) and not x.sort().values.equal(other.sort().values)
