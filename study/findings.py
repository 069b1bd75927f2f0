"""What the study found: each question with its verdict, effects and scale, and these as tables and text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from selfsim.boxes.correlation_sum import surrogate_drop
from selfsim.models.architectures import ARCHITECTURES, architecture
from selfsim.models.data import DATASETS
from selfsim.models.small_builds import PIXELS
from selfsim.training.runs import Run
from selfsim.uncertainty import Interval, mean_interval

from . import design
from .answer_text import listed, minus
from .design import DEFAULT, PUBLISHED, SCALE_ALONE, SUGGESTED, UNCONSTRAINED
from .layers import spreads
from .statistics import (
    architecture_scores,
    compared,
    convolution_difference,
    differences,
    holm,
    manipulation,
    measured,
    pairs,
    relation,
    same_distribution,
    scale_factor,
    unconstrained_runs,
    welch,
)

_KINDS = {entry.family for entry in ARCHITECTURES}
_PERCENT: dict[str, Any] = {"factor": 100, "digits": 1}
_POINTS: dict[str, Any] = _PERCENT | {"unit": " points"}
_NOISE: dict[str, Any] = {"unit": " standard deviations of noise"}


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes
    ----------
    claim, question, verdict : str
    effects : tuple of str
        Its comparisons with their intervals: both, those in which a difference is shown, or the lowest and the highest.
    tested : str
        What it was tested on.
    table : DataFrame or None
        Its comparisons, one a row.
    """

    claim: str
    question: str
    verdict: str
    effects: tuple[str, ...] = ()
    tested: str = ""
    table: pd.DataFrame | None = None


def findings(stages: Mapping[str, Sequence[Run]], *, invariance: pd.DataFrame | None = None) -> dict[str, Finding]:
    """Answer every question of the design from the runs that there are.

    Parameters
    ----------
    stages : mapping of str to sequence of Run
        As `tables.read_stages` gives them; a stage without runs leaves its questions "not tested".
    invariance : DataFrame, optional
        As `layers.read_invariance` gives it; without it, C5 is undecided.

    Returns
    -------
    dict of str to Finding
        In the order of the claims.
    """
    first, others, large = (list(stages.get(name, [])) for name in (design.FIRST, design.OTHERS, design.LARGE))
    both = [*first, *others]
    answers: dict[str, Finding] = {}
    runs: Sequence[Run]

    def add(key: str, claim: str, question: str, table: pd.DataFrame, runs: Sequence[Run], **form: Any) -> None:
        effects = _effects(table, **form, shown="verdict" not in table)
        tested = scale(runs, table) if effects else ""
        answers[key] = Finding(claim, question, _verdict(table), effects, tested, table)

    read = f"one probe reads the hidden neurons of {len(ARCHITECTURES)} architectures of {len(_KINDS)} kinds"
    answers["construction"] = Finding("C1", "Does one construction describe all architectures?", "built", (read,))
    derived = (
        f"128 neurons whose distances are an exact power law, far above 1, have a rate of {power_law_rate(128):.2f}, "
        "more than noise has",
        "chapter: What the rate measures, and what it does not",
    )
    answers["measure"] = Finding("C2", "Does box covering quantify self-similarity?", "no, by derivation", derived)
    scores = architecture_scores(both)
    answers["differ"] = _differ(scores, both)
    for runs, where in ((first, ""), (others, ", other families")):
        if runs or not where:
            question = f"Does the rate rise after the first epoch, as the paper says{where}?"
            table = _rate_changes(runs)
            add(f"degrade{where}", "C3", question, table, runs, digits=3)
            if said := first_epoch(table):
                answers[f"degrade{where}"] = replace(
                    answers[f"degrade{where}"], effects=(*answers[f"degrade{where}"].effects, said)
                )
    for runs, where in ((first, ""), (others, ", other families"), (large, ", 224 pixels")):
        if runs or not where:
            question = f"Does the constraint raise the accuracy{where}?"
            add(f"gain{where}", "C4", question, gains_table(runs), runs, **_POINTS)
    gains = default_gains(both)
    answers["invariance"] = _relation(gains, invariance, both)
    answers["limit"] = _limit(both)
    answers["time"] = _in_time(stages.get(design.TARGETS, []))
    question, chapter = "Do feature networks have other topological properties?", "Feature networks as complex networks"
    answers["topology"] = Finding("C8", question, "see chapter", (chapter,))
    question, chapter = "Are the weights power laws, and does it matter?", "Invariance across layers"
    answers["weights"] = Finding("C9", question, "see chapter", (chapter,))
    answers["groups"] = _groups(scores, both)
    add("performance", "C10", "Does the constraint change the accuracy?", _changes(first), first, **_POINTS)
    if runs := stages.get(design.DOSE, []):
        add("dose", "C10", "Do target and weight change the accuracy?", _changes(runs), runs, **_POINTS)
    if runs := stages.get(design.CONFIRM, []):
        question = "Does a target of 0.2 raise the accuracy, with new seeds?"
        add("confirm", "C10", question, _with_trends(_changes(runs)), runs, **_POINTS)
    if runs := stages.get(design.CONTROL, []):
        answers["scale"] = scale_finding(runs)
    table = _changes(first, "weight_distance")
    add("path", "C10", "Does it change the path of the weights?", table, first, digits=2)
    return answers


