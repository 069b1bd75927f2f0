"""What the page that answers says, on made-up tables: whole, partial and none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from selfsim.figures.style import UNCONSTRAINED
from study import answer, answer_text, findings, plots
from study.convergence_statistics import by_family, over_families, reached
from study.convergence_tables import CONTROL, FREE, HOLD, LOWER, PUBLISHED, RUNS, SCALING, Convergence, read, write

from .made_convergence import FAMILIES, made_tables

FIRST = {"first.pools": "What the first study says.", "first.gain": "Its gain."}


def said(tables):
    facts = answer.answer_facts(tables, findings=findings.findings({}), first=FIRST, seconds=7200)
    return {key.removeprefix("answer."): text for key, text in facts.items()}


def rows(text):
    """The cells of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


@pytest.mark.parametrize(
    ("gains", "start", "control"),
    [
        ({}, "No change as large as one point after 60 epochs: holding", "would have been noticed"),
        (
            {LOWER: 0.03},
            "holding: no change as large as one point; lowering: accuracy rises",
            "would have been noticed",
        ),
        ({HOLD: -0.03, LOWER: -0.03}, "Accuracy falls after 60 epochs: holding", "would have been noticed"),
        ({CONTROL: 0.002}, "Undecided, as no gain of the positive control is shown", "too little for a null"),
    ],
)
def test_the_first_sentence_is_the_answer(gains, start, control):
    tables = made_tables(gains, number=1)
    text = said(tables)
    assert text["sentence"].lower().startswith(start.lower()), text["sentence"]
    assert control in text["control"]
    pools = over_families(tables)
    for arm in (HOLD, LOWER):
        assert answer_text.change(pools.interval[arm]) in text["sentence"]
    table = rows(text["table"])
    assert [row[0] for row in table] == list(answer_text.ARMS.values())
    assert all(row[1] == "5, 10 each" for row in table)
    assert table[1][2] == answer_text.change(pools.interval[LOWER])
    assert table[1][3].endswith("Nearer to the targets: 5 of 5 families.") and "over families" in text["units"]
    assert len(rows(text["families"])) == 25 and len(rows(text["claims"])) == 10


def test_the_accuracy_without_constraint_is_named_for_every_family_with_runs():
    tables = made_tables(families=FAMILIES[:2])
    runs = tables.runs
    means = [100 * runs[(runs.architecture == name) & (runs.arm == FREE)].test_accuracy.mean() for name in FAMILIES[:2]]
    found = said(tables)["free"]
    assert found == f"Without constraint, Plain MLP reaches {means[0]:.1f} % and ResMLP-12 reaches {means[1]:.1f} %."


@pytest.mark.parametrize("families", [(), FAMILIES[:1]])
def test_too_few_pairs_have_no_answer(families):
    with pytest.raises(ValueError, match="^convergence: got too few pairs of the arms hold and control; run study.con"):
        said(made_tables(families=families, arms=(FREE, HOLD)))


