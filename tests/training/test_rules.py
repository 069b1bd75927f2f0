"""The rules of the constraint, one by one: ramp, cap, gate, draw, units, and when it warns."""

from __future__ import annotations

import warnings

import pytest
import torch

from selfsim import SelfSimilarityConstraint, TrainConfig, ss_rate, train
from selfsim.rate.options import RateOptions
from selfsim.training import penalty
from selfsim.training.measure import ScalingOptions, converged_rates, with_shape_gradient
from selfsim.training.penalty import capped_sum, gate_factor, pull_of

CAP = 0.3


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def added_gradient(constraint: SelfSimilarityConstraint, x: torch.Tensor) -> torch.Tensor:
    """What the penalty adds to the gradient of a task at the layer."""
    x = x.clone().requires_grad_()
    hidden = 1 * x
    (hidden.square().sum() + constraint({"layer": hidden})).backward()
    return x.grad - 2 * x.detach()


def test_an_empty_ramp_is_a_step():
    constraint = SelfSimilarityConstraint(ramp=(0.5, 0.5))
    shares = []
    for step in (0, 49, 50, 51):
        constraint.advance(step=step, steps=100)
        shares.append(constraint.ramp_share())
    assert shares == [0, 0, 1, 1]


@pytest.mark.parametrize("done", [30, 45, 52, 60])
def test_the_pull_rises_with_the_ramp(done):
    x, whole = some(32, 24), SelfSimilarityConstraint(0.01, cap=CAP, ramp=None)
    rising = SelfSimilarityConstraint(0.01, cap=CAP, ramp=(0.3, 0.6))
    rising.advance(step=done, steps=100)
    share = (done - 30) / 30
    torch.testing.assert_close(added_gradient(rising, x), share * added_gradient(whole, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("target", "way"), [(0.05, -1), (0.6, 1)])
def test_a_step_moves_the_rate_towards_its_target_from_either_side(target, way):
    x = some(32, 24).requires_grad_()
    rate = ss_rate(x, unit="median")
    (slope,) = torch.autograd.grad(rate, x)
    added = added_gradient(SelfSimilarityConstraint(target, cap=CAP, ramp=None), x.detach())
    assert way * (float(rate) - target) < 0
    assert way * float((-added * slope).sum()) > 0.9 * float(added.norm() * slope.norm())


def test_nothing_pulls_at_a_target_of_0_that_is_reached():
    pulls = pull_of(torch.tensor([0.0, 0.2, -0.05]), torch.tensor([0.0, 0.0, 0.1]))
    assert pulls.tolist() == [0.0, 1.0, 0.5]


def test_half_precision_does_not_limit_the_number_of_neurons():
    task, added = torch.ones(100_000, dtype=torch.float16), torch.full((100_000,), 2.0, dtype=torch.float16)
    both, largest = capped_sum(task, added, CAP, False)
    torch.testing.assert_close(both, torch.full_like(both, 1 + CAP), rtol=1e-3, atol=0)
    assert (both.dtype, float(largest)) == (torch.float16, 1.0)


def backward(constraint: SelfSimilarityConstraint, *, task: bool) -> None:
    hidden = 1 * some(32, 24).requires_grad_()
    loss = hidden.square().sum() if task else 0 * hidden.sum()
    (loss + constraint({"layer": hidden})).backward()


def test_a_task_that_reaches_the_layer_in_one_pass_of_an_epoch_is_enough():
    constraint = SelfSimilarityConstraint(ramp=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch, first in ((1, True), (2, False)):
            backward(constraint, task=first)
            backward(constraint, task=not first)
            constraint.step(epoch=epoch, epochs=9)


def test_each_epoch_is_judged_by_its_own_passes_and_warned_of_once():
    constraint = SelfSimilarityConstraint(ramp=None)
    backward(constraint, task=True)
    constraint.step(epoch=1, epochs=9)
    backward(constraint, task=False)
    with pytest.warns(UserWarning, match="cap: no gradient of the task reached 'layer'"):
        constraint.step(epoch=2, epochs=9)
    backward(constraint, task=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constraint.step(epoch=3, epochs=9)


def test_calls_are_not_counted_once_the_progress_was_told(monkeypatch):
    monkeypatch.setattr(penalty, "_CALLS_WITHOUT_STEP", 3)
    told, never = SelfSimilarityConstraint(), SelfSimilarityConstraint()
    told.advance(step=0, steps=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            backward(told, task=True)
        for _ in range(2):
            backward(never, task=True)
    with pytest.warns(UserWarning, match="ramp: the penalty was 0 in 3 calls"):
        backward(never, task=True)


def test_layers_of_several_shapes_keep_their_own_targets():
    layers = {"a": some(16, 20), "b": some(16, 24, seed=1), "c": some(16, 20, seed=2)}  # a and c go in one call
    rates = {layer: float(ss_rate(x, unit="median")) for layer, x in layers.items()}
    constraint = SelfSimilarityConstraint(rates | {"c": 0.02}, 1.0, cap=None, ramp=None)
    inputs = {layer: x.requires_grad_() for layer, x in layers.items()}
    value = constraint(inputs)
    value.backward()
    assert float(value) == pytest.approx(0.5 * (rates["c"] - 0.02) ** 2 / 3, rel=1e-4)
    lengths = {layer: float(x.grad.norm()) for layer, x in inputs.items()}
    assert max(lengths["a"], lengths["b"]) < 1e-4 * lengths["c"]


def test_with_a_weight_the_gradient_is_that_of_the_formula():
    x = some(32, 24).requires_grad_()
    constraint = SelfSimilarityConstraint(0.1, 2.0, cap=None, ramp=None)
    (found,) = torch.autograd.grad(constraint({"layer": x}), x)
    rate = ss_rate(x, unit="median", ends="detached")
    (expected,) = torch.autograd.grad((rate - 0.1) ** 2, x)
    torch.testing.assert_close(found, expected)


def test_the_published_form_draws_one_layer_a_call_with_its_seed():
    layers = {name: some(16, 20, seed=k).requires_grad_() for k, name in enumerate("abcd")}

    def drawn(constraint: SelfSimilarityConstraint) -> list[str]:
        names = []
        for _ in range(20):
            touched = torch.autograd.grad(constraint(layers), list(layers.values()), allow_unused=True)
            names.append("".join(name for name, g in zip(layers, touched, strict=True) if g is not None and g.any()))
        return names

    published = SelfSimilarityConstraint.paper(gate=1e6, seed=3)
    for _ in range(9):
        published(layers)
    published.step(epoch=1, epochs=20)  # which gives the gate its old rates
    assert set(drawn(published)) == set("abcd")
    same, other = (SelfSimilarityConstraint.paper(gate=1e6, seed=seed) for seed in (3, 4))
    assert [same.chosen_layers(list("abcd")) for _ in range(9)] != [other.chosen_layers(list("abcd")) for _ in range(9)]
    with_options = SelfSimilarityConstraint.paper(gate=0.1, gate_every=3, gate_by="layer")
    assert (with_options.gate, with_options.gate_every, with_options.gate_by) == (0.1, 3, "layer")


def test_a_gate_closes_on_either_side_of_the_old_rate():
    old = torch.tensor([0.2, 0.2, 0.2, 0.2, float("nan")])
    rates = torch.tensor([0.19, 0.21, 0.2, 0.3, 0.2])
    torch.testing.assert_close(gate_factor(rates, old, 0.1), torch.tensor([0.5, 0.5, 1.0, 0.0, 0.0]))


def test_a_gate_for_all_layers_counts_every_call():
    constraint = SelfSimilarityConstraint(0.1, 1.0, gate=0.1, gate_by="all", ramp=None, unit="absolute")
    layers = {"a": some(16, 20).requires_grad_(), "b": 3 * some(16, 20, seed=1).requires_grad_()}
    for names in ("ab", "b", "b"):
        constraint({name: layers[name] for name in names})
    constraint.step(epoch=1, epochs=9)
    a, b = (float(ss_rate(x)) for x in layers.values())
    assert constraint.state_dict()["baseline"][""] == pytest.approx((a + 3 * b) / 4)


def test_options_of_the_measure_arrive():
    assert SelfSimilarityConstraint(measure="scaling", check=False).measure == ScalingOptions(check=False)
    sizes = dict(train_images=64, validation_images=64, test_images=64, samples=32)
    run = train(TrainConfig("mlp", epochs=1, **sizes), device="cpu")
    held = SelfSimilarityConstraint.hold(run, unit="absolute", ends="detached")
    assert held.targets == converged_rates(run, RateOptions(unit="absolute", ends="detached"))
    assert held.targets != SelfSimilarityConstraint.hold(run).targets


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e25), (torch.float32, 1e-25), (torch.float16, 1.0)])
def test_the_gradient_of_the_shape_leaves_out_the_scale(dtype, scale):
    x = (scale * some(200, 400)).to(dtype).requires_grad_()
    along = some(200, 400, seed=1).to(dtype)
    (found,) = torch.autograd.grad(with_shape_gradient(x), x, along)
    centred = x.detach().double() - x.detach().double().mean(-1, keepdim=True)
    unit = centred / centred.norm()
    expected = along.double() - (along.double() * unit).sum() * unit
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3)
    assert abs(float((found.double() * unit).sum())) < 1e-2 * float(found.double().norm())
