"""What the page "Does it work?" says of the rates: how near each arm brought its layers to their targets."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from selfsim.models.architectures import architecture
from selfsim.uncertainty import Interval

from .answer_text import SHORT, decimal, markdown, minus, signed
from .convergence_statistics import MEASURES
from .convergence_tables import FREE, HOLD, Convergence

_MEASURED = {
    "ss_rate_median": "$S$ in medians",
    "ss_rate": "$S$",
    "scaling_deviation": "deviation",
}


def direction(rates: pd.DataFrame, name: str, arm: str) -> str:
    """Say whether an arm brought the layers of a family nearer to their targets; nothing where it has none."""
    if (name, arm) not in rates.index:
        return ""
    row = rates.loc[(name, arm)]
    return "yes" if row.moved else "further away" if row.away else "no"


def directions(rates: pd.DataFrame, arm: str, names: Sequence[str]) -> str:
    """Say in how many families of a pool an arm did what it is for."""
    near = sum(direction(rates, name, arm) == "yes" for name in names)
    return f"Nearer to the targets: {near} of {len(names)} families."


def rates_table(tables: Convergence, rates: pd.DataFrame) -> str:
    """Return the measure that each arm pulls, without and with the pull, and its learning rates, as Markdown."""
    learning = tables.runs.groupby(["architecture", "arm"]).learning_rate.first()
    rows = []
    for (name, arm), row in rates.iterrows():
        closer = _interval(row.closer) if row.closer is not None else "one pair"
        cells = [architecture(name).title, SHORT[arm], _MEASURED[MEASURES[arm]], f"{row.target:.3f}"]
        cells += [f"{row.free:.3f} → {row.reached:.3f}", closer, direction(rates, name, arm)]
        rows.append([*cells, " → ".join(decimal(learning[name, of]) for of in (FREE, arm))])
    heads = ["family", "arm", "measure", "target", "free → arm", "distance [95 %]", "nearer", "learning rate"]
    return markdown(heads, rows)


def hold_sentence(rates: pd.DataFrame) -> str:
    """Name the families whose held layers were pulled away from where the trainings beside them ended."""
    said = []
    for (name, arm), row in rates.iterrows():
        if arm == HOLD and not row.lowest <= row.target <= row.highest:
            way = "above" if row.target > row.highest else "below"
            said.append(
                f"In {architecture(name).title} their mean, {row.target:.2f}, lies {way} the rates of all paired "
                f"trainings without constraint ({row.lowest:.2f} to {row.highest:.2f}), so that holding "
                f"pulled the rate {'up' if way == 'above' else 'down'}."
            )
    return " ".join(said)


def _interval(interval: Interval) -> str:
    middle, low, high = (signed(v, 3) for v in (interval.estimate, interval.low, interval.high))
    return minus(f"{middle} [{low}, {high}]")
