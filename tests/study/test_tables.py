"""The tables of the study: runs give them, they give the runs back, and what takes weights is kept."""

from __future__ import annotations

import ast
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from selfsim import (
    TrainConfig,
    activations,
    correlation_dimension,
    load_images,
    load_run,
    load_runs,
    spectrum_exponent,
    train,
)
from selfsim.sweep.grid import read_grid
from selfsim.training.pairs import PAIRED_METRICS
from selfsim.training.runs import Run
from study import comparison, statistics
from study import layers as study_layers
from study import tables as study_tables

from .made_study import DEFAULT, made_run

GRID = """\
parameters: {architecture: mlp, epochs: 1, train_images: 128, test_images: 64, samples: 16}
grid:
  seed: [0, 1]
  constraint: [null, {plain: true, target: 0.1, weight: 10}]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A grid of four cells, of which two are done and one has failed, and its tables."""
    place = tmp_path_factory.mktemp("study")
    (place / "tiny.yml").write_text(GRID)
    grid = read_grid(place / "tiny.yml", [("data_dir", str(place))])
    images = load_images("digits", train_images=128, test_images=64)
    for cell in grid.cells[:2]:
        train(cell.work, images=images, directory=place / "sweep" / cell.name, device="cpu")
    (place / "sweep" / "failed").mkdir()
    (place / "sweep" / "failed" / f"{grid.cells[2].name}.txt").write_text("overflowed")
    study_tables.write_stage(grid, [place / "elsewhere", place / "sweep"], place / "tables", stage="tiny")
    return place, grid


def test_tables_give_the_runs_back(swept):
    place, grid = swept
    first, second, failed = study_tables.read_stages(place / "tables")["tiny"]
    for cell, found in zip(grid.cells, (first, second), strict=False):
        made = load_run(place / "sweep" / cell.name)
        assert {row[:4] for row in found.history} == {row[:4] for row in made.history}
        assert found.layers == made.layers
        assert found.environment == {key: made.environment[key] for key in found.environment}
        assert found.built_as == made.built_as
        for name in (*PAIRED_METRICS, "weight_distance"):
            assert statistics.measured(found, name) == pytest.approx(statistics.measured(made, name), rel=1e-8)
    assert failed.history == [] and failed.config.seed == 1 and failed.config.constraint is None
    assert statistics.measured(failed, "accuracy") == 0.1


def test_tables_say_what_is_missing_and_nothing_of_the_machine(swept):
    place, _ = swept
    text = "".join(path.read_text() for path in (place / "tables").glob("*.csv"))
    assert [line.split(",")[1] for line in text.splitlines() if ",mlp,tiny," in line] == [
        "done",
        "done",
        "failed",
        "not finished",
    ]
    assert str(place) not in text and "data_dir" not in text


def test_a_run_that_no_folder_has_any_more_stays_as_it_is(swept, tmp_path):
    place, grid = swept
    shutil.copytree(place / "tables", tmp_path / "tables")
    before = {path.name: path.read_text() for path in (place / "tables").glob("*.csv")}
    only = [place / "sweep" / grid.cells[1].name]
    shutil.copytree(only[0], tmp_path / "sweep" / only[0].name)
    study_tables.write_stage(grid, [tmp_path / "sweep"], tmp_path / "tables", stage="tiny")
    again = {path.name: path.read_text() for path in (tmp_path / "tables").glob("*.csv")}
    assert again["tiny-history.csv"] == before["tiny-history.csv"]
    # Of a run that failed there is nothing to keep.
    assert again["tiny-runs.csv"] == before["tiny-runs.csv"].replace(",failed,", ",not finished,")
    # Another stage that asks for the same runs has them too.
    study_tables.write_stage(grid, [], tmp_path / "tables", stage="other")
    assert (tmp_path / "tables" / "other-history.csv").read_text() == before["tiny-history.csv"]


def test_a_layer_without_a_rate_stays_one(tmp_path):
    run = made_run("mlp", rates=(0.2, math.nan))
    table = study_tables._wide("a", run.history).fillna("")
    back = study_tables._rows(table)
    assert sorted(map(str, back)) == sorted(map(str, run.history))


def test_runs_made_again_are_held_against_the_tables(swept):
    place, grid = swept
    stored = study_tables.read_stages(place / "tables")["tiny"]
    made = load_run(place / "sweep" / grid.cells[0].name)
    rows = [row._replace(value=row.value + 0.25) if row.metric == "accuracy" else row for row in made.history]
    other = Run(made.config, rows, made.built_as, {}, {})
    unknown = made_run("vgg11")
    table = study_tables.agreement([made, other, unknown], stored)
    assert table.equal.tolist() == [True, False, False]
    assert table.stored.tolist() == [True, True, False]
    assert table.difference.iloc[0] < 1e-8 and table.difference.iloc[1] == pytest.approx(0.25)


@pytest.mark.long
def test_two_sweeps_of_a_grid_give_the_same_numbers(swept, tmp_path):
    from selfsim.sweep.sweep import sweep

    place, _ = swept
    grid, tables = read_grid(place / "tiny.yml"), tmp_path / "tables"
    for folder in ("one", "two"):
        sweep(grid, tmp_path / folder, workers=1, progress=False)
    study_tables.write_stage(grid, [tmp_path / "one"], tables, stage="tiny")
    again = study_tables.agreement(load_runs(tmp_path / "two"), study_tables.read_stages(tables)["tiny"])
    assert len(again) == 4 and again.equal.all() and (again.difference < 1e-8).all()


