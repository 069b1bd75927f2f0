"""Two processes train as one does: the same gradients, the same run, written once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from selfsim import load_run, train
from selfsim.training.distributed import Ranks

from . import ranks

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this build of torch has no gloo",
)


def on_two(folder: Path, what: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*command, "-m", "tests.training.ranks", str(folder), what],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.long
def test_gradients_of_task_and_penalty_are_those_of_one_process(tmp_path):
    on_two(tmp_path, "gradients")
    for name in ("mlp", "vit_small"):
        one = ranks.first_gradients(name, Ranks())
        assert one["norms"].min() > 0.01  # both the task and the penalty count
        for rank in (0, 1):
            two = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            for key, gradient in one["parameters"].items():
                scale = gradient.abs().max().item()
                torch.testing.assert_close(two["parameters"][key], gradient, rtol=0, atol=1e-5 * max(scale, 1))
            torch.testing.assert_close(two["norms"], one["norms"], rtol=1e-4, atol=0)
            torch.testing.assert_close(two["seen"], one["seen"], rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_a_run_under_torchrun_is_that_of_one_process(tmp_path):
    on_two(tmp_path, "run")
    config = ranks.configuration("mlp")
    histories = [torch.load(tmp_path / f"history-{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert histories[0] == histories[1]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [config.name]
    run, one = load_run(tmp_path / "runs" / config.name), train(config, device="cpu")
    assert run.history == histories[0]
    assert len(run.history) == len(one.history)
    for there, here in zip(run.history, one.history, strict=True):
        assert there[:4] == here[:4]
        if here.metric in ("loss", "penalty", "ss_rate", "median_distance", "weight_distance", "task_gradient_norm"):
            assert there.value == pytest.approx(here.value, rel=1e-3, abs=1e-4)


def test_a_batch_must_be_divisible(monkeypatch):
    from selfsim.training.loop import check_images

    config = ranks.configuration("mlp")
    with pytest.raises(ValueError, match="batch_size: got 20 images, need a multiple of the 3 processes"):
        check_images(config.load_images(), config, Ranks(0, 3))
