"""The statistics of the second study against scipy, enumeration, a published example and closed forms."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from selfsim.uncertainty import Interval
from study import convergence_statistics as statistics
from study.convergence_tables import CONTROL, FREE, HOLD, LOWER, PUBLISHED, SCALING

from .made_convergence import FAMILIES, made_tables


def test_sign_flips_are_counted_over_all_assignments():
    random = np.random.default_rng(0)
    for n in (2, 5, 8, 10):
        values = random.standard_normal(n) + 0.4
        means = [np.mean(np.multiply(signs, values)) for signs in itertools.product((-1, 1), repeat=n)]
        counted = np.mean(np.abs(means) >= abs(values.mean()) - 1e-12)
        assert statistics.sign_flip(values) == pytest.approx(counted)


def test_sign_flips_count_assignments_with_equal_means_as_extreme():
    """Differences of accuracies are multiples of 1 / images, so that many means are equal but for rounding."""
    hits = [
        (4559, 4564),
        (4695, 4704),
        (4548, 4547),
        (4530, 4517),
        (4620, 4623),
        (4533, 4521),
        (4472, 4467),
        (4545, 4548),
    ]
    exact = [b - a for a, b in hits]
    rounded = [b / 10000 - a / 10000 for a, b in hits]
    means = [abs(np.dot(signs, exact)) for signs in itertools.product((-1, 1), repeat=len(exact))]
    assert statistics.sign_flip(rounded) == np.mean(np.array(means) >= abs(sum(exact)))


def test_arms_at_one_learning_rate_that_the_free_arm_has_not():
    tables = made_tables(families=FAMILIES[:2])
    assert not len(statistics.same_rate(tables))
    runs = tables.runs.copy()
    first = runs.architecture == FAMILIES[0]
    runs.loc[first & (runs.arm != FREE), "learning_rate"] = 0.004
    runs.loc[first & (runs.arm == SCALING), "learning_rate"] = 0.002
    runs = runs[(runs.run != f"{FAMILIES[0]}-{HOLD}-3") & (runs.run != f"{FAMILIES[0]}-{FREE}-4")]
    found = statistics.same_rate(replace(tables, runs=runs)).set_index("arm")
    assert list(found.index) == [HOLD, LOWER] and set(found.architecture) == {FAMILIES[0]}
    assert found.pairs.tolist() == [9, 10]
    own = runs[first].pivot(index="seed", columns="arm", values="test_accuracy").astype(float)
    for arm in found.index:
        both = own[[arm, PUBLISHED]].dropna()
        test = stats.ttest_rel(both[arm], both[PUBLISHED])
        low, high = test.confidence_interval()
        assert (found.interval[arm].low, found.interval[arm].high) == pytest.approx((low, high))
        assert found.p[arm] == pytest.approx(test.pvalue)
        assert found.exact[arm] == statistics.sign_flip(both[arm] - both[PUBLISHED])


def test_equivalence_is_the_larger_of_two_one_sided_t_tests():
    random = np.random.default_rng(1)
    for shift in (-0.02, -0.004, 0.0, 0.007, 0.03):
        values = shift + 0.01 * random.standard_normal(10)
        error = stats.sem(values)
        p, equivalence = statistics.t_tests(values.mean(), error, 9)
        assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
        above = stats.ttest_1samp(values, -0.01, alternative="greater").pvalue
        below = stats.ttest_1samp(values, 0.01, alternative="less").pvalue
        assert equivalence == pytest.approx(max(above, below))
    assert statistics.t_tests(0.0, 0.0, 9) == (1, 0) and statistics.t_tests(0.02, 0.0, 9) == (0, 1)


def test_the_pooled_estimate_is_that_of_a_published_example():
    # Kacker, Combining information from interlaboratory evaluations, Metrologia 41 (2004); R's metafor, method PM.
    effects = [61.0, 61.4, 62.21, 62.3, 62.34, 62.6, 62.7, 62.84, 65.9]
    variances = [0.2025, 1.21, 0.09, 0.2025, 0.3844, 0.5625, 0.0676, 0.0225, 1.8225]
    result = statistics.pooled(effects, variances)
    assert result.tau**2 == pytest.approx(0.705395309224248, rel=1e-8)
    assert result.tau == pytest.approx(0.8399, abs=6e-5)
    assert result.interval.estimate == pytest.approx(62.4076199113286)
    reach = stats.t.ppf(0.975, 8) * 0.338030602684471
    assert result.interval.high - result.interval.estimate == pytest.approx(reach)


def test_families_without_errors_of_their_own_are_a_plain_t_test():
    effects = np.array([0.004, 0.011, -0.002, 0.006])
    result, plain = statistics.pooled(effects, [1e-14] * 4), stats.ttest_1samp(effects, 0)
    low, high = plain.confidence_interval()
    assert (result.interval.low, result.interval.high) == pytest.approx((low, high), rel=1e-6)
    assert result.p == pytest.approx(plain.pvalue, rel=1e-6) and result.tau == pytest.approx(effects.std(ddof=1))


def test_families_that_agree_have_no_variance_between_them_and_no_narrower_interval():
    result = statistics.pooled([0.01] * 4, [0.0004] * 4)
    assert result.tau == 0
    assert result.interval.high - 0.01 == pytest.approx(stats.t.ppf(0.975, 3) * 0.01)  # 1 / sqrt(sum of weights)
    with pytest.raises(ValueError, match="effects: got 1, need at least two"):
        statistics.pooled([0.01], [0.0004])


def made_interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95, 5)


@pytest.mark.parametrize(
    ("ends", "corrected", "equivalence", "counts", "expected"),
    [
        ((0.012, 0.03), 0.001, 0.9, True, "gain"),
        ((0.001, 0.007), 0.01, 0.001, True, "gain of less than one point"),
        ((-0.03, -0.012), 0.001, 0.9, False, "loss"),
        ((-0.004, 0.004), 0.9, 0.001, True, "no change of one point"),
        ((-0.004, 0.004), 0.9, 0.001, False, "null does not count"),
        ((-0.02, 0.03), 0.6, 0.3, True, "inconclusive"),
    ],
)
def test_verdicts_follow_the_table_of_the_design(ends, corrected, equivalence, counts, expected):
    assert statistics.verdict(made_interval(*ends), corrected, equivalence, null_counts=counts) == expected
    assert statistics.verdict(None, math.nan, math.nan, null_counts=True) == statistics.NOT_RUN


def test_a_gain_that_was_put_in_is_found_and_the_rest_is_a_null():
    tables = made_tables({LOWER: 0.02})
    pools = statistics.over_families(tables)
    assert pools.verdict[LOWER].startswith("gain") and pools.interval[LOWER].estimate == pytest.approx(0.02, abs=0.004)
    assert pools.verdict[HOLD] == statistics.NULL
    assert pools.families[HOLD] == list(FAMILIES) and pools.pairs[HOLD] == 10
    smaller, larger = sorted(pools.p[[HOLD, LOWER]])
    assert sorted(pools.corrected[[HOLD, LOWER]]) == pytest.approx(sorted([2 * smaller, max(2 * smaller, larger)]))
    assert pools.corrected[PUBLISHED] == pools.p[PUBLISHED]


def test_family_comparisons_are_those_of_scipy():
    tables = made_tables()
    table = statistics.by_family(tables)
    wide = tables.runs.pivot(index=["architecture", "seed"], columns="arm", values="test_accuracy")
    row, own = table.loc[("vit_small", HOLD)], wide.loc["vit_small"]
    plain = stats.ttest_rel(own[HOLD], own["free"])
    low, high = plain.confidence_interval()
    assert (row.interval.low, row.interval.high, row.p) == pytest.approx((low, high, plain.pvalue))
    assert len(table) == 25


def test_a_null_needs_a_control_that_gains():
    tables = made_tables({CONTROL: 0.004})
    assert statistics.over_families(tables).verdict[HOLD] == statistics.NULL_DOES_NOT_COUNT
    assert statistics.NULL not in set(statistics.by_family(tables).verdict)


def test_a_family_outside_the_regime_is_shown_and_not_pooled():
    tables = made_tables()
    runs = tables.runs.copy()
    runs.loc[runs.architecture == "mlp", "train_accuracy"] = 0.5
    tables = replace(tables, runs=runs)
    assert statistics.regime(tables).met.to_dict() == {name: name != "mlp" for name in FAMILIES}
    assert statistics.over_families(tables).families[HOLD] == list(FAMILIES[1:])
    assert ("mlp", HOLD) in statistics.by_family(tables).index
    history = tables.history.copy()
    early = (history.epoch == 54) & history.run.str.startswith("mixer")
    history.loc[early, "accuracy"] -= 0.006
    assert not statistics.regime(replace(tables, history=history)).met["mixer"]


def test_a_failed_run_stays_in_with_the_accuracy_of_a_guess():
    tables = made_tables(families=("mlp",), seeds=3)
    runs = tables.runs.copy()
    failed = runs.run == "mlp-hold-1"
    runs.loc[failed, ["status", "test_accuracy"]] = ["failed", math.nan]
    values = statistics.differences(replace(tables, runs=runs))["mlp", HOLD]
    assert len(values) == 3 and values[1] == pytest.approx(0.1 - runs.test_accuracy[runs.run == "mlp-free-1"].item())


def test_rates_that_went_to_their_targets_have_moved():
    table = statistics.reached(made_tables(reach=0.8))
    assert table.moved.loc[(slice(None), [LOWER, SCALING])].all()
    assert table.way["vit_small", LOWER] == pytest.approx(0.8, abs=0.03)
    assert not statistics.reached(made_tables(reach=0.1)).moved["mlp", LOWER]


def test_the_noise_floor_is_the_spread_over_seeds():
    tables = made_tables()
    floor = statistics.noise_floor(tables)
    free = tables.runs[(tables.runs.arm == "free") & (tables.runs.architecture == "mlp")].test_accuracy.astype(float)
    assert floor.sd["mlp"] == pytest.approx(free.std(ddof=1)) and floor.low["mlp"] < floor.sd["mlp"] < floor.high["mlp"]


def test_empty_and_partial_tables_give_what_there_is():
    empty = made_tables(families=())
    assert len(statistics.by_family(empty)) == 0 and len(statistics.over_families(empty)) == 0
    assert len(statistics.reached(empty)) == 0 and len(statistics.noise_floor(empty)) == 0
    part = made_tables(families=("mlp", "mixer"), arms=("free", HOLD), seeds=4)
    assert len(statistics.by_family(part)) == 2 and len(statistics.over_families(part)) == 0


@pytest.mark.long
def test_the_pooled_interval_covers_the_mean_of_families_like_these():
    random = np.random.default_rng(0)
    inside, studies = 0, 2000
    for _ in range(studies):
        families = 0.01 + 0.003 * random.standard_normal(5)
        pairs = families[:, None] + 0.01 * random.standard_normal((5, 10))
        interval = statistics.pooled(pairs.mean(1), pairs.var(1, ddof=1) / 10).interval
        inside += interval.low <= 0.01 <= interval.high
    assert inside / studies > 0.935


def test_an_arm_with_a_layer_without_a_rate_is_not_said_to_have_moved():
    made = made_tables(families=FAMILIES[:1], arms=("free", LOWER), seeds=8)
    assert statistics.reached(made).moved["mlp", LOWER]
    history = made.history.copy()
    lost = history.run.str.contains(f"-{LOWER}-") & (history.layer == history.layer[history.layer != ""].iloc[0])
    history.loc[lost, statistics.MEASURES[LOWER]] = math.nan
    row = statistics.reached(replace(made, history=history)).loc[("mlp", LOWER)]
    assert row.closer is None and not row.moved and not row.away


@pytest.mark.parametrize("epochs", [15, 55, 60])
def test_settling_is_measured_from_the_look_at_nine_tenths(epochs):
    made = made_tables(families=FAMILIES[:1], arms=("free",), seeds=3)
    looks = {0: 0.1, round(0.9 * epochs): 0.5, epochs: 0.501}
    rows = [
        {"run": run, "epoch": epoch, "split": "validation", "layer": "", "accuracy": accuracy}
        for run in made.runs.run
        for epoch, accuracy in looks.items()
    ]
    tables = replace(made, runs=made.runs.assign(epochs=epochs), history=pd.DataFrame(rows))
    assert statistics.regime(tables).settling["mlp"] == pytest.approx(0.001)