def test_partial_tables_say_what_is_missing():
    tables = made_tables(families=FAMILIES[:2], arms=(FREE, HOLD, CONTROL))
    text = said(tables)
    by_arm = {row[0]: row[1:] for row in rows(text["table"])}
    held = by_arm[answer_text.ARMS[HOLD]]
    assert by_arm[answer_text.ARMS[LOWER]] == [answer.NOT_RUN] * 2
    assert "lowered" not in text["sentence"] and "rate lowered" in text["missing"]
    assert "Not so far" in text["sentence"] and "two finished families (five are planned)" in text["sentence"]
    comparisons = by_family(tables)
    for place, (name, title) in enumerate((("mlp", "Plain MLP"), ("resmlp", "ResMLP-12"))):
        interval = comparisons.interval[name, HOLD]
        words = answer._WORDS[comparisons.verdict[name, HOLD]]
        said_of = f"{title}: {words} (95 % intervals within {answer_text.ends([interval.low, interval.high])} points)"
        assert said_of in text["sentence"]
        went = answer._DIRECTIONS[answer.direction(reached(tables), name, HOLD)]
        assert held[place] == f"**{answer_text.change(interval)}**<br>{words}; {went}"
    assert "13 standard errors" in text["units"]  # of a t distribution with one degree of freedom
    assert text["control"].count("in the ") == 2 and "something to gain" in text["control"]
    assert "Families not finished: ViT-S (0 of 8 pairs)" in text["missing"]
    gained = said(made_tables({HOLD: 0.05}, families=FAMILIES[:2], arms=(FREE, HOLD, CONTROL)))
    assert "a gain is shown in Plain MLP and ResMLP-12, of the two" in gained["sentence"]
    begun = made_tables(families=FAMILIES[:3])
    runs = begun.runs[(begun.runs.architecture != FAMILIES[2]) | (begun.runs.seed < 1)]
    found = rows(said(replace(begun, runs=runs))["families"])
    assert [row[3] for row in found if row[0] == "MLP-Mixer-B"] == ["one pair"] * 5


@pytest.mark.parametrize(("missing", "start"), [(FAMILIES[:1], "4 to 5 families"), (FAMILIES[:2], "finished families")])
def test_the_sentence_counts_the_families_of_every_arm(missing, start):
    tables = made_tables()
    runs = tables.runs[(tables.runs.arm != LOWER) | ~tables.runs.architecture.isin(missing)]
    text = said(replace(tables, runs=runs))
    assert start in text["sentence"] and ("in the report below" in text["units"]) == (len(missing) == 2)


def test_families_whose_layers_did_not_come_nearer_are_named_in_the_answer():
    still = "The layers are not shown to come nearer to their targets in Plain MLP (rate held, "
    away = "They moved away from them in Plain MLP (rate "
    for reach, still_named, away_named in ((0.8, True, False), (-0.5, True, True)):
        text = said(made_tables(families=FAMILIES[:2], reach=reach))["sentence"]
        assert (still in text, away in text) == (still_named, away_named), text


def test_the_design_pools_stand_in_the_report_and_lower_rates_by_family():
    tables = made_tables(families=FAMILIES[:2])
    text, pools, comparisons = said(tables), over_families(tables), by_family(tables)
    for arm in (HOLD, LOWER):
        assert f"{answer_text.change(pools.interval[arm])} points ({answer_text.SHORT[arm]}; " in text["pools"]
        assert pools.verdict[arm] in text["pools"]
    assert "over two families" in text["pools"]
    for name in FAMILIES[:2]:
        assert answer_text.points(comparisons.interval[name, LOWER]) in text["lower"]
    equivalence = comparisons.equivalence[FAMILIES[0], HOLD]
    assert rows(text["families"])[0][6] == answer._p_value(equivalence)


def test_arms_are_compared_at_one_learning_rate_and_their_agreement_with_the_free_arm_given():
    tables = made_tables(families=FAMILIES[:2])
    assert rows(said(tables)["same_rate"]) == []
    runs = tables.runs.copy()
    of_family = runs.architecture == FAMILIES[1]
    runs.loc[of_family & runs.arm.isin([LOWER, PUBLISHED]), "learning_rate"] = 0.002
    text = said(replace(tables, runs=runs))
    ((title, arms, rate, pairs, *_),) = rows(text["same_rate"])
    assert (title, arms, rate, pairs) == ("ResMLP-12", "rate lowered − as published", "0.002", "10")
    assert "wider" not in text["pairing"] and text["pairing"].count("r = ") == 2
    runs.loc[of_family & (runs.arm == LOWER), "test_accuracy"] -= 0.05
    sentence = said(replace(tables, runs=runs))["same_rate.sentence"]
    assert re.fullmatch(
        r"Against \*as published\*, the accuracy changes by −\S+ points \[.*\] in ResMLP-12, .*", sentence
    )
    order = runs[of_family & (runs.arm == FREE)].sort_values("test_accuracy").test_accuracy.to_numpy()
    for arm in (HOLD, LOWER, SCALING, PUBLISHED):  # as if the best seeds of the free arm were the worst of all others
        own = runs[of_family & (runs.arm == arm)].index
        of_free = runs[of_family & (runs.arm == FREE)].test_accuracy.rank().astype(int).to_numpy()
        runs.loc[own, "test_accuracy"] = order[::-1][of_free - 1]
    text = said(replace(tables, runs=runs))["pairing"]
    assert text.endswith("In the ResMLP-12, pairing therefore widens the intervals.")


