"""What the study found, as tables and text for the page of the claims."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from selfsim.uncertainty import Interval

from .findings import Finding, interval_text, row_title

_HEADINGS = {
    "ss_rate": "rate",
    "ss_rate_left_out": "without 3",
    "ss_rate_quantiles": "quantiles",
    "moved": "rate moved",
    "as_intended": "as intended",
    "corrected": "p, corrected",
    "first_epoch": "first epoch",
}


def findings_table(answers: Iterable[Finding]) -> pd.DataFrame:
    """Tabulate the verdicts and effects, one row a question, one line an effect (HTML)."""
    rows = [
        {"claim": one.claim, "question": one.question, "verdict": one.verdict, "effects": "<br>".join(one.effects)}
        for one in answers
    ]
    return pd.DataFrame(rows).set_index(["claim", "question"])


def readable(
    table: pd.DataFrame, *, what: str = "difference", factor: float = 1, digits: int = 3, unit: str = ""
) -> pd.DataFrame:
    """Return a table of comparisons as text: titles, intervals (of `what`) and p-values."""
    text = pd.DataFrame(index=[_breaking_after_comma(row_title(key)) for key in table.index])
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


def in_words(finding: Finding) -> str:
    """Return a finding as Markdown: the question, its verdict, what it was tested on, and one item an effect."""
    verdict = finding.verdict[0].upper() + finding.verdict[1:]
    head = f"**{finding.question}** {verdict}." + (f" Tested on {finding.tested}." if finding.tested else "")
    return "\n".join([head, "", *(f"- {effect}" for effect in finding.effects)])


def _breaking_after_comma(name: str) -> str:
    """Forbid line breaks within the name except after its first comma, so that a narrow column stays readable."""
    return name.replace(" ", "\u00a0").replace(",\u00a0", ", ", 1).replace("-", "\u2011")
