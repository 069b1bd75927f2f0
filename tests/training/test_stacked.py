"""Networks trained together are those trained one by one, up to rounding."""

import dataclasses
import math
import warnings

import pytest
import torch

from selfsim import SelfSimilarityConstraint, TrainConfig, load_images, train, train_many
from selfsim.models.branch import Branch
from selfsim.training.stacked_penalty import StackedPenalty

SMALL = dict(train_images=128, validation_images=64, test_images=64, samples=32, batch_size=32, augment=True)
CAPPED = {"target": 0.1, "cap": 0.3, "ramp": [0, 0.5], "ends": "detached"}
CONSTRAINTS = {
    "none": None,
    "capped": CAPPED,
    "by layer": {
        "plain": True,
        "target": {f"blocks.{i}": 0.05 * i + 0.05 for i in range(6)},
        "weight": 20,
        "cap": 1,
        "ramp": None,
    },
    "scaling": {"measure": "scaling", "target": 0.03, "weight": None, "cap": 0.3, "ramp": [0.2, 0.5]},
    "paper": {"paper": True, "target": 0.3, "weight": 50, "gate": 0.5, "gate_every": 1},
    "gate of each layer": {
        "plain": True,
        "target": 0.1,
        "weight": 10,
        "gate": 0.5,
        "gate_by": "layer",
        "gate_every": 2,
    },
}


def rows(run):
    return {(row.epoch, row.split, row.layer, row.metric): row.value for row in run.history}


def distance(one, other):
    """The L2 distance between the weights of two runs."""
    return math.sqrt(sum(float((one.weights[k].double() - other.weights[k]).square().sum()) for k in one.weights))


def assert_alike(together, alone, within=0.01):
    moved = alone.series("weight_distance", split="train")[-1]
    # Adam divides by the size of the gradient, so that rounding in tiny gradients counts in full.
    assert distance(together, alone) < within * moved
    ours, theirs = rows(together), rows(alone)
    left_out = {"gradient_angle", "task_gradient_norm", "constraint_gradient_norm"}
    assert {key[3] for key in theirs.keys() - ours.keys()} <= left_out | {
        "neighbours_kept", "boxes_kept", "drivers_kept"
    }  # fmt: skip
    for key in ours.keys() & theirs.keys():
        # Single images may change sides, and the rates of few neurons move with them.
        near = {"rel": 0.05, "abs": 0.02} if key[3] != "target" else {"abs": 1e-7}
        assert ours[key] == pytest.approx(theirs[key], **near), key


@pytest.mark.long  # test_stacked_exactly.py has a short one, in float64
def test_equals_the_single_run():
    """One training for all constraints: seeds and learning rates differ."""
    constraints = list(CONSTRAINTS.values())
    configs = [
        TrainConfig("mlp", epochs=3, seed=place % 2, learning_rate=0.001 * (1 + place % 3), constraint=one, **SMALL)
        for place, one in enumerate(constraints)
    ]
    configs.append(TrainConfig("mlp", epochs=3, seed=5, mixup=0.8, label_smoothing=0.1, weight_decay=0.2, **SMALL))
    # Without constraint, to see that these do something.
    configs += [dataclasses.replace(config, constraint=None) for config in configs[1 : len(constraints)]]
    together = train_many(configs, device="cpu")
    alone = [train(config, device="cpu") for config in configs[: len(constraints) + 1]]
    for ours, theirs in zip(together, alone, strict=False):
        assert_alike(ours, theirs)
    for place, name in enumerate(CONSTRAINTS):
        if name not in ("none", "paper"):  # the paper's acts on one layer a batch, and not in the first epoch
            by_constraint = distance(alone[place], together[len(alone) + place - 1])
            assert by_constraint > 3 * distance(alone[place], together[place]), name


@pytest.mark.long  # timm's blocks take a minute
@pytest.mark.parametrize("architecture", ["resnet34", "vit_small", "pvt", "poolformer"])
def test_equals_the_single_run_for_other_blocks(architecture):
    """Batch normalisation has statistics of its own in every network."""
    configs = [
        TrainConfig(architecture, epochs=1, seed=seed, constraint=constraint, **SMALL)
        for seed, constraint in enumerate((None, CAPPED, CONSTRAINTS["paper"]))
    ]
    for together, config in zip(train_many(configs, device="cpu"), configs, strict=True):
        alone = train(config, device="cpu")
        # timm begins the last normalisation of a block at 0. The gradients of its convolutions are then rounding at
        # first, and Adam takes them in full.
        assert_alike(together, alone, within=0.15)
        for name, value in alone.weights.items():
            if "running" in name and name.startswith("bn1."):
                torch.testing.assert_close(together.weights[name], value, rtol=1e-3, atol=1e-4)


