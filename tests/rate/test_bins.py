"""The exact rate of many float32 distances by bins, against float64, where all distances are sorted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfsim import ss_rate
from selfsim.rate import bins
from selfsim.rate.distances import raw_distances
from selfsim.rate.loops import bin_of
from selfsim.rate.options import RateOptions
from selfsim.rate.rate import surrogate_area

pytest.importorskip("numba", reason="without numba, all distances are sorted")

NEURONS = 640


def layer(kind: str) -> torch.Tensor:
    """Activations (64, 640) in float32; of many samples, (2000, 640)."""
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


def slopes(raw: np.ndarray, n: int, **options) -> tuple[float, np.ndarray | None, float, np.ndarray]:
    """Value and slope by bins, and in float64 of the same distances."""
    options, one = RateOptions(**options), np.ones(1, np.float32)
    value, slope = surrogate_area(raw.astype(np.float64), one.astype(np.float64), n, options, True)
    return *bins.area_by_bins(raw, one, n, options, True), float(value), slope


@pytest.mark.parametrize("seed", [1, 13, 23])
def test_a_bin_whose_slope_is_small_without_a_change_of_sign(seed):
    """There the curve meets its line within the bin, and the slopes of its pairs differ in sign."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(64, NEURONS, generator=random) * torch.exp(torch.randn(NEURONS, generator=random))
    (_, gradient), (_, exact) = (value_and_gradient(y, ends="detached") for y in (x, x.double()))
    assert (gradient - exact).norm() <= 3e-4 * exact.norm()


@pytest.mark.parametrize("quantiles", [None, (0.01, 0.99)])
@pytest.mark.parametrize("kind", ["noise", "sizes"])
def test_slopes_turn_where_the_curve_meets_its_line(kind, quantiles):
    _, slope, _, exact = slopes(raw_distances(layer(kind)).numpy(), NEURONS, ends="detached", quantiles=quantiles)
    assert len(np.unique(np.sign(exact))) >= 2
    assert not (slope * exact < 0).any()


PAIRS = 500 * 499 // 2


def spread(middle: float, relative: float, pairs: int) -> np.ndarray:
    """Distances evenly spread around one length."""
    return middle * (1 + relative * np.random.default_rng(0).uniform(-1, 1, pairs))


@pytest.mark.parametrize("relative", [1e-1, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("most", ["all", "but the ends", "but the zeros", "three levels"])
def test_distances_in_a_narrow_range(most, relative):
    """A bin of them would hold too many pairs, so their order decides after all."""
    random = np.random.default_rng(0)
    raw = {
        "all": spread(0.5, relative, PAIRS),
        "but the ends": np.concatenate(
            [random.uniform(0.01, 0.4, 12_475), spread(0.5, relative, PAIRS - 24_950), random.uniform(0.75, 1, 12_475)]
        ),
        "but the zeros": np.concatenate([np.zeros(20_000), spread(0.5, relative, PAIRS - 20_000)]),
        "three levels": random.choice([0.3, 0.5, 0.9], PAIRS) * spread(1, relative, PAIRS),
    }[most].astype(np.float32)
    got, slope, expected, exact = slopes(raw, 500, ends="detached")
    assert got == pytest.approx(expected, abs=3e-7)
    if slope is not None:  # else `surrogate_area` sorts the layer
        at_end = (raw == raw.max()) | (raw == raw.min())  # of tied ends, each way takes another for the end
        assert np.linalg.norm((slope - exact)[~at_end]) <= 3e-3 * np.linalg.norm(exact)
    assert slope is not None if relative == 1e-1 else slope is None or relative > 1e-5


def test_quantiles_far_from_the_ends():
    raw = raw_distances(layer("noise")).numpy()
    got, slope, expected, exact = slopes(raw, NEURONS, quantiles=(0.3, 0.6), unit="median")
    assert got == pytest.approx(expected, abs=3e-7)
    ranks = [round(share * (len(raw) - 1)) for share in (0.3, 0.6)] + [(len(raw) - 1) // 2]
    single = np.isin(raw, np.sort(raw)[ranks])  # pairs tied with an end share its slope
    assert np.linalg.norm((slope - exact)[~single]) <= 1e-3 * np.linalg.norm(exact[~single])
    assert slope[single].sum() == pytest.approx(exact[single].sum(), rel=1e-3)


def test_tied_ends_share_the_slope_of_the_end():
    raw = np.concatenate([[0.1, 0.1, 0.1, 0.9, 0.9], spread(0.5, 0.4, PAIRS - 5)]).astype(np.float32)
    random = np.random.default_rng(1).permutation(PAIRS)
    raw = raw[random]
    _, slope, _, exact = slopes(raw, 500)
    for end, times in ((raw.min(), 3), (raw.max(), 2)):
        tied = raw == end
        assert tied.sum() == times
        assert slope[tied].sum() == pytest.approx(exact[tied].sum(), rel=1e-3)
        assert abs(exact[tied]).max() > 1.5 * abs(slope[tied]).max()  # sorted, one pair has it all


def test_layer_whose_pairs_are_sorted_after_all():
    x = torch.eye(NEURONS) + 1e-5 * torch.randn(NEURONS, NEURONS, generator=torch.Generator().manual_seed(0)) / 25
    raw = raw_distances(x).numpy()
    value, gradient = value_and_gradient(x, ends="detached")
    assert value == ss_rate(x).item()
    area, slope = surrogate_area(raw.astype(np.float64), np.full(1, NEURONS**0.5), NEURONS, RateOptions(), False)
    assert slope is None and value == pytest.approx(float(area), abs=1e-7)
    assert gradient.isfinite().all() and gradient.norm() > 0


@pytest.mark.parametrize("kind", ["wide", "narrow", "one ulp"])
def test_bins_keep_the_order_of_distances(kind):
    random = np.random.default_rng(0)
    raw = {
        "wide": np.concatenate([[0, 1e-40, 3e38], 10 ** random.uniform(-30, 30, 5000), random.normal(7, 0.01, 10**5)]),
        "narrow": random.normal(7, 0.01, 10**5),
        "one ulp": random.choice([1, 1 + 2**-23], 1000),
    }[kind].astype(np.float32)
    bits = np.sort(raw).view(np.uint32)
    layout = bins.Layout.of(bits, bits[0], bits[-1], (0, len(bits) - 1))
    places = np.array([bin_of(number, layout) for number in bits])
    assert places[0] >= 0 and places[-1] < layout.size and (np.diff(places) >= 0).all()
    # Near the ends a bin has few pairs, whatever lies beyond.
    if kind != "one ulp":
        assert np.unique(places[:1000]).size > 700 and np.unique(places[-1000:]).size > 700
