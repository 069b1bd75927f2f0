"""The constraint: its formula, its gate, its state, and what it does to activations."""

from __future__ import annotations

import statistics
from typing import ClassVar

import pytest
import torch
from torch import nn

from selfsim import Probe, SelfSimilarityConstraint, TrainConfig, load_images, ss_rate, train

# Many tests look at values alone, of activations without gradient.
pytestmark = pytest.mark.filterwarnings("ignore:activations. got no gradient")


def classic(target=0.1, weight=10.0, ends="detached", **options) -> SelfSimilarityConstraint:
    """The penalty by itself: no cap, no ramp, absolute units."""
    return SelfSimilarityConstraint(target, weight, ends, **({"cap": None, "ramp": None, "unit": "absolute"} | options))


def some(seed=0, samples=32, neurons=20) -> torch.Tensor:
    return torch.randn(samples, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestFormula:
    def test_half_weight_times_square_averaged_over_layers(self):
        layers = {"a": some(0), "b": some(1)}
        expected = sum(0.5 * 10 * (ss_rate(x) - 0.1) ** 2 for x in layers.values()) / 2
        assert classic()(layers).item() == pytest.approx(expected.item(), rel=1e-12)

    def test_gradient_is_that_of_the_detached_rate(self):
        x = some().requires_grad_()
        (got,) = torch.autograd.grad(classic(target=0.1, weight=4.0)(x), x)
        rate = ss_rate(x, ends="detached")
        (expected,) = torch.autograd.grad(rate, x)
        torch.testing.assert_close(got, 4.0 * (rate.item() - 0.1) * expected)

    def test_tensor_mapping_and_probe_are_the_same(self):
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        with (probe := Probe(model, ["1"])):
            model(torch.randn(9, 4))
        values = [classic()(x).item() for x in (probe, probe.activations, probe.activations["1"])]
        assert values[0] == values[1] == values[2]

    @pytest.mark.parametrize("count", ["surrogate", "complete-linkage"])
    @pytest.mark.parametrize("target", [0.05, 0.35])
    def test_descending_it_reaches_the_target(self, target, count):
        x = some(neurons=40).requires_grad_()
        constraint = classic(target=target, weight=1.0, ends="attached", count=count)
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
            (gradient,) = torch.autograd.grad(classic(ends=ends)(x), x)
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
            constraint = classic(target=0.0, weight=2.0, layers_per_step=1, seed=seed)
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
        state = constraint.state_dict()
        constraint.load_state_dict(state | {"baseline": {"": state["baseline"][""] / (1 + change)}})
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
            assert constraint.state_dict()["baseline"] == {"": pytest.approx(expected)}

    def test_gate_of_all_compares_a_layer_with_the_mean_over_layers(self):
        layers = {"a": some(0), "b": some(1) * 3}
        rates = {layer: ss_rate(x, scales=256).item() for layer, x in layers.items()}
        old = (rates["a"] + rates["b"]) / 2
        openness = {layer: 1 - min(abs(rate - old) / old, 1.0) / 1.0 for layer, rate in rates.items()}
        assert min(openness.values()) < 0.98  # the two layers differ, or this would show nothing
        for layer, x in layers.items():
            constraint = classic(0.3, 2.0, scales=256, gate=1.0, gate_by="all")
            constraint(layers)
            constraint.step(epoch=1, epochs=9)
            expected = openness[layer] * (rates[layer] - 0.3) ** 2
            assert constraint({layer: x}).item() == pytest.approx(expected, rel=1e-9)

    def test_gate_by_layer_compares_each_layer_with_itself(self):
        layers = {"a": some(0), "b": some(1) * 3}
        constraint = classic(0.3, 2.0, gate=0.05)
        assert constraint({"a": layers["a"]}).item() == 0
        constraint.step(epoch=1, epochs=9)
        # Each layer is where it was: open; the one that is read for the first time stays shut for its first epoch.
        assert constraint(layers).item() == pytest.approx((ss_rate(layers["a"]).item() - 0.3) ** 2 / 2)
        constraint.step(epoch=2, epochs=9)
        expected = sum((ss_rate(x).item() - 0.3) ** 2 for x in layers.values()) / 2
        assert constraint(layers).item() == pytest.approx(expected)


class TestVariants:
    @pytest.mark.parametrize(
        "options",
        [
            {"quantiles": [0.01, 0.99]},
            {"unit": "median"},
            {"standardize": True},
            {"leave_out": 3},
            {"count": "complete-linkage"},
            {"scales": 100},
        ],
    )
    def test_the_rate_is_the_one_asked_for(self, options):
        x = 5 * some() + 1
        expected = 0.5 * 3 * (ss_rate(x, **options) - 0.2) ** 2
        assert expected.item() != pytest.approx(0.5 * 3 * (ss_rate(x).item() - 0.2) ** 2, rel=1e-3)
        assert classic(0.2, 3.0, **options)(x).item() == pytest.approx(expected.item(), rel=1e-12)

    def test_unchecked_activations_give_nan_instead_of_an_error(self):
        broken = some()
        broken[3, 5] = float("nan")
        assert classic(check=False)(broken).isnan()
        with pytest.raises(ValueError, match="NaN"):
            classic()(broken)


class TestTargets:
    layers: ClassVar = {"a": some(0), "b": some(1)}

    def test_each_layer_has_its_own(self):
        constraint = classic({"a": 0.1, "b": {"schedule": "constant", "target": 0.3}}, weight=2.0)
        expected = ((ss_rate(self.layers["a"]) - 0.1) ** 2 + (ss_rate(self.layers["b"]) - 0.3) ** 2) / 2
        assert constraint(self.layers).item() == pytest.approx(expected.item(), rel=1e-12)
        assert constraint.targets == {"a": 0.1, "b": 0.3}

    def test_moves_at_each_step_and_ends_in_the_last_epoch(self):
        constraint, seen = classic({"schedule": "linear", "start": 0.4, "end": 0.1}, weight=2.0), []
        for epoch in range(1, 5):
            rate = ss_rate(self.layers["a"])
            for _ in range(3):
                penalty = constraint({"a": self.layers["a"]})
            seen.append(constraint.targets["a"])
            assert penalty.item() == pytest.approx((rate.item() - seen[-1]) ** 2)
            constraint.step(epoch=epoch, epochs=4)
        assert seen == pytest.approx([0.4, 0.3, 0.2, 0.1])

    def test_a_function_sees_what_training_has_seen(self):
        moments = []

        def mine(moment):
            moments.append(moment)
            return 0.25

        constraint = classic(mine, quantiles=(0.1, 0.9))
        for epoch, scale in ((1, 1.0), (2, 3.0)):
            for k in range(2):
                constraint({"a": some(k) * scale})
            constraint.step(epoch=epoch, epochs=5, task_loss=1 / epoch)
        rates = [
            sum(ss_rate(some(k) * scale, quantiles=(0.1, 0.9)).item() for k in range(2)) / 2 for scale in (1.0, 3.0)
        ]
        assert [m.progress for m in moments] == [0, 0.25, 0.5]
        assert [m.target for m in moments] == [None, 0.25, 0.25]
        assert [m.task_losses for m in moments] == [(), (1.0,), (1.0, 0.5)]
        assert [len(m.rates) for m in moments] == [0, 1, 2]
        assert moments[-1].rates == pytest.approx(rates)
        assert (moments[0].samples, moments[0].neurons, moments[0].measure.quantiles) == (32, 20, (0.1, 0.9))

    def test_layers_must_be_those_of_the_probe(self):
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        with (probe := Probe(model, ["1", "3"])):
            model(torch.randn(9, 4))
        with pytest.raises(ValueError, match="target: got none for '3', need one for every layer"):
            classic({"1": 0.1})(probe)
        with pytest.raises(ValueError, match="target: got '33', need one of '1', '3'; did you mean '3'"):
            classic({"1": 0.1, "33": 0.1})(probe)

    def test_a_schedule_must_give_a_rate(self):
        with pytest.raises(ValueError, match="layer 'a': target by .*: got 1.5, need a number in"):
            classic(lambda moment: 1.5)({"a": some()})


CHARACTERS = {
    "paper": lambda seed: SelfSimilarityConstraint.paper(seed=seed, gate=0.5),
    "gate by layer": lambda seed: classic(gate=0.5, gate_every=2, layers_per_step=2, seed=seed),
    "adaptive": lambda seed: classic({"schedule": "adaptive", "patience": 1}, seed=seed),
    "by layer": lambda seed: classic(
        {f"block {i}": {"schedule": "cosine", "start": 0.2, "end": i / 10} for i in range(5)}, seed=seed
    ),
}


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("stop", [(3, 0), (4, 2)], ids=["between epochs", "in an epoch"])
def test_state_dict_goes_on_where_it_stopped(character, stop, tmp_path):
    """Bit for bit, through a file that is read without executing anything."""

    def steps(constraint, start, end):
        values = []
        for epoch in range(9):
            for batch in range(4):
                if not start <= (epoch, batch) < end:
                    continue
                values.append(constraint({f"block {i}": some(100 * epoch + 10 * batch + i) for i in range(5)}).item())
                if batch == 3:
                    constraint.step(epoch=epoch + 1, epochs=9, task_loss=1.0)
                    values += constraint.targets.values()
        return values

    build = CHARACTERS[character]
    whole = steps(build(3), (0, 0), (9, 0))
    first = build(3)
    begun = steps(first, (0, 0), stop)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = build(999)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert begun + steps(second, stop, (9, 0)) == whole
    assert len(set(whole)) > 10


def test_a_state_in_an_epoch_holds_no_tensor_of_a_device():
    """Read on the CPU, a sum would stay there for a layer that is not drawn again, beside those of the card."""
    constraint = classic()
    rates = [ss_rate(some(i)).item() for i in (0, 1)]
    for i in (0, 1):
        constraint({"block 1": some(i)})
    (state,) = constraint.state_dict()["sums"].values()
    assert [type(number) for number in state] == [float, int]
    assert state == pytest.approx([sum(rates), 2])


def test_sums_may_lie_on_several_devices(monkeypatch):
    """Layers of one model on two devices: nothing is put together before it is a number."""
    constraint = classic(gate=0.1, gate_every=2)
    constraint({"a": some(0), "b": some(1)})
    monkeypatch.setattr(torch, "stack", lambda tensors: pytest.fail("tensors of several devices are put together"))
    constraint.step(epoch=1, epochs=3)
    assert constraint.state_dict()["baseline"].keys() == {"a", "b"}


def test_a_state_is_a_copy():
    constraint = classic()
    constraint(some())
    state = constraint.state_dict()
    constraint.step(epoch=1, epochs=3, task_loss=1.0)
    assert state["task_losses"] == []
    other = classic()
    other.load_state_dict(state)
    other.step(epoch=1, epochs=3, task_loss=2.0)
    assert state["task_losses"] == []
    assert constraint.state_dict()["task_losses"] == [1.0]
    with pytest.raises(ValueError, match="state: got the entries"):
        other.load_state_dict({"draw": state["draw"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 1.5}, "target: got 1.5, need a number in"),
        ({"target": -0.1}, "target: got -0.1"),
        ({"target": float("nan")}, "target: got nan"),
        ({"target": "0.1"}, "target: got '0.1', need a number"),
        ({"target": True}, "target: got True, need a number"),
        ({"target": {"block 1": 1.5}}, "target of 'block 1': got 1.5"),
        ({"target": {"schedule": "lineal"}}, "schedule: got 'lineal'.*did you mean 'linear'"),
        (
            {"target": {"schedule": "linear", "start": 0.2, "stop": 0.1}},
            "linear: got 'stop', need one of 'start', 'end'",
        ),
        ({"weight": -1}, "weight: got -1"),
        ({"weight": float("inf")}, "weight: got inf"),
        ({"weight": float("nan")}, "weight: got nan"),
        ({"weight": "10"}, "weight: got '10', need a number"),
        ({"gate_by": "layers"}, "gate_by: got 'layers'.*did you mean 'layer'"),
        ({"quantiles": 0.5}, "quantiles: got 0.5"),
        ({"layers_per_step": 1.5}, "layers_per_step: got 1.5, need an integer"),
        ({"ends": "loose"}, "ends: got 'loose'"),
        ({"count": "greedy-coloring"}, "which has no gradient"),
        ({"gate": 0.0}, "gate: got 0.0"),
        ({"gate": "x"}, "gate: got 'x', need a finite number above 0"),
        ({"gate": True}, "gate: got True, need a finite number above 0"),
        ({"seed": None}, "seed: got None, need an integer"),
        ({"seed": 1.5}, "seed: got 1.5, need an integer"),
        ({"seed": 2**70}, "seed: got 1180591620717411303424, need an integer of at most 63 bits"),
        ({"target": {"schedule": "follow-the-null", "seed": None}}, "seed: got None"),
        ({"gate_every": 0}, "gate_every: got 0"),
        ({"cap": None}, "weight: got None with cap=None; need a number for one of the two"),
        ({"ramp": (0.6, 0.3)}, r"ramp: got \(0.6, 0.3\), need None or \(start, end\)"),
        ({"ramp": 0.3}, "ramp: got 0.3"),
        ({"ramp": (0.3, 1.1)}, "ramp: got 1.1"),
        ({"layers_per_step": 0}, "layers_per_step: got 0"),
        ({"scales": 1}, "scales: got 1"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        SelfSimilarityConstraint(**options)


def test_a_layer_that_has_collapsed_is_named():
    layers = {"blocks.1": some(), "blocks.2": torch.ones(32, 20)}
    with pytest.raises(ValueError, match=r"layer 'blocks\.2': activations: .*equal"):
        classic()(layers)


def test_says_what_it_is():
    assert repr(classic(0.2)) == "SelfSimilarityConstraint(target=Constant(target=0.2), weight=10)"


def test_the_task_loss_may_be_the_loss_itself(recwarn):
    constraint = classic()
    constraint.step(epoch=1, epochs=3, task_loss=torch.tensor(0.5, requires_grad=True) * 2)
    assert constraint.state_dict()["task_losses"] == [1.0]
    assert not recwarn.list


def test_wrong_calls():
    constraint = classic()
    with pytest.raises(ValueError, match="got no layers; run the forward pass inside `with probe:`"):
        constraint(Probe(nn.Sequential(nn.ReLU())))
    with pytest.raises(ValueError, match="epoch: got 11, need 1 to epochs=10"):
        constraint.step(epoch=11, epochs=10)
    with pytest.raises(ValueError, match="task_loss: got nan, need a finite number"):
        constraint.step(epoch=1, epochs=10, task_loss=float("nan"))
    adaptive = classic({"schedule": "adaptive"})
    adaptive(some())
    with pytest.raises(ValueError, match="task_loss: got none, need the epoch's mean loss"):
        adaptive.step(epoch=1, epochs=10)


@pytest.mark.long
def test_the_plain_penalty_does_what_it_is_meant_to_on_digits():
    """Rate, and rate without the 3 most distant neurons, near the target; size and accuracy kept. Means of 2 seeds."""
    images = load_images("digits")
    found = {}
    for name, constraint in (("free", None), ("held", {"plain": True})):
        runs = [
            train(TrainConfig("mlp", epochs=15, seed=seed, constraint=constraint), images=images, device="cpu")
            for seed in range(2)
        ]
        found[name] = {
            metric: statistics.fmean(run.series(metric, layer=layer)[-1] for run in runs for layer in run.layers)
            for metric in ("ss_rate", "ss_rate_left_out", "median_distance")
        }
        found[name]["accuracy"] = statistics.fmean(run.series("accuracy", split="test")[-1] for run in runs)
    free, held = found["free"], found["held"]
    assert free["ss_rate"] > 0.18
    assert abs(held["ss_rate"] - 0.1) < 0.05
    assert abs(held["ss_rate_left_out"] - 0.1) < 0.05
    assert 1 / 3 < held["median_distance"] / free["median_distance"] < 3
    assert held["accuracy"] > free["accuracy"] - 0.01
