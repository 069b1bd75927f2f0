"""The control that pulls the scale of layers: its value by hand, its gradient a change of scale, a run under it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import pdist

from selfsim import Probe, ScaleControl, TrainConfig, load_images, ss_rate, train

# Many tests look at values alone, of activations without gradient.
pytestmark = pytest.mark.filterwarnings("ignore:activations. got no gradient")


def some(seed=0, samples=32, neurons=20) -> torch.Tensor:
    return torch.randn(samples, neurons, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def median_distance(x: torch.Tensor) -> float:
    distances = torch.from_numpy(pdist(x.detach().T.numpy())) / math.sqrt(len(x))
    return float(distances.median())


def test_the_penalty_is_that_of_the_logarithm_of_the_median_distance():
    layers = {"a": some(0), "b": 3 * some(1)}
    control = ScaleControl({"a": 2.0, "b": 0.5}, weight=4)
    logs = [math.log(median_distance(layers["a"]) / 2), math.log(median_distance(layers["b"]) / 0.5)]
    assert float(control(layers)) == pytest.approx(2 * (logs[0] ** 2 + logs[1] ** 2) / 2, rel=1e-12)
    assert control.targets == {"a": 2.0, "b": 0.5}
    assert float(ScaleControl(median_distance(some()))(some())) == pytest.approx(0, abs=1e-24)


def test_its_gradient_only_scales_the_layer():
    x = (some() + 5).requires_grad_()
    control = ScaleControl(0.3, weight=2)
    (gradient,) = torch.autograd.grad(control(x), x)
    about = (x - x.mean(1, keepdim=True)).detach()
    # A multiple of the neurons' places about their mean …
    along = (gradient * about).sum() / about.square().sum()
    assert torch.allclose(gradient, along * about, atol=1e-12)
    # … and as long as the slope of the penalty under a change of scale.
    step, centre = 1e-6, x.detach() - about
    ends = [float(control(centre + (1 + sign * step) * about)) for sign in (1, -1)]
    assert float((gradient * about).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
    moved = x.detach() - 0.1 * gradient
    assert median_distance(moved) < median_distance(x)
    assert float(ss_rate(moved, unit="median")) == pytest.approx(float(ss_rate(x.detach(), unit="median")), abs=1e-12)


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_any_magnitude_that_can_be_squared_has_a_scale(factor):
    x = (some() * factor).requires_grad_()
    penalty = ScaleControl(factor * median_distance(some()) * math.e, weight=2)(x)
    penalty.backward()
    assert penalty.item() == pytest.approx(1, rel=1e-9)
    about = (x - x.mean(1, keepdim=True)).detach()
    assert float((x.grad * about).sum()) == pytest.approx(-2, rel=1e-9)  # the penalty is ln², of which ln is -1
    with pytest.raises(ValueError, match="layer 'a': activations: got a median distance of .*e.25, need one above 0"):
        ScaleControl(1.0)({"a": x.detach().float()})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, 4), "layer 'a': activations: .*sample"),
        (torch.ones(8, 1), "layer 'a': activations: .*neurons"),
        (torch.ones(8), "layer 'a': activations: "),
        (torch.full((8, 4), math.nan), "layer 'a': activations: "),
        (torch.ones(8, 4), "layer 'a': activations: got a median distance of 0"),
        (torch.cat([torch.ones(8, 9), torch.randn(8, 1)], 1), "layer 'a': activations: got a median distance of 0"),
    ],
    ids=["no samples", "one neuron", "one axis", "nan", "constant", "most equal"],
)
def test_what_has_no_scale_is_refused_by_name(x, message):
    with pytest.raises(ValueError, match=message):
        ScaleControl(1.0)({"a": x})
    with pytest.raises(ValueError, match=message.removeprefix("layer 'a': ")):
        ScaleControl(1.0)(x)


def test_half_precision_is_computed_in_single():
    x = some().bfloat16().requires_grad_()
    penalty = ScaleControl(0.5)(x)
    penalty.backward()
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(float(ScaleControl(0.5)(x.detach().double())), rel=1e-5)
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_a_run_comes_to_the_scale_that_it_is_given():
    images = load_images("digits", train_images=512)
    off = []
    for constraint in (None, {"scale": True, "target": 0.4, "weight": 30}):
        config = TrainConfig("mlp", epochs=2, train_images=512, constraint=constraint)
        run = train(config, images=images, device="cpu")
        off.append(max(abs(math.log(run.series("median_distance", layer=layer)[-1] / 0.4)) for layer in run.layers))
    assert off[0] > 0.9 and off[1] < 0.35
    assert run.series("target", split="train", layer=run.layers[0]) == [0.4, 0.4]
    assert isinstance(config.make_constraint(), ScaleControl)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0}, "target: got 0, need a finite number above 0"),
        ({"target": {"a": math.inf}}, "target of 'a': got inf"),
        ({"target": 1.0, "weight": -1}, "weight: got -1"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        ScaleControl(**options)


def test_wrong_calls():
    with pytest.raises(ValueError, match="target: got none for 'b', need one for every layer"):
        ScaleControl({"a": 1.0})({"a": some(), "b": some()})
    with pytest.raises(ValueError, match="activations: got no layers"):
        ScaleControl(1.0)(Probe(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())))
    with pytest.raises(ValueError, match="constraint: got 'gate'"):
        TrainConfig("mlp", constraint={"scale": True, "target": 1.0, "gate": 0.1})
    with pytest.raises(ValueError, match="scale: got 'yes', need True or False"):
        TrainConfig("mlp", constraint={"scale": "yes", "target": 1.0})
    with pytest.raises(ValueError, match="constraint: got paper and scale, need only one of these"):
        TrainConfig("mlp", constraint={"scale": True, "paper": True, "target": 1.0})
    control = ScaleControl(1.0)
    control({"a": some()})
    again = ScaleControl(1.0)
    again.load_state_dict(control.state_dict())
    assert again.targets == control.targets == {"a": 1.0}  # rows of the history, where a training is resumed
    again.load_state_dict({})
    control.step(epoch=1, epochs=2)
    with pytest.raises(ValueError, match="state: got the entries"):
        control.load_state_dict({"draw": 1})
    assert repr(ScaleControl(0.5, 2)) == "ScaleControl(target=0.5, weight=2)"
