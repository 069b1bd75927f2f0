"""Null draws keep what they should, bands and intervals have their coverage, and known values are recovered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from selfsim import (
    mean_interval,
    null_activations,
    null_band,
    paired_difference,
    rank_correlation,
    samples_interval,
    scaling,
    scaling_deviation,
    spectrum_exponent,
    ss_rate,
)
from selfsim.statistics.null_models import NullBand
from selfsim.statistics.rescaling import rescaled
from selfsim.uncertainty import _variance, exponent_interval


def some() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(64, 1, generator=generator) + torch.randn(64, 20, generator=generator)


def test_shuffled_keeps_each_neuron_and_breaks_what_they_share():
    x = some()
    draw = null_activations(x, null="shuffled", seed=3)
    assert torch.equal(draw.sort(0).values, x.sort(0).values)
    assert np.abs(np.corrcoef(x.numpy().T)[0, 1:]).mean() > 0.8
    assert np.abs(np.corrcoef(draw.numpy().T)[0, 1:]).mean() < 0.3


def test_gauss_keeps_the_overall_spread():
    x = some()
    draw = null_activations(x, null="gauss", seed=3)
    assert draw.shape == x.shape
    assert draw.dtype == x.dtype
    assert draw.std().item() == pytest.approx(x.std().item(), rel=0.1)


def test_gauss_has_mean_0_and_one_spread_for_all_neurons():
    x = some() * torch.tensor([10.0] * 10 + [0.1] * 10) + 50
    draws = torch.stack([null_activations(x, null="gauss", seed=seed) for seed in range(40)])
    spread = float(x.std(correction=0))
    assert abs(float(draws.mean())) < 4 * spread / draws.numel() ** 0.5
    of_neurons = draws.flatten(0, 1).std(0) / spread
    assert float(of_neurons.min()) > 0.9 and float(of_neurons.max()) < 1.1


def test_gauss_covariance_has_the_means_and_the_covariance_of_the_neurons():
    x = some().double()[:, :6] * torch.arange(1.0, 7.0) + 5 * torch.arange(6.0)
    draws = torch.cat([null_activations(x, null="gauss-covariance", seed=seed) for seed in range(400)])
    deviations = x.std(0, correction=0)
    assert (abs(draws.mean(0) - x.mean(0)) < 5 * deviations / len(draws) ** 0.5).all()
    found, expected = np.cov(draws.numpy().T), np.cov(x.numpy().T)
    np.testing.assert_allclose(
        found / np.outer(deviations, deviations), expected / np.outer(deviations, deviations), atol=0.05
    )


def test_a_band_has_the_level_that_was_asked_for():
    x = some()
    bands = [null_band(ss_rate, x, draws=60, level=level) for level in (0.5, 0.9)]
    assert [band.level for band in bands] == [0.5, 0.9]
    assert bands[1].low < bands[0].low < bands[0].high < bands[1].high


@pytest.mark.parametrize("unit", [1e-200, 1e160, 1e307])
@pytest.mark.parametrize("null", ["gauss", "gauss-covariance", "shuffled"])
def test_draws_at_any_magnitude(null, unit):
    x = some().double() / some().abs().max()
    draw, moved = (null_activations(a, null=null, seed=3) for a in (x, x * unit))
    torch.testing.assert_close(moved / unit, draw, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("null", ["gauss", "shuffled"])
def test_draws_are_their_seeds(null):
    x, state = some(), torch.get_rng_state()
    assert torch.equal(null_activations(x, null=null, seed=1), null_activations(x, null=null, seed=1))
    assert not torch.equal(null_activations(x, null=null, seed=1), null_activations(x, null=null, seed=2))
    assert torch.equal(state, torch.get_rng_state())


def test_band_holds_its_share_of_fresh_draws():
    x = torch.randn(32, 40, generator=torch.Generator().manual_seed(1))
    band = null_band(ss_rate, x, draws=200)
    fresh = [ss_rate(null_activations(x, null="gauss", seed=10_000 + k)).item() for k in range(300)]
    share = np.mean([band.low <= value <= band.high for value in fresh])
    assert 0.88 <= share <= 0.99


@pytest.mark.parametrize(
    ("law", "draws", "level"),
    [("normal", 10, 0.95), ("normal", 20, 0.95), ("lognormal", 40, 0.95), ("uniform", 10, 0.5), ("normal", 2, 0.9)],
)
def test_bands_hold_the_level_that_they_state(law, draws, level):
    values = getattr(np.random.default_rng(0), law)(size=(1500, draws + 1))
    bands = [NullBand(row[:-1], "gauss", level) for row in values]
    stated = bands[0].level
    assert stated == pytest.approx(min(level, (draws - 1) / (draws + 1)))
    assert f"level={stated:.3g}" in repr(bands[0])
    share = np.mean([band.low <= fresh <= band.high for band, fresh in zip(bands, values[:, -1], strict=True)])
    assert share == pytest.approx(stated, abs=3.5 * (stated * (1 - stated) / len(bands)) ** 0.5)


def test_z_score():
    band = NullBand(np.array([1.0, 2.0, 3.0]), "gauss")
    assert band.z_score(4.0) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="all 2 null draws give 1"):
        NullBand(np.array([1.0, 1.0]), "gauss").z_score(2.0)
    with pytest.raises(ValueError, match="all 3 null draws give 0.3"):
        NullBand(np.array([0.3, 0.1 + 0.2, np.float32(0.3)]), "gauss").z_score(2.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_refuse_a_value_that_is_not_finite(value):
    band = NullBand(np.arange(39.0), "gauss")
    for ask in (band.p_value, band.z_score):
        with pytest.raises(ValueError, match=f"value: got {value}, need a finite number"):
            ask(value)


def test_smallest_p_values():
    assert NullBand(np.arange(39.0), "gauss").p_value(50.0) == 2 / 40
    assert NullBand(np.zeros(39), "gauss").p_value(50.0) == 1 / 40  # ties: no draw stands alone at the other end


def test_p_value_is_a_rank_and_holds_its_level():
    draws = np.arange(99.0)
    assert NullBand(draws, "gauss").p_value(1000.0) == NullBand(draws, "gauss").p_value(-1000.0) == 2 / 100
    assert NullBand(draws, "gauss").p_value(49.0) == 1.0
    rng = np.random.default_rng(0)
    # Below all of many skewed draws is as rare as above all of them.
    assert NullBand(np.r_[1.0:50.0, 1e3:2e3:20.0], "gauss").p_value(0.0) == 2 / 100
    # Skewed values, for which a z-score would reject too often on one side.
    p = [NullBand(rng.lognormal(size=39), "gauss").p_value(rng.lognormal()) for _ in range(4000)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.012)
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.03)


def test_callers_own_null_model():
    drawn = [torch.full((3, 2), float(k)) for k in range(8)]

    def untrained(seed):
        return drawn[seed]

    band = null_band(lambda x: x.mean(), null=untrained, draws=5, seed=2)
    assert (band.null, band.values.tolist(), band.draws) == ("untrained", [2.0, 3.0, 4.0, 5.0, 6.0], 5)


def test_all_statistics_on_the_same_draws():
    x = some()
    bands = null_band({"mean": torch.mean, "rate": ss_rate}, x, null="shuffled", draws=4, seed=3)
    assert list(bands) == ["mean", "rate"]
    assert np.array_equal(bands["rate"].values, null_band(ss_rate, x, null="shuffled", draws=4, seed=3).values)


def test_a_draw_without_a_number_is_an_error():
    with pytest.raises(ValueError, match="statistic: got nan on null draw 0"):
        null_band(lambda x: math.nan, some(), draws=2)
    with pytest.raises(ValueError, match="not estimable: got 19 values above 0"):
        null_band(spectrum_exponent, torch.randn(20, 60), draws=2)
    with pytest.raises(TypeError, match="^statistic on null draw 0: got Scaling, need one number"):
        null_band(scaling, torch.randn(8, 40), draws=2)
    with pytest.raises(TypeError, match="^statistic 'all' on null draw 0: got Tensor, need one number"):
        null_band({"rate": ss_rate, "all": torch.abs}, some(), draws=2)
    with pytest.raises(ValueError, match="^statistic on null draw 3: activations: all 780 distances"):
        null_band(ss_rate, null=lambda seed: torch.eye(40) if seed == 5 else torch.randn(8, 40), draws=9, seed=2)
    with pytest.raises(ValueError, match="^statistic on null draw 0: activations: got 8 neurons .*need at least 32"):
        null_band(scaling_deviation, torch.randn(8, 8), draws=2)
    with pytest.raises(TypeError, match="activations: got NoneType"):
        null_band(ss_rate, null="gauss")
    with pytest.raises(ValueError, match="statistic: got an empty mapping"):
        null_band({}, some())


def test_numbers_are_rescaled_by_their_largest_size():
    x = torch.tensor([-3e250, 2.0, 1e200], dtype=torch.float64)
    for values in (x, -x):
        scaled, unit = rescaled(values)
        assert torch.equal(scaled * unit, values) and 0.5 <= float(scaled.abs().max()) <= 2


@pytest.mark.parametrize("level", [0.5, 0.8, 0.99])
def test_intervals_of_any_level_by_scipy(level):
    values = [0.3, 0.1, 0.7, 0.45, 0.2]
    mean = mean_interval(values, level=level)
    expected = stats.t.interval(level, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (mean.low, mean.high) == pytest.approx(expected)
    exponent = exponent_interval(2.5, 100, level=level)
    assert (exponent.low, exponent.high) == pytest.approx(stats.norm.interval(level, 2.5, 1.5 / 10))
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 1.0, 4.0, 3.0, 6.0, 5.0]
    rank, rho = rank_correlation(x, y, level=level), stats.spearmanr(x, y).statistic
    ends = stats.norm.interval(level, np.arctanh(rho), ((1 + rho**2 / 2) / 3) ** 0.5)
    assert (rank.low, rank.high) == pytest.approx(np.tanh(ends))


def test_a_falling_relation_is_the_mirror_of_a_rising_one():
    x = np.arange(7.0)
    for y in (x, [1.0, 0.0, 3.0, 2.0, 6.0, 5.0, 4.0]):
        rising, falling = rank_correlation(x, y), rank_correlation(x, -np.asarray(y))
        assert (falling.estimate, falling.low, falling.high) == pytest.approx(
            (-rising.estimate, -rising.high, -rising.low)
        )


def test_the_interval_over_samples_takes_estimate_seed_draws_and_level():
    x = some()
    found = samples_interval(ss_rate, x, draws=10, seed=3)
    assert found.estimate == ss_rate(x).item()
    assert found == samples_interval(ss_rate, x, draws=10, seed=3) != samples_interval(ss_rate, x, draws=10, seed=4)
    narrow = samples_interval(ss_rate, x, draws=10, seed=3, level=0.6)
    # Of 64 samples, but no more than ten draws.
    ratio = stats.t.ppf(0.8, 9) / stats.t.ppf(0.975, 9)
    assert (narrow.high - narrow.low) / (found.high - found.low) == pytest.approx(ratio)


@pytest.mark.parametrize(("signs", "share"), [((1, 1), 1 / 3), ((1, -1), 1.0)])
def test_the_variance_over_pairs_lies_between_a_third_of_that_of_halves_and_that(signs, share):
    """Halves that move alike would give less than nothing, and halves that move against each other too much."""
    drawn = np.random.default_rng(0).normal(size=30)
    values = np.outer(drawn - drawn.mean(), signs)
    assert _variance(values, "pairs", 40) == pytest.approx(share * _variance(values, "halves", 40))


def test_rank_correlation():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    assert rank_correlation(x, y).estimate == pytest.approx(stats.spearmanr(x, y).statistic)
    monotone = rank_correlation(x, np.exp(x))
    assert (monotone.estimate, monotone.high) == (1.0, 1.0)
    assert 0.5 < monotone.low < 1
    hits = []
    for _ in range(600):
        a = rng.normal(size=10)
        interval = rank_correlation(a, rng.normal(size=10))
        hits.append(interval.low <= 0 <= interval.high)
    assert 0.93 <= np.mean(hits) <= 0.985
    for pairs in (([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, math.nan], [1, 2, 3, 4])):
        with pytest.raises(ValueError, match="^x(, y)?: got"):
            rank_correlation(*pairs)


def test_intervals_name_their_quantity():
    x = some()
    for interval, words in (
        (mean_interval([1.0, 2.0], of="mean over seeds"), "mean over seeds"),
        (paired_difference([1.0, 2.0], [0.0, 3.0]), "mean difference"),
        (samples_interval(ss_rate, x, draws=4), "other samples, as many as these"),
        (exponent_interval(2.5, 100), "independent values"),
        (rank_correlation([1, 2, 3, 4], [1, 2, 4, 3]), "rank correlation"),
    ):
        assert words in interval.quantity
        with pytest.warns(DeprecationWarning, match="Interval.quantity"):
            assert interval.of == interval.quantity


@pytest.mark.parametrize(("exponent", "tail"), [(1.0, 10), (2.0, 1), (math.nan, 10), (math.inf, 10)])
def test_exponent_interval_messages(exponent, tail):
    with pytest.raises(ValueError, match="^(exponent|tail): got"):
        exponent_interval(exponent, tail)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 1}, "draws: got 1"),
        ({"draws": 2.5}, "draws: got 2.5, need an integer"),
        ({"level": 1.0}, "level: got 1.0"),
        ({"null": "x"}, "null: got 'x'"),
    ],
)
def test_band_messages(options, message):
    with pytest.raises(ValueError, match=message):
        null_band(ss_rate, some(), **options)


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5, -0.1, 95, math.nan, "0.95", None])
def test_every_interval_refuses_a_level_that_is_no_share(level):
    for function in (
        lambda: mean_interval([1.0, 2.0], level=level),
        lambda: mean_interval([1.0], level=level),
        lambda: paired_difference([1.0, 2.0], [0.0, 0.5], level=level),
        lambda: rank_correlation([1, 2, 3, 4], [1, 2, 4, 3], level=level),
        lambda: samples_interval(ss_rate, some(), draws=2, level=level),
        lambda: exponent_interval(2.5, 100, level=level),
        lambda: null_band(ss_rate, some(), draws=2, level=level),
    ):
        with pytest.raises(ValueError, match="^level: got"):
            function()


@pytest.mark.filterwarnings("error")
def test_values_near_the_ends_of_float64():
    with np.errstate(all="raise"):
        equal = mean_interval([1e308] * 3)
        assert (equal.estimate, equal.low, equal.high) == (1e308, 1e308, 1e308)
        spread = mean_interval([1.0e200, 2.0e200, 3.0e200])
        plain = mean_interval([1.0, 2.0, 3.0])
        assert (spread.low / 1e200, spread.high / 1e200) == pytest.approx((plain.low, plain.high))
        tiny = mean_interval([1.0e-310, 2.0e-310, 3.0e-310])
        assert tiny.low < 1e-310 < tiny.high < 1e-309
        assert mean_interval([0.0, 0.0]).high == 0
        assert mean_interval([1e307, 1e-308, 1e307]).estimate == pytest.approx(2e307 / 3)
        for values in ([1e308, -1e308], [1.7e308, 1.5e308, 1.7e308]):
            with pytest.raises(ValueError, match="^values: got .* need an interval within the range of float64"):
                mean_interval(values)
        with pytest.raises(ValueError, match="^values: got .*inf.*need one or more finite numbers"):
            paired_difference([1e308, 1.0], [-1e308, 1.0])
        huge = [-1e308, 1e308, 1e-308, 0.0, 5e307]
        assert rank_correlation(huge, [1, 5, 3, 2, 4]).estimate == pytest.approx(1.0)
        band = NullBand(np.array([1.0, 2.0, 3.0]) * 1e300, "gauss")
        assert band.z_score(4e300) == pytest.approx(2.0)
        assert band.high <= 3e300
        x = some().double()
        one, other = (samples_interval(lambda a, s=scale: s * a.mean(), x, draws=5) for scale in (1.0, 1e250))
        assert other.high / 1e250 == pytest.approx(one.high)


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8])
def test_numpy_integers_are_integers(number):
    x = some()
    assert samples_interval(ss_rate, x, draws=number(4), seed=number(1)) == samples_interval(
        ss_rate, x, draws=4, seed=1
    )
    band = null_band(ss_rate, x, draws=number(3), seed=number(2))
    assert np.array_equal(band.values, null_band(ss_rate, x, draws=3, seed=2).values)
    assert exponent_interval(2.5, number(9)) == exponent_interval(2.5, 9)


def test_ends_of_intervals_are_plain_numbers():
    for interval in (
        mean_interval([1.0, 2.0]),
        rank_correlation([1, 2, 3, 4], [1, 2, 4, 3]),
        samples_interval(ss_rate, some(), draws=4),
        exponent_interval(np.float64(2.5), 100),
    ):
        assert {type(end) for end in (interval.estimate, interval.low, interval.high)} == {float}


def test_no_interval_for_a_statistic_that_gives_no_number():
    x = some()
    for statistic in (lambda a: math.nan, lambda a: math.nan if len(a) < len(x) else 1.0):
        with pytest.raises(ValueError, match="statistic: got .*nan.*need finite numbers"):
            samples_interval(statistic, x, draws=3)
    with pytest.raises(ValueError, match="draws: got 2.5"):
        samples_interval(ss_rate, x, draws=2.5)


def width(interval) -> float:
    """The standard error that an interval of `samples_interval` was made from."""
    return (interval.high - interval.low) / 2 / stats.t.ppf(0.975, min(40, interval.n) - 1)


def test_methods_give_the_variance_that_theory_has():
    """A mean over pairs of products, of samples with mean 0.3: halves show three times what is due to pairs."""

    def products(a):
        n = len(a)
        return (a.sum() ** 2 - a.square().sum()) / (n * (n - 1))

    n, sets = 20, 80
    generator = torch.Generator().manual_seed(0)
    drawn = [0.3 + torch.randn(n, 1, generator=generator, dtype=torch.float64) for _ in range(sets)]
    single, pairs = 4 * 0.3**2 / n, 2 / (n * (n - 1))
    # A half has 45 of the 190 pairs.
    theory = {"halves": single + (190 / 45 - 1) * pairs, "splits": single + 190 / 90 * pairs, "pairs": single + pairs}
    found = {
        method: np.mean([width(samples_interval(products, x, draws=40, method=method)) ** 2 for x in drawn])
        for method in theory
    }
    # The bounds on what "pairs" may find add some to it.
    assert found == pytest.approx(theory, rel=0.25)
    assert found["pairs"] < found["splits"] < found["halves"]


@pytest.mark.parametrize("method", ["halves", "splits", "pairs"])
def test_every_method_knows_the_error_of_a_mean(method):
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [width(samples_interval(torch.mean, x, draws=40, method=method, seed=seed)) for seed in range(20)]
    assert np.mean(found) == pytest.approx(float(x.std()) / 20, rel=0.1)


def test_no_interval_where_all_halves_agree():
    noise = torch.randn(200, 60, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="statistic: got 3 on all 5 halves, need one that varies"):
        samples_interval(lambda a: spectrum_exponent(a, largest_exponent=3.0), noise, draws=5)
    with pytest.raises(ValueError, match="method: got 'pair'.*did you mean 'pairs'"):
        samples_interval(ss_rate, noise, method="pair")


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [i.low <= 5 <= i.high for i in (mean_interval(rng.normal(5, 2, size=4)) for _ in range(2000))]
    assert 0.935 <= np.mean(hits) <= 0.965


def test_single_value_has_an_open_interval():
    interval = mean_interval([2.0])
    assert (interval.estimate, interval.low, interval.high) == (2.0, -math.inf, math.inf)


def test_paired_difference_uses_the_pairs():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, size=6)
    effect = paired_difference(base + 1 + rng.normal(0, 0.01, 6), base)
    assert 0.97 < effect.low < 1 < effect.high < 1.03
    assert f"{effect:.1f}" == "1.0 [1.0, 1.0]"


@pytest.mark.parametrize(("a", "b", "message"), [([1.0], [], "control: got"), ([1.0, 2.0], [1.0], "need pairs")])
def test_pairs_must_pair(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(a, b)
    with pytest.raises(ValueError, match="need one or more finite numbers"):
        mean_interval([1.0, math.nan])


@pytest.mark.parametrize("samples", [5, 7, 10])
@pytest.mark.parametrize("method", ["halves", "splits", "pairs"])
def test_the_variance_of_a_mean_is_that_of_the_textbook_for_odd_numbers_too(method, samples):
    ratios = []
    for seed in range(40):
        x = torch.randn(samples, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = samples_interval(lambda a: a.mean(), x, draws=300, seed=seed, method=method)
        reach = (found.high - found.low) / 2 / stats.t.ppf(0.975, samples - 1)
        ratios.append(reach**2 / float(x.var() / samples))
    assert np.mean(ratios) == pytest.approx(1, abs=0.06)


def test_masked_numbers_are_refused():
    with pytest.raises(ValueError, match="values: got masked_array"):
        mean_interval(np.ma.array([1.0, 2.0, 1e6], mask=[0, 0, 1]))
