"""The verdicts of the study, word by word as book/study.md has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from selfsim.uncertainty import Interval

from .arms import ALPHA, GAIN


def gain_verdict(interval: Interval | None, corrected: float, *, moved: bool, did: bool) -> str:
    """Of a claim that something gains: C4 and C7."""
    if interval is None:
        return "not tested"
    if corrected < ALPHA and interval.estimate >= GAIN and did:
        return "reproduced"
    return "not reproduced at this scale" if interval.high < GAIN or not moved else "undecided"


def trend_verdict(interval: Interval | None, corrected: float, *, direction: int = 0) -> str:
    """Of a difference or a trend, C3 and C10; `direction` is the sign that the claim expects, 0 for either."""
    if interval is None:
        return "not tested"
    if not corrected < ALPHA:
        return "not shown"
    return "shown" if interval.estimate * direction >= 0 else "shown the other way round"


def limit_verdict(intervals: Mapping[str, Interval | None], limited: str = "poolformer") -> str:
    """Of C6: does the constraint fail for this architecture, and not for another?"""
    own, others = intervals.get(limited), [i for name, i in intervals.items() if name != limited and i is not None]
    if own is None or not others:
        return "not tested"
    if own.high < GAIN and any(other.high >= GAIN for other in others):
        return "reproduced"
    return "not reproduced at this scale" if own.low >= GAIN else "undecided"


def relation_verdict(rho: Interval | None) -> str:
    """Of C5: do those architectures gain most that have the invariance most?"""
    if rho is None or rho.low <= 0 <= rho.high:
        return "undecided"
    return "reproduced" if rho.low > 0 else "not reproduced at this scale"


def overall(verdicts: Sequence[str]) -> str:
    """One line for several verdicts on one claim: the verdict that all share, or how often each was reached."""
    reached = [verdict for verdict in verdicts if verdict != "not tested"]
    counts = {verdict: reached.count(verdict) for verdict in dict.fromkeys(reached)}
    if len(counts) < 2:
        return next(iter(counts), "not tested")
    return ", ".join(f"{verdict} in {count} of {len(reached)}" for verdict, count in counts.items())


def scale_verdict(table: pd.DataFrame, *, reached: bool) -> str:
    """Of stage f: rows are scale alone minus unconstrained, and the target minus scale alone."""
    if table.interval.isna().any():
        return "not tested"
    above = [bool(row.corrected < ALPHA and row.interval.estimate > 0) for row in table.itertuples()]
    below = [interval.high < GAIN for interval in table.interval]
    if not reached:
        return "undecided"
    if all(above):
        return "scale gives a part of it"
    if above[0] and below[1]:
        return "scale gives all of it"
    return "scale does not give it" if above[1] and below[0] else "undecided"
