"""A run belongs to its data: changed images are refused, damaged runs are named, torch's settings have no effect."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from selfsim import TrainConfig, load_run, load_runs, train
from selfsim.files import files_state
from selfsim.training import data_record, loop
from selfsim.training.runs import DamagedRunError

CONFIG = TrainConfig("mlp", train_images=60, test_images=50, samples=50, epochs=1, batch_size=20, constraint={})


@pytest.fixture(scope="module")
def images():
    return CONFIG.load_images()


@pytest.fixture(scope="module")
def run(images):
    return train(CONFIG, images=images, device="cpu")


@pytest.fixture
def folder(tmp_path):
    """A configuration of two epochs whose data are a folder of 80 pictures in two classes."""
    draw = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(40):
            picture = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture.save(tmp_path / "data" / name / f"{number}.png")
    return TrainConfig("mlp", dataset="folder", data_dir=str(tmp_path / "data"), samples=4, epochs=2, batch_size=16)


def rewrite(directory, name: str, change) -> None:
    """Change a JSON file of a finished run and its SHA-256, as another version would have written them."""
    path = directory / name
    old, content = path.read_bytes(), json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    sums = (directory / "SHA256SUMS").read_text()
    old_digest, digest = (hashlib.sha256(text).hexdigest() for text in (old, path.read_bytes()))
    (directory / "SHA256SUMS").write_text(sums.replace(old_digest, digest))


class Stopped(Exception):
    pass


def stop(epoch, model):
    if epoch == 1:
        raise Stopped


def test_a_stopped_run_does_not_go_on_with_other_pictures(tmp_path, folder):
    data, runs = tmp_path / "data", tmp_path / "runs"
    with pytest.raises(Stopped):
        train(folder, runs=runs, device="cpu", on_epoch=stop)
    shutil.copytree(data, tmp_path / "kept")
    for number in range(20):
        shutil.copy(data / "cats" / f"{number}.png", data / "cats" / f"new{number}.png")
    with pytest.raises(ValueError, match=r"not the data of the checkpoint \(train has \d+ images there and \d+ here"):
        train(folder, runs=runs, device="cpu")
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "kept", data)
    for number in range(40):
        Image.new("RGB", (8, 8)).save(data / "cats" / f"{number}.png")
    with pytest.raises(ValueError, match=r"\(train has other pixels or labels; validation has other pixels"):
        train(folder, runs=runs, device="cpu")
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "kept", data)
    assert train(folder, runs=runs, device="cpu").history == train(folder, device="cpu").history


def test_a_finished_run_is_refused_when_its_folder_has_changed(tmp_path, folder, monkeypatch):
    folder = dataclasses.replace(folder, epochs=1)
    data, runs = tmp_path / "data", tmp_path / "runs"
    first = train(folder, runs=runs, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(data_record, "load_images", lambda **options: pytest.fail("reads images"))
        assert train(folder, runs=runs, device="cpu").history == first.history
    (data / "cats" / "0.png").touch()  # same pictures, another time
    assert train(folder, runs=runs, device="cpu").history == first.history
    (data / "cats" / "0.png").rename(data / "dogs" / "cat.png")
    with pytest.raises(ValueError, match=r"images: not the data of .*mlp-\w+ \(.*pixels or labels"):
        train(folder, runs=runs, device="cpu")
    shutil.rmtree(data)  # there is nothing to compare with
    assert train(folder, runs=runs, device="cpu").history == first.history


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_images_is_refused_before_the_training(images, split):
    empty = dataclasses.replace(
        getattr(images, split), images=torch.zeros(0, 1, 8, 8, dtype=torch.uint8), labels=torch.zeros(0).long()
    )
    with pytest.raises(ValueError, match=f"images: got none to {split}, need some"):
        train(TrainConfig("mlp", epochs=1), images=dataclasses.replace(images, **{split: empty}), device="cpu")


def test_images_that_are_not_the_configured_ones_are_refused(tmp_path, images, run):
    part = images.train
    first_pixel = part.images.clone()
    first_pixel[0, 0, 0, 0] += 1
    wrong = {
        "train has other pixels or labels": dataclasses.replace(part, labels=part.labels.roll(1)),
        "train has other pixels": dataclasses.replace(part, images=first_pixel),
        "train has 60 images there and 59 here": dataclasses.replace(
            part, images=part.images[1:], labels=part.labels[1:]
        ),
    }
    others = {message: dataclasses.replace(images, train=changed) for message, changed in wrong.items()}
    others["classes differs"] = dataclasses.replace(images, classes=images.classes[::-1])
    others["validation has other pixels"] = dataclasses.replace(images, validation=images.test, test=images.validation)
    others["normalisation differs"] = dataclasses.replace(images, mean=(0.0,))
    for message, other in others.items():
        with pytest.raises(ValueError, match=rf"images: not the data of the configuration \(.*{message}"):
            train(CONFIG, images=other, runs=tmp_path, device="cpu")
    assert train(CONFIG, images=images, runs=tmp_path, device="cpu").history == run.history
    for message, other in others.items():
        with pytest.raises(ValueError, match=rf"images: not the data of .*{CONFIG.name} \(.*{message}"):
            train(CONFIG, images=other, runs=tmp_path, device="cpu")
    assert len(load_runs(tmp_path)) == 1


def test_a_run_of_an_earlier_version_has_no_record_of_its_data_and_fewer_fields(tmp_path, run, images):
    directory = run.save(tmp_path / "run")
    rewrite(directory, "environment.json", lambda content: content.pop("data"))
    rewrite(directory, "config.json", lambda content: content.pop("random_erasing"))
    assert load_run(directory).config == CONFIG
    assert train(CONFIG, images=images, directory=directory, device="cpu").history == run.history


@contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_run_does_not_depend_on_torchs_settings(tmp_path, run):
    settings = [float64(), torch.device("meta"), torch.inference_mode(), torch.no_grad(), torch.autocast("cpu")]
    for number, setting in enumerate(settings):
        with setting:
            again = train(CONFIG, runs=tmp_path / str(number), device="cpu")
            model = load_run(tmp_path / str(number) / CONFIG.name).model
        assert again.history == run.history, setting
        assert all(torch.equal(value, run.weights[name]) for name, value in model.state_dict().items()), setting
    assert torch.get_default_dtype() == torch.float32


def test_a_run_that_another_process_finishes_before_the_lock_is_not_trained_again(tmp_path, images, monkeypatch):
    plain = loop.locked_run
    done = []

    @contextmanager
    def late(directory, config):
        monkeypatch.setattr(loop, "locked_run", plain)
        done.append(train(config, images=images, directory=directory, device="cpu"))
        with plain(directory, config):
            yield

    monkeypatch.setattr(loop, "locked_run", late)
    steps = []
    monkeypatch.setattr(loop, "training_step", lambda *args, step=loop.training_step: (steps.append(1), step(*args)))
    again = train(CONFIG, images=images, runs=tmp_path, device="cpu")
    assert len(steps) == 3 and again.environment == done[0].environment


def test_runs_of_a_newer_version_or_damaged_are_named_and_left_out(tmp_path, run):
    newer, corrupt, plain, copy, renamed = (
        run.save(tmp_path / name) for name in ("newer", "corrupt", "plain", "plain-copy", "mlp-0123456789ab")
    )
    rewrite(newer, "config.json", lambda content: content.update(label_noise=0.5))
    (corrupt / "history.csv").write_bytes(b"\xff")
    messages = {
        newer: r"newer' cannot be read by this version \(unknown fields label_noise.*selfsim [\d.]+.* wrote it",
        corrupt: "history.csv' is damaged",
        renamed: f"mlp-0123456789ab' is damaged, it holds the run {CONFIG.name}",
    }
    for directory, message in messages.items():
        with pytest.raises(DamagedRunError, match=message):
            load_run(directory)
    with pytest.warns(UserWarning, match="left out") as caught:
        assert [found.history for found in load_runs(tmp_path)] == [run.history]
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == 4 and all(text.endswith("left out") for text in texts)
    assert sum(str(copy) in text and "is a copy" in text for text in texts) == 1
    assert load_run(plain).history == run.history


def test_files_with_the_right_sums_and_wrong_content_are_damaged(tmp_path, run):
    directory = run.save(tmp_path / "run")
    rewrite(directory, "config.json", lambda content: content.update(epochs="many"))
    with pytest.raises(DamagedRunError, match=r"run' cannot be read by this version \(epochs: got 'many'"):
        load_run(directory)
    rewrite(directory, "config.json", lambda content: content.update(epochs=1))
    rewrite(directory, "model.json", lambda content: content.update(width=3))
    with pytest.raises(DamagedRunError, match=r"run' cannot be read by this version \(unknown fields width"):
        load_run(directory)
    for content in (b"epoch\n1\n", b"epoch,split,layer,metric,value\n1,a,b,c,x\n", b"\xff\xfe"):
        directory = run.save(tmp_path / hashlib.sha256(content).hexdigest())
        sums = (directory / "SHA256SUMS").read_text()
        old = hashlib.sha256((directory / "history.csv").read_bytes()).hexdigest()
        (directory / "history.csv").write_bytes(content)
        (directory / "SHA256SUMS").write_text(sums.replace(old, hashlib.sha256(content).hexdigest()))
        with pytest.raises(DamagedRunError, match=f"{directory.name}' is damaged"):
            load_run(directory)


def test_weights_that_are_replaced_after_loading_are_refused(tmp_path, run):
    directory = run.save(tmp_path / "run")
    loaded, other = load_run(directory), load_run(directory)
    torch.save({name: value + 1 for name, value in run.weights.items()}, directory / "weights.pt")
    with pytest.raises(DamagedRunError, match=r"weights.pt' is damaged"):
        _ = loaded.model
    (directory / "weights.pt").unlink()
    with pytest.raises(DamagedRunError, match=r"weights.pt' is missing"):
        _ = other.model


def test_a_tilde_is_the_home_directory(tmp_path, run, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    monkeypatch.chdir(tmp_path)
    train(CONFIG, runs="~/runs", device="cpu")
    train(CONFIG, directory="~/one", device="cpu")
    run.save("~/saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "runs", "saved"]
    assert load_run(f"~/runs/{CONFIG.name}").history == load_runs("~/runs")[0].history == run.history


def test_numbers_of_numpy_give_the_same_run():
    numbers = {
        "epochs": np.int64(1),
        "seed": np.int32(0),
        "batch_size": np.uint8(20),
        "learning_rate": np.float64(1e-3),
    }
    same = dataclasses.replace(
        CONFIG, **numbers, constraint={"weight": np.float64(2.5), "layers_per_step": np.int64(2)}
    )
    plain = dataclasses.replace(CONFIG, constraint={"weight": 2.5, "layers_per_step": 2})
    assert same.name == plain.name
    assert dataclasses.replace(CONFIG, layers=np.int64(2)).name == dataclasses.replace(CONFIG, layers=2).name


@pytest.mark.parametrize("linked", ["folders", "files"])
def test_data_behind_links_are_watched_too(tmp_path, folder, linked):
    data, kept = tmp_path / "data", tmp_path / "kept"
    data.rename(kept)
    data.mkdir()
    for name in ("cats", "dogs"):
        if linked == "folders":
            (data / name).symlink_to(kept / name)
            continue
        (data / name).mkdir()
        for picture in (kept / name).iterdir():
            (data / name / picture.name).symlink_to(picture)
    folder = dataclasses.replace(folder, epochs=1)
    first = train(folder, runs=tmp_path / "runs", device="cpu")
    assert train(folder, runs=tmp_path / "runs", device="cpu").history == first.history
    for picture in kept.rglob("*.png"):
        Image.new("RGB", (8, 8)).save(picture)
    with pytest.raises(ValueError, match="train has other pixels or labels"):
        train(folder, runs=tmp_path / "runs", device="cpu")


def test_a_folder_with_a_link_to_a_folder_around_it_is_read_once(tmp_path, folder):
    before = folder.load_images()
    (tmp_path / "data" / "cats" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "dogs" / "cats").symlink_to(tmp_path / "data" / "dogs")
    (tmp_path / "data" / "dogs" / "everything").symlink_to(tmp_path.anchor)
    after = folder.load_images()
    assert [len(part) for part in (after.train, after.validation, after.test)] == [
        len(part) for part in (before.train, before.validation, before.test)
    ]


def test_links_to_nothing_do_not_hide_changes(tmp_path):
    (tmp_path / "nothing").symlink_to(tmp_path / "gone")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "data").write_text("one")
    before = files_state(tmp_path)
    (tmp_path / "data").write_text("other")
    assert before != files_state(tmp_path) is not None


def test_more_images_than_there_are(folder):
    number = len(folder.load_images().train)
    assert len(dataclasses.replace(folder, train_images=number).load_images().train) == number
    with pytest.raises(ValueError, match=f"train_images: got {number + 1}, but there are only {number}"):
        dataclasses.replace(folder, train_images=number + 1).load_images()
