"""Grids: which cells they ask for, and that every mistake is found while reading."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from selfsim import TrainConfig
from selfsim.publish.parameters import check_value
from selfsim.sweep.grid import config_types, read_grid
from tests.conftest import write_notebook

ROOT = Path(__file__).parents[2]


@pytest.fixture
def read(tmp_path):
    write_notebook(tmp_path / "tiny.ipynb", "epochs")

    def read(text, *overrides):
        (tmp_path / "grid.yml").write_text(text)
        return read_grid(tmp_path / "grid.yml", overrides)

    return read


def test_each_combination_of_cells_and_grid_is_one_run(read):
    grid = read("""
parameters: {epochs: 2, learning_rate: 3e-3}
cells:
  - {architecture: mlp}
  - {architecture: vit_small, epochs: 5}
grid: {seed: [0, 1], constraint: [null, {target: 0.2}]}
""")
    runs = [(c.work.architecture, c.work.epochs, c.work.seed, c.work.constraint) for c in grid.cells]
    given = {"target": 0.2}
    held = TrainConfig("mlp", constraint=given).constraint
    assert runs == [
        (name, epochs, seed, constraint)
        for seed in (0, 1)
        for constraint in (None, held)
        for name, epochs in (("mlp", 2), ("vit_small", 5))
    ]
    assert {c.work.learning_rate for c in grid.cells} == {0.003}
    assert grid.cells[3].varied == {"architecture": "vit_small", "epochs": 5, "seed": 0, "constraint": given}
    assert [c.name for c in grid.cells] == [c.work.name for c in grid.cells]


def test_options_of_the_constraint_are_varied_alone_or_together(read):
    grid = read("""
