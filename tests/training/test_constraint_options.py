"""The constraint of a configuration: the defaults of the class, written down, and what older stored runs meant."""

from __future__ import annotations

import dataclasses
import json

import pytest

from selfsim import SelfSimilarityConstraint, TrainConfig, load_run, train
from selfsim.training.config import stored_config
from selfsim.training.schedules import Linear


def options_of(made):
    return made.target.target, made.weight, made.cap, made.ramp, made.measure


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": 0.2},
        {"weight": 3.0},
        {"weight": 3.0, "ends": "attached", "cap": None},
        {"measure": "scaling"},
        {"ends": None, "ramp": None, "unit": "absolute"},
    ],
    ids=str,
)
def test_a_configuration_has_the_defaults_of_the_class_and_stores_them(options):
    config = TrainConfig("mlp", constraint=options)
    assert options_of(config.make_constraint()) == options_of(SelfSimilarityConstraint(**options))
    stored = json.loads(config.as_json())
    assert {"weight", "cap", "ramp", "unit", "ends"} <= stored["constraint"].keys()
    assert stored_config(stored) == config == dataclasses.replace(config)


def test_ends_are_attached_only_where_a_cap_alone_holds_the_pull():
    default = SelfSimilarityConstraint()
    assert (default.weight, default.cap, default.ramp) == (None, 0.3, (0.3, 0.6))
    assert (default.measure.unit, default.measure.ends) == ("median", "attached")
    assert SelfSimilarityConstraint(weight=1.0).measure.ends == "detached"
    assert SelfSimilarityConstraint(weight=1.0, ends="attached").measure.ends == "attached"


# Names and options of version 0.1, whose runs say no more.
@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({}, "mlp-798885bdaef3", (10, None, None, "absolute", "detached")),
        ({"target": 0.1, "weight": 10}, "mlp-cb8382600df1", (10, None, None, "absolute", "detached")),
        (
            {"weight": None, "cap": 0.3, "unit": "median"},
            "mlp-4d652c328e5f",
            (None, 0.3, None, "median", "detached"),
        ),
        (
            {"weight": 10, "cap": None, "ramp": None, "unit": "absolute", "ends": "detached"},
            "mlp-69e707c03e5d",
            (10, None, None, "absolute", "detached"),
        ),
    ],
    ids=str,
)
def test_an_older_stored_run_keeps_its_meaning_and_its_name(options, name, expected):
    config = stored_config({"architecture": "mlp", "constraint": options})
    made = config.make_constraint()
    assert (made.weight, made.cap, made.ramp, made.measure.unit, made.measure.ends) == expected
    assert config.name == name
    assert json.loads(config.as_json())["constraint"] == options
    assert stored_config(json.loads(config.as_json())) == config
    changed = dataclasses.replace(config, seed=1)
    assert options_of(changed.make_constraint()) == options_of(made)


def test_a_plain_run_is_loaded_as_one(tmp_path):
    config = TrainConfig(
        "mlp", epochs=1, train_images=64, validation_images=32, test_images=32, samples=32, constraint={"plain": True}
    )
    train(config, directory=tmp_path / "run", device="cpu")
    assert load_run(tmp_path / "run").config == config
    with pytest.raises(ValueError, match="constraint is {} there and {'cap': 0.3.*goes on with constraint={'plain'"):
        train(dataclasses.replace(config, constraint={}), directory=tmp_path / "run", device="cpu")


def test_schedules_as_objects_are_stored_too():
    config = TrainConfig("mlp", constraint={"plain": True, "target": Linear(0.2, 0.1)})
    assert config.name == "mlp-acb8f763ced4"  # of version 0.1
    assert stored_config(json.loads(config.as_json())).make_constraint().target == Linear(0.2, 0.1)


def test_ends_are_decided_anew_on_request():
    default = TrainConfig("mlp", constraint={}).constraint
    changed = TrainConfig("mlp", constraint=default | {"weight": 10, "cap": None, "ends": None})
    assert changed.constraint["ends"] == "detached"
    assert (
        TrainConfig("mlp", constraint=default | {"measure": "scaling", "ends": None}).constraint["ends"] == "detached"
    )


def test_only_one_kind():
    with pytest.raises(ValueError, match="constraint: got plain and paper, need only one of these"):
        TrainConfig("mlp", constraint={"plain": True, "paper": True})
    assert TrainConfig("mlp", constraint={"plain": False}) == TrainConfig("mlp", constraint={})
