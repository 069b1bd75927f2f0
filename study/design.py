"""What book/study.md fixed before the runs: stages, arms, thresholds, and the rules of the verdicts.

The rules of C3, C5, C6, C7 and C10 (groups) are the later ones that the page lists under "Corrections".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from selfsim.training.config import TrainConfig
from selfsim.training.pairs import constraint_text, target_of
from selfsim.uncertainty import Interval

# Stages a to f; stage c is two. Each is a grid in study/grids/ and a pair of tables in results/study/.
FIRST, DOSE, OTHERS, TARGETS, LARGE = "families", "dose", "others", "targets", "large"
CONFIRM, CONTROL = "confirm", "control"

# Arms: what is done to a run.
UNCONSTRAINED, DEFAULT, PUBLISHED = "unconstrained", "target 0.1, weight 10", "as published"
SUGGESTED, SCALE_ALONE, LINEAR = "target 0.2, weight 10", "scale alone", "linear target"

ALPHA = 0.05  # over all comparisons of a question
SMALLEST_GAIN = 0.01  # of the accuracy, that matters
NOT_TESTABLE = "not testable here"
LEAST_PAIRS = 3  # with fewer, nothing was tested
LEAST_FAMILIES = 10  # for a relation over families
LARGEST_FACTOR = 3.0  # by which the median distance may change
SAME_SCALE = (0.9, 1.1)  # factors of the median distance that count as none


def arm(config: TrainConfig) -> str:
    """Return what is done to a run, in words: unconstrained, or the constraint's target and weight."""
    if config.constraint is None:
        return UNCONSTRAINED
    options = dict(config.constraint)
    if options.get("scale"):
        return SCALE_ALONE
    if options.get("paper"):
        return PUBLISHED
    target = target_of(config)
    if not options.get("plain"):
        return f"constraint {constraint_text(config)}"
    if isinstance(target, Mapping):
        return f"{target['schedule']} target" if "schedule" in target else "random targets"
    return f"target {target:g}, weight {options.get('weight', 10):g}"


def gain_verdict(interval: Interval | None, corrected: float, *, moved: bool, as_intended: bool) -> str:
    """Decide whether something gains (C4, C7).

    Parameters
    ----------
    interval : Interval or None
        The paired difference of the accuracy; None for too few pairs.
    corrected : float
        Its p-value after the correction.
    moved, as_intended : bool
        Whether the constraint moved the rate, and did what it says besides.
    """
    if interval is None:
        return "not tested"
    if corrected < ALPHA and interval.estimate >= SMALLEST_GAIN and as_intended:
        return "reproduced"
    return "not reproduced at this scale" if interval.high < SMALLEST_GAIN or not moved else "undecided"


def trend_verdict(interval: Interval | None, corrected: float, *, direction: int = 0) -> str:
    """Decide on a difference or a trend (C3, C10); `direction` is the sign that the claim expects, 0 for either."""
    if interval is None:
        return "not tested"
    if not corrected < ALPHA:
        return "not shown"
    return "shown" if interval.estimate * direction >= 0 else "shown the other way round"


def limit_verdict(corrected: Sequence[float], *, gaining: int) -> str:
    """Decide whether the constraint works worse for one architecture than for the others (C6).

    Parameters
    ----------
    corrected : sequence of float
        P-values, after the correction, of the one being lower than each of the others; 1 where it is not.
    gaining : int
        How many of the others gain. Without a gain elsewhere, no limit of a gain can be shown.
    """
    if not len(corrected):
        return "not tested"
    lower = sum(p < ALPHA for p in corrected)
    if not lower:
        return "not shown"
    return f"loses more than {lower} of {len(corrected)} others" + ("" if gaining else "; no family gains")


def relation_verdict(correlation: Interval | None) -> str:
    """Decide whether the gain grows with invariance (C5), by their rank correlation."""
    if correlation is None or correlation.low <= 0 <= correlation.high:
        return "undecided"
    return "reproduced" if correlation.low > 0 else "not reproduced at this scale"


def scale_verdict(table: pd.DataFrame, *, reached: bool) -> str:
    """Decide on stage f.

    Parameters
    ----------
    table : DataFrame
        Two rows: scale alone minus unconstrained, and the target minus scale alone.
    reached : bool
        Whether the control reached the scale that it pulls to.
    """
    if table.interval.isna().any():
        return "not tested"
    if not reached:
        return "undecided"
    above = [bool(row.corrected < ALPHA and row.interval.estimate > 0) for row in table.itertuples()]
    below = [interval.high < SMALLEST_GAIN for interval in table.interval]
    if all(above):
        return "scale gives a part of it"
    if above[0] and below[1]:
        return "scale gives all of it"
    return "scale does not give it" if above[1] and below[0] else "undecided"


def overall_verdict(verdicts: Sequence[str]) -> str:
    """Return the verdict that all share, or how often each was reached."""
    reached = [verdict for verdict in verdicts if verdict != "not tested"]
    counts = {verdict: reached.count(verdict) for verdict in dict.fromkeys(reached)}
    if len(counts) < 2:
        return next(iter(counts), "not tested")
    return ", ".join(f"{verdict} in {count} of {len(reached)}" for verdict, count in counts.items())
