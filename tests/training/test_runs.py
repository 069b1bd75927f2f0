"""A run in its directory: finished it is returned, stopped it goes on, changed or damaged it says so."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from selfsim import TrainConfig, load_run, train
from selfsim.training import loop
from selfsim.training.config import stored_config
from selfsim.training.runs import DamagedRunError, checkpoint_files, is_finished

# Five steps an epoch.
CONFIG = TrainConfig(
    "mlp", train_images=100, test_images=50, samples=50, epochs=3, batch_size=20, augment=True,
    constraint={"plain": True, "layers_per_step": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return CONFIG.load_images()


@pytest.fixture(scope="module")
def uninterrupted(images):
    return train(CONFIG, images=images, device="cpu")


class Stopped(Exception):
    pass


@pytest.fixture
def stopped(tmp_path, images, monkeypatch):
    """A directory in which a run was stopped after seven of its fifteen steps, saved after every second one."""
    stop_after(7, monkeypatch)
    with pytest.raises(Stopped):
        train(CONFIG, images=images, directory=tmp_path / "run", device="cpu", save_every=2)
    monkeypatch.undo()
    return tmp_path / "run"


def stop_after(steps: int, monkeypatch) -> None:
    def step(state, *batch, plain=loop.training_step):
        if state.epoch * state.steps_per_epoch + state.step == steps:
            raise Stopped
        plain(state, *batch)

    monkeypatch.setattr(loop, "training_step", step)


def same(run, other) -> bool:
    weights, others = run.model.state_dict(), other.model.state_dict()
    return run.history == other.history and all(torch.equal(weights[key], others[key]) for key in weights)


def test_a_stopped_run_goes_on_to_the_same_end(stopped, images, uninterrupted):
    assert list(checkpoint_files(stopped)) == [(0, 4), (1, 1)]
    run = train(CONFIG, images=images, directory=stopped, device="cpu", save_every=4)
    assert same(run, uninterrupted) and same(load_run(stopped), uninterrupted)
    assert sorted(path.name for path in stopped.iterdir()) == [
        ".lock", "SHA256SUMS", "config.json", "environment.json", "history.csv", "model.json", "weights.pt",
    ]  # fmt: skip


def test_from_the_one_before_a_damaged_checkpoint(stopped, images, uninterrupted):
    newest = checkpoint_files(stopped)[1, 1]
    newest.write_bytes(b"x" + newest.read_bytes()[1:])
    with pytest.warns(UserWarning, match="checkpoint-00001-0000001.pt' is damaged"):
        run = train(CONFIG, images=images, directory=stopped, device="cpu")
    assert same(run, uninterrupted)


@pytest.mark.parametrize("name", ["vit_small", pytest.param("resnet34", marks=pytest.mark.long)])
def test_schedules_averages_and_batch_normalisation_go_on_too(tmp_path, name, monkeypatch):
    config = dataclasses.replace(CONFIG, architecture=name, train_images=60, epochs=2, schedule="cosine", ema=0.9)
    images = config.load_images()
    uninterrupted = train(config, images=images, device="cpu")
    stop_after(4, monkeypatch)
    with pytest.raises(Stopped):
        train(config, images=images, runs=tmp_path, device="cpu", save_every=1)
    monkeypatch.undo()
    assert same(train(config, images=images, runs=tmp_path, device="cpu"), uninterrupted)


def test_a_finished_run_is_read_and_nothing_else(tmp_path, images, uninterrupted, monkeypatch):
    first = train(CONFIG, images=images, runs=tmp_path, device="cpu")
    monkeypatch.setattr(TrainConfig, "load_images", lambda self: pytest.fail("loads images"))
    monkeypatch.setattr(loop, "create", lambda **options: pytest.fail("builds a network"))
    again = train(CONFIG, runs=tmp_path, device="cpu")
    assert again.history == first.history and again.environment == first.environment
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG.name]


@pytest.mark.long
def test_the_history_of_a_finished_run_comes_without_timm_which_takes_seconds_to_import(tmp_path, uninterrupted):
    uninterrupted.save(tmp_path / "run")
    code = "import sys; from selfsim import load_run; load_run(sys.argv[1]).history; print('timm' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_name_is_that_of_the_whole_configuration():
    assert CONFIG.name.startswith("mlp-") and len(CONFIG.name) == len("mlp-") + 12
    assert dataclasses.replace(CONFIG).name == CONFIG.name
    names = {dataclasses.replace(CONFIG, **{key: value}).name for key, value in (("seed", 1), ("epochs", 4))}
    assert len(names | {CONFIG.name}) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"architecture": "vit_small"}, {"architecture": "ViT-S"}),
        ({"weight_decay": 0.0, "clip_gradient": 1.0}, {"weight_decay": 0, "clip_gradient": 1}),
        ({"constraint": {"target": 0.0, "weight": 1}}, {"constraint": {"weight": 1.0, "target": 0}}),
        (
            {"constraint": {"target": {"schedule": "piecewise", "phases": [(0.0, 0.2), (0.5, 0.1)]}}},
            {"constraint": {"target": {"phases": [[0, 0.2], [0.5, 0.1]], "schedule": "piecewise"}}},
        ),
        ({"layers": ("blocks.0",), "data_dir": Path("data")}, {"layers": ["blocks.0"], "data_dir": "data"}),
    ],
)
def test_a_run_has_one_name_however_it_is_written(one, other):
    first, second = (dataclasses.replace(CONFIG, **changes) for changes in (one, other))
    assert first == second and first.name == second.name
    assert stored_config(json.loads(first.as_json())) == first


def test_a_configuration_changed_under_a_run(stopped, tmp_path, images):
    changed = dataclasses.replace(CONFIG, seed=3, constraint=None)
    message = r"another configuration \(constraint is {'layers_per_step': 2} there and None here; seed is 0 there and 3"
    with pytest.raises(ValueError, match=message):
        train(changed, images=images, directory=stopped, device="cpu")
    train(CONFIG, images=images, directory=stopped, device="cpu")
    with pytest.raises(ValueError, match=message):
        train(changed, images=images, directory=stopped, device="cpu")


def test_a_damaged_configuration(stopped, images):
    for content in ("{", "{}", "[]"):
        (stopped / "config.json").write_text(content)
        for use in (load_run, lambda directory: train(CONFIG, images=images, directory=directory, device="cpu")):
            with pytest.raises(ValueError, match=r"config.json' is damaged .*; remove the directory and train again"):
                use(stopped)


def test_a_checkpoint_of_another_model(stopped, images):
    other = dataclasses.replace(CONFIG, architecture="vit_small")
    (stopped / "config.json").write_text(other.as_json())
    with pytest.raises(ValueError, match=r"architecture is 'mlp' there and 'vit_small' here"):
        train(other, images=images, directory=stopped, device="cpu")


def test_an_unfinished_run_says_how_far_it_is(stopped):
    with pytest.raises(FileNotFoundError, match=r"not a finished run; 1 of 3 epochs and 1 steps are saved"):
        load_run(stopped)
    with pytest.raises(FileNotFoundError, match=r"there is no such directory"):
        load_run(stopped / "elsewhere")


@pytest.mark.parametrize("name", ["weights.pt", "history.csv", "config.json"])
def test_a_damaged_file_of_a_finished_run(tmp_path, uninterrupted, name):
    directory = uninterrupted.save(tmp_path / "run")
    content = bytearray((directory / name).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' is damaged"):
        load_run(directory)


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_shortened_list_of_sums_switches_no_check_off(tmp_path, uninterrupted, kept):
    directory = uninterrupted.save(tmp_path / "run")
    lines = (directory / "SHA256SUMS").read_text().splitlines(keepends=True)
    (directory / "SHA256SUMS").write_text("".join(lines[:kept]))
    with pytest.raises(ValueError, match="SHA256SUMS' is damaged, .* remove the directory and train again"):
        load_run(directory)


def test_sums_may_name_nothing_else(tmp_path, uninterrupted):
    directory = uninterrupted.save(tmp_path / "run")
    (directory / "SHA256SUMS").write_bytes((directory / "SHA256SUMS").read_bytes() + b"\xff  ../elsewhere\n")
    with pytest.raises(ValueError, match="SHA256SUMS' is damaged"):
        load_run(directory)


def test_a_file_of_a_finished_run_is_missing(tmp_path, uninterrupted):
    directory = uninterrupted.save(tmp_path / "run")
    (directory / "weights.pt").unlink()
    with pytest.raises(ValueError, match="weights.pt' is missing; remove the directory and train again"):
        load_run(directory)


def test_sums_are_those_of_sha256sum(tmp_path, uninterrupted):
    if subprocess.run(["which", "sha256sum"], capture_output=True, check=False).returncode:
        pytest.skip("sha256sum is not installed")
    directory = uninterrupted.save(tmp_path / "run")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=directory, check=True, capture_output=True)


def test_a_second_process_is_kept_out_and_a_killed_one_is_not_in_the_way(tmp_path, images, uninterrupted):
    (tmp_path / "run").mkdir()
    hold = (
        "import sys, time, fcntl; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); time.sleep(99)"
    )
    pytest.importorskip("fcntl", reason="Windows has no such locks")
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "run" / ".lock")], stdout=subprocess.PIPE)
    holder.stdout.readline()
    with pytest.raises(BlockingIOError, match=r"another process writes here .*run'"):
        train(CONFIG, images=images, directory=tmp_path / "run", device="cpu")
    holder.kill()
    holder.communicate()
    assert same(train(CONFIG, images=images, directory=tmp_path / "run", device="cpu"), uninterrupted)


def test_the_disk_fills_up_in_the_middle(tmp_path, images, uninterrupted, monkeypatch):
    calls = 0

    def fsync(descriptor, plain=os.fsync):
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"cannot write \(No space left on device\).*checkpoint-0000") as caught:
        train(CONFIG, images=images, directory=tmp_path / "run", device="cpu", save_every=1)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert len(checkpoint_files(tmp_path / "run")) == 2
    assert same(train(CONFIG, images=images, directory=tmp_path / "run", device="cpu"), uninterrupted)


def test_a_directory_that_cannot_be_one(tmp_path, images):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(OSError, match=str(directory)):
            train(CONFIG, images=images, directory=directory, device="cpu")


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_directory_that_is_not_writable(tmp_path, images):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"cannot write .*run"):
        train(CONFIG, images=images, directory=tmp_path / "run", device="cpu")


def test_a_directory_with_other_files(tmp_path, images):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="is not empty and holds no run"):
        train(CONFIG, images=images, directory=tmp_path, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_wrong_arguments(tmp_path, images):
    with pytest.raises(ValueError, match=r"runs, directory: got both .*, need one at most"):
        train(CONFIG, images=images, runs=tmp_path, directory=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="save_every: got 0, need an integer of at least 1"):
        train(CONFIG, images=images, directory=tmp_path, device="cpu", save_every=0)
    with pytest.raises(TypeError, match="config: got dict, need a TrainConfig"):
        train({"architecture": "mlp"}, images=images, device="cpu")
    config = dataclasses.replace(CONFIG, constraint={"target": lambda moment: 0.1})
    with pytest.raises(TypeError, match="constraint: .* a run in a directory needs plain data"):
        train(config, images=images, runs=tmp_path, device="cpu")


@pytest.mark.parametrize("constraint", [None, {"plain": True, "layers_per_step": 1}])
def test_a_loss_that_is_no_number_names_epoch_and_step_and_saves_nothing(tmp_path, images, monkeypatch, constraint):
    config = dataclasses.replace(CONFIG, constraint=constraint)
    calls = 0

    def cross_entropy(logits, targets, *, plain=loop.F.cross_entropy, **options):
        nonlocal calls
        calls += logits.requires_grad  # of training, not of evaluation
        return plain(logits, targets, **options) * (float("nan") if calls == 8 else 1.0)

    monkeypatch.setattr(loop.F, "cross_entropy", cross_entropy)
    with pytest.raises(FloatingPointError, match=r"loss: became NaN or infinite in epoch 2, step 3 of 5"):
        train(config, images=images, directory=tmp_path / "run", device="cpu", save_every=2)
    monkeypatch.undo()
    assert list(checkpoint_files(tmp_path / "run")) == [(0, 4), (1, 1)]
    # What was saved last is good: the run goes on from there to the end it would have had.
    run = train(config, images=images, directory=tmp_path / "run", device="cpu")
    assert same(run, train(config, images=images, device="cpu"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy tells of the division that the check would have found
@pytest.mark.parametrize(
    ("check", "error", "message"),
    [
        (True, ValueError, r"layer '2': activations: .* equal.*; in epoch 1, step 1 of 5"),
        # As on a GPU, where a look at every step would make it wait.
        (False, FloatingPointError, r"penalty: became NaN or infinite in epoch 1, step 1 of 5"),
    ],
)
def test_a_constrained_layer_that_collapses_names_epoch_and_step(images, monkeypatch, check, error, message):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    torch.nn.init.constant_(network[1].bias, -100.0)  # no neuron of layer "2" is ever above 0
    monkeypatch.setattr(loop, "create", lambda **options: network)
    config = dataclasses.replace(CONFIG, layers=["2"], constraint={"plain": True, "check": check})
    with pytest.raises(error, match=message):
        train(config, images=images, device="cpu")


def test_overflow_in_evaluation_names_layer_and_epoch(images, monkeypatch):
    config = dataclasses.replace(CONFIG, constraint=None)

    def step(state, *batch, plain=loop.training_step):
        plain(state, *batch)
        if (state.epoch, state.step) == (1, 4):  # the last of its epoch: no later loss tells
            with torch.no_grad():
                [parameter.mul_(1e30) for parameter in state.model.parameters()]

    monkeypatch.setattr(loop, "training_step", step)
    with pytest.raises(FloatingPointError, match=r"those of layer '.*' overflowed in the evaluation after epoch 2"):
        train(config, images=images, device="cpu")


@pytest.fixture
def half(images, monkeypatch):
    """Trains in float16, with gradients that overflow in so many first steps; the run, and the schedule's steps."""

    def trained(overflows: int):
        states, backwards = [], 0

        def overflow(gradient):
            nonlocal backwards
            backwards += 1
            return gradient * (float("inf") if backwards <= overflows else 1.0)

        def create(*, plain=loop.create, **options):
            network = plain(**options)
            list(network.parameters())[-1].register_hook(overflow)
            return network

        def finish(state, *rest, plain=loop.finish_epoch):
            states.append(state)
            plain(state, *rest)

        monkeypatch.setattr(loop, "create", create)
        monkeypatch.setattr(loop, "finish_epoch", finish)
        config = dataclasses.replace(CONFIG, batch_size=5, constraint=None, precision="float16", augment=False)
        return train(config, images=images, device="cpu"), states[-1].schedule.last_epoch

    return trained