def gains_table(
    runs: Sequence[Run], *, control: str = UNCONSTRAINED, arms: Sequence[str] = (DEFAULT, PUBLISHED)
) -> pd.DataFrame:
    """Compare the test accuracy of each arm with the control's.

    Returns
    -------
    DataFrame
        As `statistics.compared` and `statistics.manipulation` give it, with a ``verdict``.
    """
    of_arms = {key: both for key, both in pairs(runs, control=control).items() if key[1] in arms}
    did = manipulation({key: both for key, both in pairs(runs).items() if key in of_arms})
    table = compared(differences(of_arms, "accuracy")).join(did)
    table["verdict"] = [
        design.gain_verdict(row.interval, row.corrected, moved=row.moved is True, as_intended=row.as_intended is True)
        for row in table.itertuples()
    ]
    return table


def default_gains(runs: Sequence[Run]) -> dict[str, Interval]:
    """Return the gain of every architecture at a target of 0.1 and a weight of 10, where there are pairs enough."""
    table = gains_table(runs, arms=(DEFAULT,))
    return {name: interval for (name, _), interval in table.interval.items() if interval is not None}


def scale_finding(runs: Sequence[Run]) -> Finding:
    """Answer stage f: what scale alone gains, and the target of 0.2 beyond it."""
    both = {}
    for treated, control in ((SCALE_ALONE, UNCONSTRAINED), (SUGGESTED, SCALE_ALONE)):
        of_arms = pairs(runs, control=control).items()
        both[f"{treated} − {control}"] = next((found for (_, arm), found in of_arms if arm == treated), [])
    table = compared(differences(both, "accuracy"))
    table["factor"] = [scale_factor(found) for found in both.values()]
    low, high = design.SAME_SCALE
    reached = low <= 1 / table.factor.iloc[1] <= high  # the control's, by those under the target
    effects = _effects(table, **_POINTS)
    verdict = design.scale_verdict(table, reached=bool(reached))
    tested = scale(runs, table) if effects else ""
    return Finding("C10", "Does scale alone give the gain at a target of 0.2?", verdict, effects, tested, table)


def power_law_rate(n: int, *, dimension: float = 1.0, longest: float = math.inf, points: int = 100_001) -> float:
    """Return the SS rate of n neurons whose correlation sum is an exact power law, up to the longest distance.

    The axis is ln(1 + distance). Where all distances are far above 1, it is their logarithm: then the share of shorter
    pairs grows from 1 pair to all of them like ``pairs ** (u - 1)``, and the rate is the same in every dimension.
    """
    u, pairs = np.linspace(0, 1, points), n * (n - 1) / 2
    if longest == math.inf:
        share = pairs ** (u - 1)
    else:
        low, high = np.log1p([longest * pairs ** (-1 / dimension), longest])
        share = (np.expm1(low + u * (high - low)) / longest) ** dimension
    return 2 * float(np.trapezoid(np.abs(u - surrogate_drop(share, n)), u))


def _differ(scores: Mapping[str, Sequence[float]], runs: Sequence[Run]) -> Finding:
    """Answer C3: one rank test over all architectures, of the distances from noise."""
    question, p = "Do architectures differ?", same_distribution(scores)
    table = compared({title(name): values for name, values in scores.items()}).drop(columns=["p", "corrected"])
    if p != p:
        return Finding("C3", question, "not tested", table=table)
    effects = (f"Kruskal–Wallis, p = {p:.2g}", *_effects(table, **_NOISE))
    return Finding("C3", question, "shown" if p < design.ALPHA else "not shown", effects, scale(runs), table)


def _groups(scores: Mapping[str, Sequence[float]], runs: Sequence[Run]) -> Finding:
    """Answer C10: convolutional architectures against the others, architectures as units."""
    question, interval = "Do convolutions have higher rates?", convolution_difference(scores)
    if interval is None:
        if max(map(len, scores.values()), default=0) < design.LEAST_PAIRS:
            return Finding("C10", question, "not tested")
        reason = "two convolutional and two other architectures are needed, with three seeds each"
        return Finding("C10", question, design.NOT_TESTABLE, (reason,))
    above, below = interval.low > 0, interval.high < 0
    verdict = "shown" if above else "shown the other way round" if below else "not shown"
    difference = f"{interval_text(interval, digits=1)}{_NOISE['unit']} over {interval.n} architectures"
    return Finding("C10", question, verdict, (f"convolutions minus others: {difference}",), scale(runs))


