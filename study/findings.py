"""What the study found: each claim with its verdict, effect and scale, and the figures of the page of the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from selfsim.figures.tables import images_of
from selfsim.models.architectures import ARCHITECTURES, architecture
from selfsim.models.small_builds import PIXELS
from selfsim.training.runs import Run
from selfsim.uncertainty import Interval

from . import arms as study
from . import invariance as study_invariance
from . import verdicts as study_verdicts

FIRST, DOSE, OTHERS, TARGETS, LARGE = "families", "dose", "others", "targets", "large"
CONFIRM, CONTROL = "confirm", "control"
_KINDS = {entry.family for entry in ARCHITECTURES}


@dataclass(frozen=True)
class Finding:
    """What came out of one question."""

    claim: str
    question: str
    verdict: str
    effect: str = ""
    tested: str = ""
    table: pd.DataFrame | None = None  # its comparisons, one a row


def findings(stages: Mapping[str, Sequence[Run]], *, invariance: pd.DataFrame | None = None) -> dict[str, Finding]:
    """Answer every question of the design from the runs that there are.

    Parameters
    ----------
    stages : mapping of str to sequence of Run
        What `study_tables.read_stages` gives; a stage without runs leaves its questions "not tested".
    invariance : DataFrame, optional
        What `study_invariance.read_invariance` gives; without it, C5 is undecided.

    Returns
    -------
    dict of str to Finding
        In the order of the claims.
    """
    first, others = stages.get(FIRST, []), stages.get(OTHERS, [])
    found = {}

    def add(key: str, claim: str, question: str, table: pd.DataFrame, runs: Sequence[Run], **form) -> None:
        effect = _reach(table, **form)
        found[key] = Finding(claim, question, _verdict(table), effect, scale(runs, table) if effect else "", table)

    read = f"one probe reads the hidden neurons of {len(ARCHITECTURES)} architectures of {len(_KINDS)} kinds"
    found["construction"] = Finding("C1", "Does one construction describe all architectures?", "built", read)
    chapter = "What the rate measures, and what it does not"
    found["measure"] = Finding("C2", "Does box covering quantify self-similarity?", "see chapter", chapter)
    unit = {"unit": " spreads of noise"}
    add("differ", "C3", "Do architectures differ?", study.compared(study.between(first)), first, **unit)
    for runs, where in ((first, ""), (others, ", other families")):
        if runs or not where:
            question = f"Does self-similarity degrade in training{where} (does the rate rise)?"
            add(f"degrade{where}", "C3", question, _degraded(runs), runs, digits=3)
    for runs, where in ((first, ""), (others, ", other families"), (stages.get(LARGE, []), ", 224 pixels")):
        if runs or not where:
            question = f"Does the constraint raise the accuracy{where}?"
            add(f"gain{where}", "C4", question, gains_table(runs), runs, **_POINTS)
    table = gains_table([*first, *others])
    default = {name: row.interval for (name, what), row in table.iterrows() if what == study.DEFAULT}
    gains = {name: interval.estimate for name, interval in default.items() if interval}
    found["invariance"] = _relation(gains, invariance, [*first, *others])
    found["limit"] = _limit(default, [*first, *others])
    runs = stages.get(TARGETS, [])
    table = gains_table(runs, against=study.DEFAULT, arms=("linear target",))
    add("time", "C7", "Is a target that changes in time better than a fixed one?", table, runs, **_POINTS)
    question, chapter = "Do feature networks have other topological properties?", "Feature networks as complex networks"
    found["topology"] = Finding("C8", question, "see chapter", chapter)
    question, chapter = "Are the weights power laws, and does it matter?", "Invariance across layers"
    found["weights"] = Finding("C9", question, "see chapter", chapter)
    for runs, key in ((first, "groups"), ([*first, *others], "groups, more families")):
        if others or key == "groups":
            table = _trends(study.compared({"convolutions − others": study.convolutions(runs)}))
            question = f"Are convolutions less self-similar ({len(_free(runs))} families)?"
            add(key, "C10", question, table, runs, **unit)
    add("performance", "C10", "Does the constraint change the accuracy?", _compared(first), first, **_POINTS)
    if runs := stages.get(DOSE, []):
        add("dose", "C10", "Does the dose change the accuracy?", _compared(runs), runs, **_POINTS)
    if runs := stages.get(CONFIRM, []):
        question = "Does the target that stage b suggests raise the accuracy (new seeds)?"
        add("confirm", "C10", question, _trends(_compared(runs)), runs, **_POINTS)
    if runs := stages.get(CONTROL, []):
        found["scale"] = _of_scale(runs)
    table = _compared(first, "weight distance")
    add("path", "C10", "Does it change the path of the weights?", table, first, digits=2)
    return found


_PERCENT = {"factor": 100, "digits": 1}
_POINTS = _PERCENT | {"unit": " points"}


def _degraded(runs: Sequence[Run]) -> pd.DataFrame:
    changes = {
        (name, study.FREE): [study.measured(run, "change of the rate") for run in own]
        for name, own in _free(runs).items()
    }
    return _trends(study.compared(changes))


def _compared(runs: Sequence[Run], value: str = "test accuracy") -> pd.DataFrame:
    return study.compared(study.differences(study.pairs(runs), value))


def _trends(table: pd.DataFrame) -> pd.DataFrame:
    """Comparisons with the verdicts on a claim that something rises."""
    rows = table.itertuples()
    return table.assign(
        verdict=[study_verdicts.trend_verdict(row.interval, row.corrected, direction=1) for row in rows]
    )


def _of_scale(runs: Sequence[Run]) -> Finding:
    """Stage f: what scale alone gains, and the target of 0.2 beyond it, with the factors of the median distance."""
    both = {}
    for what, against in ((study.SCALE, study.FREE), (study.SUGGESTED, study.SCALE)):
        held = study.pairs(runs, against=against)
        both[f"{what} − {against}"] = next((pairs for (_, arm), pairs in held.items() if arm == what), [])
    table = study.compared(study.differences(both, "test accuracy"))
    table["factor"] = [study.scale_factor(held) for held in both.values()]
    low, high = study.SAME_SCALE
    reached = low <= 1 / table.factor.iloc[1] <= high  # the control's, by those under the target
    asked = "C10", "Is the gain of stage e one of scale?"
    effect = _reach(table, **_POINTS)
    verdict = study_verdicts.scale_verdict(table, reached=bool(reached))
    return Finding(*asked, verdict, effect, scale(runs, table) if effect else "", table)


def _limit(gains: Mapping[str, Interval | None], runs: Sequence[Run]) -> Finding:
    """C6: the gain of PoolFormer beside the largest that another architecture may have."""
    asked = "C6", "Does the constraint fail for PoolFormer, and not for others?", study_verdicts.limit_verdict(gains)
    others = {name: interval for name, interval in gains.items() if name != "poolformer" and interval}
    if asked[-1] == "not tested":
        return Finding(*asked)
    most = max(others, key=lambda name: others[name].high)
    ends = [f"{text(gains[name], **_PERCENT)} points ({title(name)})" for name in ("poolformer", most)]
    above = sum(interval.low > 0 for interval in others.values())
    effect = f"{' beside at most '.join(ends)}; {above} of {len(others)} others have an interval above 0"
    return Finding(*asked, effect, scale(runs))


def _relation(gains: Mapping[str, float], invariance: pd.DataFrame | None, runs: Sequence[Run]) -> Finding:
    """C5: each kind of invariance against the gains of the architectures."""
    asked = "C5", "Do models with invariant features gain most?"
    if not gains:
        return Finding(*asked, "not tested")
    by_kind = {} if invariance is None else study_invariance.spreads(invariance).to_dict()
    rows = {kind: study.relation(gains, of_family, comparisons=len(by_kind)) for kind, of_family in by_kind.items()}
    if not any(rows.values()):
        needed = f"gains of {len(gains)} families; {study.FAMILIES}, with their invariances, are needed"
        return Finding(*asked, "undecided", needed)
    table = pd.DataFrame({"families": {k: rho.n if rho else 0 for k, rho in rows.items()}, "interval": rows})
    table["verdict"] = [study_verdicts.relation_verdict(rho) for rho in rows.values()]
    effect = "rank correlation " + _reach(table, digits=2)
    tested = scale([run for run in runs if run.config.architecture in gains])
    return Finding(*asked, study_verdicts.overall(table.verdict), effect, tested, table)


def gains_table(
    runs: Sequence[Run], *, against: str = study.FREE, arms: Sequence[str] = (study.DEFAULT, study.PUBLISHED)
) -> pd.DataFrame:
    """`study.compared` of the test accuracy, with what the constraint did to the features, and the verdicts."""
    both = {key: held for key, held in study.pairs(runs, against=against).items() if key[1] in arms}
    did = study.manipulation({key: held for key, held in study.pairs(runs).items() if key in both})
    table = study.compared(study.differences(both, "test accuracy")).join(did)
    table["verdict"] = [
        study_verdicts.gain_verdict(row.interval, row.corrected, moved=row.moved is True, did=row.did is True)
        for row in table.itertuples()
    ]
    return table


def findings_table(found: Mapping[str, Finding]) -> pd.DataFrame:
    """One row a question: the claim, the verdict, and the effects from the lowest to the highest, with intervals."""
    rows = [
        {"claim": one.claim, "question": one.question, "verdict": one.verdict, "effects, or where": one.effect}
        for one in found
    ]
    return pd.DataFrame(rows).set_index(["claim", "question"])


def shown(
    table: pd.DataFrame, *, what: str = "difference", factor: float = 1, digits: int = 3, unit: str = ""
) -> pd.DataFrame:
    """A table of comparisons as a reader wants it: titles, intervals (of `what`) and p-values as text."""
    shown = pd.DataFrame(index=[_breaking_after_comma(_named(key)) for key in table.index])
    for column in table:
        values = table[column].tolist()
        if column == "interval":
            shown[f"{what}{f' ({unit.strip()})' if unit else ''}"] = [text(v, factor, digits) for v in values]
        elif any(v is None or isinstance(v, Interval) for v in values):
            shown[column] = [text(v, 1, 3) for v in values]
        elif column in ("p", "corrected"):
            shown["p" if column == "p" else "p, corrected"] = ["" if v != v else f"{v:.2g}" for v in values]
        elif column in ("moved", "did"):
            name = "rate moved" if column == "moved" else "did what it says"
            shown[name] = ["yes" if v is True else "no" for v in values]
        elif column == "verdict":
            shown[column] = [v.removesuffix(" at this scale") for v in values]
        else:
            shown[column] = [f"{v:.2f}" if isinstance(v, float) else v for v in values]
    return shown


def told(finding: Finding) -> str:
    """A finding in one line of Markdown: the verdict, the effects, what it was tested on."""
    rest = [finding.effect, f"tested on {finding.tested}" if finding.tested else ""]
    return f"**{finding.claim}, {finding.verdict}.** " + "; ".join(filter(None, rest))


def text(interval: Interval | None, factor: float = 1, digits: int = 3) -> str:
    """An interval as text, with signs; "fewer than 3 pairs" for none."""
    if interval is None:
        return f"fewer than {study.LEAST_PAIRS} pairs"
    low, middle, high = (f"{factor * v:+.{digits}f}" for v in (interval.low, interval.estimate, interval.high))
    return f"{middle} [{low}, {high}]"


def title(name: str) -> str:
    """An architecture's title; any other text as it is."""
    try:
        return architecture(name).title
    except ValueError:
        return name


