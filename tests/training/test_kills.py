"""Runs that are killed: nothing unreadable is left, little is lost, and the result is the same to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .killed_runs import SAVE_EVERY

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, which Windows cannot")


def killed(folder: Path, *, random: int, stage_step: int) -> dict:
    command = [sys.executable, "-m", "tests.training.killed_runs", str(folder)]
    result = subprocess.run(
        [*command, "--random", str(random), "--stage-step", str(stage_step)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def check(report: dict, *, random: int, stages: int) -> None:
    assert len(report["random"]) == random
    assert len(report["stages"]) >= stages
    for kill in report["random"] + report["stages"]:
        assert kill["readable"]
        assert kill["lost"] <= SAVE_EVERY
        assert kill["result"] == report["uninterrupted"]
    for kill in report["stages"]:
        assert (kill["end"], kill["then"]) == ("killed", "finished")
        more = set(kill["files"]) - set(report["files"])
        # Nothing half-written; a checkpoint stays only where the run was finished before it could be removed.
        assert all(name.startswith("checkpoint-") for name in more) and (not more or kill["lost"] == 0)


@pytest.mark.long
def test_some_kills(tmp_path):
    check(killed(tmp_path, random=1, stage_step=30), random=1, stages=4)


@pytest.mark.long
def test_fifty_kills_at_random_and_one_at_every_stage_of_saving(tmp_path):
    check(killed(tmp_path, random=50, stage_step=1), random=50, stages=60)
