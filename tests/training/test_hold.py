"""Targets where the unconstrained network is: of a finished run, and of the layer's own past."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import warnings

import pytest
import torch

from selfsim import Probe, SelfSimilarityConstraint, TrainConfig, load_images, ss_rate, train
from selfsim.training.schedules import Hold, ScheduleInput

SETTINGS = dict(epochs=1, train_images=200, validation_images=50, test_images=50, samples=50, batch_size=50)


@pytest.fixture(scope="module")
def run():
    return train(TrainConfig("mlp", **SETTINGS), device="cpu")


def test_of_a_finished_run(run):
    """The mean over batches of training images, by plain code: 200 images in any order are four batches of 50."""
    images, model = run.config.load_images(), run.model
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    probe, rates = Probe(model), []
    for part in order.split(50):
        with torch.no_grad(), probe:
            model(images.prepared(images.train.images[part]))
        rates.append({layer: float(ss_rate(x, unit="median")) for layer, x in probe.activations.items()})
    constraint = SelfSimilarityConstraint.hold(run)
    assert list(constraint.targets) == run.layers
    for layer, target in constraint.targets.items():
        assert target == pytest.approx(statistics.fmean(r[layer] for r in rates), rel=1e-5)
    assert not run.model.training


def test_the_callers_settings_do_not_move_the_targets(run):
    expected = SelfSimilarityConstraint.hold(run).targets
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        assert SelfSimilarityConstraint.hold(run).targets == expected


@pytest.mark.parametrize(("images", "batch", "batches"), [(100, 11, 8), (50, 16, 3)])
def test_batch_statistics_of_at_most_eight_whole_batches(images, batch, batches):
    """As a constraint reads them in training: in training mode, by batches of the run's size."""
    sizes = {"train_images": images, "batch_size": batch, "samples": 16}
    run = train(TrainConfig("resnet34", layers=1, seed=3, **(SETTINGS | sizes)), device="cpu")
    data, model = run.config.load_images(), copy.deepcopy(run.model).train()
    order = torch.randperm(images, generator=torch.Generator().manual_seed(3))
    probe, rates = Probe(model, 1), []
    for part in order.split(batch)[:batches]:
        with torch.no_grad(), probe:
            model(data.prepared(data.train.images[part]))
        rates += [float(ss_rate(x, unit="median")) for x in probe.activations.values()]
    (target,) = SelfSimilarityConstraint.hold(run).targets.values()
    assert target == pytest.approx(statistics.fmean(rates), rel=1e-5)


def with_dropout(module, args):
    return torch.nn.functional.dropout(args[0], training=module.training)


def test_dropout_does_not_change_the_targets(run):
    dropping = dataclasses.replace(run)
    dropping.model.register_forward_pre_hook(with_dropout)
    first = SelfSimilarityConstraint.hold(dropping).targets
    before = torch.get_rng_state()
    assert SelfSimilarityConstraint.hold(dropping).targets == first != SelfSimilarityConstraint.hold(run).targets
    assert torch.equal(torch.get_rng_state(), before)


def test_the_papers_rule(run):
    ruled, fixed = SelfSimilarityConstraint.paper(run=run), SelfSimilarityConstraint.paper()
    assert (ruled.weight, ruled.gate, ruled.cap, ruled.ramp) == (0.05, 0.05, None, None)
    assert ruled.measure == fixed.measure
    assert ruled.measure.scales == 256
    again = SelfSimilarityConstraint.hold(run, scales=256, gradient="straight-through", unit="absolute")
    assert ruled.targets == again.targets
    assert fixed.targets == {}


def test_a_configuration_takes_the_targets(run):
    targets = SelfSimilarityConstraint.hold(run).targets
    config = TrainConfig("mlp", **SETTINGS, constraint={"target": targets, "cap": 0.3, "unit": "median"})
    found = train(config, device="cpu")
    assert {layer: found.series("target", split="train", layer=layer) for layer in found.layers} == {
        layer: [pytest.approx(target)] for layer, target in targets.items()
    }


def test_a_run_under_a_constraint_is_refused():
    config = TrainConfig("mlp", **SETTINGS, constraint={"target": 0.1})
    with pytest.raises(ValueError, match="run: got one trained with constraint=.*need one without a constraint"):
        SelfSimilarityConstraint.hold(train(config, images=load_images("digits", **config_sizes()), device="cpu"))


def config_sizes() -> dict:
    return {name: SETTINGS[name] for name in ("train_images", "validation_images", "test_images")}


