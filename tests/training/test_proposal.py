"""The proposal: its target and weight recomputed by plain code, and what training with it does."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from selfsim import (
    Probe,
    SelfSimilarityConstraint,
    TrainConfig,
    create,
    load_images,
    null_band,
    propose_constraint,
    ss_rate,
    train,
)
from selfsim.models.seeding import seeded


@pytest.fixture(scope="module")
def images():
    return load_images("digits")


@pytest.fixture(scope="module")
def batches(images):
    return list(images.batches("train", batch_size=64))[:4]


@pytest.fixture
def model():
    with seeded(0):
        return create("mlp", size="tiny", num_classes=10, in_chans=1)


def test_weight_and_target_are_what_the_reasons_say(model, batches):
    proposal = propose_constraint(
        model, batches, steps=6, learning_rate=2e-3, share=0.5, draws=10, device="cpu", unit="absolute"
    )

    twin = copy.deepcopy(model)
    probe, lengths = Probe(twin), []
    optimizer = torch.optim.AdamW(twin.parameters(), lr=2e-3)
    penalty = SelfSimilarityConstraint(proposal.target, 1.0, cap=None, ramp=None, unit="absolute")
    for x, y in [*batches, *batches[:2]]:  # 6 steps: with at most 8, every one is measured
        norms = []
        for which in ("penalty", "task"):
            optimizer.zero_grad()
            with probe:
                output = twin(x)
            (penalty(probe) if which == "penalty" else F.cross_entropy(output, y)).backward()
            gradients = [p.grad.flatten() for p in twin.parameters() if p.grad is not None]
            norms.append(torch.cat(gradients).norm().item())
        lengths.append(norms)
        optimizer.step()
    length = {"penalty": statistics.median(n[0] for n in lengths), "task": statistics.median(n[1] for n in lengths)}
    assert proposal.task_gradient == pytest.approx(length["task"], rel=1e-3)
    assert proposal.penalty_gradient == pytest.approx(length["penalty"], rel=1e-3)
    assert proposal.weight * length["penalty"] == pytest.approx(0.5 * length["task"], rel=0.06)  # two digits

    with (probe := Probe(model)):
        model(batches[0][0])
    low = [null_band(ss_rate, x, draws=10).low for x in probe.activations.values()]
    assert proposal.target == pytest.approx(min(statistics.median(low) / 2, min(low)), abs=6e-4)
    assert all(proposal.target < band.low for band in proposal.bands.values())
    assert list(proposal.rates) == list(proposal.bands) == list(probe.layers)
    assert f"target {proposal.target:g}" in proposal.reasons[0]
    assert f"weight {proposal.weight:g}" in proposal.reasons[1]


@pytest.mark.parametrize(("share", "warned"), [(0.01, False), (20.0, True)])
def test_warns_where_the_penalty_outweighs_the_task(model, batches, share, warned):
    proposal = propose_constraint(model, batches[:1], steps=2, share=share, draws=2, device="cpu")
    assert ("training may not get under way" in proposal.reasons[1]) == warned


def test_leaves_the_model_and_random_states_alone(model, batches):
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.eval()
    propose_constraint(model, batches[:1], steps=2, draws=2, device="cpu")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_is_for_the_rate_that_will_be_constrained(model, batches):
    options = {"quantiles": (0.05, 0.95), "unit": "median"}
    proposal = propose_constraint(model, batches[:1], steps=1, draws=5, device="cpu", **options)
    with (probe := Probe(model)):
        model(batches[0][0])
    for layer, x in probe.activations.items():
        assert proposal.rates[layer] == pytest.approx(ss_rate(x.detach(), **options).item(), abs=1e-6)
        band = null_band(lambda a: ss_rate(a, **options), x, draws=5)
        assert proposal.bands[layer].low == pytest.approx(band.low)


def test_goes_on_from_the_front_where_batches_end(model, batches):
    again = propose_constraint(model, batches[:2], steps=4, draws=2, device="cpu")
    written_out = propose_constraint(model, [*batches[:2], *batches[:2]], steps=4, draws=2, device="cpu")
    assert again.task_gradient == written_out.task_gradient


class Wrapped(nn.Module):
    """Returns its scores in a dict, as segmentation models do, or with the loss, as those of Hugging Face do."""

    def __init__(self, model: nn.Module, kind: str):
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, image, labels=None):
        if self.kind == "checkpointed":
            return checkpoint(self.model, image.clone().requires_grad_(), use_reentrant=True)
        scores = self.model(image)
        if self.kind == "out":
            return {"out": scores, "aux": None}
        return {"loss": F.cross_entropy(scores, labels), "logits": scores}


def test_outputs_and_batches_of_other_libraries(model, batches):
    options = dict(steps=2, draws=2, device="cpu")
    dicts = [{"image": x, "labels": y} for x, y in batches[:2]]
    expected = propose_constraint(model, batches[:2], **options)
    for kind, data, loss in (
        ("out", batches[:2], None),
        ("out", [({"image": x}, y) for x, y in batches[:2]], None),
        ("out", dicts, None),
        ("loss", dicts, None),
        ("out", dicts, lambda output, labels: F.cross_entropy(output["out"], labels)),
    ):
        proposal = propose_constraint(Wrapped(model, kind), data, task_loss=loss, **options)
        assert proposal.task_gradient == pytest.approx(expected.task_gradient)
        assert (proposal.target, proposal.weight) == (expected.target, expected.weight)
    with pytest.raises(ValueError, match="task_loss: got none for an output of dict and targets of NoneType"):
        propose_constraint(Wrapped(model, "out"), [batches[0][0]], **options)


def test_a_penalty_without_gradient_is_an_error_with_the_cause(model, batches):
    options = dict(steps=2, draws=2, device="cpu")
    with (
        pytest.warns(UserWarning, match="use_reentrant=True"),
        pytest.raises(ValueError, match="model: the penalty has no gradient"),
    ):
        propose_constraint(Wrapped(model, "checkpointed"), batches[:1], **options)
    with (
        pytest.warns(UserWarning, match="frozen"),
        pytest.raises(ValueError, match="model: the penalty has no gradient"),
    ):
        propose_constraint(model.requires_grad_(False), batches[:1], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"draws": 1}, "draws: got 1, need an integer of at least 2"),
        ({"share": 0}, "share: got 0"),
        ({"learning_rate": -1e-3}, "learning_rate: got -0.001"),
        ({"count": "greedy-coloring"}, "which has no gradient"),
        ({"target": 0.1}, "options: got 'target', need one of 'ends'"),
        ({"weight": 1.0}, "options: got 'weight', need one of"),
        ({"layers_per_stp": 1}, "options: got 'layers_per_stp'.*did you mean 'layers_per_step'"),
    ],
)
def test_messages(model, batches, options, message):
    with pytest.raises(ValueError, match=message):
        propose_constraint(model, batches, device="cpu", **options)


def test_a_smaller_batch_is_left_out(model, batches):
    x, y = batches[0]
    options = dict(steps=5, draws=5, device="cpu")
    whole = propose_constraint(model, batches[:3], **options | {"steps": 3})
    with_rest = propose_constraint(model, [*batches[:3], (x[:2], y[:2])], **options | {"steps": 4})
    repeated = propose_constraint(model, [*batches[:3], batches[0]], **options | {"steps": 4})
    assert with_rest.rates == repeated.rates and with_rest.rates != whole.rates
    assert with_rest.targets.keys() == whole.targets.keys()
    assert all(abs(with_rest.targets[layer] - whole.targets[layer]) < 0.03 for layer in whole.targets)


def test_it_trains_where_gradients_are_off(model, batches):
    options = dict(steps=2, draws=2, device="cpu")
    expected = propose_constraint(model, batches, **options)
    for off in (torch.no_grad(), torch.inference_mode()):
        with off:
            assert propose_constraint(model, batches, **options).weight == expected.weight


def test_what_cannot_be_trained_is_named(model, batches):
    options = dict(steps=2, draws=2, device="cpu")
    with pytest.raises(ValueError, match="task_loss: got a loss without gradient"):
        propose_constraint(model, batches, task_loss=lambda output, y: output.detach().square().mean(), **options)
    with pytest.raises(ValueError, match="model: got one without parameters"):
        propose_constraint(nn.Sequential(nn.Flatten(), nn.ReLU()), batches, layers=["1"], **options)


def test_needs_batches(model):
    with pytest.raises(ValueError, match="batches: got none"):
        propose_constraint(model, [], device="cpu")


@pytest.mark.long
def test_training_with_it_moves_the_rate_to_the_target_and_keeps_the_accuracy(model, images):
    proposal = propose_constraint(model, list(images.batches("train", batch_size=128)), device="cpu")
    constraint = {"plain": True, "target": proposal.target, "weight": proposal.weight}
    free, held = (
        train(TrainConfig("mlp", epochs=15, constraint=c), images=images, device="cpu") for c in (None, constraint)
    )
    gaps = [
        statistics.fmean(abs(run.series("ss_rate", layer=layer)[-1] - proposal.target) for layer in run.layers)
        for run in (free, held)
    ]
    assert gaps[1] < 0.7 * gaps[0]
    accuracy = [run.series("accuracy", split="test")[-1] for run in (free, held)]
    assert accuracy[1] > accuracy[0] - 0.02


def test_the_targets_are_where_the_unconstrained_model_ends(model, batches):
    """By an independent training of the same steps."""
    proposal = propose_constraint(model, batches, steps=6, draws=2, device="cpu")
    twin = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    for x, y in (batches + batches)[:6]:
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    probe, rates = Probe(twin), []
    for x, _ in batches:
        with torch.no_grad(), probe:
            twin(x)
        rates.append({layer: float(ss_rate(values, unit="median")) for layer, values in probe.activations.items()})
    for layer, target in proposal.targets.items():
        assert target == pytest.approx(statistics.fmean(rate[layer] for rate in rates), rel=1e-4)
    assert SelfSimilarityConstraint(proposal.targets).targets == proposal.targets


@pytest.mark.parametrize("options", [{"gate": 0.05}, {"cap": None}])
def test_options_of_the_training_to_come_do_not_stop_the_measurement(model, batches, options):
    plain, with_options = (
        propose_constraint(model, batches, steps=2, draws=5, device="cpu", **given) for given in ({}, options)
    )
    assert (plain.target, plain.weight) == (with_options.target, with_options.weight)