def test_what_a_run_has():
    configs = [TrainConfig("mlp", epochs=4, evaluate_every=3, seed=seed, subset=seed, **SMALL) for seed in (0, 1)]
    runs = train_many(configs, device="cpu")
    assert [run.config for run in runs] == configs
    for run in runs:
        assert [row.epoch for row in run.history if row.metric == "accuracy" and row.split == "validation"] == [0, 3, 4]
        images = run.config.load_images()
        x = images.prepared(images.test.images)
        with torch.no_grad():
            hits = (run.model(x).argmax(1) == images.test.labels).double().mean()
        assert run.series("accuracy", split="test") == [pytest.approx(float(hits), abs=0.02)]
        clean = (run.model(images.prepared(images.train.images)).argmax(1) == images.train.labels).double().mean()
        assert run.series("clean_accuracy", split="train") == [pytest.approx(float(clean), abs=0.02)]
    data = [run.environment["data"]["fingerprints"]["train"] for run in runs]
    assert data[0] != data[1]


def test_a_network_that_diverges_leaves_the_others_alone():
    configs = [TrainConfig("mlp", epochs=1, learning_rate=rate, **SMALL) for rate in (1e-3, 1e30)]
    with pytest.warns(UserWarning, match=r"loss: became NaN or infinite in the networks \[1\]"):
        runs = train_many(configs, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (alone,) = train_many(configs[:1], device="cpu")
    assert distance(runs[0], alone) < 1e-6
    assert math.isnan(runs[1].series("loss", split="train")[-1])


@pytest.mark.parametrize("name", ["capped", "paper"])
def test_a_constrained_network_that_diverges_leaves_the_others_alone(name):
    """They share one call of the measure."""
    options = SMALL | {"constraint": CONSTRAINTS[name]}
    configs = [TrainConfig("mlp", epochs=1, learning_rate=rate, **options) for rate in (1e-3, 1e30)]
    with pytest.warns(UserWarning, match=r"in the networks \[1\]"):
        runs = train_many(configs, device="cpu")
    (alone,) = train_many(configs[:1], device="cpu")
    assert distance(runs[0], alone) < 1e-6


@pytest.mark.parametrize("weight", [None, 1e4])
def test_a_layer_that_is_not_drawn_needs_no_rate(weight):
    """Layers of two widths; in each network, the one that is not drawn has collapsed."""
    random, layers = torch.Generator().manual_seed(0), ("a", "b")
    inputs = [torch.randn(2, 20, n, generator=random) for n in (24, 36)]
    inputs[0][1], inputs[1][0] = 1.0, 1.0
    constraint = SelfSimilarityConstraint(0.1, weight, ramp=None, layers_per_step=1)

    def gradients(penalty_of):
        leaves = [x.clone().requires_grad_() for x in inputs]
        branches = {layer: Branch() for layer in layers}
        hidden = {layer: 1 * x.flatten(0, 1) for layer, x in zip(layers, leaves, strict=True)}
        values = {layer: branches[layer].of(x).unflatten(0, (2, -1)) for layer, x in hidden.items()}
        task = sum((x**3).sum() for x in hidden.values())
        (task + penalty_of(values, branches)).backward()
        return leaves

    def stacked(values, branches):
        penalty = StackedPenalty([constraint] * 2, layers, torch.device("cpu"))
        for layer, branch in branches.items():
            penalty.read(layer, branch)
        penalty.share.fill_(1.0)
        penalty.chosen.copy_(torch.eye(2))
        return penalty(values, frozenset({0})).sum()

    for together, x, place in zip(gradients(stacked), inputs, (0, 1), strict=True):
        alone = x[place].clone().requires_grad_()
        hidden = 1 * alone
        ((hidden**3).sum() + constraint({"layer": hidden})).backward()
        assert (alone.grad - 3 * x[place] ** 2).norm() > 0.1  # the penalty is there
        torch.testing.assert_close(together.grad[place], alone.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.grad[1 - place], 3 * x[1 - place] ** 2)


def test_a_gate_that_is_not_renewed_is_a_warning():
    config = TrainConfig("mlp", epochs=2, constraint=CONSTRAINTS["paper"] | {"gate_every": 5}, **SMALL)
    with pytest.warns(UserWarning, match="gate_every: got 5, but training has 2 epochs") as found:
        train_many([config] * 2, device="cpu")
    assert found[0].filename == __file__


def test_a_network_that_diverges_in_the_last_step_is_named():
    """The loss of that step is from before."""
    config = TrainConfig("mlp", epochs=1, learning_rate=1e30, **(SMALL | {"train_images": 32}))
    with pytest.warns(UserWarning, match=r"in the networks \[0\]"):
        (run,) = train_many([config], device="cpu")
    assert math.isfinite(run.series("loss", split="train")[-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2}, r"configs: epochs is 1 at \[0\] and 2 at \[1\], need one value"),
        ({"constraint": {"scale": True, "target": 1.0}}, r"at \[1\], need a SelfSimilarityConstraint or None"),
        ({"constraint": {"target": {"blocks.0": 0.1}}}, "target: got none for 'blocks.1'"),
        ({"constraint": {"target": {f"blocks.{i}": 0.1 for i in range(7)}}}, "target: got 'blocks.6', need one of"),
    ],
)
def test_configurations_that_do_not_go_together(changes, message):
    base = dict(epochs=1, **SMALL)
    with pytest.raises(ValueError, match=message):
        train_many([TrainConfig("mlp", **base), TrainConfig("mlp", **(base | changes))], device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 0.9}, r"configs: got ema=0.9 at \[0\], need 0"),
        ({"select": "best"}, r"configs: got select='best' at \[0\], need 'last'"),
        ({"precision": "float16"}, "need 'bfloat16'"),
    ],
)
def test_what_only_single_runs_can_do(options, message):
    with pytest.raises(ValueError, match=message):
        train_many([TrainConfig("mlp", epochs=1, **(SMALL | options))], device="cpu")


