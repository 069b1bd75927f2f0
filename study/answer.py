"""What the page "Does it work?" says: its sentences, tables and figure, from the tables of both studies."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from selfsim.models.architectures import architecture
from selfsim.uncertainty import Interval

from .convergence_statistics import (
    INCONCLUSIVE,
    LEAST_PAIRS,
    NULL,
    NULL_DOES_NOT_COUNT,
    by_family,
    control_gains,
    families,
    noise_floor,
    over_families,
    reached,
    regime,
    spread_of_pairs,
)
from .convergence_tables import CONTROL, FAMILIES, FREE, HOLD, LOWER, PAIRS, PUBLISHED, SCALING, Convergence
from .design import NOT_TESTABLE
from .findings import Finding
from .statistics import minimal_effect

FIGURE = "answer.svg"
# With fewer families, the interval of their mean is too wide for a sentence.
_FEWEST_FAMILIES = 3
NOT_RUN = "not run"
ARMS = {
    HOLD: "held where training without constraint converges",
    LOWER: "lowered to half of the lower end of noise",
    PUBLISHED: "constraint as published",
    SCALING: "deviation from a power law lowered instead of the rate",
    CONTROL: "untouched; label smoothing with mixup or weight decay (positive control)",
}
SHORT = {HOLD: "rate held", LOWER: "rate lowered", PUBLISHED: "as published", SCALING: "scaling measure"}
SHORT |= {CONTROL: "positive control"}
_WORDS = {
    "gain": "accuracy rises",
    "gain of less than one point": "accuracy rises, by less than one point",
    "loss": "accuracy falls",
    "loss of less than one point": "accuracy falls, by less than one point",
    NULL: "no change as large as one point",
    NULL_DOES_NOT_COUNT: "no change as large as one point, which does not count: the positive control's gain is open",
    INCONCLUSIVE: "open: neither a change nor its absence is shown",
}
_CLAIMS = {
    "C1": "One construction, the feature network, describes all architectures.",
    "C2": "Box covering gives the degree of self-similarity, the SS rate.",
    "C3": "The degree differs between architectures, and it degrades in training.",
    "C4": "Constraining the rate raises accuracy by up to six points.",
    "C5": "Models with invariant features gain most.",
    "C6": "For models with local interaction (PoolFormer) the constraint does not work well.",
    "C7": "A fixed target may hold back the training; targets could change in time.",
    "C8": "Feature networks have other topological properties, such as small worlds.",
    "C9": "Power laws of the weights go along with performance.",
    "C10": "MLPs and attention are more self-similar than convolutions; the degree changes performance.",
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
    moved = reached(tables).moved
    said = {
        "short": _short(comparisons, pools, first),
        "sentence": _sentence(comparisons, pools, moved, first),
        "control": _control_sentence(comparisons, pools),
        "table": _table(comparisons, pools, moved),
        "figure": _figure_text(pools) if len(comparisons) else "*A figure follows with the first runs.*",
        "families": _families_table(comparisons, moved),
        "scope": _scope(tables),
        "regime": _regime_sentence(tables),
        "noise": _noise_sentence(tables, comparisons),
        "tuning": _tuning_sentence(tables),
        "compute": _compute_sentence(tables, seconds),
        "missing": _missing_sentence(tables, comparisons, pools),
        "claims": _claims_table(findings, pools, first),
    }
    return {f"answer.{key}": text for key, text in said.items()}


def change(interval: Interval, digits: int = 1) -> str:
    """Return a change of the accuracy in points with its interval, with minus signs."""
    low, middle, high = (_signed(v, digits) for v in (interval.low, interval.estimate, interval.high))
    return _minus(f"{middle} [{low}, {high}]")


def _signed(share: float, digits: int = 1) -> str:
    """Return a share in points, with its sign unless it rounds to 0."""
    text = f"{100 * share:+.{digits}f}"
    return text if float(text) else text[1:]


def _sentence(comparisons: pd.DataFrame, pools: pd.DataFrame, moved: pd.Series, first: Mapping[str, str]) -> str:
    done = [arm for arm in (HOLD, LOWER) if arm in pools.index]
    if done and len(pools.families[done[0]]) < _FEWEST_FAMILIES:
        return _sentence_by_family(comparisons, pools, moved)
    if not done:
        return (
            "Not known yet: the second study, which has room for a gain, has not been run. In the first one, after "
            f"three epochs, the constraint as published changed the accuracy by {first['first.published']} over "
            f"{first['first.published.families']} families."
        )
    verbs = {HOLD: "holding", LOWER: "lowering"}
    parts = [f"{verbs[arm]} the rate changes it by {change(pools.interval[arm])} points" for arm in done]
    words = dict.fromkeys(_WORDS[pools.verdict[arm]] for arm in done)
    verdict = (
        "; ".join(words)
        if len(words) == 1
        else "; ".join(f"{verbs[arm]}: {_WORDS[pools.verdict[arm]]}" for arm in done)
    )
    count = len(pools.families[done[0]])
    start = verdict[0].upper() + verdict[1:]
    changes = " and ".join(parts)
    went = " ".join(f"The rate {_moved_text(moved, arm, pools.families[arm])}." for arm in done)
    return f"{start}. At convergence, {changes} of test accuracy (means over {count} families, 95 % intervals). {went}"


def _short(comparisons: pd.DataFrame, pools: pd.DataFrame, first: Mapping[str, str]) -> str:
    """Say it in one sentence, for pages that link to the answer."""
    arms = [arm for arm in (HOLD, LOWER) if arm in pools.index]
    if not arms:
        return f"After three epochs, the constraint as published changed the accuracy by {first['first.published']}."
    if len(names := pools.families[arms[0]]) < _FEWEST_FAMILIES:
        of_arms = comparisons[comparisons.index.get_level_values("arm").isin(arms)]
        shown = [interval.estimate for (name, _), interval in of_arms.interval.items() if name in names]
        control = [
            comparisons.interval[name, CONTROL].estimate for name in names if (name, CONTROL) in comparisons.index
        ]
        verdicts = of_arms.verdict[of_arms.index.get_level_values(0).isin(names)]
        text = (
            f"{_so_far(verdicts)}. {len(names)} of {len(FAMILIES)} planned networks are trained to convergence. There, "
            f"holding or lowering the rate changed the test accuracy by {_points(shown)} percentage points"
        )
        return text + (f", and a known regulariser by {_points(control)}." if control else ".")
    changes = " and ".join(f"{SHORT[arm]} {change(pools.interval[arm])}" for arm in arms)
    return f"At convergence, over {len(names)} families, in points of test accuracy: {changes}."


def _points(values: Sequence[float]) -> str:
    """Return the smallest and the largest of some changes, in points."""
    return _minus(" to ".join(dict.fromkeys(_signed(v) for v in (min(values), max(values)))))


def _sentence_by_family(comparisons: pd.DataFrame, pools: pd.DataFrame, moved: pd.Series) -> str:
    """Say what each family shows, where they are too few for their mean to decide."""
    names = list(pools.families[pools.index[0]])
    arms = comparisons[comparisons.index.get_level_values("arm") != CONTROL]
    parts, still = [], []
    for name in names:
        by_verdict: dict[str, list[Interval]] = {}
        for verdict, interval in zip(arms.loc[name].verdict, arms.loc[name].interval, strict=True):
            by_verdict.setdefault(_WORDS[verdict], []).append(interval)
        said = "; ".join(
            f"{words} ({_points([i.estimate for i in found])} points, intervals within "
            f"{_points([end for i in found for end in (i.low, i.high)])})"
            for words, found in by_verdict.items()
        )
        parts.append(f"**{architecture(name).title}:** {said}.")
        still += [not moved.get((name, arm), True) for arm in arms.loc[name].index]
    done = f"{len(names)} of the {len(FAMILIES)} planned networks are finished, too few for an overall verdict"
    note = (
        f" In {sum(still)} of these {len(still)} comparisons the constraint did not bring the rate nearer to its "
        "targets."
        if any(still)
        else ""
    )
    return f"{_so_far(arms.loc[names].verdict)}: {done}. {' '.join(parts)}{note}"


def _so_far(verdicts: pd.Series) -> str:
    return "A gain is shown in part" if verdicts.str.startswith("gain").any() else "No gain is shown so far"


def _control_sentence(comparisons: pd.DataFrame, pools: pd.DataFrame) -> str:
    if CONTROL in pools.index and len(pools.families[CONTROL]) < _FEWEST_FAMILIES:
        gains = [
            f"{change(comparisons.interval[name, CONTROL])} in the {architecture(name).title}"
            for name in pools.families[CONTROL]
        ]
        return (
            "Regularisers that are known to help, label smoothing with mixup or weight decay, change the accuracy by "
            f"{' and by '.join(gains)}, so there was something to gain."
            if all(control_gains(comparisons.interval[name, CONTROL]) for name in pools.families[CONTROL])
            else f"The positive control changes it by {' and by '.join(gains)}."
        )
    if CONTROL not in pools.index:
        return "The positive control is not run yet, so no null counts."
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


def _table(comparisons: pd.DataFrame, pools: pd.DataFrame, moved: pd.Series) -> str:
    rows = []
    for arm, done in ARMS.items():
        own = comparisons[comparisons.index.get_level_values("arm") == arm]
        if arm in pools.index:
            pool = pools.loc[arm]
            number = f"{len(pool.families)}, {pool.pairs} each" if pool.pairs else ""
            few = len(pool.families) < _FEWEST_FAMILIES
            words = (
                _by_verdict(own.verdict[own.index.get_level_values(0).isin(pool.families)])
                if few
                else _WORDS[pool.verdict]
            )
            if arm != CONTROL:
                words += f" ({_moved_text(moved, arm, pool.families)})"
            rows.append((done, number, change(pool.interval), words))
        elif len(own):
            number = f"{len(own)}, {own.pairs.min()} to {own.pairs.max()} each"
            rows.append((done, number, "not pooled", f"too few families with {LEAST_PAIRS} pairs in the regime"))
        else:
            rows.append((done, "0", "", NOT_RUN))
    return _markdown(("what was done to the rate", "families, pairs", "change in points [95 %]", "in words"), rows)


def _by_verdict(verdicts: pd.Series) -> str:
    """Say what each family shows by itself."""
    counts = verdicts.map(_WORDS).value_counts(sort=False)
    return "; ".join(f"{words} in {number} of {len(verdicts)}" for words, number in counts.items())


def _moved_text(moved: pd.Series, arm: str, names: Sequence[str]) -> str:
    """Say in how many families of a pool the constraint did what it is for."""
    number = sum(bool(moved.get((name, arm), False)) for name in names)
    verb = "was held nearer to its targets" if arm in (HOLD, PUBLISHED) else "went towards its targets"
    return f"{verb} in {number} of {len(names)} families"


def _families_table(comparisons: pd.DataFrame, moved: pd.Series) -> str:
    rows = []
    for (name, arm), row in comparisons.iterrows():
        went = {True: "yes", False: "no"}.get(moved.get((name, arm)), "")
        p = [_p_value(value) for value in (row.corrected, row.exact)]
        interval = change(row.interval) if row.interval is not None else "one pair"
        rows.append((architecture(name).title, SHORT[arm], str(row.pairs), interval, *p, went, row.verdict))
    if not rows:
        return "*Not run yet.*"
    heads = ("family", "arm", "pairs", "points [95 %]", "p, corrected", "p, sign flips", "rate moved", "verdict")
    return _markdown(heads, rows)


def _p_value(p: float) -> str:
    if not math.isfinite(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _scope(tables: Convergence) -> str:
    runs = tables.runs
    if not len(runs):
        return "No run of the second study has been made yet."
    names = ", ".join(architecture(name).title for name in families(tables))
    images, epochs = (_range(runs[column].dropna().astype(int)) for column in ("train_images", "epochs"))
    return (
        f"{len(runs)} runs of {names}: {images} training images, {epochs} epochs, {runs.seed.nunique()} seeds. "
        + _failed_sentence(tables)
    )


def _failed_sentence(tables: Convergence) -> str:
    """Say how many runs failed, and what the pools are without their pairs."""
    failed = tables.runs[tables.runs.status != "done"]
    if not len(failed):
        return "None of them failed."
    free = set(zip(failed.architecture, failed.seed, strict=True)) if FREE in set(failed.arm) else set()
    of_free = [
        arm != FREE and (name, seed) in free
        for name, seed, arm in zip(tables.runs.architecture, tables.runs.seed, tables.runs.arm, strict=True)
    ]
    whole = tables.runs[~tables.runs.run.isin(failed.run) & ~np.array(of_free)]
    pools = over_families(replace(tables, runs=whole))
    without = "; ".join(f"{SHORT[arm]} {change(row.interval)}" for arm, row in pools.iterrows())
    names = ", ".join(failed.run)
    return (
        f"{len(failed)} failed ({names}) and count as a guess. Without their pairs, in points: {without or 'no pool'}."
    )


def _regime_sentence(tables: Convergence) -> str:
    table = regime(tables)
    whole = noise_floor(tables).seeds >= LEAST_PAIRS
    table = table[table.index.isin(whole.index[whole])]
    if not len(table):
        return "The regime is not checked yet."
    gaps, changes = 100 * table.gap.dropna(), 100 * table.settling.dropna().abs()
    unmet = [architecture(name).title for name in table.index[~table.met.astype(bool)]]
    known = (
        f"Training accuracy is {_range(gaps, '.0f')} points above test accuracy, and validation "
        f"accuracy changes by at most {changes.max():.1f} points over the last tenth of the epochs (means over seeds). "
        if len(gaps) and len(changes)
        else ""
    )
    return known + (
        f"The regime is not met by {', '.join(unmet)}."
        if unmet
        else "Every finished network meets the regime of the design."
    )


def _noise_sentence(tables: Convergence, comparisons: pd.DataFrame) -> str:
    floor, spread = noise_floor(tables), spread_of_pairs(comparisons)
    floor = floor[floor.seeds >= LEAST_PAIRS]
    if not len(floor):
        return "The noise floor is not measured yet."
    text = f"Over its seeds, the free arm spreads by {_range(floor.sd, '.1f', 100)} points (sd)"
    text += f", and paired differences by {100 * spread:.1f}, over all families." if math.isfinite(spread) else "."
    found = []
    for name in floor.index.intersection(comparisons.index.get_level_values(0)):
        own = comparisons.loc[[name]]
        if math.isfinite(sd := spread_of_pairs(own)):
            least = minimal_effect(int(own.pairs.min()), sd)
            found.append(f"{100 * least:.1f} points in the {architecture(name).title}")
    changes = " and of ".join(found)
    return text + (f" A true change of {changes} would be found in four of five such studies." if found else "")


def _tuning_sentence(tables: Convergence) -> str:
    chosen = tables.tuning[tables.tuning.chosen.astype(bool)] if len(tables.tuning) else tables.tuning
    if not len(chosen):
        return "No learning rate is tuned yet."
    ends = tables.tuning.groupby(["architecture", "arm"]).learning_rate.agg(["min", "max"])
    edges = [
        f"{architecture(row.architecture).title}, {row.arm}"
        for row in chosen.itertuples()
        if row.learning_rate in ends.loc[(row.architecture, row.arm)].tolist()
    ]
    return (
        f"{len(tables.tuning)} runs tuned {len(chosen)} learning rates, {_range(chosen.learning_rate)}; "
        f"{len(edges) or 'none'} of these lie at an edge of the values that were tried"
        + (f" ({'; '.join(edges)})." if edges else ".")
    )


def _compute_sentence(tables: Convergence, seconds: float) -> str:
    first = f"The first study took {seconds / 3600:.0f} core-hours of a CPU"
    own = tables.runs.seconds.dropna().astype(float)
    if not len(own):
        return f"{first}."
    by_card = tables.runs.assign(seconds=own).groupby("card").seconds.sum()
    spent = " and ".join(f"{seconds / 60:.0f} minutes of one {card}" for card, seconds in by_card.items())
    return f"{first}; the runs of the second took {spent}, without tuning and reading of images."


def _missing_sentence(tables: Convergence, comparisons: pd.DataFrame, pools: pd.DataFrame) -> str:
    begun = set(comparisons.index.get_level_values("arm"))
    missing = [SHORT[arm] for arm in ARMS if arm not in begun]
    alone = [SHORT[arm] for arm in ARMS if arm in begun and arm not in pools.index]
    said = [f"Not run: {', '.join(missing)}." if missing else ""]
    said += [f"Run in too few families to be pooled: {', '.join(alone)}." if alone else ""]
    pairs = tables.runs[tables.runs.arm != FREE].groupby(["architecture", "arm"]).seed.nunique()
    least = pairs.groupby("architecture").min()
    unfinished = [
        f"{architecture(name).title} ({least.get(name, 0)} of {PAIRS} pairs)"
        for name in FAMILIES
        if least.get(name, 0) < PAIRS
    ]
    said += [f"Families not finished: {', '.join(unfinished)}." if unfinished and begun else ""]
    return " ".join(filter(None, said)) or "All families and arms of the design were run."


def _claims_table(findings: Mapping[str, Finding], pools: pd.DataFrame, first: Mapping[str, str]) -> str:
    """One line for each of the ten claims."""

    def verdict(key: str) -> str:
        """The verdict with its numbers, or the reason why there is none."""
        finding = findings[key]
        if finding.verdict == NOT_TESTABLE:
            return f"not testable, because {finding.effect.split('; ')[0]}"
        return f"{finding.verdict}, {finding.effect}".removesuffix(", ")

    pooled = [f"{SHORT[arm]} {change(pools.interval[arm])}" for arm in (HOLD, LOWER, PUBLISHED) if arm in pools.index]
    second = f"At convergence, in points: {'; '.join(pooled)}." if pooled else "At convergence: not run."
    early = f"After three epochs: as published {first['first.published']}, target 0.1 {first['first.default']}."
    degrade = " and ".join(dict.fromkeys(one.verdict for key, one in findings.items() if key.startswith("degrade")))
    again = f" A target of 0.2, asked for again: {findings['confirm'].effect}." if "confirm" in findings else ""
    lines = {
        "C1": "Built: one function reads the hidden neurons of ten architectures.",
        "C2": "No, by derivation: most exact power laws of the distances have higher rates than noise.",
        "C3": f"Architectures differ: {verdict('differ')}. Degradation in three epochs: {degrade}.",
        "C4": f"{second} {early}{again}",
        "C5": f"First study, target 0.1: {verdict('invariance')}.",
        "C6": f"First study, target 0.1: PoolFormer {findings['limit'].verdict}.",
        "C7": f"First study: {verdict('time')}.",
        "C8": "They can be computed; untrained layers are small worlds as well ({chapter}`chapter <small-world>`).",
        "C9": "Two trainings were looked at, too few to say ({chapter}`chapter <invariance>`).",
        "C10": f"Two groups: {verdict('groups')}. Performance in the first study: {findings['performance'].verdict}, "
        f"target 0.1 {first['first.default']}.",
    }
    return _markdown(
        ("", "the paper says", "here"),
        [(key, _CLAIMS[key], _minus(line)) for key, line in lines.items()],
    )


def _minus(text: str) -> str:
    """Replace hyphens in front of numbers by minus signs."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\u2212", text)


def _markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _range(values: pd.Series, form: str = ",g", factor: float = 1) -> str:
    """Return the smallest and the largest value as text, once if they look equal."""
    ends = [f"{factor * values.min():{form}}", f"{factor * values.max():{form}}"]
    return " to ".join(dict.fromkeys(ends))


def _figure_text(pools: pd.DataFrame) -> str:
    numbers = "; ".join(f"{SHORT[arm]} {change(row.interval)}" for arm, row in pools.iterrows())
    alt = (
        "Forest plot: for every arm one mark a family and a diamond for the mean over families, with intervals, beside "
    )
    alt += f"a line at zero and dotted lines at one point. In points: {numbers or 'nothing pooled'}"
    caption = (
        "Change of the test accuracy against training without constraint, in percentage points, with 95 % intervals. "
    )
    caption += (
        "Marks are families, diamonds their random-effects mean; between the dotted lines lies less than one point. "
        f"Families with fewer than {LEAST_PAIRS} pairs are in the table below alone."
    )
    return f"```{{figure}} _static/{FIGURE}\n:name: answer-forest\n:alt: {alt}\n\n{caption}\n```"
