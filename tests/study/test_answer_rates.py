"""What the page that answers says of the rates."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from study import answer_rates, answer_text, convergence_statistics
from study.convergence_tables import FREE, HOLD, LOWER, PUBLISHED, SCALING

from .made_convergence import FAMILIES, made_tables


def test_the_table_has_the_means_of_the_measure_that_each_arm_pulls():
    tables = made_tables(families=FAMILIES[:2], reach=0.8)
    rates = convergence_statistics.reached(tables)
    lines = [line.strip("| ").split(" | ") for line in answer_rates.rates_table(tables, rates).splitlines()[2:]]
    assert [line[1] for line in lines[:4]] == [answer_text.SHORT[arm] for _, arm in rates.index[:4]]
    last = tables.history[(tables.history.split == "train") & (tables.history.epoch == 60)]
    means = {}
    for arm in (FREE, LOWER):
        runs = [f"mlp-{arm}-{seed}" for seed in range(10)]
        means[arm] = last[last.run.isin(runs)].ss_rate_median.astype(float).mean()
    line = next(line for line in lines if line[:2] == ["Plain MLP", answer_text.SHORT[LOWER]])
    assert line[3:5] == ["0.100", f"{means[FREE]:.3f} → {means[LOWER]:.3f}"]
    assert line[6] == "yes" and line[7] == "0.001 → 0.001"


def with_targets(tables, arm, target):
    """The tables with another target of an arm."""
    runs = tables.runs.copy()
    own = runs.arm == arm
    runs.loc[own, "constraint"] = [json.dumps(json.loads(text) | {"target": target}) for text in runs.constraint[own]]
    return replace(tables, runs=runs)


@pytest.mark.parametrize(("target", "words"), [(0.5, ("above", "up")), (0.01, ("below", "down")), (None, None)])
def test_targets_beyond_all_free_trainings_are_named(target, words):
    tables = made_tables(families=FAMILIES[:1])
    rates = convergence_statistics.reached(tables)
    if target is None:
        target = rates.free["mlp", HOLD]
    text = answer_rates.hold_sentence(convergence_statistics.reached(with_targets(tables, HOLD, target)))
    if words is None:
        assert text == ""
    else:
        assert f"In Plain MLP their mean, {target:.2f}, lies {words[0]} the rates of all" in text
        assert text.endswith(f"so that holding pulled the rate {words[1]}.")


def test_an_arm_that_went_away_from_its_target_is_named():
    tables = made_tables(families=FAMILIES[:2], reach=0.8)  # the lowered layers go down
    away = convergence_statistics.reached(with_targets(tables, LOWER, 0.9))
    assert away.away["mlp", LOWER] and not away.moved["mlp", LOWER]
    assert answer_rates.direction(away, "mlp", LOWER) == "further away"
    names = list(FAMILIES[:2])
    assert answer_rates.directions(away, LOWER, names) == "Nearer to the targets: 0 of 2 families."
    near = convergence_statistics.reached(tables)
    assert answer_rates.directions(near, SCALING, names) == "Nearer to the targets: 2 of 2 families."
    assert answer_rates.direction(near, "mlp", FREE) == ""
    assert answer_rates.direction(near, "mlp", PUBLISHED) in ("yes", "no", "further away")