def scale(runs: Sequence[Run], table: pd.DataFrame | None = None) -> str:
    """What runs speak for: their families and seeds, or the comparisons of a table; epochs, images."""
    if not runs:
        return ""
    config = runs[0].config
    by_family: dict[str, set[int]] = {}
    for run in runs:
        by_family.setdefault(run.config.architecture, set()).add(run.config.seed)
    seeds = sorted(map(len, by_family.values()))
    images = ("" if config.train_images else "all images of ") + images_of(config)
    about = f"{len(by_family)} families, {_range(seeds)} seeds"
    if table is not None:
        pairs = sorted(table.pairs[table.interval.notna()])
        about = f"{len(pairs)} comparison(s) over {_range(pairs)} seeds"
    return f"{about}, {config.epochs} epochs, {images}, {PIXELS[config.size]} pixels"


def _range(ascending: Sequence[int]) -> str:
    return " to ".join(map(str, dict.fromkeys((ascending[0], ascending[-1]))))


def _free(runs: Sequence[Run]) -> dict[str, list[Run]]:
    own: dict[str, list[Run]] = {}
    for run in runs:
        if run.config.constraint is None and run.history:
            own.setdefault(run.config.architecture, []).append(run)
    return own


def _verdict(table: pd.DataFrame) -> str:
    """One line for the verdicts of a table; where it has none, one difference that holds after the correction does."""
    if "verdict" in table:
        return study_verdicts.overall(table.verdict)
    if not table.interval.notna().any():
        return "not tested"
    return "shown" if (table.corrected < study.ALPHA).any() else "not shown"


def _reach(table: pd.DataFrame, *, factor: float = 1, digits: int = 1, unit: str = "") -> str:
    """The lowest and the highest of the comparisons, each with its interval."""
    known = sorted(
        (interval.estimate, _named(key), interval) for key, interval in table.interval.items() if interval is not None
    )
    ends = [f"{text(end, factor, digits)}{unit} ({name})" for _, name, end in [*known[:1], *known[1:][-1:]]]
    return " to ".join(ends)


def _breaking_after_comma(name: str) -> str:
    """The name with spaces and hyphens at which no line ends: a column of sentences would leave it a word wide."""
    return name.replace(" ", "\u00a0").replace(",\u00a0", ", ", 1).replace("-", "\u2011")


def _named(key: str | tuple[str, str]) -> str:
    return key if isinstance(key, str) else ", ".join(map(title, key))
