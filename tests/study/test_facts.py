"""The numbers that the prose takes from the study: they are those of the tables, and pages name no others."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from selfsim.rate.options import RateOptions
from selfsim.rate.rate import surrogate_area
from selfsim.uncertainty import Interval
from study import answer_text, convergence_tables, facts, findings, first, layers, tables

from .made_study import made_run, made_stage

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "study"
STORED = json.loads((ROOT / "book" / "_ext" / facts.FILE).read_text(encoding="utf-8"))


def test_the_stored_facts_are_those_of_the_tables():
    stages, invariance = tables.read_stages(RESULTS), layers.read_invariance(RESULTS)
    folders = {"chapters": ROOT / "book" / "chapters", "benchmarks": ROOT / "results" / "benchmarks"}
    second = convergence_tables.read(ROOT / "results" / "convergence")
    made = facts.facts(stages, invariance=invariance, convergence=second, **folders)
    assert made == STORED, "python -m study --facts writes them anew"


def test_a_fact_is_what_the_csv_files_give_without_the_package():
    runs = pd.read_csv(RESULTS / "confirm-runs.csv").query("architecture == 'vit_small' and status == 'done'")
    history = pd.read_csv(RESULTS / "confirm-history.csv")
    test = history[history.split == "test"].set_index("run").accuracy
    accuracy = runs.assign(accuracy=runs.run.map(test), treated=runs.constraint.notna())
    difference = accuracy.pivot(index="seed", columns="treated", values="accuracy")
    difference = 100 * (difference[True] - difference[False])
    low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    assert STORED["confirm.vit_small"] == f"{difference.mean():+.1f} points [{low:+.1f}, {high:+.1f}]"
    assert len(difference) == 10


def test_facts_of_the_defaults_are_those_of_the_single_runs():
    runs = json.loads((ROOT / "results" / "benchmarks" / "defaults.json").read_text(encoding="utf-8"))["runs"]
    runs = [run for run in runs if run["size"] == "tiny"]
    free = {(run["architecture"], run["seed"]): run["accuracy"] for run in runs if run["candidate"] == "none"}
    default = [run for run in runs if run["candidate"] == "default"]
    changes = [run["accuracy"] - free[run["architecture"], run["seed"]] for run in default]
    assert STORED["defaults.default.pairs"] == str(len(changes))
    assert STORED["defaults.default.fall"] == str(sum(change < -1e-6 for change in changes))
    assert STORED["defaults.default.rise"] == str(sum(change > 1e-6 for change in changes))
    of_family = pd.Series(changes, [run["architecture"] for run in default]).groupby(level=0)
    p_values = [stats.ttest_1samp(values, 0).pvalue for _, values in of_family]
    open_ones = sum(not p < 0.05 for p in p_values)  # NaN where no pair differs
    assert STORED["defaults.default.open"] == answer_text.NUMBERS[open_ones]
    heavy = [run for run in runs if run["candidate"] == "weight 10"]
    broken = [run["architecture"] for run in heavy if free[run["architecture"], run["seed"]] - run["accuracy"] > 0.1]
    assert (STORED["defaults.heavy.tried"], STORED["defaults.heavy.broken"]) == ("five", "two")
    assert (len(heavy), sorted(broken)) == (5, ["poolformer", "vgg11"])


@pytest.mark.parametrize("dimension", [0.5, 1, 3])
def test_the_rate_of_a_power_law_is_the_area_under_its_staircase(dimension):
    pairs = 128 * 127 // 2
    lengths = 1e30 * (np.arange(1, pairs + 1) / pairs) ** (1 / dimension)  # ln(1 + length) is ln(length)
    rate, _ = surrogate_area(lengths, np.float64(1), 128, RateOptions(), False)
    assert float(rate) == pytest.approx(findings.power_law_rate(128), abs=0.005)
    near, _ = surrogate_area(lengths / lengths.max(), np.float64(1), 128, RateOptions(), False)
    expected = findings.power_law_rate(128, dimension=dimension, longest=1.0)
    assert float(near) == pytest.approx(expected, abs=0.005)
    assert expected < 0.6 < findings.power_law_rate(128)


def test_pages_name_facts_that_exist():
    named = {
        (page.name, name)
        for page in (ROOT / "book").glob("*.md")
        for name in re.findall(r"\{study\}`([^`]*)`|\{study-text\} (\S+)", page.read_text(encoding="utf-8"))
        for name in filter(None, name)
    }
    assert {page for page, _ in named} >= {"answer.md", "intro.md", "constraint.md", "study.md", "design.md"}
    assert {name for _, name in named} <= set(STORED)


def test_the_role_of_the_pages_writes_the_fact_or_the_unknown_name():
    spec = importlib.util.spec_from_file_location("chapters", ROOT / "book" / "_ext" / "chapters.py")
    chapters = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chapters)
    environment = SimpleNamespace(note_dependency=lambda path: None, docname="book/intro")
    settings = SimpleNamespace(env=environment)
    inliner = SimpleNamespace(document=SimpleNamespace(settings=settings))

    def written(name):
        (node,), _ = chapters.StudyRole()("study", f"`{name}`", name, 1, inliner)
        return node.astext()

    assert written("confirm.vit_small") == STORED["confirm.vit_small"].replace("-", "\u2212")
    assert written("no.such.fact") == "no.such.fact"


def test_what_the_first_study_says_over_families_is_a_t_interval_of_their_means():
    means = []
    for stage in ("families", "others"):
        runs = pd.read_csv(RESULTS / f"{stage}-runs.csv").query("status == 'done'")
        history = pd.read_csv(RESULTS / f"{stage}-history.csv")
        test = history[history.split == "test"].set_index("run").accuracy
        runs = runs.assign(accuracy=runs.run.map(test), paper=runs.constraint.str.contains("paper", na=False))
        keys = ["architecture", "seed"]
        free = runs[runs.constraint.isna()].set_index(keys).accuracy
        means += (runs[runs.paper].set_index(keys).accuracy - free).groupby("architecture").mean().dropna().tolist()
    low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
    low, middle, high = 100 * low, 100 * np.mean(means), 100 * high
    said = f"{middle:+.2f} points [{low:+.2f}, {high:+.2f}]"
    assert STORED["first.published"] == said.replace("-", "−")
    assert STORED["first.published.families"] == "ten" and len(means) == 10


def test_numbers_are_in_points_and_spans_from_the_lowest_to_the_highest():
    some = pd.Series([Interval(0.012, -0.004, 0.031, 0.95, 5), Interval(-0.05, -0.1, 0.0, 0.95, 5)])
    assert answer_text.points(some[0]) == "+1.2 points [−0.4, +3.1]"
    assert facts._span(some) == "-5 to +1 points"


@pytest.mark.parametrize(
    ("gains", "start"), [((0.02, -0.02), "one gain was"), ((0, 0), "no gain"), ((0.02, 0.02), "two")]
)
def test_the_gain_of_the_first_study_is_told_family_by_family(gains, start):
    noise = np.random.default_rng(0)
    runs = [
        made_run(name, constraint, seed, accuracy=0.5 + (gain if constraint else 0) + 0.003 * noise.standard_normal())
        for name, gain in zip(("vit_small", "resmlp"), gains, strict=True)
        for seed in range(5, 15)
        for constraint in (None, {"target": 0.2, "weight": 10})
    ]
    stages = {"families": made_stage(), "others": [], "confirm": runs}
    found = findings.findings(stages)
    text = first.gain_sentence(stages, found)
    assert f"{start} " in text and "two of the four families" in text and "(10 new seeds)" in text
    for interval in found["confirm"].table.interval:
        assert text.count(answer_text.points(interval)) == 1
    assert ("For ResMLP-12 no gain is shown" in text) == (start == "one gain was")


def test_a_study_without_a_stage_has_no_facts():
    with pytest.raises(KeyError):
        facts.facts(
            {},
            invariance=pd.DataFrame(columns=["run", "architecture", "seed", "layer", *layers.KINDS]),
            chapters=ROOT / "book" / "chapters",
            benchmarks=ROOT / "results" / "benchmarks",
            convergence=convergence_tables.read(ROOT / "results" / "convergence"),
        )
    assert np.isfinite(float(STORED["power.5"]))
