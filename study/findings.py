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
    welch,
)

_KINDS = {entry.family for entry in ARCHITECTURES}
_PERCENT: dict[str, Any] = {"factor": 100, "digits": 1}
_POINTS: dict[str, Any] = _PERCENT | {"unit": " points"}
_NOISE: dict[str, Any] = {"unit": " sd of noise"}
_HEADINGS = {
    "ss_rate": "rate",
    "ss_rate_left_out": "without 3",
    "ss_rate_quantiles": "quantiles",
    "moved": "rate moved",
    "as_intended": "as intended",
    "corrected": "p, corrected",
}


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes
    ----------
    claim, question, verdict : str
    effect : str
        The lowest and the highest of its comparisons, with intervals.
    tested : str
        What it was tested on.
    table : DataFrame or None
        Its comparisons, one a row.
    """

    claim: str
    question: str
    verdict: str
    effect: str = ""
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
        effect = _extremes(table, **form)
        tested = scale(runs, table) if effect else ""
        answers[key] = Finding(claim, question, _verdict(table), effect, tested, table)

    read = f"one probe reads the hidden neurons of {len(ARCHITECTURES)} architectures of {len(_KINDS)} kinds"
    answers["construction"] = Finding("C1", "Does one construction describe all architectures?", "built", read)
    rates = (
        f"a set whose pairs are an exact power law has a rate of {power_law_rate(128):.2f} (128 neurons), noise of 0.2"
    )
    derived = f"{rates}; chapter: What the rate measures, and what it does not"
    answers["measure"] = Finding("C2", "Does box covering quantify self-similarity?", "no, by derivation", derived)
    scores = architecture_scores(both)
    answers["differ"] = _differ(scores, both)
    for runs, where in ((first, ""), (others, ", other families")):
        if runs or not where:
            question = f"Does self-similarity degrade in training{where} (does the rate rise)?"
            add(f"degrade{where}", "C3", question, _rate_changes(runs), runs, digits=3)
    for runs, where in ((first, ""), (others, ", other families"), (large, ", 224 pixels")):
        if runs or not where:
            question = f"Does the constraint raise the accuracy{where}?"
            add(f"gain{where}", "C4", question, gains_table(runs), runs, **_POINTS)
    gains = default_gains(both)
    answers["invariance"] = _relation(gains, invariance, both)
    answers["limit"] = _limit(both)
    answers["time"] = _in_time(stages.get(design.TARGETS, []))
    question, chapter = "Do feature networks have other topological properties?", "Feature networks as complex networks"
    answers["topology"] = Finding("C8", question, "see chapter", chapter)
    question, chapter = "Are the weights power laws, and does it matter?", "Invariance across layers"
    answers["weights"] = Finding("C9", question, "see chapter", chapter)
    answers["groups"] = _groups(scores, both)
    add("performance", "C10", "Does the constraint change the accuracy?", _changes(first), first, **_POINTS)
    if runs := stages.get(design.DOSE, []):
        add("dose", "C10", "Do target and weight change the accuracy?", _changes(runs), runs, **_POINTS)
    if runs := stages.get(design.CONFIRM, []):
        question = "Does the target that stage b suggests raise the accuracy (new seeds)?"
        add("confirm", "C10", question, _with_trends(_changes(runs)), runs, **_POINTS)
        answers["confirm"] = replace(answers["confirm"], verdict=_verdicts_by_name(answers["confirm"].table))
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
    """Return the gain of every architecture under this project's constraint, where there are pairs enough."""
    table = gains_table(runs, arms=(DEFAULT,))
    return {name: interval for (name, _), interval in table.interval.items() if interval is not None}


