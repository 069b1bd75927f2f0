"""The ten claims of the paper and what became of each, in sentences, for the page "Does it work?"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from selfsim.uncertainty import Interval

from .answer_text import NUMBERS, capitalized, listed, markdown, minus, points
from .design import ALPHA, NOT_TESTABLE
from .findings import Finding, first_epoch, interval_text, power_law_rate, title

CLAIMS = {
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


def claims_table(findings: Mapping[str, Finding], first: Mapping[str, str], *, second: str, lower: str) -> str:
    """Return one row for each claim, as Markdown.

    Parameters
    ----------
    findings : mapping of str to Finding
        Of the first study.
    first : mapping of str to str
        The facts ``first.…`` of the first study.
    second, lower : str
        The answer of the second study, for C4, and what it says of a lower rate, for C10.
    """
    said = {
        "C1": ["Built: one function reads the hidden neurons of ten architectures."],
        "C2": [
            "No, by a derivation. Under an exact power law of the distances the rate depends on the unit; it is "
            f"{power_law_rate(128):.2f} where all distances are far above 1. A rate of 0 belongs to another law."
        ],
        "C3": [
            _differences(findings["differ"]),
            *_rises([one for key, one in findings.items() if key.startswith("degrade")]),
        ],
        "C4": [second, first["first.pools"], first["first.gain"]],
        "C5": [_testable(findings["invariance"])],
        "C6": [_limit(findings["limit"])],
        "C7": [_testable(findings["time"]), _schedule(findings["time"])],
        "C8": ["They can be computed; untrained layers are small worlds as well ({chapter}`chapter <small-world>`)."],
        "C9": ["Two trainings were looked at, too few to say ({chapter}`chapter <invariance>`)."],
        "C10": [_groups(findings["groups"]), _performance(findings["performance"]), lower],
    }
    rows = [(key, CLAIMS[key], minus("<br>".join(filter(None, said[key])))) for key in CLAIMS]
    return markdown(("", "the paper says", "here"), rows)


def _differences(finding: Finding) -> str:
    """Say whether architectures differ in their rates, and between which values."""
    known = _known(finding.table)
    if finding.verdict == "not tested" or not known:
        return "Whether architectures differ was not tested."
    lowest, *_, highest = sorted(known, key=lambda name: known[name].estimate)
    reach = " to ".join(f"{interval_text(known[name], digits=1)} ({title(name)})" for name in (lowest, highest))
    verb = "differ" if finding.verdict == "shown" else "are not shown to differ"
    return (
        f"Architectures {verb} ({finding.effects[0]}). Relative to noise of the same shape, the mean rates of "
        f"{len(known)} architectures go from {reach}, in standard deviations of that noise."
    )


def _rises(findings: Sequence[Finding]) -> list[str]:
    """Say where the rate rose after the first epoch, and what it did in it."""
    tables = [one.table for one in findings if _known(one.table)]
    if not tables:
        return ["Whether the rate rises after the first epoch was not tested."]
    table = pd.concat(tables)
    known = _known(table)
    rose, fell = (
        [title(key[0]) for key in known if table.verdict[key] == verdict]
        for verdict in ("shown", "shown the other way round")
    )
    parts = [f"is shown in {listed(rose)}" if rose else f"is shown in none of {len(known)} architectures"]
    if fell:
        parts.append(f"the opposite is shown in {listed(fell)}")
    early = first_epoch(table)
    return [f"A rise of the rate after the first epoch {'; '.join(parts)}.", f"{capitalized(early)}." if early else ""]


def _testable(finding: Finding) -> str:
    """Say why a claim cannot be tested, or how it ended."""
    if finding.verdict == NOT_TESTABLE:
        return f"Not testable, because {finding.effects[0]}."
    return f"{capitalized(finding.verdict)}."


def _schedule(finding: Finding) -> str:
    """Say what the schedule did against the fixed target."""
    known = _known(finding.table)
    if not known:
        return ""
    changes = listed(f"{points(interval)} in {title(name)}" for (name, _), interval in known.items())
    return f"A target that falls to it linearly, instead of the fixed one, changed the accuracy by {changes}."


def _limit(finding: Finding) -> str:
    """Say how PoolFormer fares against the others."""
    if finding.verdict == "not tested":
        return "Not tested."
    if finding.verdict == "not shown":
        return "A difference between PoolFormer and the others is not shown."
    return f"At a target of 0.1 and a weight of 10, PoolFormer {finding.verdict}."


def _groups(finding: Finding) -> str:
    """Say whether convolutional architectures differ from the others."""
    if finding.verdict == "not tested":
        return "Whether there are two groups was not tested."
    if finding.verdict == NOT_TESTABLE:
        return f"Two groups cannot be tested, because {finding.effects[0]}."
    return f"Higher rates of convolutions are {finding.verdict} ({finding.effects[0]})."


def _performance(finding: Finding) -> str:
    """Say where the constraint changes the accuracy."""
    table, known = finding.table, _known(finding.table)
    if table is None or not known:
        return "Whether the constraint changes the accuracy was not tested."
    shown = [key for key in known if table.corrected[key] < ALPHA]
    lost = [key for key, interval in known.items() if key not in shown and not interval.low <= 0 <= interval.high]
    parts = [f"The constraint changes the accuracy by {_by_arm(known, shown)}."] if shown else []
    if lost:
        number = _number(len(known))
        parts.append(f"Not shown after the correction over {number} comparisons: {_by_arm(known, lost)}.")
    if not shown and not lost:
        return f"A change of the accuracy is shown in none of {len(known)} comparisons."
    if left := len(known) - len(shown) - len(lost):
        parts.append(f"No change is shown in the other {f'{_number(left)} comparisons' if left > 1 else 'comparison'}.")
    return " ".join(parts)


def _by_arm(intervals: Mapping[tuple[str, str], Interval], keys: Sequence[tuple[str, str]]) -> str:
    """Return the changes of some comparisons, those of an arm together."""
    by_arm: dict[str, list[str]] = {}
    for name, arm in keys:
        by_arm.setdefault(arm, []).append(f"{points(intervals[name, arm])} in {title(name)}")
    return "; ".join(f"{listed(changes)} ({arm})" for arm, changes in by_arm.items())


def _number(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def _known(table: pd.DataFrame | None) -> dict:
    """Return the intervals that there are, by comparison."""
    if table is None or "interval" not in table:
        return {}
    return {key: interval for key, interval in table.interval.items() if isinstance(interval, Interval)}
