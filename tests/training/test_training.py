"""Training end to end on the embedded images: it learns, it repeats itself, its pairs are pairs, it is saved."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
import torch

from selfsim import Probe, TrainConfig, activations, create, load_images, load_run, load_runs, ss_rate, train
from selfsim.models.seeding import seeded
from selfsim.training import loop
from selfsim.training.pairs import PAIRED_METRICS
from selfsim.training.recipe import Shifts, augmentation, make_optimizer, make_schedule, shifted

EPOCHS = 12


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


@pytest.fixture(scope="module")
def free(digits):
    return train(TrainConfig("mlp", epochs=EPOCHS), images=digits, device="cpu")


@pytest.fixture(scope="module")
def constrained(digits):
    return train(TrainConfig("mlp", epochs=EPOCHS, constraint={"plain": True}), images=digits, device="cpu")


def test_learns(free):
    assert free.series("accuracy", split="test")[0] > 0.9
    losses = free.series("loss", split="train")
    assert losses[-1] < 0.3 * losses[0]


def test_history_is_complete(free, constrained):
    assert free.layers == [f"blocks.{i}" for i in range(6)]
    for run in (free, constrained):
        for metric in PAIRED_METRICS[1:]:
            assert all(len(run.series(metric, layer=layer)) == EPOCHS + 1 for layer in run.layers)
        for metric in ("neighbours_kept", "boxes_kept", "drivers_kept"):
            kept = [run.series(metric, layer=layer) for layer in run.layers]
            assert all(len(values) == EPOCHS and max(values) <= 1 for values in kept)
        assert len(run.series("accuracy")) == len(run.series("loss")) == EPOCHS + 1
        assert len(run.series("accuracy", split="train")) == EPOCHS
        assert len(run.series("accuracy", split="test")) == 1
    assert len(constrained.series("penalty", split="train")) == EPOCHS
    with pytest.raises(KeyError, match="no metric 'penalty'"):
        free.series("penalty", split="train")


def test_followed_rates_are_those_of_the_model(free, digits):
    hidden = activations(free.model, digits.batches("validation"), samples=128, device="cpu")
    for layer, values in hidden.items():
        assert free.series("ss_rate", layer=layer)[-1] == pytest.approx(ss_rate(values).item(), abs=1e-5)
        for metric, options in (
            ("ss_rate_left_out", {"leave_out": 3}),
            ("ss_rate_median_unit", {"unit": "median"}),
            ("ss_rate_quantiles", {"quantiles": (0.01, 0.99)}),
        ):
            rate = ss_rate(values, **options).item()
            assert free.series(metric, layer=layer)[-1] == pytest.approx(rate, abs=1e-5)


def test_constraint_moves_the_rate_to_its_target(free, constrained):
    gaps = [[abs(run.series("ss_rate", layer=layer)[-1] - 0.1) for layer in run.layers] for run in (free, constrained)]
    assert sum(gaps[1]) < 0.6 * sum(gaps[0])


def test_runs_of_a_pair_start_alike(free, constrained):
    for layer in free.layers:
        assert free.series("ss_rate", layer=layer)[0] == constrained.series("ss_rate", layer=layer)[0]
    assert free.series("accuracy")[0] == constrained.series("accuracy")[0]


@pytest.mark.parametrize("name", ["mlp", "vit_small", "resnet34"])
def test_weight_0_is_the_unconstrained_run_to_the_last_bit(name, few):
    # So the batches, their augmentation and the initial weights of a pair are the same.
    config = dataclasses.replace(SHORT, architecture=name, epochs=1, augment=True)
    weightless = dataclasses.replace(config, constraint={"plain": True, "weight": 0.0, "layers_per_step": 1})
    a, b = (train(c, images=few, device="cpu").model.state_dict() for c in (config, weightless))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_repeats_itself_and_leaves_the_callers_random_state(few):
    config = dataclasses.replace(SHORT, architecture="vit_small", epochs=1, seed=5, constraint={"layers_per_step": 1})
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = train(config, images=few, device="cpu")
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert train(config, images=few, device="cpu").history == first.history
    assert train(dataclasses.replace(config, seed=6), images=few, device="cpu").history != first.history


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
        ({"optimizer": "adamvv"}, "optimizer: got 'adamvv', need one of .*did you mean 'adam"),
        ({"optimizer": "fusedadam"}, "optimizer: got 'fusedadam'"),
        ({"schedule": "cosin"}, "schedule: got 'cosin'.*did you mean 'cosine'"),
        ({"warmup_epochs": 15}, "warmup_epochs: got 15, need a number in \\[0, 15\\)"),
        ({"precision": "half"}, "precision: got 'half'"),
        ({"select": "ema"}, "select: got 'ema' without a moving average"),
        ({"select": "first"}, "select: got 'first'"),
        ({"ema": 1}, "ema: got 1, need a number in \\[0, 1\\)"),
        ({"clip_gradient": 0}, "clip_gradient: got 0"),
        ({"rand_augment": 11}, "rand_augment: got 11, need a number in \\[0, 10\\]"),
        ({"random_erasing": 1.5}, "random_erasing: got 1.5"),
        ({"mixup": -0.1}, "mixup: got -0.1"),
        ({"mixup": 0.5, "batch_size": 25}, "batch_size: got 25, need an even number for mixup"),
        ({"constraint": 0.1}, "constraint: got 0.1, need None or a mapping"),
        ({"constraint": {"target": {"schedule": "linea"}}}, "linea"),
        ({"constraint": {"wieght": 1}}, "constraint: got 'wieght'.*did you mean 'weight'"),
        ({"constraint": {"target": 7}}, "target: got 7"),
        ({"constraint": {"paper": "yes"}}, "constraint: paper: got 'yes', need True or False"),
        ({"constraint": {"seed": None}}, "seed: got None"),
        ({"constraint": {"scale": True}}, "constraint: .*missing .* 'target'"),
        ({"augment": "yes"}, "augment: got 'yes', need True or False"),
        ({"download": "no"}, "download: got 'no', need True or False"),
        ({"learning_rate": True}, "learning_rate: got True"),
        ({"train_images": 0}, "train_images: got 0, need an integer of at least 1"),
        ({"test_images": 1.5}, "test_images: got 1.5"),
        ({"seed": 2**70}, "seed: got 1180591620717411303424"),
        *(({"layers": wrong}, "layers: got .*need None, an integer") for wrong in (0, True, [], "blocks", [1])),
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
    moved = shifted(x, Shifts.draw(len(x), x.shape[2], torch.Generator().manual_seed(0), mirror=True))
    assert moved.shape == x.shape
    shift = [m[0, 4, 4].item() - 36 for m in moved]
    assert {round(s / 8) for s in shift} == {-1, 0, 1}
    mirrored = [bool(m[0, 4, 3] > m[0, 4, 4]) for m in moved]
    assert 60 < sum(mirrored) < 140
    plain = shifted(x, Shifts.draw(len(x), x.shape[2], torch.Generator().manual_seed(0), mirror=False))
    assert not any(bool(m[0, 4, 3] > m[0, 4, 4]) for m in plain)


def test_seeded_gives_all_states_back_after_an_exception():
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    before, drawn = states(), []
    for _ in range(2):
        with pytest.raises(RuntimeError), seeded(3):  # noqa: PT012
            drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
            torch.rand(-1)
    assert states() == before
    assert drawn[0] == drawn[1]


def test_runs_of_a_folder_come_in_order(tmp_path):
    configs = [TrainConfig("mlp", epochs=1, train_images=200, seed=seed) for seed in (1, 0)]
    configs += [TrainConfig("mlp", epochs=1, train_images=200, seed=0, constraint={})]
    for config in reversed(configs):
        train(config, runs=tmp_path / "runs", device="cpu")
    (tmp_path / "runs" / "unfinished").mkdir()
    found = load_runs(tmp_path / "runs")
    assert [(run.config.constraint, run.config.seed) for run in found] == [
        (None, 0), (None, 1), (configs[-1].constraint, 0)
    ]  # fmt: skip
    assert load_runs(tmp_path / "nowhere") == []


SHORT = TrainConfig("mlp", train_images=100, test_images=50, samples=50, epochs=3, batch_size=20)


@pytest.fixture(scope="module")
def few():
    return SHORT.load_images()


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"precision": "float16", "constraint": {"layers_per_step": 1}},
        {"optimizer": "lion", "learning_rate": 1e-4, "schedule": "constant"},
        {"optimizer": "sgd", "learning_rate": 0.02},
        {"mixup": 0.2, "cutmix": 0.5, "rand_augment": 2, "random_erasing": 0.25, "label_smoothing": 0.1, "epochs": 6},
    ],
    ids=str,
)
@pytest.mark.long
def test_learns_with_each_of_the_parts(few, changes):
    run = train(
        dataclasses.replace(SHORT, **({"learning_rate": 2e-3, "epochs": 5} | changes)), images=few, device="cpu"
    )
    losses = run.series("loss")
    assert min(losses[1:]) < (1 if "mixup" in changes else 0.85) * losses[0]
    assert all(value.dtype == torch.float32 for value in run.weights.values() if value.is_floating_point())


class TestSchedules:
    def rates(self, **changes):
        config = TrainConfig("mlp", epochs=10, learning_rate=1.0, **changes)
        optimizer = make_optimizer(config, [torch.zeros(1, requires_grad=True)])
        schedule, found = make_schedule(config, optimizer, steps_per_epoch=4), []
        for _ in range(40):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    def test_constant_after_its_warmup(self):
        rates = self.rates(schedule="constant", warmup_epochs=1)
        assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert rates[4:] == [1.0] * 36
        assert self.rates(schedule="constant") == [1.0] * 40

    def test_cosine_falls_to_0(self):
        rates = self.rates(schedule="cosine")
        assert rates == pytest.approx([(1 + math.cos(math.pi * i / 40)) / 2 for i in range(40)])
        warm = self.rates(schedule="cosine", warmup_epochs=5)
        assert warm.index(max(warm)) == 20
        assert warm[30] == pytest.approx(0.5)

    def test_one_cycle_is_torchs(self):
        optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=40, pct_start=0.2)
        for rate in self.rates():
            assert rate == optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()

    @pytest.mark.parametrize("epochs", [1, 2, 5, 10])
    def test_one_cycle_of_any_length(self, epochs):
        config = TrainConfig("mlp", epochs=epochs)
        optimizer = make_optimizer(config, [torch.zeros(1, requires_grad=True)])
        schedule = make_schedule(config, optimizer, steps_per_epoch=1)
        for _ in range(epochs):
            optimizer.step()
            schedule.step()


class TestSelection:
    @pytest.mark.parametrize(("accuracies", "best"), [((0.9, 0.1, 0.6, 0.6), 2), ((0.1, 0.2, 0.3, 0.4), 3)])
    def test_best_is_the_first_epoch_with_the_best_validation_accuracy(self, few, monkeypatch, accuracies, best):
        weights = {}

        def scores(model, images, split, *, epoch, device, plain=loop.scores):
            rows = plain(model, images, split, epoch=epoch, device=device)
            if split == "validation":
                weights[epoch] = {name: value.clone() for name, value in model.state_dict().items()}
                rows[1] = rows[1]._replace(value=accuracies[epoch])
            return rows

        monkeypatch.setattr(loop, "scores", scores)
        run = train(dataclasses.replace(SHORT, select="best"), images=few, device="cpu")
        assert all(torch.equal(value, weights[best][name]) for name, value in run.weights.items())
        (row,) = [row for row in run.history if row.split == "test" and row.metric == "accuracy"]
        assert row.epoch == best
        assert accuracy(run, few, "test") == pytest.approx(row.value)

    def test_moving_average_is_evaluated_and_can_be_the_result(self, few):
        config = dataclasses.replace(SHORT, ema=0.8, select="ema", schedule="constant")
        run = train(config, images=few, device="cpu")
        assert accuracy(run, few, "validation") == pytest.approx(run.series("accuracy_ema")[-1])
        plain = train(dataclasses.replace(config, ema=0.0, select="last"), images=few, device="cpu")
        assert plain.series("accuracy") == run.series("accuracy")
        # Recomputed from the weights after each of its steps.
        one = dataclasses.replace(config, epochs=1, batch_size=100)
        averaged, moved = (
            train(c, images=few, device="cpu").weights for c in (one, dataclasses.replace(one, ema=0.0, select="last"))
        )
        with seeded(config.seed):
            start = create("mlp", size="tiny", num_classes=10, in_chans=1).state_dict()
        for name, value in averaged.items():
            torch.testing.assert_close(value, 0.8 * start[name] + 0.2 * moved[name])


def accuracy(run, images, split: str) -> float:
    part = getattr(images, split)
    with torch.no_grad():
        return (run.model(images.prepared(part.images)).argmax(1) == part.labels).float().mean().item()


def test_clipping_limits_the_step(few):
    # Without momentum and decay, a step is the clipped gradient times the learning rate.
    config = dataclasses.replace(
        SHORT, optimizer="momentum", weight_decay=0.0, schedule="constant", epochs=1, batch_size=100, clip_gradient=1e-3
    )
    run = train(config, images=few, device="cpu")
    assert run.series("task_gradient_norm", split="train")[0] > 0.1
    assert run.series("weight_distance", split="train")[0] == pytest.approx(1e-3 * config.learning_rate, rel=0.05)


def test_gradient_norms_and_their_angle_are_those_of_the_first_step(few):
    config = dataclasses.replace(SHORT, constraint={"plain": True, "weight": 3.0}, epochs=1)
    run = train(config, images=few, device="cpu")
    with seeded(config.seed):
        model = create("mlp", size="tiny", num_classes=10, in_chans=1)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(config.seed))[:20]
    with (probe := Probe(model)):
        logits = model(few.prepared(few.train.images[order]))
    task = torch.nn.functional.cross_entropy(logits, few.train.labels[order])
    penalty = config.make_constraint()(probe)
    parameters = list(model.parameters())
    both = [
        torch.cat(
            [
                g.flatten().double()
                for g in torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
            ]
        )
        for value in (task, penalty)
    ]
    cosine = torch.dot(*both) / (both[0].norm() * both[1].norm())
    for metric, expected in (
        ("task_gradient_norm", both[0].norm()),
        ("constraint_gradient_norm", both[1].norm()),
        ("gradient_angle", torch.rad2deg(torch.arccos(cosine))),
    ):
        assert run.series(metric, split="train")[0] == pytest.approx(expected.item(), rel=1e-3)


def test_weight_distance_is_from_the_start(few, free):
    run = train(dataclasses.replace(SHORT, constraint=None), images=few, device="cpu")
    with seeded(SHORT.seed):
        start = create("mlp", size="tiny", num_classes=10, in_chans=1)
    moved = [(p - q).square().sum() for p, q in zip(run.model.parameters(), start.parameters(), strict=True)]
    assert run.series("weight_distance", split="train")[-1] == pytest.approx(sum(moved).sqrt().item(), rel=1e-4)
    with pytest.raises(KeyError):
        free.series("constraint_gradient_norm", split="train")


def test_mixed_targets_are_shares_of_two_classes(few):
    config = dataclasses.replace(SHORT, mixup=1.0)
    with seeded(0):
        x, targets = augmentation(config, few, torch.device("cpu"))(
            few.train.images[:20], few.train.labels[:20], torch.Generator()
        )
    shares = targets.max(1).values
    share = shares[shares < 1 - 1e-6][0].item()
    hot = torch.nn.functional.one_hot(few.train.labels[:20], 10).float()
    own = share if torch.allclose(targets, share * hot + (1 - share) * hot.flip(0)) else 1 - share
    torch.testing.assert_close(targets, own * hot + (1 - own) * hot.flip(0))
    plain = few.prepared(few.train.images[:20])
    torch.testing.assert_close(x, own * plain + (1 - own) * plain.flip(0), rtol=1e-4, atol=1e-4)


def test_the_published_recipe():
    config = TrainConfig.paper("ResMLP-12", dataset="imagenette", data_dir="somewhere", epochs=9)
    assert (config.size, config.batch_size, config.epochs, config.precision) == ("paper", 256, 9, "float16")
    assert config.learning_rate == 5e-3 / 2
    constraint = config.make_constraint()
    assert (constraint.weight, constraint.gate) == (0.05, 0.05)
    assert TrainConfig.paper("vit_small", dataset="cifar10", constraint=None).make_constraint() is None
    with pytest.raises(ValueError, match="learning_rate, constraint: none are published for 'resnet34'"):
        TrainConfig.paper("resnet34", dataset="cifar10")


def test_on_epoch_is_called_at_every_epoch():
    calls = []

    def look(epoch, model):
        calls.append((epoch, model.training, torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()))

    config = TrainConfig("mlp", epochs=2, train_images=200, evaluate_every=2)
    run = train(config, device="cpu", on_epoch=look)
    assert [(epoch, training) for epoch, training, _ in calls] == [(0, False), (1, False), (2, False)]
    start, _, end = (weights for *_, weights in calls)
    assert torch.equal(end, torch.nn.utils.parameters_to_vector(run.model.parameters()))
    moved = float((end - start).double().norm())
    assert moved == pytest.approx(run.series("weight_distance", split="train")[-1], rel=1e-5)
    assert run.history == train(config, device="cpu").history
