"""The numbers and verdicts that the book's prose takes from the study: ``{study}`confirm.vit_small` `` on a page.

`write_facts` puts them into a file beside the book's extension, which replaces the role by the text. So the pages hold
no number of the study that could differ from its tables.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from selfsim.training.runs import Run
from selfsim.uncertainty import Interval

from . import design
from .design import DEFAULT, PUBLISHED, SCALE_ALONE, SUGGESTED, UNCONSTRAINED
from .findings import Finding, findings, gains_table
from .layers import read_invariance
from .statistics import compared, differences, manipulation, measured, minimal_effect, pairs
from .tables import read_stages

FILE = "study.json"
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def write_facts(results: Path, book: Path) -> dict[str, str]:
    """Write the facts from the tables in `results` and the chapters of `book`, and return them."""
    written = facts(
        read_stages(results),
        invariance=read_invariance(results),
        chapters=book / "chapters",
        benchmarks=results.parent / "benchmarks",
    )
    (book / "_ext" / FILE).write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return written


def facts(
    stages: Mapping[str, Sequence[Run]], *, invariance: pd.DataFrame, chapters: Path, benchmarks: Path
) -> dict[str, str]:
    """Return every fact by its name.

    Parameters
    ----------
    stages : mapping of str to sequence of Run
        As `tables.read_stages` gives them, all stages but the large one.
    invariance : DataFrame
        As `layers.read_invariance` gives it.
    chapters : path
        The folder of the published chapters, which count the layers outside null bands.
    benchmarks : path
        The folder of the benchmarks' results.
    """
    answers = findings(stages, invariance=invariance)
    return {
        **{f"{key}.verdict": answers[key].verdict for key in ("degrade", "groups", "scale")},
        "groups.all.verdict": answers["groups, more families"].verdict,
        **_gains(stages),
        **_relations(answers["invariance"]),
        **_targets_in_time(stages[design.TARGETS]),
        **_doses(stages[design.DOSE]),
        **_confirmation(stages[design.CONFIRM], answers["confirm"]),
        **_scale(stages[design.CONTROL], answers["scale"]),
        **_chapters(chapters),
        **_known_sets(benchmarks),
        "power.5": f"{minimal_effect(5):.1f}",
        "power.5.of_8": f"{minimal_effect(5, comparisons=8):.0f}",
        "power.10.of_2": f"{minimal_effect(10, comparisons=2):.1f}",
    }


def _gains(stages: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """State the accuracy under the two constraints, architecture by architecture and together."""
    first, others = (gains_table(stages[name]) for name in (design.FIRST, design.OTHERS))
    every = pd.concat([first, others])
    by_family = every.groupby(level=0).verdict.agg(lambda verdicts: design.overall_verdict(_firm_last(verdicts)))
    counts = Counter(by_family)
    said = {
        "gain.verdicts": ", ".join(f"{verdict} in {_WORDS[number]}" for verdict, number in counts.most_common()),
        "gain.first": _span(first.interval.xs(DEFAULT, level=1)),
        "gain.others": _span(others.interval.xs(DEFAULT, level=1)),
        "gain.others.hold_0": _WORDS[sum(i.low <= 0 <= i.high for i in others.interval.xs(DEFAULT, level=1))],
        "published.span": _span(every.interval.xs(PUBLISHED, level=1), digits=1),
    }
    for (name, arm), row in every.iterrows():
        key = "gain" if arm == DEFAULT else "published"
        said[f"{key}.{name}"] = points(row.interval)
        said[f"{key}.{name}.rate"] = f"{row.ss_rate.estimate:+.2f}"
        said[f"{key}.{name}.factor"] = f"{row.factor:.1f}"
    return said


def _firm_last(verdicts: pd.Series) -> list[str]:
    """Let one open comparison leave a family undecided."""
    return ["undecided"] if "undecided" in set(verdicts) else list(verdicts)


def _relations(finding: Finding) -> dict[str, str]:
    said = {}
    for kind, row in _table(finding).iterrows():
        said[f"invariance.{kind}"] = f"{row.interval:.2f}"
        said[f"invariance.{kind}.verdict"] = row.verdict
    return said


def _targets_in_time(runs: Sequence[Run]) -> dict[str, str]:
    said = {}
    for key, control in (("fixed", DEFAULT), ("unconstrained", UNCONSTRAINED)):
        table = compared(differences(pairs(runs, control=control), "accuracy"))
        for name, arm in table.index:
            if arm == design.LINEAR:
                said[f"time.{name}.{key}"] = points(table.interval[name, arm])
    return said


def _doses(runs: Sequence[Run]) -> dict[str, str]:
    of_arms = pairs(runs)
    table = compared(differences(of_arms, "accuracy"))
    said = {}
    for (name, arm), both in of_arms.items():
        if arm.endswith("weight 10"):
            said[f"dose.{name}.{arm.split()[1].rstrip(',')}"] = points(table.interval[name, arm])
            said[f"dose.{name}.rate"] = f"{np.mean([measured(control, 'ss_rate') for control, _ in both]):.2f}"
    return said


def _confirmation(runs: Sequence[Run], finding: Finding) -> dict[str, str]:
    """State stage e: the accuracy, and what the constraint did to rate and scale."""
    did = manipulation(pairs(runs))
    said = {}
    for (name, arm), row in _table(finding).iterrows():
        said[f"confirm.{name}"] = points(row.interval)
        said[f"confirm.{name}.verdict"] = row.verdict
        said[f"confirm.{name}.factor"] = f"{did.factor[name, arm]:.1f}"
        said[f"confirm.{name}.rate"] = f"{did.ss_rate[name, arm]:+.3f}"
    return said


def _scale(runs: Sequence[Run], finding: Finding) -> dict[str, str]:
    """State stage f: the gains of scale alone and beyond it, and how hard the control pulled."""
    table, of_arms = _table(finding), pairs(runs)
    rates = manipulation(of_arms).ss_rate
    norms = {
        arm: np.mean([t.series("constraint_gradient_norm", split="train")[0] for _, t in of_arms["vit_small", arm]])
        for arm in (SCALE_ALONE, SUGGESTED)
    }
    alone, beyond = table.interval
    return {
        "scale.alone": points(alone),
        "scale.beyond": points(beyond),
        "scale.reached": f"{1 / table.factor.iloc[1]:.2f}",
        "scale.rate": f"{rates['vit_small', SCALE_ALONE]:+.2f}",
        "scale.rate.target": f"{rates['vit_small', SUGGESTED]:+.2f}",
        "scale.pull": f"{norms[SUGGESTED] / norms[SCALE_ALONE]:.0f}",
    }


def _chapters(chapters: Path) -> dict[str, str]:
    """Read the layers outside their null bands from the published chapters, and what known sets say of the rate."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(chapters.glob("*.ipynb"))]
    # Pages of before the bands held their level count the layers inside a band; 40 draws held 90.7 % (statistics.md).
    current = re.compile(r"lies outside every null band in (\d+) of (\d+) cases")
    former = re.compile(r"lies inside a null band in (\d+) of (\d+) cases")
    outside, cases, by_chance = [], [], []
    for text in texts:
        if match := current.search(text) or former.search(text):
            number, of = map(int, match.groups())
            inside = match.re is former
            outside.append(of - number if inside else number)
            cases.append(of)
            by_chance.append(of * (1 - (0.907 if inside else 0.95)))
    return {
        "bands.outside": f"{sum(outside)} of {sum(cases)}",
        "bands.by_chance": f"{sum(by_chance):.0f}",
        "bands.chapters": _WORDS[len(cases)],
    }


