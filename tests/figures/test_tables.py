"""The tables of a chapter: each seed's network is held against its own null bands."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import partial

import numpy as np
import pytest

from selfsim import create, figures
from selfsim.statistics.null_models import NullBand
from selfsim.training.config import TrainConfig
from selfsim.training.evaluation import Row
from selfsim.training.runs import Run

LAYERS = ("a", "b")


def run(seed, rates, *, accuracy=0.9, target=None) -> Run:
    config = TrainConfig("mlp", seed=seed, constraint=None if target is None else {"target": target})
    names = ("ss_rate", "ss_rate_left_out", "ss_rate_quantiles", "median_distance")
    rows = [Row(0, "validation", layer, name, 0.5) for layer in LAYERS for name in names]
    rows += [
        Row(1, "validation", layer, name, rate) for layer, rate in zip(LAYERS, rates, strict=True) for name in names
    ]
    return Run(config, [*rows, Row(1, "test", "", "accuracy", accuracy)], {}, {}, {})


def band(low, high, null="gauss") -> NullBand:
    return NullBand(values=np.linspace(low, high, 41), null=null)


# Layer a: each seed lies in its own band, and neither in the other's. Layer b: below, with one seed in the second null.
UNCONSTRAINED = [run(0, (0.2, 0.1)), run(1, (0.4, 0.1))]
CONSTRAINED = [run(seed, (0.15, 0.12), accuracy=a, target=0.1) for seed, a in ((0, 0.88), (1, 0.89))]
BANDS = [
    {"a": [band(0.15, 0.25), band(0.15, 0.25, "shuffled")], "b": [band(0.2, 0.3), band(0.09, 0.3, "shuffled")]},
    {"a": [band(0.35, 0.45), band(0.35, 0.45, "shuffled")], "b": [band(0.2, 0.3), band(0.2, 0.3, "shuffled")]},
]


def test_each_seed_is_counted_in_its_own_band():
    said = figures.summary(UNCONSTRAINED, CONSTRAINED, bands=BANDS, target=0.1)
    differs, moves, follows, costs = said.splitlines()
    assert "Trained on handwritten digits without constraint, " in differs
    assert "lies outside every null band in 1 of 4 cases (layers: 2, seeds: 2). By chance at most 0.2 would." in differs
    assert differs.endswith("2 outside the Gaussian band and 1 outside the shuffled band.")
    swapped = figures.summary(UNCONSTRAINED, CONSTRAINED, bands=BANDS[::-1], target=0.1)
    assert "in 3 of 4 cases" in swapped  # layer a always, layer b with seed 0 alone
    assert "the mean SS rate goes from 0.200 to 0.135, a change of −0.065 [" in moves
    assert "Layer by layer, the change lies between −0.150 (a) and +0.020 (b)." in moves
    assert "lies below every band in 3 of 4 cases" in moves  # not layer b of the first seed: 0.12 and a band from 0.09
    assert follows.startswith("- **Do the layers follow as a whole?** It is not shown. In absolute units, ")
    assert re.search(r"distant neurons changes by −0\.065 \[\S+, \S+\], the rate between quantiles by −0\.065", follows)
    assert follows.endswith("by a factor of 0.70.")  # 0.9 and 0.54: geometric mean over seeds
    assert re.search(r"Over 2 paired seeds the test accuracy changes by −1\.5 points \[\S+, \S+\]", costs)
    with pytest.raises(ValueError, match="zip"):
        figures.summary(UNCONSTRAINED, CONSTRAINED, bands=BANDS[:1], target=0.1)


def test_rates_and_z_are_means_over_the_seeds():
    row = figures.rate_table(UNCONSTRAINED, bands=BANDS).loc["a"]
    assert (row.untrained, row.trained) == ("0.500", "0.300")
    first = BANDS[0]["a"][0]
    low, high = first.low + 0.1, first.high + 0.1  # the band of the other seed is 0.2 further
    assert row["null: gauss"] == f"{low:.3f} to {high:.3f}"
    assert row["z (gauss)"] in ("+0.0", "-0.0")
    below = figures.rate_table(UNCONSTRAINED, bands=BANDS).loc["b", "z (gauss)"]
    values = BANDS[0]["b"][0].values
    assert float(below) == pytest.approx((0.1 - values.mean()) / values.std(ddof=1), abs=0.05)


def test_with_the_constraint_beside_it_the_table_has_no_z():
    table = figures.rate_table(UNCONSTRAINED, CONSTRAINED, bands=BANDS)
    assert list(table) == ["untrained", "trained", "constrained", "null: gauss", "null: shuffled"]
    assert table.loc["b", "constrained"] == "0.120"


def in_units_of_the_median(one, factor):
    """A run whose history also has the rate in units of the median, `factor` times the other."""
    rows = [row for row in one.history if row.metric == "ss_rate"]
    rows = [row._replace(metric="ss_rate_median_unit", value=factor * row.value) for row in rows]
    return dataclasses.replace(one, history=[*one.history, *rows])


def test_tables_and_figures_show_the_rate_that_is_asked_for():
    free, held = ([in_units_of_the_median(run, 0.5) for run in runs] for runs in (UNCONSTRAINED, CONSTRAINED))
    options = {"bands": BANDS, "metric": "ss_rate_median_unit"}
    assert figures.rate_table(free, **options).loc["a", "trained"] == "0.150"
    assert figures.rate_table(free, held, **options).loc["b", "constrained"] == "0.060"
    above = [{layer: [band(0.07, 0.2)] for layer in LAYERS}] * 2
    said = figures.summary(free, held, bands=BANDS, target=0.1, metric=options["metric"], metric_bands=above)
    assert "the SS rate (in absolute units) lies outside every null band in 1 of 4 cases" in said
    assert "the mean SS rate in units of the median goes from 0.100 to 0.068" in said
    assert "lies below every band in 2 of 4 cases" in said  # layer b: 0.06; layer a: 0.075
    assert figures.pair_table(free, held).loc["SS rate in units of the median"].iloc[0] == "0.100"
    axes = figures.plot_rates(free, held, **options).axes[0]
    assert [list(line.get_ydata()) for line in axes.get_lines()[:2]] == [[0.25, 0.1], [0.25, 0.2]]
    drawn = figures.plot_pairs(free, held).axes
    assert any("median" in axes.get_title("left").split() for axes in drawn if "units" in axes.get_title("left"))


def test_runs_without_the_rate_in_units_of_the_median_are_shown_without_it():
    # Those of version 0.1.
    for runs in ((UNCONSTRAINED, CONSTRAINED), ([in_units_of_the_median(UNCONSTRAINED[0], 0.5)], CONSTRAINED[:1])):
        assert list(figures.pair_table(*runs).index) == [
            "test accuracy",
            "SS rate",
            "SS rate without 3 most distant",
            "SS rate between quantiles",
            "median distance",
        ]
        assert sum(axes.get_visible() for axes in figures.plot_pairs(*runs).axes) == 5
    with pytest.raises(KeyError, match="no metric 'ss_rate_median_unit'"):
        figures.rate_table(UNCONSTRAINED, bands=BANDS, metric="ss_rate_median_unit")


@pytest.mark.parametrize(
    ("left_out", "quantiles", "said"),
    [
        (-0.1, -0.1, "On average, yes."),
        (-0.1, 0.0, "On average, in part."),
        (0.1, 0.1, "It is not shown."),
        (0.1, -0.1, "On average, in part."),
    ],
)
def test_a_layer_follows_as_a_whole_if_both_robust_rates_do(left_out, quantiles, said):
    """The constraint pulls the rate down by 0.1; the changes of the others vary by 0.001 from seed to seed."""

    def held(seed):
        one = run(seed, (0.2, 0.2), target=0.1)
        change = {"ss_rate": -0.1, "ss_rate_left_out": left_out, "ss_rate_quantiles": quantiles}
        rows = [
            row._replace(value=0.3 + change.get(row.metric, 0) + 0.001 * seed) if row.epoch == 1 and row.layer else row
            for row in one.history
        ]
        return dataclasses.replace(one, history=rows)

    free = [run(seed, (0.3, 0.3)) for seed in (0, 1, 2)]
    bands = [{layer: [band(0.2, 0.3)] for layer in LAYERS}] * 3
    answer = figures.summary(free, [held(seed) for seed in (0, 1, 2)], bands=bands, target=0.1).splitlines()[2]
    assert answer.startswith(f"- **Do the layers follow as a whole?** {said} ")


def test_equal_accuracies_are_no_interval():
    for accuracy, change in ((0.9, "is the same"), (0.91, "changes by +1.0 points")):
        held = [run(seed, (0.15, 0.12), target=0.1, accuracy=accuracy) for seed in (0, 1)]
        said = figures.summary(UNCONSTRAINED, held, bands=BANDS, target=0.1)
        assert " in each pair" in figures.pair_table(UNCONSTRAINED, held).loc["test accuracy"].iloc[-1]
        assert said.endswith(
            f"In each of 2 pairs of seeds the test accuracy {change}: without a spread there is no interval."
        )


def test_a_band_that_is_nearly_a_point_has_no_z():
    narrow = [
        {"a": [band(0.2, 0.2 + 1e-6)], "b": [band(0.1, 0.2)]},
        *({k: v[:1] for k, v in b.items()} for b in BANDS[1:]),
    ]
    table = figures.rate_table(UNCONSTRAINED, bands=narrow)
    assert table.loc["a", "z (gauss)"] == "narrow"
    assert math.isfinite(float(table.loc["b", "z (gauss)"]))


def test_a_collapsed_layer_is_named():
    collapsed = run(1, (0.2, math.nan))
    with pytest.raises(ValueError, match=r"ss_rate: got none for 'b' with seed 1; such a layer has collapsed"):
        figures.pair_table([UNCONSTRAINED[0], collapsed], CONSTRAINED)
    bands = [BANDS[0], BANDS[1] | {"b": []}]
    for show in (
        partial(figures.rate_table, UNCONSTRAINED),
        partial(figures.summary, UNCONSTRAINED, CONSTRAINED, target=0.1),
        partial(figures.plot_rates, UNCONSTRAINED, CONSTRAINED),
        partial(figures.plot_targets, UNCONSTRAINED, {"held": CONSTRAINED}),
    ):
        with pytest.raises(ValueError, match="bands: got none for 'b' with seed 1"):
            show(bands=bands)


@pytest.mark.parametrize(("options", "expected"), [({}, "0.500"), ({"select": "best"}, "0.900"), ("ema", "0.700")])
def test_both_accuracies_are_those_of_the_weights_that_were_kept(options, expected):
    config = TrainConfig("mlp", **({"select": "ema", "ema": 0.9} if options == "ema" else options))
    rows = [Row(epoch, "validation", "", "accuracy", value) for epoch, value in enumerate((0.1, 0.9, 0.5))]
    rows += [Row(epoch, "validation", "", "accuracy_ema", value) for epoch, value in enumerate((0.1, 0.8, 0.7))]
    rows += [Row(2, "validation", "a", "ss_rate", 0.2)]
    rows += [Row(1 if config.select == "best" else 2, "test", "", "accuracy", 0.88)]
    built_as = {"name": "mlp", "size": "tiny", "num_classes": 10}
    table = figures.network_table(Run(config, rows, built_as, {}, create(**built_as).state_dict()))
    assert table.loc[["validation accuracy", "test accuracy"], "seed 0"].tolist() == [expected, "0.880"]


def test_two_constraints_of_one_architecture_are_told_apart():
    other = [run(seed, (0.3, 0.3), target=0.3) for seed in (0, 1)]
    table = figures.reach_table([*UNCONSTRAINED, *CONSTRAINED, *other])
    assert [text.split(": ")[-1] for text in table.constraint] == ["0.1}", "0.3}"]
    assert "constraint" not in figures.reach_table([*UNCONSTRAINED, *CONSTRAINED])


def test_pairs_need_the_same_seeds():
    table = figures.pair_table(UNCONSTRAINED, CONSTRAINED)
    assert table.loc["test accuracy", "difference [95 % interval]"].startswith("-0.015 [")
    assert figures.pair_table(UNCONSTRAINED[:1], CONSTRAINED[:1]).iloc[0, -1] == "one seed: none"
    with pytest.raises(ValueError, match=r"free, held: got seeds \[0, 1\] and \[0\], need the same"):
        figures.pair_table(UNCONSTRAINED, CONSTRAINED[:1])


def test_the_figure_has_the_mean_of_the_seeds_bands():
    axes = figures.plot_rates(UNCONSTRAINED, CONSTRAINED, bands=BANDS, target=0.1).axes[0]
    spans = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    first = BANDS[0]["a"][0]
    low, high = first.low + 0.1, first.high + 0.1
    assert [(box.y0, box.y1) for box in spans] == [pytest.approx((low, high))] * 2
    assert axes.get_title("left") == "a"