def test_of_the_layers_own_past():
    """No pull before its time; then the mean rate of the epoch before, for good."""
    generator = torch.Generator().manual_seed(0)
    constraint = SelfSimilarityConstraint({"schedule": "hold", "start": 0.5}, 1.0, cap=None, ramp=None)
    rates, last = [], None
    for epoch in range(1, 5):
        read = [torch.rand(20, 12, generator=generator).requires_grad_() for _ in range(2)]
        values = [constraint({"a": x}) for x in read]
        now = [float(ss_rate(x.detach(), unit="median")) for x in read]
        if epoch < 3:
            assert [value.item() for value in values] == [0, 0]
            assert constraint.targets == {}
            rates = now
        else:
            last = last or statistics.fmean(rates)
            assert constraint.targets["a"] == pytest.approx(last)
            assert values[0].item() == pytest.approx((now[0] - last) ** 2 / 2, rel=1e-4)
        constraint.step(epoch=epoch, epochs=5)


def test_the_schedule_by_itself():
    assert Hold(0.5)(ScheduleInput(0.4, 128, 96, rates=(0.2,))) is None
    assert Hold(0.0)(ScheduleInput(0.0, 128, 96)) is None  # nothing was read yet
    assert Hold(0.5)(ScheduleInput(0.5, 128, 96, rates=(0.3, 0.2))) == 0.2
    assert Hold(0.5)(ScheduleInput(1.0, 128, 96, rates=(0.3, 0.2), target=0.25)) == 0.25
    with pytest.raises(ValueError, match="start: got 1.5"):
        SelfSimilarityConstraint({"schedule": "hold", "start": 1.5})


def test_a_gate_that_is_never_renewed_is_a_warning():
    x = torch.rand(9, 6, requires_grad=True)
    for epochs, warned in ((3, True), (5, True), (6, False), (1, False)):
        paper = SelfSimilarityConstraint.paper()
        paper(x)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            paper.step(epoch=1, epochs=epochs)
        expected = f"gate_every: got 5, but training has {epochs} epochs"
        assert [str(w.message).startswith(expected) for w in caught] == [True] * warned


def warnings_after_training(options, early, late, epochs=5):
    """What the last step warns of if the layer is `early` in the first two epochs and `late` from then on."""
    constraint = SelfSimilarityConstraint(**{"ramp": (0.4, 0.6)} | options)
    for epoch in range(1, epochs + 1):
        x = (early if epoch <= 2 else late).clone().requires_grad_()
        a, b = 1 * x, 2 * x
        (a.sum() + b.sum() + constraint({"a": a, "b": b})).backward()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            constraint.step(epoch=epoch, epochs=epochs)
        assert epoch == epochs or not caught
    return [str(warning.message) for warning in caught]


def test_less_than_half_of_the_way_is_a_warning_that_says_why():
    random = torch.Generator().manual_seed(0)
    noise, other = torch.randn(20, 30, generator=random), torch.rand(20, 30, generator=random).pow(4)
    start, end = (float(ss_rate(x, unit="median")) for x in (noise, other))
    assert abs(start - end) > 0.02
    beyond = {"target": end + 0.9 * (end - start)}  # which `other` is halfway to, but for a little
    (said,) = warnings_after_training(beyond | {"target": end + 1.1 * (end - start)}, noise, other)
    first, last = abs(start - end) * 2.1, abs(start - end) * 1.1
    assert said.startswith(f"target: the layers were {first:.3g} away from it on average before the ramp began and")
    assert f"{last:.3g} in the last epoch, less than half of the way. The penalty was limited by cap=0.3; need" in said
    (said,) = warnings_after_training({"target": 0.9, "weight": 2.0, "gate": 0.5, "gate_every": 1}, noise, noise)
    assert "limited by weight=2 and cap=0.3 and gate=0.5" in said
    assert not warnings_after_training(beyond, noise, other)
    assert not warnings_after_training({"target": start}, noise, noise)
    assert not warnings_after_training({"target": 0.9, "ramp": None}, noise, noise)  # there was no epoch without it
    assert not warnings_after_training({"target": 0.9, "weight": 0.0}, noise, noise)


def test_a_run_under_a_tiny_cap_says_that_the_rates_stayed():
    constraint = {"target": 0.9, "cap": 1e-6, "weight": None, "ramp": [0.3, 0.6]}
    with pytest.warns(UserWarning, match=r"less than half of the way. The penalty was limited by cap=1e-06"):
        train(TrainConfig("mlp", **(SETTINGS | {"epochs": 4}), constraint=constraint), device="cpu")


def test_of_a_run_on_images_of_ones_own():
    digits = load_images("digits", train_images=150, validation_images=60, test_images=40)
    run = train(TrainConfig("mlp", **SETTINGS), images=digits, device="cpu")
    with pytest.raises(ValueError, match="not the data of the run .* need `images`"):
        SelfSimilarityConstraint.hold(run)
    held = SelfSimilarityConstraint.hold(run, digits)
    assert list(held.targets) == run.layers
    assert SelfSimilarityConstraint.paper(run=run, images=digits).targets.keys() == held.targets.keys()
    with pytest.raises(ValueError, match="images: got some without a run"):
        SelfSimilarityConstraint.paper(images=digits)
