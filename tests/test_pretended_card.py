"""Every public function that takes tensors, given tensors of a card: results, devices and synchronisations.

The card is pretended (`pretended_card`), so this shows nothing about its own kernels; `python -m benchmarks.gpu` does.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

import selfsim
from selfsim import ScaleControl, SelfSimilarityConstraint, scaling_deviation, ss_rate
from selfsim.models.branch import Branch
from selfsim.rate import area, distances
from selfsim.statistics import correlation_law, null_models
from tests.pretended_card import Pretended, backward

STATISTICS: list[tuple[Any, dict]] = [
    (ss_rate, {}),
    (ss_rate, {"ends": "detached"}),
    (ss_rate, {"unit": "median", "ends": "detached"}),
    (ss_rate, {"quantiles": (0.1, 0.9)}),
    (ss_rate, {"standardize": True}),
    (ss_rate, {"leave_out": 3}),
    (ss_rate, {"standardize": True, "leave_out": 3}),
    (ss_rate, {"scales": 256}),
    (ss_rate, {"gradient": "straight-through"}),
    (scaling_deviation, {}),
    (scaling_deviation, {"window": (0.05, 0.5)}),
]


@pytest.fixture(autouse=True)
def no_constants_of_another_card():
    """The tensors that stay on a card between two calls must not stay for a real one, nor come from it."""
    caches = area._cached_steps_on, distances._cached_places, correlation_law.cached_ranks
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def on_card(x: torch.Tensor) -> torch.Tensor:
    return x.to("cuda").requires_grad_(x.is_floating_point())


@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize(("statistic", "options"), STATISTICS)
def test_value_and_gradient_without_a_synchronisation(statistic, options, dtype, batch):
    x = random(*batch, 9, 66, dtype=dtype)
    upstream = torch.ones(batch, dtype=torch.float32 if dtype == torch.float16 else dtype)
    here = x.clone().requires_grad_()
    expected = statistic(here, **options)
    expected.backward(upstream)
    with Pretended() as card:
        there = on_card(x)
        backward(statistic(there, **options), upstream.to("cuda"))  # fills the caches
        for check, waits in ((False, 0), (True, 1)):
            card.waits.clear()
            found = statistic(there, check=check, **options)
            assert len(card.waits) == waits
            gradient = backward(found, upstream.to("cuda"))[there]
            assert len(card.waits) == waits + 1  # for the gradient just above
            assert (found.device.type, gradient.device.type) == ("cuda", "cuda")
        found, gradient = found.detach().cpu(), gradient.cpu()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found, expected.detach(), atol=tolerance, rtol=0)
    assert gradient.dtype == here.grad.dtype
    bound = 10 * tolerance if dtype != torch.float16 else 2e-3
    assert (gradient - here.grad).double().norm() <= bound * here.grad.double().norm()


class Counted(Pretended):
    """Counts the operations that start a kernel on a card: all that are no views."""

    kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.kernels += not (func.is_view or func is torch.ops.aten.empty_like.default)
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize(
    ("compute", "most"),
    [
        (lambda x: ss_rate(x, check=False), 108),
        (lambda x: ss_rate(x, unit="median", ends="detached", check=False), 91),
        (lambda x: ss_rate(x, scales=256, check=False), 164),
        (lambda x: scaling_deviation(x, check=False), 111),
    ],
)
def test_kernels_of_value_and_gradient(compute, most):
    """Starting its kernels is what the rate of a layer of usual size takes on a card."""
    with Counted() as card:
        x, upstream = on_card(random(12, 9, 66, dtype=torch.float32)), torch.ones(12).to("cuda")
        backward(compute(x), upstream)  # fills the caches
        card.kernels = 0
        backward(compute(x), upstream)
    assert card.kernels <= most


@pytest.mark.parametrize("statistic", [ss_rate, scaling_deviation])
def test_an_error_names_the_layer(statistic):
    x = random(2, 3, 9, 40)
    x[1, 0] = 1
    with Pretended(), pytest.raises(ValueError, match=r"^\[1, 0\] of the batch: activations: "):
        statistic(x.to("cuda"))
    with Pretended():
        assert statistic(x.to("cuda"), check=False).isnan().cpu().tolist() == [[False] * 3, [True, False, False]]


def test_constant_neurons_are_named():
    x = random(9, 40)
    x[:, 7] = 2
    with Pretended(), pytest.raises(ValueError, match="^standardize: 1 of 40 neurons are constant"):
        ss_rate(x.to("cuda"), standardize=True, leave_out=2)


# What runs on the card otherwise, with the synchronisations of its checks.
ON_CARD = {
    "pair_distances": (selfsim.pair_distances, 1),
    "ScaleControl": (lambda x: ScaleControl(1.0)(x), 1),
    "SelfSimilarityConstraint": (lambda x: SelfSimilarityConstraint(ramp=None)(x), 1),
    "null_activations": (lambda x: selfsim.null_activations(x, null="shuffled", seed=0), None),
    "samples_interval": (lambda x: selfsim.samples_interval(ss_rate, x, draws=4).low, None),
    "null_band": (lambda x: selfsim.null_band(ss_rate, x, draws=3).low, None),
}
# What takes tensors of a card and computes on the CPU: with scipy, networkx or compiled loops, or to report numbers.
ON_CPU = {
    "ss_rate, linkage": lambda x: ss_rate(x, count="complete-linkage"),
    "ss_rate, coloring": lambda x: ss_rate(x, count="greedy-coloring"),
    "ss_rate, blocks": lambda x: ss_rate(x, scales=64, gradient="straight-through", max_bytes=10_000),
    "rate_curve": lambda x: selfsim.rate_curve(x).counts,
    "rate_drivers": lambda x: selfsim.rate_drivers(x).by_neuron,
    "FeatureNetwork": lambda x: selfsim.FeatureNetwork(x).distances,
    "feature_networks": lambda x: selfsim.feature_networks({"a": x})["a"].distances,
    "scaling": lambda x: selfsim.scaling(x, draws=4).deviation.value,
    "correlation_dimension": lambda x: selfsim.correlation_dimension(x).value,
    "two_nn": lambda x: selfsim.two_nn(x).value,
    "spectrum_exponent": lambda x: selfsim.spectrum_exponent(x).value,
    "weight_exponents": lambda x: selfsim.weight_exponents({"w": x})["w"].value,
}
# Of models, graphs, counts, numbers or files, not of tensors; models on a card are read by `benchmarks.gpu`. `movement`
# asks autograd itself for a gradient on the card, for which there must be one.
NO_TENSORS = """Analysis BoxCounts ConstraintProposal Probe RateDrivers Run TrainConfig activations analyze box_bound
    box_counts box_cover check_cover create fractal_dimension invariance_across_layers known_activations load_images
    load_run load_runs mean_interval movement multifractal paired_difference propose_constraint rank_correlation
    renormalization_flow renormalize rewired small_world_omega small_world_sigma topology train train_many"""


def test_every_public_name_is_listed():
    listed = {name.partition(",")[0] for name in (*ON_CARD, *ON_CPU)} | {"scaling_deviation", *NO_TENSORS.split()}
    assert listed == set(selfsim.__all__)


@pytest.mark.filterwarnings("ignore:activations. got no gradient")
@pytest.mark.parametrize("name", [*ON_CARD, *ON_CPU])
def test_result_of_a_tensor_on_a_card(name):
    compute, most = ON_CARD.get(name) or (ON_CPU[name], None)
    x = random(60, 56, dtype=torch.float32)
    expected = compute(x)
    with Pretended() as card:
        there = x.to("cuda")
        compute(there)  # fills the caches
        card.waits.clear()
        found = compute(there)
        assert most is None or len(card.waits) <= most
        if isinstance(expected, torch.Tensor):
            assert found.device.type == "cuda"
            found = found.cpu()
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("null", ["gauss", "gauss-covariance", "shuffled"])
def test_null_draws_are_measured_in_one_call(null):
    x = random(20, 40, dtype=torch.float32)
    x[:, 3] = x[:, 2] ** 2
    statistics = {"rate": ss_rate, "medians": functools.partial(ss_rate, unit="median"), "mean": lambda y: y.mean()}
    options = {"null": null, "draws": 9, "seed": 5}
    expected = selfsim.null_band(statistics, x, **options)
    with Pretended() as card:
        there = x.to("cuda")
        found = selfsim.null_band(statistics, there, **options)
        card.waits.clear()
        selfsim.null_band(ss_rate, there, **options)
        # Two for the checks of the activations, one to read these, and for all draws together three: to send them, to
        # check their distances, and to read the rates.
        assert len(card.waits) <= 6
    for key, band in expected.items():
        np.testing.assert_allclose(found[key].values, band.values, rtol=1e-4, atol=1e-6)


def test_an_error_names_the_null_draw():
    x = random(20, 40, dtype=torch.float32)

    def draws_of(seeds):
        return torch.stack([torch.ones(20, 40) if seed == 7 else x for seed in seeds]).to("cuda")

    with Pretended(), pytest.raises(ValueError, match="^statistic on null draw 2: activations: all 780 distances"):
        list(null_models._on_stacked_draws(draws_of, {"": ss_rate}, range(5, 9), at_once=2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unit": "absolute", "weight": 1.0},
        {"measure": "scaling"},
        {"gradient": "straight-through", "unit": "absolute", "weight": 1.0, "cap": None},
        {"gate": 0.05, "weight": 1.0, "cap": None},
        {"layers_per_step": 1, "ends": "attached"},
    ],
)
def test_a_step_under_the_constraint_is_not_waited_for(options):
    outputs = [random(16, n, dtype=torch.float32) * (1 + n) for n in (50, 50, 34, 50)]

    def step(constraint, outputs, task):
        """The penalty, and the gradient at each output to which the next layers give the gradient `task`."""
        branches = [Branch() for _ in outputs]
        read = {str(place): branch.of(1 * x) for place, (branch, x) in enumerate(zip(branches, outputs, strict=True))}
        for branch, x in zip(branches, read.values(), strict=True):
            x.selfsim_branch = branch
        penalty = constraint(read)
        own = backward(penalty, torch.ones_like(penalty))
        found = []
        for branch, x in zip(branches, outputs, strict=True):
            if x in own:  # else not drawn
                at_output = own[x] if branch.meeting is None else branch.meeting(task[..., : x.shape[1]], own[x])
                found.append(at_output)
        return penalty, found

    constraints = [SelfSimilarityConstraint(ramp=None, check=False, **options) for _ in range(2)]
    for constraint in constraints:
        constraint._state.baseline = dict.fromkeys("0123", 0.2)
    task = torch.ones_like(outputs[0])
    penalty, gradients = step(constraints[0], [x.clone().requires_grad_() for x in outputs], task)
    with Pretended() as card:
        there, task = [on_card(x) for x in outputs], task.to("cuda")
        step(constraints[1], there, task)  # fills the caches
        if "layers_per_step" in options:  # the same draw again
            constraints[1]._generator.manual_seed(0)
        card.waits.clear()
        found, moved = step(constraints[1], there, task)
        assert card.waits == []
        found, moved = found.detach().cpu(), [g.cpu() for g in moved]
    torch.testing.assert_close(found, penalty.detach(), rtol=1e-4, atol=1e-6)
    for g, expected in zip(moved, gradients, strict=True):
        assert (g - expected).norm() <= 1e-3 * expected.norm()


def test_layers_of_one_shape_are_measured_in_one_call(monkeypatch):
    shapes = []

    def measured(x, measure):
        shapes.append(tuple(x.shape))
        return ss_rate(x, check=measure.check)

    monkeypatch.setattr("selfsim.training.constraint.measured", measured)
    layers = {"a": random(16, 50), "b": random(16, 34), "c": random(16, 50)}
    constraint = SelfSimilarityConstraint(ramp=None)
    with Pretended() as card:
        there = {layer: on_card(x) for layer, x in layers.items()}
        SelfSimilarityConstraint(ramp=None)(there)  # fills the caches
        shapes.clear(), card.waits.clear()
        constraint(there)
        assert (shapes, len(card.waits)) == ([(2, 16, 50), (16, 34)], 2)
        sums = {layer: total.cpu() for layer, (total, _) in constraint._state.sums.items()}
    assert all(abs(sums[layer] - ss_rate(x)) < 1e-12 for layer, x in layers.items())


def test_a_layer_without_a_rate_is_named_among_others():
    layers = {"a": random(16, 50), "b": torch.ones(16, 50), "c": random(16, 50)}
    with Pretended(), pytest.raises(ValueError, match="^layer 'b': activations: all 1225 distances"):
        SelfSimilarityConstraint(ramp=None)({layer: on_card(x.double()) for layer, x in layers.items()})