def _in_time(runs: Sequence[Run]) -> Finding:
    """Answer C7: a schedule against the fixed target, where the fixed target is no handicap."""
    question = "Is a target that changes in time better than a fixed one?"
    table = gains_table(runs, control=DEFAULT, arms=(design.LINEAR,))
    effects = _effects(table, **_POINTS)
    if not effects:
        return Finding("C7", question, "not tested", table=table)
    fixed, verdict = default_gains(runs), _verdict(table)
    if fixed and all(interval.high < 0 for interval in fixed.values()):
        verdict = design.NOT_TESTABLE
        reason = "the fixed target loses accuracy (95 % intervals, not corrected), so pulling less is enough to win"
        effects = (reason, *effects)
    return Finding("C7", question, verdict, effects, scale(runs, table), table.drop(columns="verdict"))


def _limit(runs: Sequence[Run]) -> Finding:
    """Answer C6: what the constraint does to PoolFormer minus what it does to each other family."""
    question = "Does the constraint fail for PoolFormer, and not for others?"
    of_arms = {name: both for (name, arm), both in pairs(runs).items() if arm == DEFAULT}
    by_name = {
        name: values for name, values in differences(of_arms, "accuracy").items() if len(values) >= design.LEAST_PAIRS
    }
    limited = by_name.pop("poolformer", None)
    if limited is None or not by_name:
        return Finding("C6", question, "not tested")
    rows = {}
    for name, values in by_name.items():
        interval, p = welch(limited, values, "difference of two mean differences")
        rows["poolformer", name] = {"interval": interval, "p": p}
    table = pd.DataFrame.from_dict(rows, orient="index").assign(corrected=lambda t: holm(t.p))
    lower = [1 if row.interval.estimate >= 0 else row.corrected for row in table.itertuples()]
    gaining = sum(mean_interval(values).low > 0 for values in by_name.values())
    effects = ("PoolFormer minus another family:", *_effects(table, **_POINTS))
    return Finding("C6", question, design.limit_verdict(lower, gaining=gaining), effects, scale(runs), table)


def _relation(gains: Mapping[str, Interval], invariance: pd.DataFrame | None, runs: Sequence[Run]) -> Finding:
    """Answer C5: each kind of invariance against the gains of the architectures, if any gains."""
    question = "Do models with invariant features gain most?"
    if not gains:
        return Finding("C5", question, "not tested")
    estimates = {name: interval.estimate for name, interval in gains.items()}
    by_kind = {} if invariance is None else spreads(invariance).to_dict()
    rows = {kind: relation(estimates, spread, comparisons=len(by_kind)) for kind, spread in by_kind.items()}
    if not any(rows.values()):
        needed = f"gains of {len(gains)} families; {design.LEAST_FAMILIES}, with their invariances, are needed"
        return Finding("C5", question, "undecided", (needed,))
    table = pd.DataFrame({"families": {k: rho.n if rho else 0 for k, rho in rows.items()}, "interval": rows})
    tested = scale([run for run in runs if run.config.architecture in gains])
    effects = _effects(table, digits=2, what="rank correlation ")
    if not any(interval.low > 0 for interval in gains.values()):
        return Finding(
            "C5",
            question,
            design.NOT_TESTABLE,
            ("no family gains at a target of 0.1 and a weight of 10", *effects),
            tested,
            table,
        )
    table["verdict"] = [design.relation_verdict(rho) for rho in rows.values()]
    return Finding("C5", question, design.overall_verdict(table.verdict), effects, tested, table)


def _changes(runs: Sequence[Run], metric: str = "accuracy") -> pd.DataFrame:
    return compared(differences(pairs(runs), metric))


