"""Training end to end on the embedded images: it learns, it repeats itself, its pairs are pairs, it is kept whole."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from selfsim import TrainConfig, activations, load_images, load_run, load_runs, ss_rate, train
from selfsim.models.seeding import seeded
from selfsim.training.augmentation import shifted

EPOCHS = 12


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


@pytest.fixture(scope="module")
def free(digits):
    return train(TrainConfig("mlp", epochs=EPOCHS), images=digits, device="cpu")


@pytest.fixture(scope="module")
def held(digits):
    return train(TrainConfig("mlp", epochs=EPOCHS, constraint={"target": 0.1}), images=digits, device="cpu")


def test_learns(free):
    assert free.series("accuracy", split="test")[0] > 0.9
    losses = free.series("loss", split="train")
    assert losses[-1] < 0.3 * losses[0]


def test_history_is_whole(free, held):
    assert free.layers == [f"blocks.{i}" for i in range(6)]
    for run in (free, held):
        for metric in ("ss_rate", "ss_rate_left_out", "ss_rate_quantiles", "median_distance"):
            assert all(len(run.series(metric, layer=layer)) == EPOCHS + 1 for layer in run.layers)
        for metric in ("neighbours_kept", "boxes_kept", "drivers_kept"):
            kept = [run.series(metric, layer=layer) for layer in run.layers]
            assert all(len(values) == EPOCHS and max(values) <= 1 for values in kept)
        assert len(run.series("accuracy")) == len(run.series("loss")) == EPOCHS + 1
        assert len(run.series("accuracy", split="train")) == EPOCHS
        assert len(run.series("accuracy", split="test")) == 1
    assert len(held.series("penalty", split="train")) == EPOCHS
    with pytest.raises(KeyError, match="no metric 'penalty'"):
        free.series("penalty", split="train")


def test_followed_rates_are_those_of_the_model(free, digits):
    hidden = activations(free.model, digits.batches("validation"), samples=128, device="cpu")
    for layer, values in hidden.items():
        assert free.series("ss_rate", layer=layer)[-1] == pytest.approx(ss_rate(values).item(), abs=1e-5)
        assert free.series("ss_rate_left_out", layer=layer)[-1] == pytest.approx(
            ss_rate(values, leave_out=3).item(), abs=1e-5
        )


def test_constraint_moves_the_rate_to_its_target(free, held):
    gaps = [[abs(run.series("ss_rate", layer=layer)[-1] - 0.1) for layer in run.layers] for run in (free, held)]
    assert sum(gaps[1]) < 0.6 * sum(gaps[0])


def test_runs_of_a_pair_start_alike(free, held):
    for layer in free.layers:
        assert free.series("ss_rate", layer=layer)[0] == held.series("ss_rate", layer=layer)[0]
    assert free.series("accuracy")[0] == held.series("accuracy")[0]


@pytest.mark.parametrize("name", ["mlp", "vit_small", "resnet34"])
def test_weight_0_is_the_unconstrained_run_to_the_last_bit(name, digits):
    # So the batches, their augmentation and the initial weights of a pair are the same.
    config = TrainConfig(name, epochs=1, augment=True)
    weightless = dataclasses.replace(config, constraint={"weight": 0.0, "layers_per_step": 1})
    a, b = (train(c, images=digits, device="cpu").model.state_dict() for c in (config, weightless))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_repeats_itself_and_leaves_the_callers_random_state(digits):
    config = TrainConfig("vit_small", epochs=1, seed=5, constraint={"layers_per_step": 1})
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = train(config, images=digits, device="cpu")
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert train(config, images=digits, device="cpu").history == first.history
    assert train(dataclasses.replace(config, seed=6), images=digits, device="cpu").history != first.history


def test_paper_constraint_from_a_configuration(digits):
    run = train(TrainConfig("mlp", epochs=2, constraint={"paper": True, "weight": 0.05}), images=digits, device="cpu")
    first, second = run.series("penalty", split="train")
    assert first == 0 < second  # its gate opens after the first epoch


def test_saves_and_loads(tmp_path, digits, free):
    saved = train(dataclasses.replace(free.config, epochs=2), images=digits, directory=tmp_path / "run", device="cpu")
    loaded = load_run(tmp_path / "run")
    assert loaded.history == saved.history
    assert loaded.config == saved.config
    assert loaded.environment == saved.environment
    x = next(digits.batches("test"))[0]
    assert not loaded.model.training
    assert torch.equal(loaded.model(x), saved.model(x))
    with pytest.raises(FileExistsError, match="directory: .* is not empty"):
        saved.save(tmp_path / "run")


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a finished run; it has no config.json"):
        load_run(tmp_path)


def test_loss_that_is_no_number_ends_the_run(digits):
    with pytest.raises((FloatingPointError, ValueError), match="in epoch 1|NaN or Inf"):
        train(TrainConfig("mlp", epochs=2, learning_rate=1e30), images=digits, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "mpl"}, "architecture: got 'mpl'.*did you mean 'mlp'"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
        ({"size": "big"}, "size: got 'big'"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"batch_size": 1.5}, "batch_size: got 1.5"),
        ({"seed": "0"}, "seed: got '0'"),
        ({"learning_rate": -1}, "learning_rate: got -1"),
        ({"label_smoothing": 1.0}, "label_smoothing: got 1.0"),
        ({"constraint": {"wieght": 1}}, "constraint: got 'wieght'.*did you mean 'weight'"),
        ({"constraint": {"target": 7}}, "target: got 7"),
    ],
)
def test_bad_configurations_fail_before_anything_starts(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"architecture": "mlp"} | changes)


def test_images_must_fit(digits):
    with pytest.raises(ValueError, match="images: got 8 pixels, need 32 for size='small'"):
        train(TrainConfig("mlp", size="small"), images=digits, device="cpu")
    with pytest.raises(ValueError, match="samples: got 999, but there are only 225"):
        train(TrainConfig("mlp", samples=999), images=digits, device="cpu")


def test_augmentation_shifts_and_mirrors():
    x = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(200, 1, 1, 1)
    moved = shifted(x, torch.Generator().manual_seed(0), mirror=True)
    assert moved.shape == x.shape
    shift = [m[0, 4, 4].item() - 36 for m in moved]
    assert {round(s / 8) for s in shift} == {-1, 0, 1}
    mirrored = [bool(m[0, 4, 3] > m[0, 4, 4]) for m in moved]
    assert 60 < sum(mirrored) < 140
    plain = shifted(x, torch.Generator().manual_seed(0), mirror=False)
    assert not any(bool(m[0, 4, 3] > m[0, 4, 4]) for m in plain)


def test_seeded_gives_the_state_back_after_an_exception():
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(3):
        torch.rand(-1)
    assert torch.equal(state, torch.get_rng_state())


def test_runs_of_a_folder_come_in_order(tmp_path):
    configs = [TrainConfig("mlp", epochs=1, train_images=200, seed=seed) for seed in (1, 0)]
    configs += [TrainConfig("mlp", epochs=1, train_images=200, seed=0, constraint={})]
    for config in reversed(configs):
        train(config, runs=tmp_path / "runs", device="cpu")
    (tmp_path / "runs" / "unfinished").mkdir()
    found = load_runs(tmp_path / "runs")
    assert [(run.config.constraint, run.config.seed) for run in found] == [(None, 0), (None, 1), ({}, 0)]
    assert load_runs(tmp_path / "nowhere") == []
