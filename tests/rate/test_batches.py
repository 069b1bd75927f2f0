"""Leading axes are a batch: the values and gradients of single layers, to the last bit."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from selfsim import Probe, SelfSimilarityConstraint, null_band, scaling_deviation, ss_rate
from selfsim.validation import over_batch

OPTIONS = [
    {},
    {"ends": "detached"},
    {"quantiles": (0.1, 0.9)},
    {"unit": "median"},
    {"standardize": True},
    {"leave_out": 3},
    {"scales": 64},
    {"scales": 64, "gradient": "straight-through"},
    {"count": "complete-linkage"},
]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def batch(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def value_and_gradient(x: torch.Tensor, **options) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = ss_rate(x, **options)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_batch_is_its_layers(options, dtype, two_threads):
    x = batch(2, 3, 16, 30, dtype=dtype)
    values, gradients = value_and_gradient(x, **options)
    assert values.shape == (2, 3)
    for place in np.ndindex(2, 3):
        value, gradient = value_and_gradient(x[place], **options)
        assert values[place] == value
        assert torch.equal(gradients[place], gradient)


def test_coloring_of_a_batch_has_no_gradient():
    x = batch(2, 16, 20).requires_grad_()
    values = ss_rate(x, count="greedy-coloring")
    assert not values.requires_grad
    assert values.tolist() == [ss_rate(layer, count="greedy-coloring").item() for layer in x]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "statistic",
    [ss_rate, partial(ss_rate, ends="detached"), partial(ss_rate, count="complete-linkage"), scaling_deviation],
)
def test_vmap_in_every_order(statistic, dtype, two_threads):
    x = batch(3, 16, 40, dtype=dtype).requires_grad_()
    values = statistic(x)
    (gradients,) = torch.autograd.grad(values.sum(), x)
    x, values = x.detach(), values.detach()
    assert gradients.dtype == dtype
    assert torch.equal(vmap(statistic)(x), values)
    assert torch.equal(vmap(statistic, in_dims=1)(x.movedim(0, 1)), values)
    assert torch.equal(grad(statistic)(x[0]), gradients[0])
    assert torch.equal(vmap(grad(statistic))(x), gradients)
    assert torch.equal(grad(lambda y: vmap(statistic)(y).sum())(x), gradients)
    assert torch.equal(vmap(vmap(statistic))(x[None])[0], values)


def test_stacked_networks_train_under_the_rate():
    """The gradients of three networks at once are those of each alone."""
    networks = [torch.nn.Sequential(torch.nn.Linear(8, 24), torch.nn.ReLU()).double() for _ in range(3)]
    x = batch(16, 8)

    def loss(parameters, buffers):
        return 0.5 * (ss_rate(functional_call(networks[0], (parameters, buffers), (x,)), ends="detached") - 0.1) ** 2

    stacked = vmap(grad(loss))(*stack_module_state(networks))
    for k, network in enumerate(networks):
        probe, constraint = (
            Probe(network, ["1"]),
            SelfSimilarityConstraint(0.1, 1.0, cap=None, ramp=None, unit="absolute"),
        )
        with probe:
            network(x)
        constraint(probe).backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(stacked[name][k], parameter.grad, rtol=1e-9, atol=1e-12)


def test_a_batch_without_layers_and_one_of_a_single_layer():
    x = batch(0, 3, 16, 20).requires_grad_()
    values = ss_rate(x)
    assert values.shape == (0, 3)
    assert torch.autograd.grad(values.sum(), x)[0].shape == x.shape
    assert ss_rate(batch(1, 16, 20)).tolist() == [ss_rate(batch(1, 16, 20)[0]).item()]


def test_an_error_names_the_place_in_the_batch():
    x = batch(2, 3, 16, 20)
    x[1, 0] = 0
    with pytest.raises(ValueError, match=r"^\[1, 0\] of the batch: activations: all 190 distances"):
        ss_rate(x)
    assert ss_rate(x, check=False).isnan().tolist() == [[False] * 3, [True, False, False]]
    x[0, 2, 5, 7] = torch.nan
    with pytest.raises(ValueError, match="NaN or Inf"):
        ss_rate(x)


class OfTwo(ValueError):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_an_error_of_any_signature_names_the_place_in_the_batch():
    def fails(layer):
        raise OfTwo("one", "two")

    with pytest.raises(ValueError, match=r"^\[0, 0\] of the batch: one and two$"):
        over_batch(fails, batch(1, 1, 4, 4))


@pytest.mark.parametrize("statistic", [ss_rate, scaling_deviation])
def test_the_gradient_has_no_derivative(statistic):
    x = batch(16, 40).requires_grad_()
    (gradient,) = torch.autograd.grad(statistic(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="the gradient has no derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("null", ["gauss", "gauss-covariance", "shuffled"])
def test_threads_do_not_change_a_band(null):
    x, statistics = (
        batch(16, 30),
        {"rate": ss_rate, "detached": partial(ss_rate, ends="detached"), "own": lambda y: y.sum()},
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = null_band(statistics, x, null=null, draws=11)
        torch.set_num_threads(3)
        three = null_band(statistics, x, null=null, draws=11)
    finally:
        torch.set_num_threads(before)
    for key in statistics:
        assert np.array_equal(one[key].values, three[key].values)