def test_bad_arguments():
    config = TrainConfig("mlp", epochs=1, **SMALL)
    with pytest.raises(ValueError, match="configs: got none"):
        train_many([])
    with pytest.raises(TypeError, match=r"configs: got str at \[0\], need a TrainConfig"):
        train_many(["mlp"])
    with pytest.raises(TypeError, match="configs: got TrainConfig, need a sequence"):
        train_many(config)
    with pytest.raises(TypeError, match="images: got list, need None or a sequence of Images"):
        train_many([config], images=["digits"])
    with pytest.raises(ValueError, match="images: got 2, need one for each of the 1 configurations"):
        train_many([config], images=[load_images("digits")] * 2)
    with pytest.raises(ValueError, match="images: got 8 pixels, need 32"):
        train_many([TrainConfig("mlp", size="small", epochs=1)], images=[load_images("digits")])
    fewer = [load_images("digits"), load_images("digits", train_images=100)]
    with pytest.raises(ValueError, match=r"images: got .*1122.* at \[0\] and .*100.* at \[1\], need equal numbers"):
        train_many([TrainConfig("mlp", epochs=1)] * 2, images=fewer)


def test_subsets_are_draws_of_training_images():
    first, again, second = (load_images("digits", train_images=100, subset=subset) for subset in (0, 0, 1))
    assert first.fingerprint == again.fingerprint == load_images("digits", train_images=100).fingerprint
    assert first.part_fingerprints["train"] != second.part_fingerprints["train"]
    for part in ("validation", "test"):
        assert first.part_fingerprints[part] == second.part_fingerprints[part]
    assert first.train.labels.bincount().tolist() == second.train.labels.bincount().tolist()


def test_new_fields_leave_the_names_of_earlier_runs():
    """The name is a hash of the configuration; at their defaults, later fields are no part of it."""
    config = TrainConfig("mlp", epochs=3)
    assert not {"subset", "evaluate_every"} & set(config.as_json().split('"'))
    assert TrainConfig("mlp", epochs=3, subset=1).name != config.name != TrainConfig("mlp", evaluate_every=2).name
