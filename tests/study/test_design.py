"""The verdicts of the study, as the design words them."""

from __future__ import annotations

import math

import pytest

from study import design, statistics

from .made_study import interval


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
    assert design.gain_verdict(interval(low, high), p, moved=moved, as_intended=did) == verdict


def test_verdicts_on_trends():
    assert design.trend_verdict(interval(0.1, 0.2), 0.01, direction=1) == "shown"
    assert design.trend_verdict(interval(0.1, 0.2), 0.01, direction=-1) == "shown the other way round"
    assert design.trend_verdict(interval(-0.2, -0.1), 0.01) == "shown"
    assert design.trend_verdict(interval(0.1, 0.2), 0.06) == "not shown"
    assert design.trend_verdict(None, math.nan) == "not tested"


def test_verdicts_on_the_limit():
    assert design.limit_verdict([0.01, 0.2, 0.04], gaining=1) == "loses more than 2 of 3 others"
    assert design.limit_verdict([0.01, 0.2, 0.04], gaining=0) == "loses more than 2 of 3 others; no family gains"
    assert design.limit_verdict([0.2, 1.0], gaining=1) == "not shown"
    assert design.limit_verdict([], gaining=0) == "not tested"


def test_verdicts_on_the_relation():
    gains = {str(k): float(k) for k in range(10)}
    spread = {key: 9 - value for key, value in gains.items()}  # those that gain most differ least between layers

    def verdict(spreads):
        return design.relation_verdict(statistics.relation(gains, spreads, comparisons=3))

    assert verdict(spread) == "reproduced"
    assert verdict(gains).startswith("not reproduced")
    assert verdict(dict(zip(gains, (3, 8, 1, 6, 9, 0, 4, 7, 2, 5), strict=True))) == "undecided"
    for nine in (dict(list(spread.items())[:9]), spread | {"3": math.nan}):
        assert statistics.relation(gains, nine) is None and verdict(nine) == "undecided"
    one, three = (statistics.relation(gains, spread, comparisons=n) for n in (1, 3))
    assert one.level == 0.95 and three.level == pytest.approx(1 - 0.05 / 3) and three.low < one.low


def test_one_line_for_several_verdicts():
    assert design.overall_verdict([]) == design.overall_verdict(["not tested"]) == "not tested"
    assert design.overall_verdict(["undecided", "not tested", "undecided"]) == "undecided"
    assert (
        design.overall_verdict(["undecided", "reproduced", "undecided"]) == "undecided in 2 of 3, reproduced in 1 of 3"
    )