def test_a_family_outside_the_regime_and_an_edge_in_tuning_are_named():
    tables = made_tables()
    runs, tuning = tables.runs.copy(), tables.tuning.copy()
    runs.loc[runs.architecture == "resnet34", "train_accuracy"] = 0.5
    of_one = (tuning.architecture == "mlp") & (tuning.arm == HOLD)
    tuning.loc[of_one, "chosen"] = tuning[of_one].learning_rate == tuning[of_one].learning_rate.max()
    text = said(replace(tables, runs=runs, tuning=tuning))
    assert "not met by ResNet-34" in text["regime"] and rows(text["table"])[0][1] == "4, 10 each"
    assert "1 of these lie at an edge of the values that were tried (Plain MLP, hold)" in text["tuning"]
    assert "provisional" not in text["control"]


@pytest.mark.parametrize(("other", "named"), [("min", True), ("max", False), ("middle", False), ("alone", False)])
def test_a_control_at_the_opposite_edge_of_the_free_arm_is_provisional(other, named):
    tables = made_tables()
    tuning = tables.tuning.copy()
    for arm, edge in ((FREE, "max"), (CONTROL, other)):
        of_one = (tuning.architecture == "mlp") & (tuning.arm == arm)
        rates = tuning[of_one].learning_rate
        wanted = {"min": rates.min(), "max": rates.max(), "middle": 0.001, "alone": 0.001}[edge]
        tuning.loc[of_one, "chosen"] = rates == wanted
        if edge == "alone":  # one value was tried, which is no edge
            tuning = tuning.drop(rates.index[rates != wanted])
    text = said(replace(tables, tuning=tuning))["control"]
    assert ("Plain MLP" in text and "provisional" in text) == named


def test_the_runs_of_the_scope_add_up():
    tables = made_tables(families=FAMILIES[:2], arms=(FREE, HOLD, CONTROL), seeds=8)
    text = said(tables)["scope"]
    assert text.startswith(f"{len(tables.runs)} runs") and text.count("24 of ") == 2
    assert "16 of them have neither" in text and "other 32" in text


@pytest.mark.parametrize("arm", [HOLD, FREE])
def test_failed_runs_are_named_and_the_pools_without_their_pairs_given(arm):
    tables = made_tables()
    runs = tables.runs.copy()
    runs.loc[runs.run == f"mlp-{arm}-3", ["status", "test_accuracy"]] = ["failed", float("nan")]
    pair = (runs.architecture == "mlp") & (runs.seed == 3)
    whole = runs[~(pair & (runs.arm != FREE))] if arm == FREE else runs[~(pair & (runs.arm == HOLD))]
    without = over_families(replace(tables, runs=whole[whole.status == "done"]))
    text = said(replace(tables, runs=runs))
    assert f"1 failed (mlp-{arm}-3) and count as a guess." in text["scope"]
    assert f"rate held {answer_text.change(without.interval[HOLD])};" in text["scope"]
    assert answer_text.change(without.interval[HOLD]) not in text["table"]


