"""In float64, networks trained together are those trained one by one to nine digits: every option does what it does."""

import dataclasses
import random
import warnings

import numpy as np
import pytest
import torch

from selfsim import TrainConfig, load_images, train, train_many
from selfsim.models import images as images_module
from selfsim.models.images import Images
from selfsim.training.stack import Stack

SMALL = dict(train_images=32, validation_images=32, test_images=32, samples=16, batch_size=16, evaluate_every=3)
CAPPED = {"target": 0.1, "weight": None, "cap": 0.3, "ramp": None, "unit": "median"}
WEIGHTED = {"target": 0.1, "weight": 5, "cap": None, "ramp": [0.2, 0.5]}
LINE, HELD = {"schedule": "linear", "start": 0.2, "end": 0.1}, {"schedule": "hold", "start": 0.5}
OPTIONS = {
    "recipe": dict(mixup=0.8, label_smoothing=0.1, weight_decay=0.3, learning_rate=0.003, subset=1),
    "drawn": dict(
        constraint=CAPPED
        | {"cap": 0.5, "layers_per_step": 2, "seed": 7, "ramp": [0.2, 0.7], "gate": 0.5, "gate_every": 1},
        seed=1,
    ),
    "by layer": dict(constraint=WEIGHTED | {"target": {f"blocks.{i}": 0.05 + 0.02 * i for i in range(4)}, "cap": 1}),
    "gate": dict(constraint=WEIGHTED | {"gate": 0.5, "gate_every": 2, "gate_by": "all", "ramp": [0.5, 0.5]}),
    "paper": dict(constraint={"paper": True, "weight": 50, "gate": 0.5, "gate_every": 1, "target": LINE}, seed=1),
    "scaling": dict(constraint=CAPPED | {"measure": "scaling", "target": 0.03, "gate": 0.5, "gate_every": 2}),
    "held": dict(constraint=CAPPED | {"target": HELD}, mixup=0.2),
    "robust": dict(constraint=CAPPED | {"quantiles": [0.05, 0.95], "leave_out": 2, "standardize": True}),
    "counted": dict(constraint=WEIGHTED | {"count": "complete-linkage"}),
}
FEW = ("recipe", "drawn", "gate", "scaling")


@pytest.fixture
def double(monkeypatch):
    """Let what asks for float32 get float64."""
    images_module._of_pixels.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield
    images_module._of_pixels.cache_clear()


def assert_equal(together, alone):
    for name, value in alone.weights.items():
        torch.testing.assert_close(together.weights[name], value, rtol=1e-9, atol=1e-9)
    ours, theirs = ({(*row[:4],): row.value for row in run.history} for run in (together, alone))
    left_out = ("gradient_angle", "gradient_norm", "neighbours_kept", "boxes_kept", "drivers_kept")
    assert all(key[3].endswith(left_out) for key in theirs.keys() - ours.keys())
    assert {key[3] for key in ours.keys() - theirs.keys()} <= {"clean_accuracy", "target"}  # of layers not yet drawn
    for key in ours.keys() & theirs.keys():
        assert ours[key] == pytest.approx(theirs[key], rel=1e-7, abs=1e-9, nan_ok=True), key


def one_by_one(configs):
    """Train one by one, and return each run with what it warned of."""
    found = []
    for config in configs:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = train(config, device="cpu")
        found.append((run, [str(warning.message) for warning in caught]))
    return found