def test_the_invariance_of_unconstrained_networks_is_kept(tmp_path):
    images = load_images("digits", train_images=128, test_images=128)
    config = TrainConfig("mlp", epochs=1, train_images=128, test_images=128)
    runs = [train(config, images=images, device="cpu")]
    runs += [train(replace(config, constraint=DEFAULT), images=images, device="cpu")]
    table = study_layers.write_invariance(runs, tmp_path)
    assert table.run.unique().tolist() == [config.name]  # the constrained one has no place in it
    assert table.layer.tolist() == runs[0].layers
    x = activations(runs[0].model, images.batches("validation"), samples=None, device="cpu")
    assert x["blocks.0"].shape[0] == len(images.validation) == 128
    row = table.set_index("layer").loc["blocks.0"]
    assert row["dimension"] == pytest.approx(float(correlation_dimension(x["blocks.0"])), rel=1e-6)
    assert row["exponent"] == pytest.approx(float(spectrum_exponent(x["blocks.0"])), rel=1e-6)
    assert row["exponent at most 3"] == pytest.approx(min(3, row["exponent"]), rel=0.2)
    assert "." in (text := (tmp_path / study_layers.INVARIANCE).read_text()) and not re.search(r"\d\.\d{10}", text)
    # What is there is not measured again: a row that was changed by hand stays changed.
    read = study_layers.read_invariance(tmp_path)
    read.loc[0, "dimension"] = 7.5
    read.to_csv(tmp_path / study_layers.INVARIANCE, index=False)
    assert study_layers.write_invariance(runs, tmp_path).dimension.iloc[0] == 7.5
    assert study_layers.read_invariance(tmp_path / "elsewhere").empty


@pytest.mark.long
def test_the_comparison_from_tables_is_that_from_runs(tmp_path):
    grid = "parameters: {architecture: mlp, epochs: 1, train_images: 256, samples: 32}\n"
    grid += "grid: {seed: [0, 1], constraint: [null, {plain: true, target: 0.1, weight: 10}]}\n"
    (tmp_path / "families.yml").write_text(grid)
    grid = read_grid(tmp_path / "families.yml")
    images = grid.cells[0].work.load_images()
    runs = [train(cell.work, images=images, runs=tmp_path / "sweep", device="cpu") for cell in grid.cells]
    whole = comparison.measured_layers(comparison.comparable(runs), images, samples=32, null_draws=4)
    tables = tmp_path / "tables"
    study_tables.write_stage(grid, [tmp_path / "sweep"], tables, stage="families")
    with pytest.raises(FileNotFoundError, match=r"which has no measures\.csv"):
        study_layers.read_comparison(tables, constraint=DEFAULT)
    study_layers.write_measures([run for run in runs if run.config.seed == 0], tables, null_draws=4)
    keys = ["architecture", "seed", "training", "layer", "measure"]
    for measured_seeds in (1, 2):
        found, table = study_layers.read_comparison(tables, constraint=DEFAULT)
        assert [run.config.seed for run in found] == [run.config.seed for run in runs]
        assert table.index.is_unique
        assert comparison.runs_table(found).equals(comparison.runs_table(runs))
        expected = whole if measured_seeds == 2 else whole[(whole.seed == 0) | (whole.measure == "surrogate")]
        both = [part.sort_values(keys).reset_index(drop=True)[whole.columns] for part in (table, expected)]
        pd.testing.assert_frame_equal(*both, rtol=1e-6, check_dtype=False)
        # The second seed comes later, and without draws of its own.
        before = study_layers.read_measures(tables)
        study_layers.write_measures(runs, tables, null_draws=4)
        after = study_layers.read_measures(tables)
        pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
        assert after[after.seed == 1].null.isna().all()


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="results: got .* no tables of a study"):
        study_tables.read_stages(tmp_path)


def test_the_command_says_what_it_does_and_refuses_a_folder_that_is_not_there(tmp_path, monkeypatch, capsys):
    from study.__main__ import main

    for arguments, code, said in (
        (["--help"], 0, "--compare FOLDER"),
        (["--runs", "no/such"], 2, "--runs: got 'no/such'"),
    ):
        monkeypatch.setattr(sys, "argv", ["study", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        written = capsys.readouterr()
        assert said in written.out + written.err


def test_the_command_compares_new_runs_with_the_tables(swept, monkeypatch, capsys):
    from study.__main__ import main

    place, _ = swept
    monkeypatch.setattr(sys, "argv", ["study", "--results", str(place / "tables"), "--compare", str(place / "sweep")])
    main()
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert len(rows) == 2 and all(row.split()[1:3] == ["True", "True"] for row in rows)


def test_only_the_plots_of_the_study_draw():
    for path in sorted(Path(study_tables.__file__).parent.glob("*.py")):
        names = [
            alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        ]
        drawing = [name for name in names if name.startswith(("matplotlib", "seaborn", "selfsim.figures"))]
        assert bool(drawing) == (path.name == "plots.py"), (path.name, drawing)
