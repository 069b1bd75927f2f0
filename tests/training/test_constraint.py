"""The constraint: its formula, its gate, its state, and what it does to activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from selfsim import Probe, SelfSimilarityConstraint, ss_rate


def some(seed=0, samples=32, neurons=20) -> torch.Tensor:
    return torch.randn(samples, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestFormula:
    def test_half_weight_times_square_averaged_over_layers(self):
        layers = {"a": some(0), "b": some(1)}
        expected = sum(0.5 * 10 * (ss_rate(x) - 0.1) ** 2 for x in layers.values()) / 2
        assert SelfSimilarityConstraint()(layers).item() == pytest.approx(expected.item(), rel=1e-12)

    def test_gradient_is_that_of_the_detached_rate(self):
        x = some().requires_grad_()
        (got,) = torch.autograd.grad(SelfSimilarityConstraint(target=0.1, weight=4.0)(x), x)
        rate = ss_rate(x, ends="detached")
        (expected,) = torch.autograd.grad(rate, x)
        torch.testing.assert_close(got, 4.0 * (rate.item() - 0.1) * expected)

    def test_tensor_mapping_and_probe_are_the_same(self):
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        with (probe := Probe(model, ["1"])):
            model(torch.randn(9, 4))
        values = [SelfSimilarityConstraint()(x).item() for x in (probe, probe.activations, probe.activations["1"])]
        assert values[0] == values[1] == values[2]

    @pytest.mark.parametrize("count", ["surrogate", "complete-linkage"])
    @pytest.mark.parametrize("target", [0.05, 0.35])
    def test_descending_it_reaches_the_target(self, target, count):
        x = some(neurons=40).requires_grad_()
        constraint = SelfSimilarityConstraint(target=target, weight=1.0, ends="attached", count=count)
        optimizer = torch.optim.Adam([x], lr=0.02)
        before = abs(ss_rate(x, count=count).item() - target)
        for _ in range(60):
            optimizer.zero_grad()
            constraint(x).backward()
            optimizer.step()
        assert abs(ss_rate(x, count=count).item() - target) < 0.5 * before

    def test_detached_ends_spread_the_gradient(self):
        """METHOD 4a: attached, two pairs carry nearly all of it; detached, many neurons share it."""
        x = some(samples=64, neurons=100).requires_grad_()
        share = {}
        for ends in ("attached", "detached"):
            (gradient,) = torch.autograd.grad(SelfSimilarityConstraint(ends=ends)(x), x)
            by_neuron = gradient.square().sum(0).sort(descending=True).values
            share[ends] = int((by_neuron.cumsum(0) < 0.9 * by_neuron.sum()).sum()) + 1
        assert share["attached"] <= 6
        assert share["detached"] >= 40


class TestLayersPerStep:
    def layers(self):
        return {f"block {i}": some(i) for i in range(5)}

    def test_draws_each_layer_and_follows_its_seed(self):
        rates = {ss_rate(x).item(): name for name, x in self.layers().items()}

        def drawn(seed):
            constraint = SelfSimilarityConstraint(target=0.0, weight=2.0, layers_per_step=1, seed=seed)
            values = [constraint(self.layers()).sqrt().item() for _ in range(40)]
            return [min(rates, key=lambda r, v=v: abs(r - v)) for v in values]

        state = torch.get_rng_state()
        assert drawn(0) == drawn(0) != drawn(1)
        assert set(drawn(0)) == set(rates)
        assert torch.equal(state, torch.get_rng_state())


class TestPaper:
    def test_is_the_published_one(self):
        x = some()
        constraint = SelfSimilarityConstraint.paper(target=0.3, weight=0.05)
        assert constraint(x).item() == 0  # the gate is shut until an epoch is over
        constraint.step(epoch=1, epochs=10)
        assert constraint(x).item() == pytest.approx(0.05 / 2 * (ss_rate(x, scales=256).item() - 0.3) ** 2)
        y = x.clone().requires_grad_()
        (got,) = torch.autograd.grad(constraint(y), y)
        (rate,) = torch.autograd.grad(ss_rate(y, gradient="straight-through"), y)
        torch.testing.assert_close(got, 0.05 * (ss_rate(x, scales=256).item() - 0.3) * rate)

    @pytest.mark.parametrize("change", [0.01, 0.03, 0.2])
    def test_gate_closes_with_the_change_of_the_rate(self, change):
        x, rate = some(), ss_rate(some(), scales=256).item()
        constraint = SelfSimilarityConstraint.paper(gate=0.05)
        constraint(x)
        constraint.step(epoch=1, epochs=10)
        constraint._baseline = constraint._baseline / (1 + change)
        openness = 1 - min(change, 0.05) / 0.05
        assert constraint(x).item() == pytest.approx(openness * 0.05 / 2 * (rate - 0.3) ** 2, rel=1e-9)

    def test_baseline_is_an_epochs_mean_and_is_renewed_every_fifth_epoch(self):
        constraint = SelfSimilarityConstraint.paper(gate_every=5)
        means = {}
        for epoch in range(1, 11):
            rates = [ss_rate(some(10 * epoch + k), scales=256) for k in range(3)]
            for k in range(3):
                constraint(some(10 * epoch + k))
            constraint.step(epoch=epoch, epochs=10)
            means[epoch] = torch.stack(rates).mean().item()
            expected = means[1] if epoch < 5 else means[5] if epoch < 10 else means[10]
            assert constraint._baseline.item() == pytest.approx(expected)


def test_state_dict_goes_on_where_it_stopped():
    layers = {f"block {i}": some(i) for i in range(5)}

    def steps(constraint, epochs):
        values = []
        for epoch in epochs:
            values += [constraint(layers).item() for _ in range(4)]
            constraint.step(epoch=epoch, epochs=10)
        return values

    whole = steps(SelfSimilarityConstraint.paper(seed=3), range(1, 9))
    first = SelfSimilarityConstraint.paper(seed=3)
    begun = steps(first, range(1, 4))
    second = SelfSimilarityConstraint.paper(seed=999)
    second.load_state_dict(first.state_dict())
    assert begun + steps(second, range(4, 9)) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 1.5}, "target: got 1.5, need an SS rate in"),
        ({"target": -0.1}, "target: got -0.1"),
        ({"target": float("nan")}, "target: got nan"),
        ({"target": "0.1"}, "target: got '0.1', need a number"),
        ({"weight": -1}, "weight: got -1"),
        ({"weight": float("inf")}, "weight: got inf"),
        ({"ends": "loose"}, "ends: got 'loose'"),
        ({"count": "greedy-coloring"}, "which has no gradient"),
        ({"gate": 0.0}, "gate: got 0.0"),
        ({"gate_every": 0}, "gate_every: got 0"),
        ({"layers_per_step": 0}, "layers_per_step: got 0"),
        ({"scales": 1}, "scales: got 1"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        SelfSimilarityConstraint(**options)


def test_wrong_calls():
    constraint = SelfSimilarityConstraint()
    with pytest.raises(ValueError, match="got no layers; run the forward pass inside `with probe:`"):
        constraint(Probe(nn.Sequential(nn.ReLU())))
    with pytest.raises(ValueError, match="epoch: got 11, need 1 to epochs=10"):
        constraint.step(epoch=11, epochs=10)