@pytest.mark.parametrize("names", [FEW, pytest.param(tuple(OPTIONS), marks=pytest.mark.long)], ids=["few", "all"])
def test_every_option(double, names):
    configs = [TrainConfig("mixer", epochs=4, augment=True, **(SMALL | OPTIONS[name])) for name in names]
    alone = one_by_one(configs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        together = train_many(configs, device="cpu")
    messages = [str(warning.message) for warning in caught]
    for place, (ours, (theirs, warned)) in enumerate(zip(together, alone, strict=True)):
        assert_equal(ours, theirs)
        if theirs.config.constraint:
            assert max(theirs.series("penalty", split="train")) > 0, names[place]  # it does something
        for text in warned:
            if not text.startswith("cap: no gradient"):  # as at first, where the last layer is 0
                assert f"{text}; in the networks [{place}]" in messages


def test_dropout_differs_from_network_to_network():
    configs = [TrainConfig("mlp", epochs=1, **SMALL)] * 2
    images = configs[0].load_images()
    stack = Stack(configs, [images] * 2, torch.device("cpu"))
    x = images.prepared(images.train.images[:4]).expand(2, -1, -1, -1, -1)
    assert torch.equal(*stack.logits(x))
    stack.template.register_forward_pre_hook(lambda module, args: torch.nn.functional.dropout(args[0]))
    assert not torch.equal(*stack.logits(x))


def distance(one, other):
    return max(float((one.weights[name] - other.weights[name]).abs().max()) for name in one.weights)


@pytest.mark.parametrize(
    ("architecture", "options", "seeds"),
    [
        ("resnet34", {}, (0, 1)),  # batch statistics
        ("vgg11", {"layers": ["features.0"]}, (0,)),  # its output is changed in place by the ReLU after it
        *[
            pytest.param(name, {}, (0, 1), marks=pytest.mark.long)
            for name in ("vit_small", "pvt", "resmlp", "poolformer")
        ],
    ],
)
def test_other_networks(double, architecture, options, seeds):
    options = SMALL | {"constraint": CAPPED | {"cap": 1}} | options
    configs = [TrainConfig(architecture, epochs=1, seed=seed, **options) for seed in seeds]
    for together, alone in zip(train_many(configs, device="cpu"), configs, strict=True):
        assert_equal(together, train(alone, device="cpu"))


def test_a_target_that_is_not_reached_is_a_warning():
    constraint = WEIGHTED | {"weight": 1e-6, "ramp": [0.5, 0.5]}
    config = TrainConfig("mixer", epochs=2, layers=2, constraint=constraint, **SMALL)
    free = dataclasses.replace(config, constraint=None)
    with pytest.warns(UserWarning, match=r"target: the layers were .* half of the way.*networks \[1\]") as found:
        train_many([free, config], device="cpu")
    assert found[0].filename == __file__


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("vit_small", {"layers": ["blocks.0.attn.attn_drop"]}, "layers: the forward pass does not reach 'blocks.0.att"),
        ("mixer", {"constraint": WEIGHTED | {"leave_out": 62}}, "layer 'blocks.0': activations: got 64 neurons"),
    ],
)
def test_errors_name_the_layer(architecture, options, message):
    with pytest.raises(ValueError, match=message):
        train_many([TrainConfig(architecture, epochs=1, **SMALL, **options)], device="cpu")


def test_a_layer_that_collapses_before_the_ramp_is_named():
    configs = [TrainConfig("mixer", epochs=2, constraint=WEIGHTED | {"ramp": [0.9, 1]}, **SMALL)] * 2
    images = configs[0].load_images()
    stack = Stack(configs, [images] * 2, torch.device("cpu"))
    with torch.no_grad():
        stack.weight[1] = 0.0
    stack.train_epoch(1)
    assert stack.failed == {1}


def test_layers_of_few_neurons_have_no_robust_rate():
    digits = load_images("digits")
    parts = []
    for part in (digits.train, digits.validation, digits.test):
        some = (part.labels < 4).nonzero().flatten()[:32]
        parts.append(type(part)(part.images[some], part.labels[some]))
    images = Images.from_splits("four digits", *parts, digits.classes[:4])
    config = TrainConfig("mixer", epochs=1, layers=["head"], **(SMALL | {"batch_size": 32}))
    alone = train(config, images=images, device="cpu")
    (together,) = train_many([config], images=[images], device="cpu")
    for run in (together, alone):
        assert np.isnan(run.series("ss_rate_left_out", layer="head")).all()
    assert together.series("ss_rate", layer="head") == pytest.approx(
        alone.series("ss_rate", layer="head"),
        abs=0.01,
        nan_ok=True,  # at first the head is 0
    )


def test_the_callers_state_stays_as_it_was():
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    config = TrainConfig("mixer", epochs=1, mixup=0.3, constraint=CAPPED | {"layers_per_step": 1}, **SMALL)
    (expected,) = train_many([config], device="cpu")
    before = state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            (run,) = train_many([config], device="cpu")
            assert torch.get_default_dtype() == torch.float64 and torch.is_inference_mode_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
    assert state() == before
    assert distance(run, expected) == 0
