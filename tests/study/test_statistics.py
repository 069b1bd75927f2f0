"""The statistics of the study: corrections, power, pairs, what a constraint did, and distances from noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from selfsim import TrainConfig, ss_rate
from study import design, statistics

from .made_study import DEFAULT, PUBLISHED, made_run

ROOT = Path(__file__).parents[2]


def test_holms_correction():
    # Smallest times 4, next times 3 …, never below one before it: worked by hand.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, math.nan, 0.9]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)


@pytest.mark.long
def test_without_an_effect_one_study_in_twenty_finds_something():
    random = np.random.default_rng(0)
    found = [
        (statistics.compared(dict(enumerate(random.standard_normal((8, 5))))).corrected < design.ALPHA).any()
        for _ in range(800)
    ]
    assert 0.03 < np.mean(found) < 0.07


def test_the_smallest_effect_is_found_in_four_of_five_studies():
    for pairs in (3, 5):
        effect = statistics.minimal_effect(pairs, 2.0)
        draws = effect + 2 * np.random.default_rng(0).standard_normal((4000, pairs))
        assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)


def test_pairs_share_their_seed_whatever_is_missing():
    runs = [made_run("mlp", seed=s, accuracy=0.1 * s) for s in (3, 1, 2)]
    runs += [made_run("mlp", DEFAULT, s, accuracy=0.1 * s + 0.03) for s in (2, 0, 3)]
    found = statistics.pairs(runs)
    assert statistics.differences(found, "accuracy") == {("mlp", design.DEFAULT): pytest.approx([0.03, 0.03])}
    table = statistics.compared(statistics.differences(found, "accuracy"))
    assert table.pairs.tolist() == [2] and table.interval.tolist() == [None] and np.isnan(table.corrected).all()


@pytest.mark.parametrize(
    ("constraint", "name"),
    [
        (None, "unconstrained"),
        ({"plain": True}, "target 0.1, weight 10"),
        ({"plain": True, "target": 0.05, "weight": 100}, "target 0.05, weight 100"),
        ({}, "constraint {}"),
        ({"target": 0.2, "weight": 100}, 'constraint {"ends": "detached", "target": 0.2, "weight": 100}'),
        (PUBLISHED, "as published"),
        ({"plain": True, "target": {"schedule": "linear", "start": 0.2, "end": 0.1}}, "linear target"),
        ({"plain": True, "target": {"blocks.0": 0.1}}, "random targets"),
        ({"scale": True, "target": {"blocks.0": 2.5}}, "scale alone"),
    ],
)
def test_arms_are_named_by_what_is_done(constraint, name):
    assert design.arm(TrainConfig("mlp", constraint=constraint)) == name


def manipulated(**constrained):
    runs = [made_run("mlp", None, seed, rates=(0.2, 0.2, 0.2 + 0.001 * seed)) for seed in range(5)]
    return statistics.manipulation(
        statistics.pairs([*runs, *(made_run("mlp", DEFAULT, s, **constrained) for s in range(5))])
    )


def test_the_constraint_is_seen_to_do_what_it_says():
    table = manipulated(rates=(0.2, 0.15, 0.12), median=3.0)
    assert table.moved.item() is True and table.as_intended.item() is True
    assert table.factor.item() == pytest.approx(1.5)
    assert table["ss_rate_left_out"].item().estimate == pytest.approx(0.12 - 0.202)


@pytest.mark.parametrize(
    ("constrained", "moved"),
    [
        ({"rates": (0.2, 0.15, 0.12), "kin": 0.203}, True),  # single neurons only
        ({"rates": (0.2, 0.15, 0.12), "median": 8.0}, True),  # mostly a rescaling
        ({"rates": (0.2, 0.2, 0.202)}, False),  # the rate stayed
        ({"rates": (0.2, 0.2, 0.02)}, True),  # below the target, yet nearer to it
        ({"rates": (0.2, 0.2, 0.35)}, False),  # away from it
        ({"rates": (0.2, 0.2, math.nan)}, False),  # collapsed
    ],
)
def test_and_not_where_it_does_something_else(constrained, moved):
    table = manipulated(**constrained)
    assert table.moved.item() is moved
    assert table.as_intended.item() is (constrained["rates"][-1] == 0.02)


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_noise_of_any_size_is_scored_as_noise(size):
    neurons = statistics._widths("mlp", "tiny", ("blocks.0",))["blocks.0"]
    x = size * torch.randn(128, neurons, generator=torch.Generator().manual_seed(5))
    distances = torch.pdist(x.T) / math.sqrt(128)
    run = made_run("mlp", rates=(0.2, 0.2, float(ss_rate(x))), median=float(distances.median()))
    assert abs(statistics.mean_score(run)) < 3
    ideal = made_run("mlp", rates=(0.2, 0.2, 0.0), median=float(distances.median()))
    assert statistics.mean_score(ideal) < -5


def test_architectures_are_the_units_of_groups_and_one_rank_test_compares_them():
    scores = {"mlp": (1.0, 2.0, 1.5), "resmlp": (4.0, 5.0, 4.5), "vgg11": (8.0, 8.5, 9.0), "resnet34": (7.0, 7.5, 8.0)}
    runs = [made_run(name, seed=seed) for name in scores for seed in range(3)] + [made_run("mlp", DEFAULT, 0)]

    def value(run):
        return scores[run.config.architecture][run.config.seed]

    by_name = statistics.architecture_scores(runs, value)
    assert by_name == {name: list(values) for name, values in scores.items()}
    assert statistics.same_distribution(by_name) == pytest.approx(stats.kruskal(*scores.values()).pvalue)
    assert math.isnan(statistics.same_distribution({"mlp": [1.0, 2.0, 3.0], "resmlp": [1.0]}))
    interval = statistics.convolution_difference(by_name)
    test = stats.ttest_ind([8.5, 7.5], [1.5, 4.5], equal_var=False).confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((test.low, test.high)) and interval.n == 4
    assert statistics.convolution_difference({k: v for k, v in by_name.items() if k != "vgg11"}) is None


def test_a_layer_of_mostly_dead_neurons_has_a_rate_and_no_scale():
    free, held = made_run("mlp"), made_run("mlp", DEFAULT, median=0.0)
    assert math.isnan(statistics.scale_factor([(free, held)])) and math.isnan(statistics.mean_score(held))
    row = statistics.manipulation({("mlp", "a"): [(free, held)] * 3}).iloc[0]
    assert math.isnan(row.factor) and not row.as_intended