def _known_sets(benchmarks: Path) -> dict[str, str]:
    """State what the benchmark of known sets found at 128 neurons, for the rate and for `scaling`."""
    rows = pd.DataFrame(json.loads((benchmarks / "known_sets.json").read_text(encoding="utf-8"))["auc"])
    rows = rows[rows.n == 128].set_index(["measure", "against", "unit"])
    said = {}
    for key, measure in (("rate", "SS rate (surrogate)"), ("boxes", "rate by real boxes"), ("scaling", "scaling")):
        for against in ("noise", "clusters", "uneven noise"):
            for unit in ("one", "any"):
                row = rows.loc[measure, against, unit]
                name = f"known_sets.{key}.{against.replace(' ', '_')}.{unit}"
                said[name] = f"{row.auc:.2f} [{row.low:.2f}, {row.high:.2f}]"
    return said


def _table(finding: Finding) -> pd.DataFrame:
    if finding.table is None:
        raise ValueError(f"stages: got no comparisons for {finding.question!r}")
    return finding.table


def points(interval: Interval) -> str:
    """Return a change of the accuracy in points, with its interval."""
    low, middle, high = (f"{100 * value:+.1f}" for value in (interval.low, interval.estimate, interval.high))
    return f"{middle} points [{low}, {high}]"


def _span(intervals: pd.Series, *, digits: int = 0) -> str:
    """Return the lowest and the highest estimate, in points."""
    estimates = sorted(100 * interval.estimate for interval in intervals)
    return f"{estimates[0]:+.{digits}f} to {estimates[-1]:+.{digits}f} points"
