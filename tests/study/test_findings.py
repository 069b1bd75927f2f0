"""What the study finds in made-up runs with and without an effect."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from selfsim import TrainConfig
from selfsim.models.architectures import ARCHITECTURES
from selfsim.training.runs import Run
from selfsim.uncertainty import mean_interval
from study import design, findings, findings_text, layers, statistics

from .made_study import DEFAULT, FAMILIES, made_run, made_stage

TEN = tuple(entry.name for entry in ARCHITECTURES)


@pytest.mark.parametrize(("sign", "verdict"), [(-1, "reproduced"), (1, "not reproduced at this scale")])
def test_ten_families_decide_whether_the_invariant_ones_gain(sign, verdict):
    runs, rows = [], []
    for k, name in enumerate(TEN):
        for seed in range(3):
            runs += [made_run(name, seed=seed, rates=(0.2, 0.2, 0.2 + 0.001 * seed))]
            runs += [made_run(name, DEFAULT, seed, accuracy=0.5 + 0.01 * k + 0.001 * seed)]
            for layer, sides in (("a", -1), ("b", 1)):
                spread = 0.1 * (10 + sign * k) + 0.01 * seed
                values = {"exponent at most 3": 2 + sides * spread, "exponent": 4 + sides * spread}
                values |= {"dimension": 10 + sides * spread}
                rows.append({"run": f"{name}-{seed}", "architecture": name, "seed": seed, "layer": layer} | values)
    first = [run for run in runs if run.config.architecture in FAMILIES]
    stages = {"families": first, "others": [run for run in runs if run not in first]}
    table = pd.DataFrame(rows)
    found = findings.findings(stages, invariance=table)["invariance"]
    assert found.verdict == verdict
    assert found.table.families.tolist() == [10, 10, 10]
    assert found.tested.startswith("10 families, 3 seeds")
    assert found.effects[0].startswith(f"lowest of 3: rank correlation {-sign:+.2f}".replace("-", "−"))
    assert findings.findings(stages)["invariance"].verdict == "undecided"
    nine = table[table.architecture != "pvt"]
    assert findings.findings(stages, invariance=nine)["invariance"].verdict == "undecided"


def test_the_spread_between_layers_is_the_papers_and_a_mean_over_seeds():
    rows = [("mlp", 0, 1.0, 4.0), ("mlp", 0, 2.0, 6.0), ("mlp", 1, 1.0, 5.0), ("mlp", 1, 1.0, 5.0)]
    table = pd.DataFrame(
        [
            {"run": f"{n}-{s}", "architecture": n, "seed": s, "layer": str(i), "exponent": e, "dimension": d}
            | {"exponent at most 3": e if i else math.nan}
            for i, (n, s, e, d) in enumerate(rows)
        ]
    )
    spread = layers.spreads(table).loc["mlp"]
    assert spread["exponent"] == pytest.approx((0.5 + 0) / 2)  # standard deviations over n
    assert spread["dimension"] == pytest.approx((2 / 5 + 0) / 2)  # ranges over means
    assert spread["exponent at most 3"] == 0  # of the first network, one layer alone has an estimate


def test_a_run_that_collapses_or_fails_stays_in():
    runs = made_stage(seeds=4, families=("mlp",))
    runs += [made_run("mlp", seed=4), made_run("mlp", DEFAULT, 4, accuracy=0.2, rates=(0.2, 0.2, math.nan))]
    failed = made_run("mlp", seed=5)
    runs += [failed, Run(TrainConfig("mlp", constraint=DEFAULT, seed=5), [], failed.built_as, {}, {})]
    table = findings.gains_table(runs)
    row = table.loc["mlp", design.DEFAULT]
    assert row.pairs == 6
    assert statistics.differences(statistics.pairs(runs), "accuracy")["mlp", design.DEFAULT][-2:] == pytest.approx(
        [0.2 - 0.5, 0.1 - 0.5]
    )
    assert not row.moved and row.verdict == "not reproduced at this scale"
    assert math.isnan(row.factor)


def test_a_study_with_an_effect_finds_it():
    found = findings.findings({"families": made_stage(gain=0.06)})
    table = found["gain"].table
    assert table.verdict.xs(design.DEFAULT, level=1).eq("reproduced").all()
    assert table.verdict.xs(design.PUBLISHED, level=1).eq("not reproduced at this scale").all()
    assert found["gain"].verdict.startswith("reproduced for Plain MLP, ResMLP-12, ViT-S and ResNet-34 (target 0.1")
    assert found["gain"].verdict.endswith("; not reproduced at this scale in the other 4")
    assert found["performance"].verdict.startswith("shown for ") and len(found["performance"].effects) == 4
    assert found["gain"].tested.startswith("8 comparisons over 5 seeds, 15 epochs, all images of handwritten digits")


def test_a_study_without_one_says_so():
    found = findings.findings({"families": made_stage()})
    assert found["gain"].verdict == "not reproduced at this scale"
    assert found["performance"].verdict == found["path"].verdict == found["degrade"].verdict == "not shown"
    assert {found[key].verdict for key in ("limit", "time")} == {"not tested"}
    assert found["invariance"].verdict == "undecided"  # four families of ten


def test_rates_that_rise_in_training_are_degradation_and_those_that_fall_are_not():
    for last, verdict in ((0.25, "shown"), (0.15, "shown the other way round")):
        runs = [made_run("mlp", seed=s, rates=(0.5, 0.2, last + 0.001 * s)) for s in range(5)]
        assert findings.findings({"families": runs})["degrade"].verdict == verdict


def test_the_first_epoch_stands_beside_the_change_after_it():
    rates = {"mlp": (0.3, 0.2), "resmlp": (0.1, 0.2), "vit_small": (0.2, 0.2)}
    runs = [
        made_run(name, seed=s, rates=(early, later + 0.01 * (s - 2), later + 0.01 * (s - 2)))
        for name, (early, later) in rates.items()
        for s in range(5)
    ]
    found = findings.findings({"families": runs})["degrade"]
    assert found.verdict == "not shown"
    by_name = found.table.first_epoch.droplevel(1)
    assert by_name.map(lambda interval: interval.estimate).to_dict() == pytest.approx(
        {name: later - early for name, (early, later) in rates.items()}
    )
    assert "rose in ResMLP-12 and fell in Plain MLP, of 3" in found.effects[-1]


def test_a_table_of_findings_has_one_line_an_effect_and_text_one_item():
    found = findings.findings({"families": made_stage(gain=0.06)})
    cell = findings_text.findings_table([found["gain"]]).effects.iloc[0]
    lines = findings_text.in_words(found["gain"]).splitlines()
    assert cell.split("<br>") == list(found["gain"].effects) == [line.removeprefix("- ") for line in lines[2:]]
    assert [effect.split(":")[0] for effect in found["gain"].effects] == ["lowest of 8", "highest of 8"]


@pytest.mark.parametrize(
    ("n", "dimension", "rate"), [(32, 1, 0.665), (128, 1, 0.768), (128, 3, 0.768), (512, 2, 0.824)]
)
def test_a_power_law_has_the_same_high_rate_in_every_dimension(n, dimension, rate):
    pairs = n * (n - 1) // 2
    distances = 1e6 * (np.arange(1, pairs + 1) / pairs) ** (1 / dimension)  # so long that ln(1 + l) is ln l
    scales = np.geomspace(distances[0], distances[-1], 20_000)
    counts = n - (n - 1) * np.log1p((n - 1) * np.searchsorted(distances, scales) / pairs) / np.log(n)
    ideal = np.linspace(1, 0, len(scales))
    by_definition = 2 * np.mean(np.abs(np.log(counts) / np.log(n) - ideal))
    assert findings.power_law_rate(n) == pytest.approx(by_definition, abs=0.003)
    assert findings.power_law_rate(n) == pytest.approx(rate, abs=5e-4)


def test_with_two_seeds_nothing_is_tested():
    found = findings.findings({"families": made_stage(seeds=2)})
    asked = {key: one.verdict for key, one in found.items() if one.claim not in ("C1", "C2", "C8", "C9")}
    assert set(asked.values()) == {"not tested"} and len(asked) > 8
    assert not any(found[key].effects for key in asked if key != "invariance")


@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "shown"), (-0.02, "shown the other way round"), (0, "not shown")])
def test_a_target_found_by_looking_is_asked_for_again(gain, verdict):
    runs, noise = [], np.random.default_rng(0)
    for name in ("resmlp", "vit_small"):
        for seed in range(5, 15):
            for constraint, better in ((None, 0), ({"target": 0.2, "weight": 10}, gain)):
                runs.append(made_run(name, constraint, seed, accuracy=0.5 + better + 0.003 * noise.standard_normal()))
    found = findings.findings({"families": made_stage(), "confirm": runs})["confirm"]
    assert found.verdict == verdict
    assert found.table.pairs.tolist() == [10, 10]
    assert "confirm" not in findings.findings({"families": made_stage()})


def with_scale(*, beyond=0.0, alone=0.0, median=3.0, seeds=10):
    """Stage f: the gains of scale alone, and of the target beyond it; median distances are 6, 3 and this."""
    runs, noise = [], np.random.default_rng(0)
    control = {"scale": True, "target": {"blocks.0": 3.0}, "weight": 1}
    for seed in range(5, 5 + seeds):
        for constraint, better, scale in (
            (None, 0, 6.0),
            ({"target": 0.2, "weight": 10}, alone + beyond, 3.0),
            (control, alone, median),
        ):
            accuracy = 0.5 + better + 0.003 * noise.standard_normal()
            runs.append(made_run("vit_small", constraint, seed, accuracy=accuracy, median=scale))
    return runs


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        ({"alone": 0.03}, "scale gives all of it"),
        ({"beyond": 0.03}, "scale does not give it"),
        ({"alone": 0.03, "beyond": 0.03}, "scale gives a part of it"),
        ({}, "undecided"),
        ({"alone": 0.03, "median": 3.25}, "scale gives all of it"),
        ({"alone": 0.03, "median": 3.35}, "undecided"),  # the control did not reach the scale
        ({"alone": 0.03, "median": 2.65}, "undecided"),
        ({"alone": 0.03, "seeds": 2}, "not tested"),
    ],
)
@pytest.mark.long
def test_a_gain_is_held_against_that_of_scale_alone(made, verdict):
    runs = with_scale(**made)
    found = findings.findings({"families": made_stage(), "control": runs})["scale"]
    assert found.verdict == verdict
    first, second = found.table.index
    assert (first, second) == ("scale alone − unconstrained", "target 0.2, weight 10 − scale alone")
    assert found.table.factor.tolist() == pytest.approx([made.get("median", 3) / 6, 3 / made.get("median", 3)])
    if verdict != "not tested":
        assert found.table.interval[first].estimate == pytest.approx(made.get("alone", 0), abs=0.004)
        assert found.table.interval[second].estimate == pytest.approx(made.get("beyond", 0), abs=0.004)
    assert "scale" not in findings.findings({"families": made_stage()})
    moved = statistics.manipulation(statistics.pairs(runs)).moved
    assert not moved["vit_small", "scale alone"]  # it has no target for the rate


def test_a_control_that_fails_counts_as_a_guess_and_has_no_scale():
    runs = with_scale(alone=0.03, seeds=5)
    control = next(run for run in runs if design.arm(run.config) == design.SCALE_ALONE)
    failed = replace(control, config=replace(control.config, seed=20), history=[])
    free = made_run("vit_small", None, 20, accuracy=0.5, median=6.0)
    table = findings.scale_finding([*runs, free, failed]).table
    assert table.pairs.tolist() == [6, 5]
    assert table.interval.iloc[0].estimate == pytest.approx((5 * 0.03 + 0.1 - 0.5) / 6, abs=0.004)
    assert table.factor.tolist() == pytest.approx([0.5, 1])


@pytest.mark.parametrize(("fixed", "verdict"), [(-0.03, "not testable here"), (0.0, "reproduced")])
def test_a_target_in_time_is_held_against_a_fixed_one_that_does_not_lose(fixed, verdict):
    linear = {"target": {"schedule": "linear", "start": 0.2, "end": 0.1}, "weight": 10}
    runs = made_stage(families=("resmlp",), gain=fixed)
    runs += [
        made_run("resmlp", linear, s, accuracy=0.58 + 0.001 * s, rates=(0.2, 0.2, 0.1 + 0.001 * s)) for s in range(5)
    ]
    found = findings.findings({"targets": runs})["time"]
    assert found.table.index.tolist() == [("resmlp", "linear target")]
    of_fixed = [r for r in runs if r.config.constraint == DEFAULT]
    gains = [0.58 + 0.001 * r.config.seed - statistics.measured(r, "accuracy") for r in of_fixed]
    assert found.table.interval.iloc[0].estimate == pytest.approx(mean_interval(gains).estimate)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.06, "loses more than 4 of 4 others"), (0.0, "loses more than 4 of 4 others; no family gains")],
)
def test_poolformer_is_held_against_each_other_family(gain, verdict):
    pool = made_stage(families=("poolformer",), gain=-0.05)
    found = findings.findings({"families": made_stage(gain=gain), "others": pool})["limit"]
    assert found.verdict == verdict
    of_arms = statistics.pairs([*made_stage(gain=gain), *pool])
    values = {key[0]: v for key, v in statistics.differences(of_arms, "accuracy").items() if key[1] == design.DEFAULT}
    plain = stats.ttest_ind(values["poolformer"], values["mlp"], equal_var=False)
    row = found.table.loc[("poolformer", "mlp")]
    assert row.p == pytest.approx(plain.pvalue)
    assert (row.interval.low, row.interval.high) == pytest.approx(tuple(plain.confidence_interval()))


def test_ten_families_that_differ_are_shown_to_by_one_test():
    runs = [
        made_run(n, seed=s, rates=(0.2, 0.2, 0.1 + 0.01 * k + 0.001 * s)) for k, n in enumerate(TEN) for s in range(3)
    ]
    found = findings.findings({"families": runs[:12], "others": runs[12:]})
    assert found["differ"].verdict == "shown" and len(found["differ"].table) == 10
    assert found["groups"].effects[0].endswith("over 10 architectures")
    same = [made_run(name, seed=s, rates=(0.2, 0.2, 0.2 + 0.01 * s)) for name in FAMILIES for s in range(3)]
    found = findings.findings({"families": same})
    assert found["groups"].verdict == "not testable here"  # one convolutional architecture
