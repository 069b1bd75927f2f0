"""The study's stored tables: they belong to their grids, stay as they are, and follow the rules of the design."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from selfsim.sweep.grid import read_grid
from study import design, findings, statistics, tables

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "study"
STAGES = sorted(path.name.removesuffix("-runs.csv") for path in RESULTS.glob("*-runs.csv"))


@functools.cache
def stored():
    return tables.read_stages(RESULTS)


def test_stored_runs_are_those_of_their_grid():
    assert STAGES
    for stage in STAGES:
        grid = read_grid(ROOT / "study" / "grids" / f"{stage}.yml", [("data_dir", "anywhere")])
        cells = [tables.configuration(cell.work) for cell in grid.cells]
        runs = stored()[stage]
        assert runs, stage
        for run in runs:
            assert tables.configuration(run.config) in cells, (stage, run.config)
            assert not run.history or run.series("accuracy", split="test")
            assert {row.epoch for row in run.history} <= set(range(run.config.epochs + 1))


def test_stored_tables_do_not_change_where_there_are_no_runs(tmp_path):
    stage = "targets"  # shares runs with another
    for path in RESULTS.glob("*.csv"):
        shutil.copy(path, tmp_path)
    grid = read_grid(ROOT / "study" / "grids" / f"{stage}.yml", [("data_dir", "data/cifar10-jpeg")])
    tables.write_stage(grid, [], tmp_path, stage=stage)
    for table in ("runs", "history"):
        name = f"{stage}-{table}.csv"
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text()


def test_stored_tables_name_no_place():
    for path in RESULTS.glob("*.csv"):
        assert not re.search(r"/(?:home|root|tmp|work|Users)/|data_dir", path.read_text()), path.name


def test_the_constraint_moves_every_rate_towards_its_target_and_no_accuracy_up():
    runs = [*stored()["families"], *stored()["others"]]
    table = findings.gains_table(runs, arms=(design.DEFAULT,))
    assert len(table) == 10
    assert all(interval.low <= 0 for interval in table.interval)
    for (name, arm), both in statistics.pairs(runs).items():
        if arm == design.DEFAULT:
            for metric in ("ss_rate", "ss_rate_left_out"):
                control, treated = (np.mean([statistics.measured(pair[k], metric) for pair in both]) for k in (0, 1))
                assert abs(treated - 0.1) < abs(control - 0.1), (name, metric)
    # The two that lose most are those whose scale changes most.
    gains = table.interval.map(lambda interval: interval.estimate).droplevel(1)
    factors = table.factor.map(np.log).abs().droplevel(1)
    assert set(gains.nsmallest(2).index) == set(factors.nlargest(2).index)


def test_stage_e_pulls_each_layer_nearer_to_its_target_from_both_sides():
    for name in ("resmlp", "vit_small"):
        both = statistics.pairs(stored()["confirm"])[name, design.SUGGESTED]
        means = []
        for layer in both[0][1].layers:
            control, treated = (np.array([pair[k].series("ss_rate", layer=layer)[-1] for pair in both]) for k in (0, 1))
            assert abs(treated - 0.2).mean() < abs(control - 0.2).mean()
            means.append(control.mean())
        assert min(means) < 0.18 and max(means) > 0.22


def test_the_control_aims_where_stage_e_ended_and_its_weight_follows_the_rule():
    stages = stored()
    held = [run for run in stages["confirm"] if run.config.architecture == "vit_small" and run.config.constraint]
    ended = {
        layer: round(float(np.mean([run.series("median_distance", layer=layer)[-1] for run in held])), 2)
        for layer in held[0].layers
    }
    off = {}
    for run in stages["pilot-control"]:
        assert run.config.constraint["target"] == ended
        logs = [abs(np.log(run.series("median_distance", layer=layer)[-1] / aim)) for layer, aim in ended.items()]
        off[run.config.constraint["weight"]] = np.exp(np.mean(logs))
    assert set(off) == {0.1, 1, 10}
    chosen = min(weight for weight, factor in off.items() if factor < 1.1)
    controls = [run.config.constraint for run in stages["control"] if design.arm(run.config) == design.SCALE_ALONE]
    assert all(control == {"scale": True, "target": ended, "weight": chosen} for control in controls)


@pytest.mark.parametrize(("pilot", "stage"), [("pilot", "families"), ("pilot-others", "others")])
def test_learning_rates_follow_the_rule(pilot, stage):
    seen = {}
    for run in stored()[pilot]:
        seen.setdefault(run.config.architecture, []).append((run.series("accuracy")[-1], -run.config.learning_rate))
    both = {name: -max(found)[1] for name, found in seen.items() if len(found) == 2}
    grid = read_grid(ROOT / "study" / "grids" / f"{stage}.yml", [("data_dir", "anywhere")])
    asked = {cell.work.architecture: cell.work.learning_rate for cell in grid.cells}
    assert len(both) >= 4 and {name: asked[name] for name in both} == both
    # No run of a family without both.
    assert {run.config.architecture for run in stored().get(stage, [])} <= set(both)