parameters: {architecture: mlp, constraint: {ends: attached}}
grid: {constraint.target: [0.1, 0.2], constraint.weight: [1, 10]}
""")
    ends = {"ends": "attached"}
    expected = [ends | {"target": target, "weight": weight} for target in (0.1, 0.2) for weight in (1, 10)]
    assert [c.work.constraint for c in grid.cells] == [TrainConfig("mlp", constraint=c).constraint for c in expected]


def test_the_command_line_wins_over_lists_and_cells(read):
    text = "parameters: {architecture: mlp}\ngrid: {seed: [0, 1], epochs: [1, 2]}"
    grid = read(text, ("epochs", "7"), ("data_dir", "2024"), ("train_images", "null"))
    assert [(c.work.seed, c.work.epochs) for c in grid.cells] == [(0, 7), (1, 7)]
    assert grid.cells[0].varied == {"seed": 0}
    assert (grid.cells[0].work.data_dir, grid.cells[0].work.train_images) == ("2024", None)
    grid = read("parameters: {architecture: mlp}\ncells: [{seed: 0, epochs: 1}, {seed: 1}]", ("epochs", "7"))
    assert [(c.work.seed, c.work.epochs) for c in grid.cells] == [(0, 7), (1, 7)]
    assert grid.cells[0].varied == {"seed": 0, "epochs": 7}


@pytest.mark.parametrize(
    ("text", "given", "targets"),
    [
        ("grid: {constraint.target: [0.1, 0.2]}", ("constraint", "{target: 0.3}"), [0.3]),
        ("grid: {constraint.target: [0.1, 0.2]}", ("constraint", "null"), [None]),
        ("grid: {constraint.target: [0.1, 0.2]}", ("constraint.target", "0.3"), [0.3]),
        ("grid: {constraint.target: [0.1, 0.2]}", ("constraint.cap", "0.2"), [0.1, 0.2]),
        ("grid: {constraint: [{target: 0.1}, {target: 0.2, cap: 0.1}]}", ("constraint.target", "0.3"), [0.3, 0.3]),
        ("parameters: {constraint.target: 0.1}\ngrid: {constraint: [{target: 0.2}, {target: 0.3}]}", None, [0.2, 0.3]),
        ("parameters: {constraint: {target: 0.1}}\ngrid: {constraint.target: [0.2, 0.3]}", None, [0.2, 0.3]),
    ],
)
def test_a_later_constraint_takes_the_place_of_earlier_options(read, text, given, targets):
    text = text if "parameters" in text else f"parameters: {{architecture: mlp}}\n{text}"
    text = text.replace("parameters: {c", "parameters: {architecture: mlp, c")
    grid = read(text, *([given] if given else []))
    assert [(c.work.constraint or {}).get("target") for c in grid.cells] == targets


def test_a_notebook_s_cells_are_named_by_their_parameters(read):
    grid = read("notebook: tiny.ipynb\nparameters: {name: a}\ngrid: {epochs: [1, 2], seeds: [[0], [1]]}")
    assert [c.work.parameters for c in grid.cells] == [
        {"name": "a", "epochs": epochs, "seeds": seeds} for epochs in (1, 2) for seeds in ([0], [1])
    ]
    assert len({c.name for c in grid.cells}) == 4
    assert all(c.name.startswith("tiny-") and c.work.name == c.name for c in grid.cells)
    # Neither the order of the file nor how a number is written makes another cell.
    one = read("notebook: tiny.ipynb\nparameters: {weight: 1, name: a}").cells[0]
    assert one == read("notebook: tiny.ipynb\nparameters: {name: a, weight: 1.0}").cells[0]
    assert one.name != read("notebook: tiny.ipynb\nparameters: {name: b, weight: 1}").cells[0].name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gird: {seed: [0]}", "grid file: key: got 'gird'.*did you mean 'grid'"),
        ("[]", "grid file: got .*, need a table"),
        ("minutes: long", "grid file: minutes: got 'long', need a number"),
        ("notebook: none.ipynb", "notebook: there is no .*none.ipynb"),
        ("notebook: tiny.ipynb\nparameters: {epoch: 1}", "parameters: got 'epoch'.*did you mean 'epochs'"),
        ("notebook: tiny.ipynb\ngrid: {epochs: [1, many]}", "grid: epochs: got 'many' .str., need int"),
        ("notebook: tiny.ipynb\ngrid: {constraint.target: [1]}", "grid: got 'constraint.target', need one of"),
        ("grid: {seed: []}", r"grid: seed: got \[\], need a list with at least one"),
        ("grid: {seed: 3}", "grid: seed: got 3, need a list"),
        ("cells: []", r"cells: got \[\], need a list with at least one"),
        ("cells: [3]", "cells: got 3, need a table"),
        ("grid: {sede: [0]}", "grid: got 'sede'.*did you mean 'seed'"),
        ("parameters: {augment: 1}", "parameters: augment: got 1 .int., need bool"),
        ("parameters: {constraint: 0.1}", "parameters: constraint: got 0.1 .float., need table | None"),
        ("parameters: {epochs: 1}", "cell 1 {}: architecture: got none, need one among"),
        ("minutes: -1", "minutes: got -1, need a number in"),
        ("megabytes: .nan", "megabytes: got nan, need a number in"),
        ("parameters: {architecture: mlp, dataset: cifar10}", "cell 1 {}: data_dir: got none, need the directory of"),
        (
            "parameters: {architecture: mlp}\ngrid: {constraint.seed: [null]}",
            "cell 1 .*: seed: got None, need an integer",
        ),
        ("parameters: {architecture: mlp}\ngrid: {seed: [1000000000000000000000]}", "cell 1 .*: seed: got 10+, need"),
        ("grid: {architecture: [vit_small, ViT-S]}", "cell 2 .*: the same as"),
        ("parameters: {architecture: mlp}\ngrid: {constraint.weight: [1, 1.0]}", "cell 2 .*: the same as"),
        ("grid: {architecture: [mlp, vit_smal]}", "cell 2 .*architecture: got 'vit_smal'.*did you mean 'vit_small'"),
        ("parameters: {architecture: mlp}\ngrid: {seed: [0, 0]}", "cell 2 .*: the same as"),
        ("parameters: {architecture: mlp}\ngrid: {epochs: [0]}", "cell 1 .*epochs: got 0, need an integer"),
        ("parameters: {architecture: mlp}\ngrid: {constraint.targt: [0]}", "cell 1 .*did you mean 'target'"),
        ("parameters: {architecture: mlp}\ngrid: {constraint.target: [2]}", "cell 1 .*target: got 2"),
        ("cells: [{seed: 0}]\ngrid: {seed: [1]}", "cells: seed: is in the grid too"),
        (
            "parameters: {architecture: mlp, constraint: null}\ngrid: {constraint.target: [0.1]}",
            "constraint: got null beside its options target",
        ),
    ],
)
def test_mistakes_are_found_while_reading(read, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=rf"grid\.yml: .*{message}"):
        read(text)


def test_a_missing_grid_and_a_wrong_override_are_named(read, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yml: no such grid"):
        read_grid(tmp_path / "none.yml")
    with pytest.raises(ValueError, match="-p: got 'epoch'.*did you mean 'epochs'"):
        read("parameters: {architecture: mlp}", ("epoch", "3"))
    with pytest.raises(ValueError, match="epochs: got 'many', need int"):
        read("parameters: {architecture: mlp}", ("epochs", "many"))


def test_every_field_of_a_configuration_has_a_type_that_grids_can_check():
    config, types = TrainConfig("mlp"), config_types()
    assert [field.name for field in fields(TrainConfig)] == list(types)
    for name, type_name in types.items():
        assert check_value(name, getattr(config, name), type_name) == getattr(config, name)
        with pytest.raises(ValueError, match=f"{name}: got "):
            check_value(name, object(), type_name)


def test_the_project_s_own_grid_can_be_read():
    grid = read_grid(ROOT / "notebooks" / "grid.yml")
    assert len(grid.cells) > 1
    assert grid.minutes and grid.megabytes
    assert grid.path.read_text() in (ROOT / "book" / "cluster.md").read_text()
