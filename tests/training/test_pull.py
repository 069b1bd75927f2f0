"""The pull without a weight: factors, gates, tiny layers, leaves, and a second penalty on the same probe."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
from torch import nn

from selfsim import Probe, ScaleControl, SelfSimilarityConstraint, null_band, scaling_deviation, ss_rate

CAP = 0.3


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def own(**options) -> SelfSimilarityConstraint:
    return SelfSimilarityConstraint(**{"target": 0.01, "cap": CAP, "ramp": None} | options)


def penalty_gradient(constraint, x: torch.Tensor, *, factor: float = 1.0, task: float = 1.0) -> torch.Tensor:
    """What the penalty adds to the gradient at the layer."""
    x = x.clone().requires_grad_()
    hidden = 1 * x
    (task * hidden.square().sum() + factor * constraint({"layer": hidden})).backward()
    return x.grad - 2 * task * x.detach()


@pytest.mark.parametrize("factor", [1e-3, 1e-6, 1e-30])
def test_a_factor_of_ones_own_changes_nothing(factor):
    x = some(32, 24)
    expected = penalty_gradient(own(), x, task=1e3)
    assert float(expected.norm()) == pytest.approx(CAP * 2e3 * float(x.norm()), rel=1e-3)
    torch.testing.assert_close(penalty_gradient(own(), x, factor=factor, task=1e3), expected, rtol=1e-3, atol=1e-2)


def test_a_factor_of_zero_leaves_the_gradient_of_the_task():
    assert not penalty_gradient(own(), some(32, 24), factor=0.0, task=1e6).any()


@pytest.mark.parametrize("scale", [1e-24, 1e-10, 1e10])
def test_layers_of_any_scale_have_a_finite_pull(scale):
    x = some(32, 24)
    expected = penalty_gradient(own(), x)
    found = penalty_gradient(own(), scale * x)
    assert found.isfinite().all()
    cosine = (found.double() * expected).sum() / found.double().norm() / expected.double().norm()
    assert float(cosine) == pytest.approx(1, abs=1e-3)


def test_a_gate_multiplies_the_pull():
    """Its factor, not its square root."""
    before, x = some(32, 24, seed=1), some(32, 24)
    old, new = (float(ss_rate(y, unit="median")) for y in (before, x))
    gate = 2 * abs(new - old) / old  # half open
    constraint = own(gate=gate)
    constraint({"layer": before})
    constraint.step(epoch=1, epochs=9)
    gated, whole = (penalty_gradient(c, x).norm() for c in (constraint, own()))
    assert float(gated / whole) == pytest.approx(0.5, rel=1e-3)


def test_a_second_penalty_on_one_probe_is_refused():
    model = nn.Sequential(nn.Linear(8, 24), nn.Linear(24, 3))
    for first, second in ((own(), own()), (own(), ScaleControl(1.0)), (ScaleControl(1.0), own())):
        with (probe := Probe(model, ["0"])):
            model(some(16, 8))
        first(probe)
        first(probe)  # the same one may read twice
        with pytest.raises(
            ValueError, match=r"layer '0': cap: .* already reads this layer of the probe; need one Probe"
        ):
            second(probe)
    with (probe := Probe(model, ["0"])):
        model(some(16, 8))
    own(cap=None, weight=1.0)(probe)
    ScaleControl(1.0)(probe)  # without a cap, penalties are sums


def test_two_probes_for_two_penalties():
    model, x = nn.Sequential(nn.Linear(8, 24), nn.Linear(24, 3)), some(16, 8)
    with (a := Probe(model, ["0"])), (b := Probe(model, ["0"])):
        output = model(x)
    (output.square().sum() + own()(a) + own(target=0.5)(b)).backward()
    assert model[0].weight.grad.isfinite().all()


def test_a_graph_passed_twice_from_a_leaf_has_the_penalty_twice():
    leaf = some(20, 16).requires_grad_()
    loss = leaf.square().sum() + own()({"leaf": leaf})
    loss.backward(retain_graph=True)
    once = leaf.grad.clone()
    loss.backward()
    torch.testing.assert_close(leaf.grad, 2 * once)


def test_calls_without_a_backward_pass_leave_no_hooks_on_a_leaf():
    leaf = some(20, 16).requires_grad_()
    for _ in range(5):
        own()({"leaf": leaf})
    gc.collect()
    assert not leaf._backward_hooks


def test_an_epoch_that_is_no_integer():
    with pytest.raises(ValueError, match="epoch: got '1'"):
        own().step(epoch="1", epochs=3)


def test_under_the_scaling_measure_a_layer_comes_nearer_to_a_power_law():
    """Against the same steps without the penalty; the value is the squared distance of the deviation."""
    data, target = some(64, 12), some(64, 3, seed=1)
    deviations = []
    for cap in (0.0, 0.9):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(12, 48), nn.Tanh(), nn.Linear(48, 3))
        constraint = own(target=0.0, cap=cap or CAP, measure="scaling")
        probe, optimizer = Probe(model, ["1"]), torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(60):
            with probe:
                loss = (model(data) - target).square().mean()
            penalty = constraint(probe)
            assert step or penalty.item() == pytest.approx(
                scaling_deviation(probe.activations["1"]).item() ** 2 / 2, rel=1e-5
            )
            optimizer.zero_grad()
            (loss + penalty if cap else loss).backward()
            optimizer.step()
        with torch.no_grad(), probe:
            model(data)
        deviations.append(scaling_deviation(probe.activations["1"]).item())
    assert deviations[1] < 0.9 * deviations[0]


@pytest.mark.parametrize(
    ("measure", "of_layer"), [("rate", partial(ss_rate, unit="median")), ("scaling", scaling_deviation)]
)
def test_the_target_by_default_lies_below_noise(measure, of_layer):
    noise = some(64, 128)
    constraint = own(target=None, measure=measure)
    with torch.no_grad():
        constraint({"layer": noise})
    assert constraint.targets["layer"] < null_band(of_layer, noise, draws=39).low


def test_the_scaling_measure_has_no_options_of_the_rate():
    with pytest.raises(
        ValueError, match="measure: got 'scaling' with scales, leave_out, which are options of the rate"
    ):
        own(measure="scaling", scales=256, leave_out=3)
    with pytest.raises(ValueError, match="measure: got 'scalings'.*did you mean 'scaling'"):
        own(measure="scalings")


def test_activations_of_another_shape_are_named():
    for shape in ((24,), (2, 32, 24)):
        with pytest.raises(ValueError, match="layer 'a': activations: got shape"):
            own()({"a": some(*shape).requires_grad_()})
    with pytest.raises(TypeError, match="run: got NoneType, need a Run"):
        SelfSimilarityConstraint.hold(None)