def _rate_changes(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the change of the rate after the first epoch, with that in the first epoch beside it."""
    of_arms = {(name, UNCONSTRAINED): of_name for name, of_name in unconstrained_runs(runs).items()}
    later, early = (
        compared({key: [measured(run, metric) for run in of_name] for key, of_name in of_arms.items()})
        for metric in ("rate_change", "first_change")
    )
    return _with_trends(later.assign(first_epoch=early.interval))


def first_epoch(table: pd.DataFrame) -> str:
    """Say in which families the rate rose and fell in the first epoch, from their 95 % intervals."""
    intervals = {name: interval for (name, _), interval in table.first_epoch.items() if interval is not None}
    if not intervals:
        return ""
    rose = [title(name) for name, interval in intervals.items() if interval.low > 0]
    fell = [title(name) for name, interval in intervals.items() if interval.high < 0]
    said = [f"{verb} in {listed(names)}" for verb, names in (("rose", rose), ("fell", fell)) if names]
    changed = f"the rate {' and '.join(said)}" if said else "no change of the rate is shown"
    return f"in the first epoch, from the random start, {changed}, of {len(intervals)} (95 % intervals, not corrected)"


def _with_trends(table: pd.DataFrame) -> pd.DataFrame:
    """Add the verdicts on a claim that something rises."""
    rows = table.itertuples()
    return table.assign(verdict=[design.trend_verdict(row.interval, row.corrected, direction=1) for row in rows])


def _verdict(table: pd.DataFrame) -> str:
    """Return the verdict that all comparisons share, or the comparisons of each; of the most frequent, their number.

    Without verdicts in the table, a comparison shows something if a difference remains after the correction.
    """
    by_verdict: dict[str, list[tuple[str, str]]] = {}
    for key, row in table.to_dict("index").items():
        verdict = row.get("verdict", "shown" if row["corrected"] < design.ALPHA else "not shown")
        if row["interval"] is not None and verdict != "not tested":
            by_verdict.setdefault(verdict, []).append(key)
    if len(by_verdict) < 2:
        return next(iter(by_verdict), "not tested")
    *named, (last, rest) = sorted(by_verdict.items(), key=lambda of: (len(of[1]), of[0].startswith("not")))
    said = [f"{verdict} for {_settings(keys)}" for verdict, keys in named]
    return "; ".join([*said, f"{last} " + (f"in the other {len(rest)}" if len(rest) > 1 else f"for {_settings(rest)}")])


def _settings(keys: Iterable[tuple[str, str]]) -> str:
    """Name comparisons, those of an arm together."""
    by_arm: dict[str, list[str]] = {}
    for name, of in keys:
        by_arm.setdefault(of, []).append(title(name))
    return " and ".join(f"{listed(names)} ({of})" for of, names in by_arm.items())


def _effects(
    table: pd.DataFrame, *, factor: float = 1, digits: int = 1, unit: str = "", what: str = "", shown: bool = False
) -> tuple[str, ...]:
    """Return comparisons with their intervals: two, or the lowest and the highest; if `shown`, those that are."""
    known = table[table.interval.notna()]
    known = known.iloc[np.argsort([interval.estimate for interval in known.interval], kind="stable")]
    labels = [""] * len(known)
    if shown and (known.corrected < design.ALPHA).any():
        known = known[known.corrected < design.ALPHA]
    elif len(known) > 2:
        labels = [f"lowest of {len(known)}: ", f"highest of {len(known)}: "]
        known = known.iloc[[0, -1]]
    return tuple(
        f"{label}{what}{interval_text(interval, factor, digits)}{unit} ({row_title(key)})"
        for label, (key, interval) in zip(labels, known.interval.items(), strict=False)
    )


def interval_text(interval: Interval | None, factor: float = 1, digits: int = 3) -> str:
    """Return an interval as text, with signs; "fewer than 3 pairs" for none."""
    if interval is None:
        return f"fewer than {design.LEAST_PAIRS} pairs"
    low, middle, high = (f"{factor * v:+.{digits}f}" for v in (interval.low, interval.estimate, interval.high))
    return minus(f"{middle} [{low}, {high}]")


def title(name: str) -> str:
    """Return an architecture's title; any other text as it is."""
    try:
        return architecture(name).title
    except ValueError:
        return name


def scale(runs: Sequence[Run], table: pd.DataFrame | None = None) -> str:
    """Say what runs speak for: their families and seeds, or the comparisons of a table; epochs, images."""
    if not runs:
        return ""
    config = runs[0].config
    by_family: dict[str, set[int]] = {}
    for run in runs:
        by_family.setdefault(run.config.architecture, set()).add(run.config.seed)
    about = f"{len(by_family)} families, {_range(sorted(map(len, by_family.values())))} seeds"
    if table is not None:
        counts = sorted(table.pairs[table.interval.notna()])
        about = f"{len(counts)} comparison{'s' * (len(counts) != 1)} over {_range(counts)} seeds"
    number = f"{config.train_images:,}" if config.train_images else "all"
    images = f"{number} images of {DATASETS[config.dataset]}"
    return f"{about}, {config.epochs} epochs, {images}, {PIXELS[config.size]} pixels"


def _range(ascending: Sequence[int]) -> str:
    return " to ".join(map(str, dict.fromkeys((ascending[0], ascending[-1]))))


def row_title(key: str | tuple[str, str]) -> str:
    """Return the title of a comparison."""
    return key if isinstance(key, str) else ", ".join(map(title, key))