def unconstrained_runs(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each architecture that had no constraint and did not fail."""
    by_architecture: dict[str, list[Run]] = {}
    for run in runs:
        if run.config.constraint is None and run.history:
            by_architecture.setdefault(run.config.architecture, []).append(run)
    return by_architecture


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
    effect = _extremes(table, **_POINTS)
    verdict = design.scale_verdict(table, reached=bool(reached))
    tested = scale(runs, table) if effect else ""
    return Finding("C10", "Is the gain of stage e one of scale?", verdict, effect, tested, table)


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
    ends = _extremes(table, **_NOISE)
    verdict = "shown" if p < design.ALPHA else "not shown"
    return Finding("C3", question, verdict, f"Kruskal–Wallis, p = {p:.2g}; {ends}", scale(runs), table)


def _groups(scores: Mapping[str, Sequence[float]], runs: Sequence[Run]) -> Finding:
    """Answer C10: convolutional architectures against the others, architectures as units."""
    question, interval = "Do convolutions have higher rates?", convolution_difference(scores)
    if interval is None:
        if max(map(len, scores.values()), default=0) < design.LEAST_PAIRS:
            return Finding("C10", question, "not tested")
        reason = "two convolutional and two other architectures are needed, with three seeds each"
        return Finding("C10", question, design.NOT_TESTABLE, reason)
    above, below = interval.low > 0, interval.high < 0
    verdict = "shown" if above else "shown the other way round" if below else "not shown"
    effect = f"{interval_text(interval, digits=1)}{_NOISE['unit']} over {interval.n} architectures"
    return Finding("C10", question, verdict, effect, scale(runs))


def _in_time(runs: Sequence[Run]) -> Finding:
    """Answer C7: a schedule against the fixed target, where the fixed target is no handicap."""
    question = "Is a target that changes in time better than a fixed one?"
    table = gains_table(runs, control=DEFAULT, arms=(design.LINEAR,))
    effect = _extremes(table, **_POINTS)
    if not effect:
        return Finding("C7", question, "not tested", table=table)
    fixed = default_gains(runs)
    if fixed and all(interval.high < 0 for interval in fixed.values()):
        verdict = design.NOT_TESTABLE
        effect = f"the fixed target loses accuracy, so pulling less is enough to win; {effect}"
    else:
        verdict = _verdict(table)
    return Finding("C7", question, verdict, effect, scale(runs, table), table.drop(columns="verdict"))


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
    effect = f"PoolFormer minus another family: {_extremes(table, **_POINTS)}"
    return Finding("C6", question, design.limit_verdict(lower, gaining=gaining), effect, scale(runs), table)


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
        return Finding("C5", question, "undecided", needed)
    table = pd.DataFrame({"families": {k: rho.n if rho else 0 for k, rho in rows.items()}, "interval": rows})
    tested = scale([run for run in runs if run.config.architecture in gains])
    effect = "rank correlation " + _extremes(table, digits=2)
    if not any(interval.low > 0 for interval in gains.values()):
        return Finding("C5", question, design.NOT_TESTABLE, f"no family gains; {effect}", tested, table)
    table["verdict"] = [design.relation_verdict(rho) for rho in rows.values()]
    return Finding("C5", question, design.overall_verdict(table.verdict), effect, tested, table)


def _changes(runs: Sequence[Run], metric: str = "accuracy") -> pd.DataFrame:
    return compared(differences(pairs(runs), metric))


def _rate_changes(runs: Sequence[Run]) -> pd.DataFrame:
    by_name = unconstrained_runs(runs).items()
    changes = {(name, UNCONSTRAINED): [measured(run, "rate_change") for run in of_name] for name, of_name in by_name}
    return _with_trends(compared(changes))


def _with_trends(table: pd.DataFrame) -> pd.DataFrame:
    """Add the verdicts on a claim that something rises."""
    rows = table.itertuples()
    return table.assign(verdict=[design.trend_verdict(row.interval, row.corrected, direction=1) for row in rows])


def _verdict(table: pd.DataFrame) -> str:
    """One line for the verdicts of a table; without these, whether a difference remains after the correction."""
    if "verdict" in table:
        return design.overall_verdict(table.verdict)
    if not table.interval.notna().any():
        return "not tested"
    return "shown" if (table.corrected < design.ALPHA).any() else "not shown"


def _verdicts_by_name(table: pd.DataFrame | None) -> str:
    """Return the verdict that all rows share, or each with the architectures that it is for."""
    names: dict[str, list[str]] = {}
    for (name, _), row in ({} if table is None else table.to_dict("index")).items():
        names.setdefault(row["verdict"], []).append(title(name))
    if len(names) < 2:
        return next(iter(names), "not tested")
    return ", ".join(f"{verdict} for {' and '.join(of)}" for verdict, of in names.items())


def _extremes(table: pd.DataFrame, *, factor: float = 1, digits: int = 1, unit: str = "") -> str:
    """The lowest and the highest of the comparisons, each with its interval."""
    known = sorted(
        (interval.estimate, _row_title(key), interval)
        for key, interval in table.interval.items()
        if interval is not None
    )
    ends = [f"{interval_text(end, factor, digits)}{unit} ({name})" for _, name, end in [*known[:1], *known[1:][-1:]]]
    return " to ".join(ends)


# Text for the page of the claims.


def findings_table(answers: Iterable[Finding]) -> pd.DataFrame:
    """Tabulate the verdicts, and the effects from the lowest to the highest: one row a question."""
    rows = [
        {"claim": one.claim, "question": one.question, "verdict": one.verdict, "effects, or where": one.effect}
        for one in answers
    ]
    return pd.DataFrame(rows).set_index(["claim", "question"])


def readable(
    table: pd.DataFrame, *, what: str = "difference", factor: float = 1, digits: int = 3, unit: str = ""
) -> pd.DataFrame:
    """Return a table of comparisons as text: titles, intervals (of `what`) and p-values."""
    text = pd.DataFrame(index=[_breaking_after_comma(_row_title(key)) for key in table.index])
    for column in table:
        values = table[column].tolist()
        heading = _HEADINGS.get(column, column)
        if column == "interval":
            text[f"{what}{f' ({unit.strip()})' if unit else ''}"] = [interval_text(v, factor, digits) for v in values]
        elif any(v is None or isinstance(v, Interval) for v in values):
            text[heading] = [interval_text(v, 1, 3) for v in values]
        elif column in ("p", "corrected"):
            text[heading] = ["" if v != v else f"{v:.2g}" for v in values]
        elif column in ("moved", "as_intended"):
            text[heading] = ["yes" if v is True else "no" for v in values]
        elif column == "verdict":
            text[heading] = [v.removesuffix(" at this scale") for v in values]
        else:
            text[heading] = [f"{v:.2f}" if isinstance(v, float) else v for v in values]
    return text


def in_one_line(finding: Finding) -> str:
    """Return a finding as a line of Markdown: the verdict, the effects, what it was tested on."""
    rest = [finding.effect, f"tested on {finding.tested}" if finding.tested else ""]
    return f"**{finding.claim}, {finding.verdict}.** " + "; ".join(filter(None, rest))


def interval_text(interval: Interval | None, factor: float = 1, digits: int = 3) -> str:
    """Return an interval as text, with signs; "fewer than 3 pairs" for none."""
    if interval is None:
        return f"fewer than {design.LEAST_PAIRS} pairs"
    low, middle, high = (f"{factor * v:+.{digits}f}" for v in (interval.low, interval.estimate, interval.high))
    return f"{middle} [{low}, {high}]"


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
        about = f"{len(counts)} comparison(s) over {_range(counts)} seeds"
    number = f"{config.train_images:,}" if config.train_images else "all"
    images = f"{number} images of {DATASETS[config.dataset]}"
    return f"{about}, {config.epochs} epochs, {images}, {PIXELS[config.size]} pixels"


def _range(ascending: Sequence[int]) -> str:
    return " to ".join(map(str, dict.fromkeys((ascending[0], ascending[-1]))))


def _breaking_after_comma(name: str) -> str:
    """Forbid line breaks within the name except after its first comma, so that a narrow column stays readable."""
    return name.replace(" ", "\u00a0").replace(",\u00a0", ", ", 1).replace("-", "\u2011")


def _row_title(key: str | tuple[str, str]) -> str:
    return key if isinstance(key, str) else ", ".join(map(title, key))
