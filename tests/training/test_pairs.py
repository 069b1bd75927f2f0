"""Pairs of runs by seed, and the metrics by which they are compared."""

from __future__ import annotations

import dataclasses

import pytest

from selfsim import TrainConfig
from selfsim.figures import reach_table
from selfsim.training.evaluation import Row
from selfsim.training.pairs import (
    PAIRED_METRICS,
    accuracy_gains,
    check_paired,
    final_value,
    mean_over_layers,
    paired_runs,
    pulled_metric,
)
from selfsim.training.runs import Run


def made_run(name, seed, rate, *, accuracy=0.9, target=None) -> Run:
    config = TrainConfig(name, seed=seed, constraint=None if target is None else {"target": target})
    rows = [Row(0, "validation", layer, metric, 0.3) for layer in "ab" for metric in ("ss_rate", "median_distance")]
    for layer, extra in (("a", -0.02), ("b", 0.02)):
        rows += [Row(1, "validation", layer, metric, rate + extra) for metric in PAIRED_METRICS[1:]]
    return Run(config, [*rows, Row(1, "test", "", "accuracy", accuracy)], {}, {}, {})


CONTROL = [made_run("mlp", seed, 0.3) for seed in (0, 1)]
TREATED = [made_run("mlp", seed, 0.15, target=0.1, accuracy=0.91) for seed in (0, 1)]
ALONE = made_run("pvt", 0, 0.3)


def test_metrics_are_means_over_layers_and_the_accuracy_is_that_on_test():
    assert mean_over_layers(CONTROL[0], "ss_rate") == pytest.approx([0.3, 0.3])
    assert [final_value(TREATED[0], metric) for metric in PAIRED_METRICS] == pytest.approx([0.91] + 5 * [0.15])


def test_runs_are_paired_by_seed_whatever_their_order():
    ((key, pairs),) = paired_runs([TREATED[1], ALONE, *CONTROL, TREATED[0]]).items()
    assert key == ("mlp", '{"target": 0.1}')
    assert pairs == [(CONTROL[0], TREATED[0]), (CONTROL[1], TREATED[1])]


def test_the_gain_is_the_mean_over_pairs_and_the_table_has_all_metrics():
    runs = [*CONTROL, *TREATED, ALONE]
    assert accuracy_gains(runs) == {"mlp": pytest.approx(0.01)}
    row = reach_table(runs).loc["Plain MLP"]
    assert (
        row["SS rate"]
        == row["SS rate in units of the median"]
        == row["SS rate without 3 most distant"]
        == "0.300 → 0.150"
    )
    assert row["of the way to the target"] == "75 %"  # from 0.30 to 0.15 of 0.10
    assert row["median distance, factor"] == "0.50"
    assert row["test accuracy, change"] == "+0.010 in each pair"
    falling = [made_run("mlp", seed, 0.15, target={"schedule": "linear", "start": 0.2, "end": 0.1}) for seed in (0, 1)]
    assert reach_table([*CONTROL, *falling]).loc["Plain MLP", "of the way to the target"] == "–"


def test_a_constraint_pulls_the_rate_in_its_own_units():
    plain = TrainConfig("mlp", constraint={"plain": True})
    assert pulled_metric(TREATED[0].config) == "ss_rate_median_unit" != pulled_metric(plain) == "ss_rate"
    others = ({"measure": "scaling"}, {"quantiles": [0.05, 0.95], "ends": "detached"}, {"leave_out": 2})
    assert [pulled_metric(TrainConfig("mlp", constraint=options)) for options in others] == [None] * 3
    assert pulled_metric(TrainConfig("mlp", constraint={"scale": True, "target": 0.2})) == "median_distance"


def test_the_way_is_that_of_what_is_pulled_to_its_target_or_the_default():
    def way(options):
        held = [
            dataclasses.replace(run, config=TrainConfig("mlp", seed=run.config.seed, constraint=options))
            for run in TREATED
        ]
        return reach_table([*CONTROL, *held]).loc["Plain MLP", "of the way to the target"]

    assert way({}) == "75 %" and way({"scale": True, "target": 0.2}) == "150 %"
    assert way({"measure": "scaling"}) == "–"


@pytest.mark.parametrize("changed", [{"epochs": 5}, {"subset": 3}, {"size": "small"}, {"samples": 16}])
def test_a_pair_is_trained_on_the_same_data_for_as_long(changed):
    other = dataclasses.replace(TREATED[0], config=dataclasses.replace(TREATED[0].config, **changed))
    with pytest.raises(ValueError, match=f"a pair of mlp with the seed 0 that differs in {next(iter(changed))}; need"):
        accuracy_gains([*CONTROL, other])


def test_a_pair_is_trained_on_the_same_images():
    cats, dogs = ({"data": {"fingerprints": {"train": name}}} for name in ("cats", "dogs"))
    control = dataclasses.replace(CONTROL[0], environment=cats)
    assert accuracy_gains([control, dataclasses.replace(TREATED[0], environment=cats)])
    with pytest.raises(ValueError, match="that differs in images; need"):
        accuracy_gains([control, dataclasses.replace(TREATED[0], environment=dogs)])


def test_a_seed_that_is_there_twice_is_refused():
    message = "runs: got two of mlp, unconstrained, with the seed 0, which differ in nothing; need each once"
    for pair_up in (paired_runs, accuracy_gains, reach_table):
        with pytest.raises(ValueError, match=message):
            pair_up([*CONTROL, *TREATED, CONTROL[0]])
    with pytest.raises(ValueError, match=r"got seeds \[0, 0\], need each once"):
        check_paired([CONTROL[0]] * 2, [TREATED[0]] * 2)


def test_runs_that_do_not_pair_are_refused():
    for control, treated in ((CONTROL, TREATED[:1]), (CONTROL, TREATED[::-1]), ([], [])):
        with pytest.raises(ValueError, match="control, treated: got seeds .* need the same, at least one"):
            check_paired(control, treated)


def test_a_gain_is_that_of_one_constraint():
    others = [made_run("mlp", seed, 0.15, target=0.2) for seed in (0, 1)]
    with pytest.raises(ValueError, match="runs: got several constraints of mlp"):
        accuracy_gains([*CONTROL, *TREATED, *others])
