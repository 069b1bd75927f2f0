"""The study: its statistics on made-up runs with and without an effect, its verdicts, and its tables."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from selfsim import (
    TrainConfig,
    activations,
    correlation_dimension,
    load_images,
    load_run,
    load_runs,
    spectrum_exponent,
    ss_rate,
    train,
)
from selfsim.models.architectures import ARCHITECTURES
from selfsim.publish import (
    comparison_tables,
    study,
    study_findings,
    study_invariance,
    study_measures,
    study_tables,
    study_verdicts,
)
from selfsim.publish.grid import read_grid
from selfsim.training.evaluation import Row
from selfsim.training.runs import Run
from selfsim.uncertainty import Interval, mean_interval

ROOT = Path(__file__).parents[2]
DEFAULT, PUBLISHED = {"target": 0.1, "weight": 10}, {"paper": True, "target": 0.3, "weight": 0.05}
FAMILIES = ("mlp", "resmlp", "vit_small", "resnet34")
LAYERS = {"resnet34": "layer1.0", "resnet50": "layer1.0", "vgg11": "features.1"}
LAYERS |= dict.fromkeys(("poolformer", "pvt"), "stages.0.blocks.0")


def made_run(name, constraint=None, seed=0, *, accuracy=0.5, rates=(0.2, 0.2, 0.2), kin=None, median=2.0, travel=7.0):
    """A run of one layer with these numbers; `kin` are the two robust rates, by default the rate itself."""
    layer = LAYERS.get(name, "blocks.0")
    rows = [Row(len(rates) - 1, "test", "", "accuracy", accuracy), Row(1, "train", "", "weight_distance", travel)]
    for epoch, rate in enumerate(rates):
        values = {"ss_rate": rate, "median_distance": median}
        values |= dict.fromkeys(("ss_rate_left_out", "ss_rate_quantiles"), rate if kin is None else kin)
        rows += [Row(epoch, "validation", layer, metric, value) for metric, value in values.items()]
    built_as = {"name": name, "size": "tiny", "num_classes": 10, "in_chans": 1}
    return Run(TrainConfig(name, seed=seed, constraint=constraint), rows, built_as, {}, {})


def made_stage(*, gain=0.0, change=-0.1, published=0.0, seeds=5, families=FAMILIES, spread=0.003, number=0):
    """Stage a with a gain of the default constraint, a change of the rate by each constraint, and noise."""
    random = np.random.default_rng(number)
    runs = []
    for name in families:
        for seed in range(seeds):
            start = 0.5 + 0.02 * random.standard_normal()
            for constraint, better, moved in ((None, 0, 0), (DEFAULT, gain, change), (PUBLISHED, 0, published)):
                noise, other = random.standard_normal(2)
                rates = (0.21, 0.2, 0.2 + moved + 0.005 * other)
                runs.append(made_run(name, constraint, seed, accuracy=start + better + spread * noise, rates=rates))
    return runs


def interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95, 5)


def test_holms_correction():
    # Smallest times 4, next times 3 …, never below one before it: worked by hand.
    assert study.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert study.holm([0.5, math.nan, 0.9]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)


@pytest.mark.long
def test_without_an_effect_one_study_in_twenty_finds_something():
    random = np.random.default_rng(0)
    found = [
        (study.compared(dict(enumerate(random.standard_normal((8, 5))))).corrected < study.ALPHA).any()
        for _ in range(800)
    ]
    assert 0.03 < np.mean(found) < 0.07


def test_the_smallest_effect_is_found_in_four_of_five_studies():
    for pairs in (3, 5):
        effect = study.minimal_effect(pairs, 2.0)
        draws = effect + 2 * np.random.default_rng(0).standard_normal((4000, pairs))
        assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)


def test_the_design_names_the_power_that_it_has():
    page = " ".join((ROOT / "book" / "study.md").read_text().split())
    assert f"a test at 5 % finds a true gain of {study.minimal_effect(5):.1f} points in four of five cases" in page
    assert f"the strictest of them needs {study.minimal_effect(5, comparisons=8):.0f} points" in page
    needed = study.minimal_effect(10, comparisons=2)
    assert f"differences that spread by one point, a true gain of {needed:.1f} points is found in four of five" in page


@pytest.mark.parametrize(
    ("low", "high", "p", "moved", "did", "verdict"),
    [
        (0.015, 0.025, 0.001, True, True, "reproduced"),
        (0.015, 0.025, 0.001, True, False, "undecided"),  # a gain, but not by what the constraint says
        (0.015, 0.025, 0.001, False, False, "not reproduced at this scale"),
        (0.015, 0.025, 0.06, True, True, "undecided"),  # not after the correction
        (0.001, 0.015, 0.001, True, True, "undecided"),  # too little, perhaps enough
        (-0.02, 0.009, 0.4, True, True, "not reproduced at this scale"),
        (-0.02, 0.02, 0.9, True, True, "undecided"),
    ],
)
def test_verdicts_on_gains(low, high, p, moved, did, verdict):
    assert study_verdicts.gain_verdict(interval(low, high), p, moved=moved, did=did) == verdict


def test_verdicts_on_trends():
    assert study_verdicts.trend_verdict(interval(0.1, 0.2), 0.01, direction=1) == "shown"
    assert study_verdicts.trend_verdict(interval(0.1, 0.2), 0.01, direction=-1) == "shown the other way round"
    assert study_verdicts.trend_verdict(interval(-0.2, -0.1), 0.01) == "shown"
    assert study_verdicts.trend_verdict(interval(0.1, 0.2), 0.06) == "not shown"
    assert study_verdicts.trend_verdict(None, math.nan) == "not tested"


def test_verdicts_on_the_limit():
    below, above, wide = interval(-0.02, 0.005), interval(0.02, 0.03), interval(-0.01, 0.03)
    assert study_verdicts.limit_verdict({"poolformer": below, "mlp": below, "resmlp": wide}) == "reproduced"
    assert study_verdicts.limit_verdict({"poolformer": below, "mlp": below}) == "undecided"
    assert study_verdicts.limit_verdict({"poolformer": above, "mlp": above}) == "not reproduced at this scale"
    assert study_verdicts.limit_verdict({"poolformer": None, "mlp": above}) == "not tested"
    assert study_verdicts.limit_verdict({"mlp": above}) == "not tested"


def test_verdicts_on_the_relation():
    gains = {str(k): float(k) for k in range(10)}
    spread = {key: 9 - value for key, value in gains.items()}  # those that gain most differ least between layers

    def verdict(spreads):
        return study_verdicts.relation_verdict(study_verdicts.relation(gains, spreads, comparisons=3))

    assert verdict(spread) == "reproduced"
    assert verdict(gains).startswith("not reproduced")
    assert verdict(dict(zip(gains, (3, 8, 1, 6, 9, 0, 4, 7, 2, 5), strict=True))) == "undecided"
    for nine in (dict(list(spread.items())[:9]), spread | {"3": math.nan}):
        assert study_verdicts.relation(gains, nine) is None and verdict(nine) == "undecided"
    one, three = (study_verdicts.relation(gains, spread, comparisons=n) for n in (1, 3))
    assert one.level == 0.95 and three.level == pytest.approx(1 - 0.05 / 3) and three.low < one.low


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
    found = study_findings.findings(stages, invariance=table)["invariance"]
    assert found.verdict == verdict
    assert found.table.families.tolist() == [10, 10, 10]
    assert found.tested.startswith("10 families, 3 seeds")
    assert found.effect.startswith(f"rank correlation {-sign:+.2f}")
    assert study_findings.findings(stages)["invariance"].verdict == "undecided"
    nine = table[table.architecture != "pvt"]
    assert study_findings.findings(stages, invariance=nine)["invariance"].verdict == "undecided"


def test_the_spread_between_layers_is_the_papers_and_a_mean_over_seeds():
    rows = [("mlp", 0, 1.0, 4.0), ("mlp", 0, 2.0, 6.0), ("mlp", 1, 1.0, 5.0), ("mlp", 1, 1.0, 5.0)]
    table = pd.DataFrame(
        [
            {"run": f"{n}-{s}", "architecture": n, "seed": s, "layer": str(i), "exponent": e, "dimension": d}
            | {"exponent at most 3": e if i else math.nan}
            for i, (n, s, e, d) in enumerate(rows)
        ]
    )
    spread = study_invariance.spreads(table).loc["mlp"]
    assert spread["exponent"] == pytest.approx((0.5 + 0) / 2)  # standard deviations over n
    assert spread["dimension"] == pytest.approx((2 / 5 + 0) / 2)  # ranges over means
    assert spread["exponent at most 3"] == 0  # of the first network, one layer alone has an estimate


def test_one_line_for_several_verdicts():
    assert study_verdicts.overall([]) == study_verdicts.overall(["not tested"]) == "not tested"
    assert study_verdicts.overall(["undecided", "not tested", "undecided"]) == "undecided"
    assert (
        study_verdicts.overall(["undecided", "reproduced", "undecided"]) == "undecided in 2 of 3, reproduced in 1 of 3"
    )


def test_pairs_share_their_seed_whatever_is_missing():
    runs = [made_run("mlp", seed=s, accuracy=0.1 * s) for s in (3, 1, 2)]
    runs += [made_run("mlp", DEFAULT, s, accuracy=0.1 * s + 0.03) for s in (2, 0, 3)]
    found = study.pairs(runs)
    assert study.differences(found, "test accuracy") == {("mlp", study.DEFAULT): pytest.approx([0.03, 0.03])}
    table = study.compared(study.differences(found, "test accuracy"))
    assert table.pairs.tolist() == [2] and table.interval.tolist() == [None] and np.isnan(table.corrected).all()


@pytest.mark.parametrize(
    ("constraint", "name"),
    [
        (None, "unconstrained"),
        ({}, "target 0.1, weight 10"),
        ({"target": 0.05, "weight": 100}, "target 0.05, weight 100"),
        (PUBLISHED, "as published"),
        ({"target": {"schedule": "linear", "start": 0.2, "end": 0.1}}, "linear target"),
        ({"target": {"blocks.0": 0.1}}, "random targets"),
        ({"scale": True, "target": {"blocks.0": 2.5}}, "scale alone"),
    ],
)
def test_arms_are_named_by_what_is_done(constraint, name):
    assert study.arm(TrainConfig("mlp", constraint=constraint)) == name


def manipulated(**constrained):
    runs = [made_run("mlp", None, seed, rates=(0.2, 0.2, 0.2 + 0.001 * seed)) for seed in range(5)]
    return study.manipulation(study.pairs([*runs, *(made_run("mlp", DEFAULT, s, **constrained) for s in range(5))]))


def test_the_constraint_is_seen_to_do_what_it_says():
    table = manipulated(rates=(0.2, 0.15, 0.12), median=3.0)
    assert table.moved.item() is True and table.did.item() is True
    assert table.factor.item() == pytest.approx(1.5)
    assert table["without 3"].item().estimate == pytest.approx(0.12 - 0.202)


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
    assert table.did.item() is (constrained["rates"][-1] == 0.02)


def test_a_run_that_collapses_or_fails_stays_in():
    runs = made_stage(seeds=4, families=("mlp",))
    runs += [made_run("mlp", seed=4), made_run("mlp", DEFAULT, 4, accuracy=0.2, rates=(0.2, 0.2, math.nan))]
    failed = made_run("mlp", seed=5)
    runs += [failed, Run(TrainConfig("mlp", constraint=DEFAULT, seed=5), [], failed.built_as, {}, {})]
    table = study_findings.gains_table(runs)
    row = table.loc["mlp", study.DEFAULT]
    assert row.pairs == 6
    assert study.differences(study.pairs(runs), "test accuracy")["mlp", study.DEFAULT][-2:] == pytest.approx(
        [0.2 - 0.5, 0.1 - 0.5]
    )
    assert not row.moved and row.verdict == "not reproduced at this scale"
    assert math.isnan(row.factor)


def test_a_study_with_an_effect_finds_it():
    found = study_findings.findings({"families": made_stage(gain=0.06)})
    table = found["gain"].table
    assert table.verdict.xs(study.DEFAULT, level=1).eq("reproduced").all()
    assert table.verdict.xs(study.PUBLISHED, level=1).eq("not reproduced at this scale").all()
    assert found["gain"].verdict == "reproduced in 4 of 8, not reproduced at this scale in 4 of 8"
    assert found["performance"].verdict == "shown"
    assert found["gain"].tested.startswith("8 comparison(s) over 5 seeds, 15 epochs, all images of handwritten digits")


def test_a_study_without_one_says_so():
    found = study_findings.findings({"families": made_stage()})
    assert found["gain"].verdict == "not reproduced at this scale"
    assert found["performance"].verdict == found["path"].verdict == found["degrade"].verdict == "not shown"
    assert {found[key].verdict for key in ("limit", "time")} == {"not tested"}
    assert found["invariance"].verdict == "undecided"  # four families of ten


def test_rates_that_rise_in_training_are_degradation_and_those_that_fall_are_not():
    for last, verdict in ((0.25, "shown"), (0.15, "shown the other way round")):
        runs = [made_run("mlp", seed=s, rates=(0.5, 0.2, last + 0.001 * s)) for s in range(5)]
        assert study_findings.findings({"families": runs})["degrade"].verdict == verdict


def test_with_two_seeds_nothing_is_tested():
    found = study_findings.findings({"families": made_stage(seeds=2)})
    asked = {key: one.verdict for key, one in found.items() if one.verdict not in ("built", "see chapter")}
    assert set(asked.values()) == {"not tested"} and len(asked) > 8
    assert not any(found[key].effect for key in asked if key != "invariance")


@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "shown"), (-0.02, "shown the other way round"), (0, "not shown")])
def test_a_target_found_by_looking_is_asked_for_again(gain, verdict):
    runs, noise = [], np.random.default_rng(0)
    for name in ("resmlp", "vit_small"):
        for seed in range(5, 15):
            for constraint, better in ((None, 0), ({"target": 0.2, "weight": 10}, gain)):
                runs.append(made_run(name, constraint, seed, accuracy=0.5 + better + 0.003 * noise.standard_normal()))
    found = study_findings.findings({"families": made_stage(), "confirm": runs})["confirm"]
    assert found.verdict == verdict
    assert found.table.pairs.tolist() == [10, 10]
    assert "confirm" not in study_findings.findings({"families": made_stage()})


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
        ({"alone": 0.03, "median": 4.0}, "undecided"),  # the control did not reach the scale
        ({"alone": 0.03, "seeds": 2}, "not tested"),
    ],
)
def test_a_gain_is_held_against_that_of_scale_alone(made, verdict):
    runs = with_scale(**made)
    found = study_findings.findings({"families": made_stage(), "control": runs})["scale"]
    assert found.verdict == verdict
    first, second = found.table.index
    assert (first, second) == ("scale alone − unconstrained", "target 0.2, weight 10 − scale alone")
    assert found.table.factor.tolist() == pytest.approx([made.get("median", 3) / 6, 3 / made.get("median", 3)])
    if verdict != "not tested":
        assert found.table.interval[first].estimate == pytest.approx(made.get("alone", 0), abs=0.004)
        assert found.table.interval[second].estimate == pytest.approx(made.get("beyond", 0), abs=0.004)
    assert "scale" not in study_findings.findings({"families": made_stage()})
    moved = study.manipulation(study.pairs(runs)).moved
    assert not moved["vit_small", "scale alone"]  # it has no target for the rate


def test_a_target_in_time_is_held_against_the_fixed_one_and_poolformer_against_all():
    linear = {"target": {"schedule": "linear", "start": 0.2, "end": 0.1}, "weight": 10}
    runs = made_stage(families=("resmlp",), gain=-0.03)
    runs += [
        made_run("resmlp", linear, s, accuracy=0.55 + 0.001 * s, rates=(0.2, 0.2, 0.1 + 0.001 * s)) for s in range(5)
    ]
    pool = made_stage(families=("poolformer",), gain=-0.05)
    found = study_findings.findings({"families": made_stage(gain=0.06), "targets": runs, "others": pool})
    assert found["time"].table.index.tolist() == [("resmlp", "linear target")]
    fixed = [r for r in runs if r.config.constraint == {"target": 0.1, "weight": 10}]
    gains = [0.55 + 0.001 * r.config.seed - study.measured(r, "test accuracy") for r in fixed]
    assert found["time"].table.interval.iloc[0].estimate == pytest.approx(mean_interval(gains).estimate)
    assert found["time"].verdict == "reproduced"
    assert found["limit"].verdict == "reproduced"
    pool, most = found["limit"].effect.split(" beside at most ")
    assert re.fullmatch(r"-4\.9 \[.*\] points \(PoolFormer-S12\)", pool)  # the noise of these runs on -5
    highest = max(i.high for i in found["gain"].table.interval)
    assert f", {100 * highest:+.1f}] points (" in most
    assert most.endswith("; 4 of 4 others have an interval above 0")
    assert found["gain, other families"].verdict == "not reproduced at this scale"


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_noise_of_any_size_is_scored_as_noise(size):
    neurons = study._widths("mlp", "tiny", ("blocks.0",))["blocks.0"]
    x = size * torch.randn(128, neurons, generator=torch.Generator().manual_seed(5))
    distances = torch.pdist(x.T) / math.sqrt(128)
    run = made_run("mlp", rates=(0.2, 0.2, float(ss_rate(x))), median=float(distances.median()))
    assert abs(study.mean_score(run)) < 3
    ideal = made_run("mlp", rates=(0.2, 0.2, 0.0), median=float(distances.median()))
    assert study.mean_score(ideal) < -5


def test_architectures_and_groups_are_compared_seed_by_seed():
    scores = {("mlp", 0): 1.0, ("mlp", 1): 2.0, ("resnet34", 0): 4.0, ("resnet34", 1): 8.0, ("resmlp", 1): 4.0}
    runs = [made_run(name, seed=seed) for name, seed in scores] + [made_run("mlp", DEFAULT, 0)]

    def value(run):
        return scores[run.config.architecture, run.config.seed]

    assert study.between(runs, value) == {
        "ResNet-34 − Plain MLP": [3.0, 6.0],
        "ResMLP-12 − Plain MLP": [2.0],
        "ResMLP-12 − ResNet-34": [-4.0],
    }
    # Seed 0 has no ResMLP: with it, the mean of the others would be that of other networks.
    assert study.convolutions(runs, value) == [8.0 - (2.0 + 4.0) / 2]


GRID = """\
parameters: {architecture: mlp, epochs: 1, train_images: 128, test_images: 64, samples: 16}
grid:
  seed: [0, 1]
  constraint: [null, {target: 0.1, weight: 10}]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A grid of four cells, of which two are done and one has failed, and its tables."""
    place = tmp_path_factory.mktemp("study")
    (place / "tiny.yml").write_text(GRID)
    grid = read_grid(place / "tiny.yml", [("data_dir", str(place))])
    images = load_images("digits", train_images=128, test_images=64)
    for cell in grid.cells[:2]:
        train(cell.work, images=images, directory=place / "sweep" / cell.name, device="cpu")
    (place / "sweep" / "failed").mkdir()
    (place / "sweep" / "failed" / f"{grid.cells[2].name}.txt").write_text("overflowed")
    study_tables.write_stage(grid, [place / "elsewhere", place / "sweep"], place / "tables", stage="tiny")
    return place, grid


def test_tables_give_the_runs_back(swept):
    place, grid = swept
    first, second, failed = study_tables.read_stages(place / "tables")["tiny"]
    for cell, found in zip(grid.cells, (first, second), strict=False):
        made = load_run(place / "sweep" / cell.name)
        assert {row[:4] for row in found.history} == {row[:4] for row in made.history}
        assert found.layers == made.layers
        assert found.environment == {key: made.environment[key] for key in found.environment}
        assert found.built_as == made.built_as
        for name in (*study.PAIRED, "weight distance"):
            assert study.measured(found, name) == pytest.approx(study.measured(made, name), rel=1e-8)
    assert failed.history == [] and failed.config.seed == 1 and failed.config.constraint is None
    assert study.measured(failed, "test accuracy") == 0.1


def test_tables_say_what_is_missing_and_nothing_of_the_machine(swept):
    place, _ = swept
    text = "".join(path.read_text() for path in (place / "tables").glob("*.csv"))
    assert [line.split(",")[1] for line in text.splitlines() if ",mlp,tiny," in line] == [
        "done",
        "done",
        "failed",
        "not finished",
    ]
    assert str(place) not in text and "data_dir" not in text


def test_a_run_that_no_folder_has_any_more_stays_as_it_is(swept, tmp_path):
    place, grid = swept
    shutil.copytree(place / "tables", tmp_path / "tables")
    before = {path.name: path.read_text() for path in (place / "tables").glob("*.csv")}
    only = [place / "sweep" / grid.cells[1].name]
    shutil.copytree(only[0], tmp_path / "sweep" / only[0].name)
    study_tables.write_stage(grid, [tmp_path / "sweep"], tmp_path / "tables", stage="tiny")
    again = {path.name: path.read_text() for path in (tmp_path / "tables").glob("*.csv")}
    assert again["tiny-history.csv"] == before["tiny-history.csv"]
    # Of a run that failed there is nothing to keep.
    assert again["tiny-runs.csv"] == before["tiny-runs.csv"].replace(",failed,", ",not finished,")
    # Another stage that asks for the same runs has them too.
    study_tables.write_stage(grid, [], tmp_path / "tables", stage="other")
    assert (tmp_path / "tables" / "other-history.csv").read_text() == before["tiny-history.csv"]


def test_a_layer_without_a_rate_stays_one(tmp_path):
    run = made_run("mlp", rates=(0.2, math.nan))
    table = study_tables._wide("a", run.history).fillna("")
    back = study_tables._rows(table)
    assert sorted(map(str, back)) == sorted(map(str, run.history))


def test_runs_made_again_are_held_against_the_tables(swept):
    place, grid = swept
    stored = study_tables.read_stages(place / "tables")["tiny"]
    made = load_run(place / "sweep" / grid.cells[0].name)
    rows = [row._replace(value=row.value + 0.25) if row.metric == "accuracy" else row for row in made.history]
    other = Run(made.config, rows, made.built_as, {}, {})
    unknown = made_run("vgg11")
    table = study_tables.agreement([made, other, unknown], stored)
    assert table.equal.tolist() == [True, False, False]
    assert table.stored.tolist() == [True, True, False]
    assert table.difference.iloc[0] < 1e-8 and table.difference.iloc[1] == pytest.approx(0.25)


@pytest.mark.long
def test_two_sweeps_of_a_grid_give_the_same_numbers(swept, tmp_path):
    from selfsim.publish.sweep import sweep

    place, _ = swept
    grid, tables = read_grid(place / "tiny.yml"), tmp_path / "tables"
    for folder in ("one", "two"):
        sweep(grid, tmp_path / folder, workers=1, progress=False)
    study_tables.write_stage(grid, [tmp_path / "one"], tables, stage="tiny")
    again = study_tables.agreement(load_runs(tmp_path / "two"), study_tables.read_stages(tables)["tiny"])
    assert len(again) == 4 and again.equal.all() and (again.difference < 1e-8).all()


def test_the_invariance_of_unconstrained_networks_is_kept(tmp_path):
    images = load_images("digits", train_images=128, test_images=128)
    config = TrainConfig("mlp", epochs=1, train_images=128, test_images=128)
    runs = [train(config, images=images, device="cpu")]
    runs += [train(replace(config, constraint=DEFAULT), images=images, device="cpu")]
    table = study_invariance.write_invariance(runs, tmp_path)
    assert table.run.unique().tolist() == [config.name]  # the constrained one has no place in it
    assert table.layer.tolist() == runs[0].layers
    x = activations(runs[0].model, images.batches("validation"), samples=None, device="cpu")
    assert x["blocks.0"].shape[0] == len(images.validation) == 128
    row = table.set_index("layer").loc["blocks.0"]
    assert row["dimension"] == pytest.approx(float(correlation_dimension(x["blocks.0"])), rel=1e-6)
    assert row["exponent"] == pytest.approx(float(spectrum_exponent(x["blocks.0"])), rel=1e-6)
    assert row["exponent at most 3"] == pytest.approx(min(3, row["exponent"]), rel=0.2)
    assert "." in (text := (tmp_path / study_invariance.FILE).read_text()) and not re.search(r"\d\.\d{10}", text)
    # What is there is not measured again: a row that was changed by hand stays changed.
    read = study_invariance.read_invariance(tmp_path)
    read.loc[0, "dimension"] = 7.5
    read.to_csv(tmp_path / study_invariance.FILE, index=False)
    assert study_invariance.write_invariance(runs, tmp_path).dimension.iloc[0] == 7.5
    assert study_invariance.read_invariance(tmp_path / "elsewhere").empty


@pytest.mark.long
def test_the_comparison_from_tables_is_that_from_runs(tmp_path):
    grid = "parameters: {architecture: mlp, epochs: 1, train_images: 256, samples: 32}\n"
    grid += "grid: {seed: [0, 1], constraint: [null, {target: 0.1, weight: 10}]}\n"
    (tmp_path / "families.yml").write_text(grid)
    grid = read_grid(tmp_path / "families.yml")
    images = grid.cells[0].work.load_images()
    runs = [train(cell.work, images=images, runs=tmp_path / "sweep", device="cpu") for cell in grid.cells]
    whole = comparison_tables.measured_layers(comparison_tables.comparable(runs), images, samples=32, null_draws=4)
    tables = tmp_path / "tables"
    study_tables.write_stage(grid, [tmp_path / "sweep"], tables, stage="families")
    with pytest.raises(FileNotFoundError, match=r"which has no measures\.csv"):
        study_measures.read_comparison(tables, constraint=DEFAULT)
    study_measures.write_measures([run for run in runs if run.config.seed == 0], tables, null_draws=4)
    keys = ["architecture", "seed", "training", "layer", "measure"]
    for measured_seeds in (1, 2):
        found, table = study_measures.read_comparison(tables, constraint=DEFAULT)
        assert [run.config.seed for run in found] == [run.config.seed for run in runs]
        assert table.index.is_unique
        assert comparison_tables.runs_table(found).equals(comparison_tables.runs_table(runs))
        expected = whole if measured_seeds == 2 else whole[(whole.seed == 0) | (whole.measure == "surrogate")]
        both = [part.sort_values(keys).reset_index(drop=True)[whole.columns] for part in (table, expected)]
        pd.testing.assert_frame_equal(*both, rtol=1e-6, check_dtype=False)
        # The second seed comes later, and without draws of its own.
        before = study_measures._stored(tables)
        study_measures.write_measures(runs, tables, null_draws=4)
        after = study_measures._stored(tables)
        pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
        assert after[after.seed == 1].null.isna().all()


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="results: got .* no tables of a study"):
        study_tables.read_stages(tmp_path)
