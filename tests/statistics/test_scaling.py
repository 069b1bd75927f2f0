"""Deviation from a power law, dimension and octaves: closed forms, invariance, gradient, and where there is no number.

What these tests cannot show: that a layer which scales is self-similar in any other sense than its correlation sum.
"""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

import selfsim
from selfsim import known_activations, scaling, scaling_deviation
from selfsim.rate.distances import scaled_neurons
from selfsim.rate.rate import gradient_by_weight
from selfsim.statistics.correlation_law import (
    Window,
    cached_ranks,
    fewest_nodes,
    fit,
    noise_deviation,
    ranks_of,
    window_for,
)
from selfsim.statistics.synthetic import KNOWN_DIMENSIONS


def points(n: int, dimension: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random points of a cube, one for each neuron."""
    return torch.rand(dimension, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def noise(n: int, seed: int = 0, samples: int = 64) -> torch.Tensor:
    return torch.randn(samples, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(x: torch.Tensor, low: float, high: float) -> tuple[float, float, float]:
    """Deviation, dimension and octaves, in plain steps: every mean of an octave is a sum over its pairs."""
    d = np.sort(pdist(x.T.numpy()))
    first, last = round(len(d) * low), round(len(d) * high)
    steps = round(8 * math.log2(last / first))
    edges = [round(first * (last / first) ** (k / steps)) for k in range(steps + 1)]
    middles, means = [], []
    for start, stop in zip(edges, edges[8:], strict=False):
        extents = [math.log((j + 1) / j) for j in range(start, stop)]
        means.append(np.average(np.log(d[start:stop]), weights=extents))
        middles.append((math.log(start) + math.log(stop)) / 2)
    (slope, _), r = np.polyfit(middles, means, 1), np.corrcoef(middles, means)[0, 1]
    return math.sqrt(1 - r * r), 1 / slope, math.log2(d[last - 1] / d[first])


@pytest.mark.parametrize(("x", "window"), [(points(60, 2), None), (noise(130), None), (points(90, 3), (0.05, 0.8))])
def test_it_is_what_plain_steps_give(x, window):
    found = scaling(x, window=window, draws=0)
    expected = reference(x, *(window or (2 / x.shape[1], x.shape[1] ** -0.25)))
    values = (found.deviation.value, found.dimension.value, found.octaves.value)
    np.testing.assert_allclose(values[::2], expected[::2], rtol=1e-9)
    assert values[1] == pytest.approx(expected[1]) or expected[2] < 1
    assert scaling_deviation(x, window=window).item() == pytest.approx(values[0], abs=1e-12)


@pytest.mark.parametrize("dimension", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("n", [32, 200])
def test_a_perfect_power_law_has_its_dimension_and_no_deviation(dimension, n):
    """Pairs of ln C = D ln r; the mean of ln rank over an octave of it is not the middle, to about 1 / rank."""
    pairs = n * (n - 1) // 2
    window = window_for(n, None)
    found = scaling((np.arange(1, pairs + 1) - 0.5) ** (1 / dimension), draws=0)
    assert found.deviation.value < 1e-3
    ranks = ranks_of(n, window)
    exact = fit((np.arange(ranks.first, ranks.last) + 0.5) ** (1 / dimension), ranks)
    assert 1 / exact.slope == pytest.approx(dimension, rel=1e-3)
    expected = math.log2((ranks.last - 0.5) / (ranks.first + 0.5)) / dimension
    assert exact.octaves == pytest.approx(expected, rel=1e-9)
    assert found.dimension.estimable == (found.octaves.value >= 1)


@pytest.mark.parametrize("name", ["line", "square", "cantor", "sierpinski", "ultrametric tree"])
def test_dimension_of_known_sets_within_a_tenth(name):
    found = scaling(known_activations(name, n=1024), draws=0)
    assert float(found.dimension) == pytest.approx(KNOWN_DIMENSIONS[name], rel=0.1)
    assert found.scales


def no_fractal(kind: str, seed: int) -> selfsim.statistics.scaling.Scaling:
    return scaling(known_activations(kind, n=128, seed=seed), draws=0)


def test_known_fractals_are_told_from_noise_and_clusters():
    """The rank of a set is its deviation, or last with less than an octave; the area under the curve is 1."""
    connected = [scaling(points(128, dimension, seed), draws=0) for dimension in (1, 2, 3) for seed in range(10)]
    known = [scaling(known_activations(name, n=128), draws=0) for name in ("line", "cantor", "sierpinski")]
    known += [scaling(known_activations("ultrametric tree", n=128), draws=0)]
    others = [no_fractal(kind, seed) for kind in ("gauss", "clusters") for seed in range(20)]
    rank = lambda found: found.deviation.value if found.octaves.value >= 1 else math.inf  # noqa: E731
    assert max(map(rank, connected + known)) < min(map(rank, others))
    assert all(found.scales for found in connected + known)
    assert not any(found.scales for found in others)


def test_steps_of_discrete_scaling_hardly_count():
    """A binary tree and Cantor's dust repeat at every octave of the rank; a mean over one removes their steps."""
    for name in ("ultrametric tree", "cantor"):
        assert scaling(known_activations(name, n=512), draws=0).deviation.value < 0.05


@pytest.mark.parametrize("x", [points(64, 2), noise(64)])
def test_invariant_to_rotation_translation_permutation_and_scale(x):
    expected = scaling_deviation(x).item()
    random = torch.Generator().manual_seed(5)
    rotation = torch.linalg.qr(torch.randn(len(x), len(x), generator=random, dtype=x.dtype)).Q
    shift = torch.randn(len(x), 1, generator=random, dtype=x.dtype)
    changed = [rotation @ x, x + shift, x[:, torch.randperm(64, generator=random)], x[torch.randperm(len(x))]]
    changed += [x * 10.0**k for k in (-6, -3, 3, 6)]
    for y in changed:
        assert scaling_deviation(y).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("x", [points(128, 2), noise(128)])
def test_one_outlier_hardly_counts(x):
    y = x.clone()
    y[:, 7] = 1e6
    assert abs(scaling_deviation(y) - scaling_deviation(x)) < 0.02


@pytest.mark.parametrize(("x", "window"), [(points(33, 3), None), (noise(34, samples=4), (0.06, 0.9))])
def test_gradcheck(x, window):
    assert torch.autograd.gradcheck(lambda y: scaling_deviation(y, window=window), x.requires_grad_())


def gradient(x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(scaling_deviation(x), x)[0]


@pytest.mark.parametrize(("factor", "tolerance"), [(1e-3, 1e-4), (1e-7, 1e-4), (1e-15, 1e-4), (1e-21, 0.2)])
def test_float32_gradient_of_neurons_that_are_nearly_dead(factor, tolerance):
    """Squares of 1e-21 have one or two digits in float32, and so has the gradient of these neurons."""
    x = noise(128).float()
    x[:, :64] *= factor
    expected = gradient(x.double())
    for part in (slice(64), slice(64, 128)):
        error = (gradient(x).double() - expected)[:, part].norm() / expected[:, part].norm()
        assert error < tolerance


@pytest.mark.parametrize("kind", ["nearly dead", "common offset", "negative offset"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_is_its_sum_over_pairs(kind, dtype):
    """The weights are float64, as those of the deviation; each pair adds a difference that no other swamps."""
    x = noise(40, samples=5)
    x = {"nearly dead": x * torch.where(torch.arange(40) < 20, 1e-14, 1), "common offset": x + 1000}.get(kind, x - 1000)
    x = x.to(dtype)
    i, j = torch.triu_indices(40, 40, 1)
    differences = x.double()[:, i] - x.double()[:, j]
    by_pair = differences / differences.square().sum(0)
    expected = torch.zeros(5, 40, dtype=torch.float64).index_add(1, i, by_pair).index_add(1, j, -by_pair)
    unit = scaled_neurons(x)[1].double()  # distances are in this unit where their gradient is taken
    weight = 1 / (differences * unit).square().sum(0)
    found = gradient_by_weight(*scaled_neurons(x), weight, torch.tensor(1.0, dtype=dtype))
    assert found.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-9
    for part in (slice(20), slice(20, 40)):
        assert (found.double() - expected)[:, part].norm() < tolerance * expected[:, part].norm()


def test_float32_gradient_beyond_the_powers_of_two_of_float32():
    """Activations of 1e-38 are scaled by another power of two in float64."""
    x = (noise(64) * 1e-38).float()
    torch.testing.assert_close(gradient(x).double(), gradient(x.double()), rtol=1e-3, atol=1e33)


def test_a_batch_has_the_values_and_gradients_of_its_layers():
    x = torch.stack([points(40, 3, seed) for seed in range(6)]).reshape(2, 3, 3, 40).requires_grad_()
    found = scaling_deviation(x)
    assert found.shape == (2, 3)
    (found * torch.arange(6.0).reshape(2, 3)).sum().backward()
    layers = [layer.detach().requires_grad_() for layer in x.flatten(0, 1)]
    for k, layer in enumerate(layers):
        (k * scaling_deviation(layer)).backward()
    torch.testing.assert_close(x.grad.flatten(0, 1), torch.stack([layer.grad for layer in layers]))
    assert scaling_deviation(torch.zeros(0, 3, 40)).shape == (0,)


@pytest.mark.parametrize("x", [points(128, 2), noise(128)])
def test_gradient_is_spread_over_the_layer(x):
    """No handful of neurons carries it: 90 % of its square sits on a third of them or more."""
    x = x.clone().requires_grad_()
    scaling_deviation(x).backward()
    squares = x.grad.square().sum(0).sort(descending=True).values.cumsum(0)
    assert int((squares < 0.9 * squares[-1]).sum()) > 128 // 3


def test_descent_along_the_gradient_makes_noise_scale_better():
    x = noise(64).requires_grad_()
    before = scaling_deviation(x).item()
    optimiser = torch.optim.Adam([x], lr=0.05)
    for _ in range(50):
        optimiser.zero_grad()
        scaling_deviation(x).backward()
        optimiser.step()
    assert scaling_deviation(x).item() < before / 3


def test_names_layers_and_types():
    x = points(64, 2)
    layers = scaling_deviation({"a": x, "b": x.float(), "c": x.bfloat16()})
    assert [layer.dtype for layer in layers.values()] == [torch.float64, torch.float32, torch.float32]
    assert layers["b"].item() == pytest.approx(layers["a"].item(), abs=1e-5)
    with pytest.raises(ValueError, match=r"^layer 'b': activations: got 4 neurons .*need at least 32"):
        scaling_deviation({"a": x, "b": x[:, :4]})


def unusual(kind: str) -> torch.Tensor:
    x = points(64, 2)
    return {
        "coincident": torch.where(torch.arange(64) < 16, 0.5, x),
        "all coincident": torch.ones(2, 64),
        "equilateral": torch.eye(64),
        "equilateral to rounding": torch.eye(64, dtype=torch.float64) + 1 / 3,
        "two distances": torch.cat([torch.eye(62), torch.zeros(62, 2)], 1),
        "NaN": torch.where(torch.arange(64) < 63, x, math.nan),
        "Inf": torch.where(torch.arange(64) < 63, x, math.inf),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    {
        "coincident": "more than 63 of 2016 pairs coincide, the start of the window; leave out duplicates",
        "all coincident": "more than 713 of 2016 pairs coincide, the whole window",
        "equilateral": r"all 650 distances in the window are equal \(to rounding\)",
        "equilateral to rounding": r"all 650 distances in the window are equal \(to rounding\)",
        "two distances": "one distance takes more than a third of the window of 650 pairs",
        "NaN": "got 2 values that are NaN or Inf",
        "Inf": "got 2 values that are NaN or Inf",
    }.items(),
)
@pytest.mark.filterwarnings("error")
def test_no_deviation_has_a_reason(kind, message):
    x = unusual(kind).requires_grad_()
    with pytest.raises(ValueError, match=f"^activations: {message}"):
        scaling_deviation(x)
    unchecked = scaling_deviation(x, check=False)
    assert torch.isnan(unchecked)
    unchecked.backward()
    assert not (x.grad.nan_to_num() != 0).any()
    if kind not in ("NaN", "Inf"):
        found = scaling(x)
        assert not found.scales
        assert not found.intervals
        for estimate in (found.deviation, found.dimension, found.octaves):
            assert math.isnan(estimate.value)
            assert estimate.reason


@pytest.mark.parametrize("n", range(3, 32))
def test_few_neurons_have_a_reason(n):
    with pytest.raises(ValueError, match=f"^activations: got {n} neurons .*need at least 32"):
        scaling_deviation(points(n, 2))
    assert scaling(points(n, 2)).reason.startswith(f"got {n} nodes, need at least 32")
    assert scaling(points(32, 2), draws=0).deviation.estimable


def test_a_result_says_whether_its_window_was_given():
    ring = nx.cycle_graph(600)
    for what, by_default in ((points(64, 2), "2 / n to"), (ring, "the first hop to")):
        assert scaling(what).chosen.startswith(by_default)
        assert scaling(what, window=(0.02, 0.3)).chosen == "given"


def test_no_nodes_have_a_reason():
    assert scaling(np.zeros((0, 0))).reason.startswith("got 0 nodes, need at least 32")


@pytest.mark.parametrize(("n", "given"), [(32, False), (64, False), (80, False), (82, True)])
def test_intervals_need_halves_with_enough_pairs(n, given):
    """The start of the window holds 2/n of the pairs of n/2 nodes, which is (n/2 - 1)/2: at least 20 from n = 82 on."""
    assert bool(scaling(points(n, 2)).intervals) == given
    if n == 64:
        assert scaling(points(n, 4), over="samples").intervals  # a half of the samples has all nodes


@pytest.mark.parametrize("window", [(1.0, 1.0), (0.1, 0.5), (0.03, 0.9), (0.001, 0.004), (1 / 3, 1.0), (0.2, 0.8)])
def test_fewest_nodes_is_what_counting_gives(window):
    given = Window(*window)
    least = fewest_nodes(given)
    assert given.fits(least)
    assert not any(given.fits(n) for n in range(2, least))


def test_fewest_nodes_of_a_tiny_window():
    """20 pairs up to the start, which is n² low / 2 but for rounding."""
    assert fewest_nodes(Window(1e-12, 0.5)) == pytest.approx((40 / 1e-12) ** 0.5, rel=1e-6)
    with pytest.raises(ValueError, match="^activations: got 64 neurons .*need at least 6324556"):
        scaling_deviation(points(64, 2), window=(1e-12, 0.5))
    assert scaling(points(64, 2), window=(5e-324, 0.5)).reason.startswith("got 64 nodes, need at least 28")


def test_noise_has_no_dimension_but_a_deviation_and_octaves():
    found = scaling(noise(128))
    assert found.deviation.estimable
    assert found.octaves.value < 1
    assert found.dimension.reason == f"{found.octaves.value:.2f} octaves of distances in the window, need 1"
    assert set(found.intervals) == {"deviation", "octaves"}


def test_the_threshold_is_the_limit_of_noise_in_many_dimensions():
    many = [scaling_deviation(noise(256, seed, samples=2000)).item() for seed in range(5)]
    assert np.mean(many) == pytest.approx(noise_deviation(256, window_for(256, None)), rel=0.15)
    x = points(128, 2)
    assert not scaling(x, threshold=1e-6, draws=0).scales
    assert scaling(x, threshold=0.9, draws=0).threshold == 0.9


def test_distances_and_networks_give_what_their_points_give():
    x = points(90, 2)
    expected, d = scaling(x, seed=3), pdist(x.T.numpy())
    square = np.asarray(selfsim.FeatureNetwork(x).matrix())
    graph = selfsim.FeatureNetwork(x).to_networkx()
    same = [scaling(y, seed=3) for y in (selfsim.FeatureNetwork(x), d, square)] + [scaling(graph, weight="length")]
    for found in same:
        assert found.deviation.value == pytest.approx(expected.deviation.value, abs=1e-9)
        assert found.dimension.value == pytest.approx(expected.dimension.value)
    assert set(same[1].intervals) == {"deviation", "dimension", "octaves"}
    for name, interval in same[1].intervals.items():
        assert interval.low == pytest.approx(expected.intervals[name].low)


def test_intervals_over_samples():
    x = noise(2, samples=200) @ noise(64, 1, samples=2)
    found = scaling(x, over="samples")
    assert found.intervals["deviation"].n == 200
    assert found.intervals["dimension"].quantity == "mean over other samples, as many as these"
    with pytest.raises(ValueError, match="^over: got 'samples' for FeatureNetwork"):
        scaling(selfsim.FeatureNetwork(x), over="samples")


def test_tensors_give_what_arrays_give():
    """What runs on a card is written for tensors; it runs on a CPU as well, and is compared there."""
    window = Window(0.05, 0.5)
    d = np.sort(pdist(points(50, 3).T.numpy()))
    ranks = ranks_of(50, window)
    arrays = fit(d[ranks.first : ranks.last], ranks, need_weight=True)
    tensors = fit(
        torch.from_numpy(d[ranks.first : ranks.last]), ranks_of(50, window, torch.device("cpu")), need_weight=True
    )
    for got, expected in zip(tensors, arrays, strict=True):
        torch.testing.assert_close(got, torch.as_tensor(expected))


@pytest.mark.parametrize(("n", "cached"), [(60, 1), (2101, 0)])
def test_ranks_of_many_nodes_do_not_stay_on_a_card(n, cached):
    cached_ranks.cache_clear()
    assert ranks_of(n, window_for(n, None), torch.device("cpu")).first == n - 1
    assert cached_ranks.cache_info().currsize == cached


@pytest.mark.parametrize("window", [(0.1, 0.3), (0.0, 0.5), (0.5,), "ab", 3, (0.1, 1.5), (0.3, 0.1)])
def test_bad_windows(window):
    for function in (scaling, scaling_deviation):
        with pytest.raises(ValueError, match="^window: "):
            function(points(64, 2), window=window)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"draws": 1}, "draws"),
        ({"over": "layers"}, "over"),
        ({"level": 1.0}, "level"),
        ({"threshold": -1}, "threshold"),
    ],
)
def test_bad_options(options, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        scaling(points(64, 2), **options)


@pytest.mark.parametrize(("over", "method"), [("neurons", "pairs"), ("samples", "halves")])
def test_intervals_come_from_random_halves(over, method):
    """Each is that of `samples_interval`, with the seed, the draws and the level that were given."""
    x, options = noise(200), {"draws": 12, "seed": 5, "level": 0.7}
    found = scaling(x, over=over, **options)
    whole = x if over == "samples" else torch.arange(x.shape[1], dtype=torch.float64)[:, None]

    def estimate(part: torch.Tensor, name: str) -> float:
        chosen = part if over == "samples" else x[:, part[:, 0].long().sort().values]
        return float(getattr(scaling(chosen, window=found.window, draws=0), name))

    assert found.intervals
    for name, interval in found.intervals.items():
        expected = selfsim.samples_interval(
            lambda part, name=name: estimate(part, name), whole, method=method, **options
        )
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
        assert interval.level == 0.7


def test_an_interval_does_not_go_below_0():
    found = [scaling(noise(100, seed), draws=3, level=0.999) for seed in range(6)]
    ends = [interval.low for one in found for interval in one.intervals.values()]
    assert 0.0 in ends and min(ends) == 0.0


def test_the_threshold_is_that_of_the_window():
    given = (0.05, 0.6)
    found = scaling(points(128, 2), window=given, draws=0)
    assert found.threshold == noise_deviation(128, Window(*given)) != scaling(points(128, 2), draws=0).threshold
