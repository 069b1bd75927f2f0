"""What became of each claim, in sentences, for every verdict that a finding can have."""

from __future__ import annotations

import pandas as pd
import pytest

from selfsim.uncertainty import Interval
from study import claims
from study.design import DEFAULT, NOT_TESTABLE, PUBLISHED, UNCONSTRAINED
from study.findings import Finding, findings

NOT_TESTED = findings({})
FIRST = {"first.pools": "The pools.", "first.gain": "The gain."}


def interval(low, estimate, high):
    return Interval(estimate, low, high, level=0.95, n=5)


def comparisons(rows, **columns):
    """A table of comparisons as `statistics.compared` gives it."""
    table = pd.DataFrame({"interval": list(rows.values()), **columns})
    table.index = pd.MultiIndex.from_tuples(rows) if isinstance(next(iter(rows)), tuple) else pd.Index(rows)
    return table


def finding(key, verdict, effects=(), table=None):
    before = NOT_TESTED[key]
    return Finding(before.claim, before.question, verdict, tuple(effects), "", table)


def said(key, **changed):
    """The cell of one claim."""
    table = claims.claims_table(NOT_TESTED | changed, FIRST, second="The answer.", lower="A lower rate.")
    rows = {line.split(" | ")[0].strip("| "): line.rstrip(" |").split(" | ")[2] for line in table.splitlines()[2:]}
    assert list(rows) == list(claims.CLAIMS)
    return rows[key]


def test_every_claim_says_that_it_was_not_tested():
    for key in ("C3", "C5", "C6", "C7", "C10"):
        assert "ot tested" in said(key), key
    assert said("C4") == "The answer.<br>The pools.<br>The gain."
    assert said("C10").endswith("A lower rate.")


@pytest.mark.parametrize(("verdict", "verb"), [("shown", "differ"), ("not shown", "are not shown to differ")])
def test_differences_name_the_lowest_and_the_highest(verdict, verb):
    table = comparisons({
        "ViT-S": interval(-1, 0, 1), "VGG-11": interval(3, 4, 5), "Plain MLP": interval(-3, -2, -1), "PVTv2-B3": None
    })  # fmt: skip
    text = said("C3", differ=finding("differ", verdict, ("Kruskal–Wallis, p = 0.5",), table))
    assert text.startswith(
        f"Architectures {verb} (Kruskal–Wallis, p = 0.5). Relative to noise of the same shape, the mean rates of 3 "
        "architectures go from −2.0 [−3.0, −1.0] (Plain MLP) to +4.0 [+3.0, +5.0] (VGG-11), in standard deviations of "
        "that noise."
    )


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (("not shown", "not shown"), "is shown in none of 2 architectures."),
        (("shown", "not shown"), "is shown in Plain MLP."),
        (("shown", "shown the other way round"), "is shown in Plain MLP; the opposite is shown in ViT-S."),
    ],
)
def test_rises_after_the_first_epoch(verdicts, words):
    arms = {(name, UNCONSTRAINED): interval(-1, 0, 1) for name in ("mlp", "vit_small")}
    early = [interval(0.1, 0.2, 0.3), interval(-0.3, -0.2, -0.1)]
    text = said("C3", degrade=finding("degrade", "", (), comparisons(arms, verdict=verdicts, first_epoch=early)))
    assert f"A rise of the rate after the first epoch {words}" in text
    assert "In the first epoch, from the random start, the rate rose in Plain MLP and fell in ViT-S, of 2" in text


def test_a_claim_that_cannot_be_tested_says_why():
    table = comparisons({("resmlp", "linear target"): interval(0.006, 0.02, 0.035)})
    text = said("C7", time=finding("time", NOT_TESTABLE, ("pulling less is enough",), table))
    assert text == (
        "Not testable, because pulling less is enough.<br>A target that falls to it linearly, instead of the fixed "
        "one, changed the accuracy by +2.0 points [+0.6, +3.5] in ResMLP-12."
    )
    assert said("C5", invariance=finding("invariance", NOT_TESTABLE, ("none gains",))).startswith("Not testable, becau")
    assert said("C5", invariance=finding("invariance", "undecided")) == "Undecided."
    assert "cannot be tested, because few" in said("C10", groups=finding("groups", NOT_TESTABLE, ("few",)))


def test_poolformer_against_the_others():
    assert "not shown" in said("C6", limit=finding("limit", "not shown"))
    text = said("C6", limit=finding("limit", "loses more than 7 of 9 others; no family gains"))
    assert text == "At a target of 0.1 and a weight of 10, PoolFormer loses more than 7 of 9 others; no family gains."


@pytest.mark.parametrize(
    ("corrected", "words"),
    [
        (
            (0.9, 0.9, 0.9),
            f"Not shown after the correction over three comparisons: −2.0 points [−3.0, −1.0] in ViT-S ({DEFAULT}). No "
            "change is shown in the other two comparisons.",
        ),
        (
            (0.01, 0.01, 0.9),
            f"The constraint changes the accuracy by −2.0 points [−3.0, −1.0] in ViT-S ({DEFAULT}); −1.0 points "
            f"[−2.0, 0.0] in ViT-S ({PUBLISHED}). No change is shown in the other comparison.",
        ),
        ((0.01, 0.9, 0.9), "No change is shown in the other two comparisons."),
    ],
)
def test_the_accuracy_under_the_constraint(corrected, words):
    table = comparisons(
        {
            ("vit_small", DEFAULT): interval(-0.03, -0.02, -0.01),
            ("vit_small", PUBLISHED): interval(-0.02, -0.01, 0.0),
            ("mlp", DEFAULT): interval(-0.02, 0.0, 0.02),
        },
        corrected=corrected,
    )
    groups = finding("groups", "not shown", ("convolutions minus others: -1.7 [-5.9, +2.5] points",))
    text = said("C10", performance=finding("performance", "", (), table), groups=groups)
    assert words in text
    assert "Higher rates of convolutions are not shown (convolutions minus others: −1.7 [−5.9, +2.5] points)." in text


def test_intervals_that_all_hold_zero_show_no_change():
    rows = {("mlp", DEFAULT): interval(-0.02, 0.0, 0.02), ("mlp", PUBLISHED): interval(-0.03, -0.01, 0.01)}
    table = comparisons(rows, corrected=(0.9, 0.9))
    text = said("C10", performance=finding("performance", "", (), table))
    assert "A change of the accuracy is shown in none of 2 comparisons." in text
