"""The page on the default shows what the check of its defaults found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.defaults import CANDIDATES, MEASURES, SMALL, TARGET, one_run, page_table, small_runs, table
from selfsim import TrainConfig

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "results" / "benchmarks" / "defaults.json").read_text(encoding="utf-8"))


def test_the_tables_of_the_page_are_those_of_the_file():
    page = (ROOT / "book" / "default.md").read_text(encoding="utf-8")
    assert page_table(RESULT) in page and page_table(RESULT, "small") in page
    assert page_table(RESULT).count("\n") == 11  # ten architectures


def test_the_file_is_what_its_runs_say():
    assert RESULT["table"] == json.loads(json.dumps(table(RESULT["runs"])))
    assert RESULT["target"] == TARGET
    assert {run["candidate"] for run in RESULT["runs"]} <= CANDIDATES.keys()
    assert CANDIDATES["default"] == {}  # the package's own


def test_small_networks_trained_together_are_those_trained_alone():
    digits = SMALL | {"dataset": "digits", "train_images": 64, "validation_images": 128, "test_images": 64, "epochs": 3}
    images = TrainConfig("mlp", size="small", **digits).load_images()
    wanted = [("none", 0), ("default", 0), ("default", 1)]
    rows = small_runs("mlp", wanted, images, device=torch.device("cpu"), **digits)
    assert [(row["candidate"], row["seed"]) for row in rows] == wanted
    assert all(0 <= row["accuracy"] <= 1 and MEASURES.keys() <= row.keys() for row in rows)
    assert rows[0]["rate"] != rows[1]["rate"] != rows[2]["rate"]
    _, default = table(rows)
    assert (default["size"], default["seeds"]) == ("small", 1)
    assert default["accuracy change"] == rows[1]["accuracy"] - rows[0]["accuracy"]
    alone = one_run("mlp", "default", 1, images, size="small", **digits)
    assert {key: alone[key] for key in MEASURES} == pytest.approx({key: rows[2][key] for key in MEASURES}, rel=1e-3)
