"""What the page "Does it work?" says: its sentences, tables and figure, from the tables of both studies."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import pandas as pd
from scipy import stats

from selfsim.models.architectures import architecture

from .answer_rates import direction, directions, hold_sentence, rates_table
from .answer_text import ARMS, NUMBERS, SHORT, capitalized, change, decimal, ends, listed, markdown, points, span
from .claims import claims_table
from .convergence_statistics import (
    ALPHA,
    INCONCLUSIVE,
    LEAST_PAIRS,
    NULL,
    NULL_DOES_NOT_COUNT,
    accuracies,
    by_family,
    control_gains,
    over_families,
    reached,
    same_rate,
)
from .convergence_tables import CONTROL, FAMILIES, FREE, HOLD, LOWER, PUBLISHED, Convergence
from .findings import Finding
from .report import report_facts

FIGURE = "answer.svg"
# With fewer families, the interval of their mean is too wide to use.
_FEWEST_FAMILIES = 4
NOT_RUN = "not run"
_WORDS = {
    "gain": "accuracy rises",
    "gain of less than one point": "accuracy rises, by less than one point",
    "loss": "accuracy falls",
    "loss of less than one point": "accuracy falls, by less than one point",
    NULL: "no change as large as one point",
    NULL_DOES_NOT_COUNT: "undecided, as no gain of the positive control is shown",
    INCONCLUSIVE: "undecided",
}
_DIRECTIONS = {
    "yes": "nearer to its targets",
    "no": "not shown to be nearer",
    "further away": "further from its targets",
}


def answer_facts(
    tables: Convergence, *, findings: Mapping[str, Finding], first: Mapping[str, str], seconds: float
) -> dict[str, str]:
    """Return every sentence and table of the page, by its name after ``answer.``.

    Parameters
    ----------
    tables : Convergence
        Of the second study, complete or not.
    findings : mapping of str to Finding
        Of the first study.
    first : mapping of str to str
        The facts ``first.…`` of the first study.
    seconds : float
        Core-seconds of the first study.
    """
    comparisons = by_family(tables)
    pools = over_families(tables, comparisons)
    if not {HOLD, CONTROL} <= set(pools.index):
        raise ValueError("convergence: got too few pairs of the arms hold and control; run study.convergence")
    rates = reached(tables)
    opposite = _opposite_edges(tables, comparisons)
    sentence = _sentence(tables, comparisons, pools, opposite) + _unmoved_sentence(pools, rates)
    lower = _lower_sentence(tables, comparisons, pools)
    said = {
        "sentence": sentence,
        "epochs": _epochs(tables),
        "units": _units_sentence(pools),
        "control": _control_sentence(comparisons, pools) + _edges_sentence(opposite),
        "lower": lower,
        "table": _table(comparisons, pools, rates),
        "figure": _figure_text(pools),
        "free": _free_sentence(tables),
        "families": _families_table(comparisons),
        "rates": rates_table(tables, rates),
        "hold": hold_sentence(rates),
        "same_rate": _same_rate_table(tables),
        "same_rate.sentence": _same_rate_sentence(tables),
        "claims": claims_table(findings, first, second=sentence, lower=lower),
        **report_facts(tables, comparisons, pools, seconds=seconds),
    }
    return {f"answer.{key}": text for key, text in said.items()}


def _epochs(tables: Convergence) -> str:
    """Return how long the networks are trained, as a number in text."""
    return span(tables.runs.epochs.dropna().astype(int))


def _sentence(tables: Convergence, comparisons: pd.DataFrame, pools: pd.DataFrame, provisional: Collection[str]) -> str:
    """Give the answer of the second study, the same on every page."""
    done = [arm for arm in (HOLD, LOWER) if arm in pools.index]
    numbers = pools.families[done].map(len)
    after = f"after {_epochs(tables)} epochs"
    if few(pools):
        return _sentence_by_family(comparisons, pools.families[numbers.idxmax()], after, provisional)
    verbs = {HOLD: "holding", LOWER: "lowering"}
    changes = " and ".join(f"{verbs[arm]} the rate changes it by {change(pools.interval[arm])} points" for arm in done)
    words = {_WORDS[pools.verdict[arm]] for arm in done}
    verdict = (
        words.pop() if len(words) == 1 else "; ".join(f"{verbs[arm]}: {_WORDS[pools.verdict[arm]]}" for arm in done)
    )
    means = f"means over {span(numbers)} families, 95 % intervals"
    return f"{capitalized(verdict)} {after}: {changes} of test accuracy ({means})."


def _sentence_by_family(
    comparisons: pd.DataFrame, names: Sequence[str], after: str, provisional: Collection[str]
) -> str:
    """Say what each family shows, where they are too few for their mean to decide."""
    arms = comparisons[comparisons.index.get_level_values("arm") != CONTROL]
    parts, gaining = [], []
    for name in names:
        words_of = _WORDS | {NULL_DOES_NOT_COUNT: _WORDS[INCONCLUSIVE]}  # the control is a sentence of its own
        own = arms.loc[name].assign(words=arms.loc[name].verdict.map(words_of))
        for words, rows in own.groupby("words", sort=False):
            reach = ends([end for interval in rows.interval for end in (interval.low, interval.high)])
            of_arms = "" if len(rows) == len(own) else f", {listed(SHORT[arm] for arm in rows.index)}"
            until = "; provisional, for better learning rates may lie beyond those tried" if name in provisional else ""
            parts.append(f"{architecture(name).title}{of_arms}: {words} (95 % intervals within {reach} points{until})")
        if own.verdict.str.startswith("gain").any():
            gaining.append(architecture(name).title)
    found = f"a gain is shown in {listed(gaining)}, of" if gaining else "no gain is shown in"
    return (
        f"{'So far' if gaining else 'Not so far'}: {after}, {found} the {NUMBERS[len(names)]} finished families "
        f"({NUMBERS[len(FAMILIES)]} are planned). {'; '.join(parts)}."
    )


def _unmoved_sentence(pools: pd.DataFrame, rates: pd.DataFrame) -> str:
    """Name the arms and families in which the rate did not move, as the design demands of the answer."""
    said = ""
    ways = {"no": "are not shown to come nearer to their targets", "further away": "moved away from {}"}
    for went, words in ways.items():
        by_family: dict[str, list[str]] = {}
        for arm in pools.index:
            for name in pools.families[arm]:
                if direction(rates, name, arm) == went:
                    by_family.setdefault(name, []).append(SHORT[arm])
        if by_family:
            where = listed(f"{architecture(name).title} ({', '.join(arms)})" for name, arms in by_family.items())
            words = words.format("them" if said else "their targets")
            said += f" {'They' if said else 'The layers'} {words} in {where}."
    return said


def _lower_sentence(tables: Convergence, comparisons: pd.DataFrame, pools: pd.DataFrame) -> str:
    """Say what lowering the rate did to the accuracy of each finished family."""
    if LOWER not in pools.index:
        return ""
    changes = listed(
        f"{points(comparisons.interval[name, LOWER])} in {architecture(name).title} "
        f"({_WORDS[comparisons.verdict[name, LOWER]]})"
        for name in pools.families[LOWER]
    )
    return f"After {_epochs(tables)} epochs, lowering the rate changed the accuracy by {changes}."


def few(pools: pd.DataFrame) -> bool:
    """Whether the families are too few for their mean to be used."""
    return any(len(names) < _FEWEST_FAMILIES for names in pools.families)


def _units_sentence(pools: pd.DataFrame) -> str:
    """Say what the numbers of the first table are."""
    if not few(pools):
        return "The changes are means over families with their 95 % intervals."
    least = min(map(len, pools.families))
    reach = stats.t.ppf(0.975, least - 1)
    return (
        "Changes are in points: means over pairs of seeds, with 95 % intervals. Means over families stand in the "
        f"report below: over {NUMBERS[least]}, their intervals reach {reach:.0f} standard errors to either side."
    )


def _control_sentence(comparisons: pd.DataFrame, pools: pd.DataFrame) -> str:
    if few(pools):
        intervals = {architecture(name).title: comparisons.interval[name, CONTROL] for name in pools.families[CONTROL]}
        gains = listed(f"{change(interval)} in the {title}" for title, interval in intervals.items())
        open_in = [title for title, interval in intervals.items() if not control_gains(interval)]
        return (
            "Regularisers that are known to help, label smoothing with mixup or weight decay, change the accuracy by "
            f"{gains}"
            + (
                f". In the {listed(open_in)} no gain of one point is shown for them, so a null does not count there."
                if open_in
                else ", so there was something to gain."
            )
        )
    interval = pools.interval[CONTROL]
    found = (
        "Regularisers that are known to help, label smoothing with mixup or weight decay, change the accuracy by "
        f"{change(interval)} points"
    )
    return found + (
        ", so a gain of that size would have been noticed."
        if control_gains(interval)
        else ", too little for a null to count."
    )


def _opposite_edges(tables: Convergence, comparisons: pd.DataFrame) -> list[str]:
    """Return the families whose control and free arm have learning rates at opposite edges of those that were tried."""
    tried = tables.tuning.groupby(["architecture", "arm"]).learning_rate.agg(["min", "max"])
    tried = tried[tried["min"] < tried["max"]]  # a single value has no edges
    chosen = tables.tuning[tables.tuning.chosen.astype(bool)].set_index(["architecture", "arm"]).learning_rate
    opposite = []
    for name in comparisons.index.get_level_values(0)[comparisons.index.get_level_values("arm") == CONTROL]:
        keys = [(name, arm) for arm in (FREE, CONTROL) if (name, arm) in chosen and (name, arm) in tried.index]
        sides = [chosen[key] == tried.loc[key] for key in keys]
        if len(sides) == 2 and any(sides[0][low] and sides[1][high] for low, high in (("min", "max"), ("max", "min"))):
            opposite.append(name)
    return opposite


def _edges_sentence(opposite: Sequence[str]) -> str:
    if not opposite:
        return ""
    names, these = listed(architecture(name).title for name in opposite), "these networks"
    return (
        f" For the {names}, tuning chose learning rates at opposite ends of the values tried, with these regularisers "
        "and without them. Better ones may lie beyond, so all changes of "
        f"{these if len(opposite) > 1 else 'this network'} are provisional."
    )


def _table(comparisons: pd.DataFrame, pools: pd.DataFrame, rates: pd.DataFrame) -> str:
    if few(pools):
        return _table_by_family(comparisons, pools, rates)
    rows = []
    for arm, done in ARMS.items():
        own = comparisons[comparisons.index.get_level_values("arm") == arm]
        if arm in pools.index:
            pool = pools.loc[arm]
            number = f"{len(pool.families)}, {pool.pairs} each" if pool.pairs else ""
            words = f"{_WORDS[pool.verdict]}."
            if arm != CONTROL:
                words += f" {directions(rates, arm, pool.families)}"
            rows.append((done, number, change(pool.interval), words))
        elif len(own):
            number = f"{len(own)}, {own.pairs.min()} to {own.pairs.max()} each"
            rows.append((done, number, "not pooled", f"too few families with {LEAST_PAIRS} pairs in the regime"))
        else:
            rows.append((done, "0", "", NOT_RUN))
    return markdown(("what was done to the rate", "families, pairs", "change in points [95 %]", "in words"), rows)


def _table_by_family(comparisons: pd.DataFrame, pools: pd.DataFrame, rates: pd.DataFrame) -> str:
    """Give each finished family a column."""
    names = list(dict.fromkeys(name for families in pools.families for name in families))

    def cell(name: str, arm: str) -> str:
        if arm not in pools.index or name not in pools.families[arm]:
            return NOT_RUN if (name, arm) not in comparisons.index else "too few pairs"
        row = comparisons.loc[(name, arm)]
        went = _DIRECTIONS.get(direction(rates, name, arm))
        words = f"{_WORDS[row.verdict]}{f'; {went}' if went else ''}"
        return f"**{change(row.interval)}**<br>{words}"

    rows = [[done, *(cell(name, arm) for name in names)] for arm, done in ARMS.items()]
    return markdown(("what was done to the rate", *(architecture(name).title for name in names)), rows)


def _free_sentence(tables: Convergence) -> str:
    """Give the accuracy without constraint, to which the changes are added."""
    means = 100 * accuracies(tables)[FREE].dropna().groupby(level="architecture", sort=False).mean()
    found = listed(f"{architecture(name).title} reaches {mean:.1f} %" for name, mean in means.items())
    return f"Without constraint, {found}."


def _families_table(comparisons: pd.DataFrame) -> str:
    rows = []
    for (name, arm), row in comparisons.iterrows():
        p = [_p_value(value) for value in (row.corrected, row.exact, row.equivalence)]
        interval = change(row.interval) if row.interval is not None else "one pair"
        rows.append((architecture(name).title, SHORT[arm], str(row.pairs), interval, *p, row.verdict))
    tests = ("p, corrected", "p, sign flips", "p, within a point")
    return markdown(("family", "arm", "pairs", "points [95 %]", *tests, "verdict"), rows)


def _same_rate_sentence(tables: Convergence) -> str:
    """Name the arms that differ from the published form at one learning rate."""
    said = [
        f"{points(row.interval)} in {architecture(row.architecture).title}, *{SHORT[row.arm]}*"
        for row in same_rate(tables).itertuples()
        if row.p < ALPHA
    ]
    return f"Against *{SHORT[PUBLISHED]}*, the accuracy changes by {listed(said)}." if said else "No change is shown."


def _same_rate_table(tables: Convergence) -> str:
    """Compare arms with the published form where these two have one learning rate and the free arm has another."""
    rows = [
        (
            architecture(row.architecture).title,
            f"{SHORT[row.arm]} − {SHORT[PUBLISHED]}",
            decimal(row.learning_rate),
            str(row.pairs),
            change(row.interval),
            _p_value(row.p),
            _p_value(row.exact),
        )
        for row in same_rate(tables).itertuples()
    ]
    return markdown(("family", "arms", "learning rate", "pairs", "points [95 %]", "p", "p, sign flips"), rows)


def _p_value(p: float) -> str:
    if not math.isfinite(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _figure_text(pools: pd.DataFrame) -> str:
    numbers = "; ".join(f"{SHORT[arm]} {change(row.interval)}" for arm, row in pools.iterrows())
    means = "" if few(pools) else " and a diamond for the mean over families"
    alt = (
        f"Forest plot: for every arm one mark a family{means}, with intervals, beside a line at zero and dotted lines "
        f"at one point.{f' Means in points: {numbers}' if means else ''}"
    )
    diamonds = "" if few(pools) else ", diamonds their random-effects mean"
    caption = (
        "Change of the test accuracy against training without constraint, in percentage points, with 95 % intervals. "
        f"Marks are families{diamonds}; between the dotted lines lies less than one point. "
        f"Families with fewer than {LEAST_PAIRS} pairs are in the table below alone."
    )
    return f"```{{figure}} _static/{FIGURE}\n:name: answer-forest\n:alt: {alt}\n\n{caption}\n```"
