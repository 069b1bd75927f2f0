"""The exact rate of many float32 distances by bins, against float64, where all distances are sorted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfsim import ss_rate
from selfsim.rate import bins
from selfsim.rate.distances import raw_distances

pytest.importorskip("numba", reason="without numba, all distances are sorted")

NEURONS = 500


def layer(kind: str) -> torch.Tensor:
    """Activations (64, 500) in float32; of many samples, (2000, 500)."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(64, NEURONS, generator=random)
    number = torch.arange(NEURONS)
    match kind:
        case "dead neurons":
            return torch.where(number < 150, 0, (x - 0.5).relu())
        case "an outlier":
            return torch.where(number == 7, 1000 * x, x)
        case "near duplicates":
            return torch.where(number == 1, x[:, :1] + 1e-6 * x, x)
        case "clusters":
            return x[:, number % 10] + 1e-3 * torch.randn(64, NEURONS, generator=random)
        case "sizes":
            return x * torch.exp(2 * torch.randn(NEURONS, generator=random))
        case "an offset":
            return x + 100
        case "many samples":
            return torch.randn(2000, NEURONS, generator=random)
    return x


LAYERS = ["noise", "dead neurons", "an outlier", "near duplicates", "clusters", "sizes", "an offset", "many samples"]
OPTIONS = [{}, {"ends": "detached"}, {"unit": "median"}, {"quantiles": (0.01, 0.99)}, {"leave_out": 3}]


def value_and_gradient(x: torch.Tensor, **options) -> tuple[float, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = ss_rate(x, **options)
    value.backward()
    return value.item(), x.grad.double()


@pytest.mark.parametrize("kind", LAYERS)
def test_value_and_gradient_are_those_of_float64(kind):
    x = layer(kind)
    assert bins.bins_pay(raw_distances(x).numpy())
    (got, gradient), (expected, exact) = (value_and_gradient(y, ends="detached") for y in (x, x.double()))
    assert got == pytest.approx(expected, abs=2e-6)
    assert (gradient - exact).norm() <= 3e-3 * exact.norm()


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option(options):
    x = layer("noise")
    (got, gradient), (expected, exact) = (value_and_gradient(y, **options) for y in (x, x.double()))
    assert got == pytest.approx(expected, abs=2e-6)
    assert (gradient - exact).norm() <= 3e-4 * exact.norm()


def test_tied_distances_share_their_slope():
    x = torch.randint(0, 3, (8, NEURONS), generator=torch.Generator().manual_seed(0)).float()
    order = torch.randperm(NEURONS, generator=torch.Generator().manual_seed(1))
    value, gradient = value_and_gradient(x)
    permuted, of_permuted = value_and_gradient(x[:, order])
    assert permuted == pytest.approx(value, abs=1e-7)
    assert value == pytest.approx(ss_rate(x.double()).item(), abs=1e-7)
    assert (of_permuted - gradient[:, order]).norm() <= 1e-2 * gradient.norm()


def test_value_does_not_depend_on_gradient_or_batch():
    x = torch.stack([layer("noise"), layer("sizes")])
    assert [ss_rate(y).item() for y in x] == [value_and_gradient(y)[0] for y in x] == ss_rate(x).tolist()


def test_bins_keep_the_order_of_distances():
    random = np.random.default_rng(0)
    raw = np.concatenate([[0, 1e-40, 3e38], 10 ** random.uniform(-30, 30, 5000), random.normal(7, 0.01, 100_000)])
    bits = np.sort(raw.astype(np.float32)).view(np.uint32)
    offset, shift, size = bins._layout(bits)
    cell = bits >> bins.CELL_BITS
    places = offset[cell] + (bits >> shift[cell])
    assert places[0] >= 0 and places[-1] < size and (np.diff(places) >= 0).all()
    # Near the ends a bin has few pairs, whatever lies beyond.
    assert np.unique(places[:1000]).size > 800 and np.unique(places[-1000:]).size > 800