@pytest.mark.parametrize("overflows", [3, 5])  # at the first scale, they may overflow without being made to
@pytest.mark.long
def test_where_half_precision_overflows_the_learning_rate_stays_too(half, overflows):
    run, moved = half(overflows)
    assert run.series("skipped_steps", split="train") == [overflows, 0, 0]
    assert moved == 3 * 20 - overflows


def test_half_precision_that_always_overflows_ends_the_run(half):
    with pytest.raises(
        FloatingPointError, match="gradients: overflowed in every step of epoch 1 in precision 'float16"
    ):
        half(10**9)


def test_nothing_is_written_without_a_directory(tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(dataclasses.replace(CONFIG, epochs=1), images=images, device="cpu", save_every=1)
    assert not list(Path().iterdir())


def test_run_time_adds_up_and_json_is_plain(stopped, images):
    run = train(CONFIG, images=images, directory=stopped, device="cpu")
    assert json.loads((stopped / "environment.json").read_text())["seconds"] == run.environment["seconds"] > 0
    assert is_finished(stopped)


def test_the_end_of_a_run_leaves_the_files_of_others(tmp_path, images):
    directory = tmp_path / "run"
    mine = ["epoch1.pt", "notes.partial", "checkpoint-best.pt", "checkpoint-best.pt.partial"]

    def keep(epoch, model):
        for name in mine:
            (directory / name).write_bytes(b"mine")

    train(CONFIG, images=images, directory=directory, device="cpu", on_epoch=keep)
    assert [(directory / name).read_bytes() for name in mine] == [b"mine"] * 4
    assert not checkpoint_files(directory)


def test_a_loaded_run_is_saved_with_its_own_weights(tmp_path, uninterrupted):
    loaded = load_run(uninterrupted.save(tmp_path / "first"))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.zero_()
    assert same(load_run(loaded.save(tmp_path / "second")), uninterrupted)
    weights = tmp_path / "first" / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedRunError, match="weights.pt"):
        loaded.save(tmp_path / "third")


