"""Null draws, bands and intervals: they keep what they say they keep, and recover what was put in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from selfsim import mean_interval, null_activations, null_band, paired_difference, ss_rate
from selfsim.measure.null_models import NullBand


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


def test_z_score():
    band = NullBand(np.array([1.0, 2.0, 3.0]), "gauss")
    assert band.z_score(4.0) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="all 2 null draws give 1"):
        NullBand(np.array([1.0, 1.0]), "gauss").z_score(2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"draws": 1}, "draws: got 1"), ({"level": 1.0}, "level: got 1.0"), ({"null": "x"}, "null: got 'x'")],
)
def test_band_messages(options, message):
    with pytest.raises(ValueError, match=message):
        null_band(ss_rate, some(), **options)


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


@pytest.mark.parametrize(("a", "b"), [([1.0], []), ([1.0, 2.0], [1.0])])
def test_pairs_must_pair(a, b):
    with pytest.raises(ValueError, match="need pairs"):
        paired_difference(a, b)
    with pytest.raises(ValueError, match="need one or more finite numbers"):
        mean_interval([1.0, math.nan])
