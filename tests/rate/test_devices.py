"""The rate off the CPU: the code that runs there, and where there is a card, the card itself."""

from __future__ import annotations

import warnings

import pytest
import torch

from selfsim import SelfSimilarityConstraint, ss_rate
from selfsim.rate import area
from selfsim.rate.distances import distances_by_product, raw_distances, scaled_neurons
from selfsim.rate.options import RateOptions
from selfsim.rate.rate import surrogate_area

OPTIONS = [
    {},
    {"ends": "detached"},
    {"quantiles": (0.1, 0.9)},
    {"unit": "median"},
    {"unit": "median", "quantiles": (0.1, 0.9)},
]
no_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA card on this machine")


def some(dtype=torch.float64) -> torch.Tensor:
    return torch.randn(32, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("options", OPTIONS)
def test_tensor_code_gives_what_the_numpy_code_gives(options):
    """What runs on a card is written for tensors; it runs on a CPU as well, and is compared there."""
    x = some()
    neurons, scale = scaled_neurons(x)
    raw, one = raw_distances(neurons), scale * 32**0.5

    def measured(raw, one):
        value, slope = surrogate_area(raw, one, 40, RateOptions(**options), need_slope=True)
        return value, slope

    for got, expected in zip(measured(raw, one), measured(raw.numpy(), one.numpy()[()]), strict=True):
        torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_distances_by_product_are_the_distances(offset):
    """A card gets float32 distances from a product; it runs on a CPU as well, and is compared there."""
    x = some(torch.float32) + offset
    x[:, 3] = x[:, 7]  # the same neuron twice
    x[:, 5] = x[:, 9] + 1e-3 * x[:, 11]  # and nearly
    expected = torch.pdist(x.double().t())
    found = distances_by_product(x)
    assert found.dtype == torch.float32
    assert (found == 0).sum() == 1
    torch.testing.assert_close(found.double(), expected, rtol=3e-6, atol=0)


@pytest.mark.parametrize("factor", [1e-3, 1e-9, 1e-18])
def test_distances_by_product_of_neurons_that_are_nearly_dead(factor):
    x = some(torch.float32)
    x[:, :20] *= factor
    torch.testing.assert_close(distances_by_product(x).double(), torch.pdist(x.double().t()), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("n", "cached"), [(40, 1), (2101, 0)])
def test_steps_of_many_neurons_do_not_stay_on_a_card(n, cached):
    area._cached_steps_on.cache_clear()
    inner = n * (n - 1) // 2 - 2
    assert len(area.surrogate_steps(n, torch.zeros(1)).part(0, inner).total) == inner
    assert area._cached_steps_on.cache_info().currsize == cached


@no_card
@pytest.mark.parametrize(
    "options", [*OPTIONS, {"scales": 256, "gradient": "straight-through"}, {"count": "complete-linkage"}]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_card_gives_what_the_cpu_gives(options, dtype, tolerance):
    x = some(dtype)
    here, there = x.clone().requires_grad_(), x.cuda().requires_grad_()
    a, b = ss_rate(here, **options), ss_rate(there, **options)
    assert b.device.type == "cuda"
    assert b.item() == pytest.approx(a.item(), abs=tolerance)
    a.backward()
    b.backward()
    assert (there.grad.cpu() - here.grad).norm() <= 10 * tolerance * here.grad.norm()


@no_card
@pytest.mark.parametrize(("check", "most"), [(True, 1), (False, 0)])
def test_synchronisations_on_a_card(check, most):
    x = some(torch.float32).cuda().requires_grad_()
    ss_rate(x, check=check).backward()  # fills the cache of steps
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            ss_rate(x, check=check).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in seen if "synchroniz" in str(w.message)]) <= most


@no_card
def test_constraint_on_a_card():
    x = some(torch.float32).cuda().requires_grad_()
    SelfSimilarityConstraint(weight=1.0, cap=None, ramp=None)(x).backward()
    assert x.grad.abs().sum() > 0