def drawing(epoch, model):
    torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002


def test_a_callback_that_draws_changes_no_run(images, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=2, mixup=0.5, random_erasing=0.5)
    expected = train(config, images=images, device="cpu")
    assert same(train(config, images=images, device="cpu", on_epoch=drawing), expected)

    def stop(epoch, model):
        drawing(epoch, model)
        if epoch == 1:
            raise Stopped

    with pytest.raises(Stopped):
        train(config, images=images, directory=tmp_path / "run", device="cpu", on_epoch=stop)
    assert same(train(config, images=images, directory=tmp_path / "run", device="cpu", on_epoch=drawing), expected)


@pytest.mark.parametrize("last", [1, 2])
def test_a_callback_that_fails_is_called_again(images, tmp_path, last):
    config, calls = dataclasses.replace(CONFIG, epochs=2), []

    def fail(epoch, model):
        if epoch == last:
            raise Stopped
        calls.append((epoch, model.training))

    with pytest.raises(Stopped):
        train(config, images=images, directory=tmp_path / "run", device="cpu", on_epoch=fail)
    seen = lambda epoch, model: calls.append((epoch, model.training))  # noqa: E731
    train(config, images=images, directory=tmp_path / "run", device="cpu", on_epoch=seen)
    assert calls == [(epoch, False) for epoch in (0, 1, 2)]