def test_a_failed_run_of_the_free_arm_leaves_the_other_seeds_in():
    tables = made_tables()
    runs = tables.runs.copy()
    runs.loc[runs.run == f"mlp-{LOWER}-5", "test_accuracy"] += 0.3  # so that leaving it out shows
    runs.loc[runs.run.isin([f"mlp-{FREE}-3", f"mlp-{HOLD}-5"]), ["status", "test_accuracy"]] = ["failed", float("nan")]
    of_mlp = runs.architecture == "mlp"
    whole = runs[~(of_mlp & (runs.seed == 3)) & ~(of_mlp & (runs.seed == 5) & (runs.arm == HOLD))]
    pools = over_families(replace(tables, runs=whole))
    text = said(replace(tables, runs=runs))["scope"]
    assert pools.pairs[[HOLD, LOWER]].tolist() == [8, 9]
    for arm in (HOLD, LOWER):
        assert f"{answer_text.SHORT[arm]} {answer_text.change(pools.interval[arm])}" in text


def test_the_forest_has_every_family_and_every_pool(tmp_path):
    figure = plots.plot_forest(made_tables({LOWER: 0.02}))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels.count("families together") == 5 and labels.count("ViT-S") == 5
    assert "rate lowered: not run" in [
        label.get_text() for label in plots.plot_forest(made_tables(arms=(FREE, HOLD))).axes[0].get_yticklabels()
    ]
    few = plots.plot_forest(made_tables(families=FAMILIES[:2])).axes[0].get_yticklabels()
    assert "families together" not in [label.get_text() for label in few]
    benchmarks = Path(__file__).parents[2] / "results/benchmarks"
    plots.write_figures(made_tables(), benchmarks, tmp_path)
    first = (tmp_path / answer.FIGURE).read_bytes()
    plots.write_figures(made_tables(), benchmarks, tmp_path)
    assert (tmp_path / answer.FIGURE).read_bytes() == first


def test_a_layer_that_scales_is_filled_and_one_without_octaves_left_out():
    sets = plots._SETS
    known = [
        {"set": name, "n": 128, "measure": f"scaling: {what}", "mean": 1.0}
        for name in sets
        for what in ("octaves", "scales")
    ]
    state = {"architecture": "mlp", "state": "trained"}
    layers = [
        state | {"octaves": 2.0, "scales": True},
        state | {"octaves": 0.5, "scales": False},
        state | {"reason": "too few neurons"},
        state | {"octaves": 3.0, "scales": True, "state": "untrained"},
    ]
    axes = plots.plot_scaling(known, layers).axes[0]
    assert axes.get_yticklabels()[-1].get_text() == "Plain MLP"
    drawn = {line.get_markerfacecolor(): list(line.get_xdata()) for line in axes.lines if len(sets) in line.get_ydata()}
    assert drawn == {UNCONSTRAINED["color"]: [2.0], "white": [0.5]}


def test_tables_read_from_files_say_the_same(tmp_path):
    made = made_tables({HOLD: 0.02})
    write(tmp_path, runs=made.runs, history=made.history, tuning=made.tuning)
    stored = read(tmp_path)
    assert said(stored) == said(made) and list(stored.runs) == list(RUNS)
    assert not re.search(r"[^\w-]-\d", said(stored)["table"])  # minus signs


def test_families_whose_control_does_not_gain_are_named_and_undecided():
    families = FAMILIES[:2]
    with_gain = made_tables(families=families[:1], sd=0.002, between=0.0)
    without = made_tables({CONTROL: 0.0}, families=families[1:], sd=0.002, between=0.0)
    both = {name: pd.concat([getattr(t, name) for t in (with_gain, without)]) for name in ("runs", "history", "tuning")}
    text = said(Convergence(**both))
    assert "In the ResMLP-12 no gain of one point is shown for them, so a null does not count there." in text["control"]
    assert "Plain MLP: no change as large as one point (" in text["sentence"]
    assert "ResMLP-12: undecided (" in text["sentence"] and "does not count" not in text["sentence"]
