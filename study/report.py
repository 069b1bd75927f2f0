"""The sentences of the reproducibility report on the page "Does it work?", from the tables of the second study."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from selfsim.models.architectures import architecture

from .answer_text import ARMS, NUMBERS, SHORT, change, decimal, listed, minus, span
from .convergence_statistics import (
    LEAST_PAIRS,
    MEASURES,
    PRIMARY,
    accuracies,
    control_gains,
    families,
    noise_floor,
    over_families,
    regime,
    spread_of_pairs,
)
from .convergence_tables import CONTROL, CPU, FAMILIES, FREE, HOLD, PAIRS, Convergence
from .statistics import minimal_effect


def report_facts(
    tables: Convergence, comparisons: pd.DataFrame, pools: pd.DataFrame, *, seconds: float
) -> dict[str, str]:
    """Return the sentences by name; arguments as in `answer.answer_facts`, with its tables of comparisons."""
    return {
        "scope": _scope(tables),
        "regime": _regime(tables),
        "noise": _noise(tables, comparisons),
        "pairing": _pairing(tables, pools),
        "pools": _pools(pools),
        "tuning": _tuning(tables),
        "compute": _compute(tables, seconds),
        "missing": _missing(tables, comparisons, pools),
    }


def _scope(tables: Convergence) -> str:
    runs = tables.runs
    seeds = runs.groupby("architecture").seed.nunique()
    counts = [
        f"{(runs.architecture == name).sum()} of {architecture(name).title} ({seeds[name]} seeds)"
        for name in families(tables)
    ]
    images, epochs = (span(runs[column].dropna().astype(int)) for column in ("train_images", "epochs"))
    free = int((runs.arm == FREE).sum())
    return (
        f"{len(runs)} runs with {images} training images and {epochs} epochs: {listed(counts)}. {free} of "
        f"them have neither constraint nor control, and the other {len(runs) - free} are compared with these. "
        + _failed(tables)
    )


def _failed(tables: Convergence) -> str:
    """Say how many runs failed, and what the pools are without their pairs."""
    failed = tables.runs[tables.runs.status != "done"]
    if not len(failed):
        return "None of them failed."
    failed_free = failed[failed.arm == FREE]
    free = set(zip(failed_free.architecture, failed_free.seed, strict=True))
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


def _regime(tables: Convergence) -> str:
    table = regime(tables)
    whole = noise_floor(tables).seeds >= LEAST_PAIRS
    table = table[table.index.isin(whole.index[whole])]
    gaps, changes = 100 * table.gap.dropna(), 100 * table.settling.dropna().abs()
    unmet = [architecture(name).title for name in table.index[~table.met.astype(bool)]]
    known = (
        f"Training accuracy is {span(gaps, '.0f')} points above test accuracy, and validation "
        f"accuracy changes by at most {changes.max():.1f} points over the last tenth of the epochs (means over seeds). "
    )
    return known + (
        f"The regime is not met by {', '.join(unmet)}."
        if unmet
        else "Every finished network meets both conditions of the design: it has settled, and it has room for a gain."
    )


def _noise(tables: Convergence, comparisons: pd.DataFrame) -> str:
    floor = noise_floor(tables)
    floor = floor[floor.seeds >= LEAST_PAIRS]
    text = f"Without constraint, accuracy varies from seed to seed by {span(floor.sd, '.1f', 100)} points (standard "
    text += "deviation)"
    spreads, found = [], []
    for name in floor.index.intersection(comparisons.index.get_level_values(0)):
        own = comparisons.loc[[name]]
        if math.isfinite(sd := spread_of_pairs(own)):
            spreads.append(f"{100 * sd:.1f} in the {architecture(name).title}")
            least = minimal_effect(int(own.pairs.min()), sd, comparisons=len(FAMILIES))
            found.append(f"{100 * least:.1f} points in the {architecture(name).title}")
    return f"{text}." + (
        f" Paired differences vary by {listed(spreads)}. With the correction over {NUMBERS[len(FAMILIES)]} families, a "
        f"true change of {listed(found)} would be found in four of five such studies."
        if found
        else ""
    )


def _pairing(tables: Convergence, pools: pd.DataFrame) -> str:
    """Say how the accuracies of constrained arms go with those of the free arm over seeds."""
    wide = accuracies(tables)
    said, against = [], []
    for name in dict.fromkeys(name for names in pools.families for name in names):
        arms = [arm for arm in MEASURES if arm in pools.index and name in pools.families[arm]]
        r = pd.Series([wide.loc[name, arm].corr(wide.loc[name, FREE]) for arm in arms])
        said.append(f"r = {minus(span(r, '.2f'))} in the {architecture(name).title}")
        if (r < 0).all():
            against.append(f"the {architecture(name).title}")
    return f"Over seeds, accuracies under constraints correlate with those of the free arm with {listed(said)}." + (
        f" In {listed(against)}, pairing therefore widens the intervals." if against else ""
    )


def _pools(pools: pd.DataFrame) -> str:
    """State the primary analysis of the design."""
    said = [
        f"{change(row.interval)} points ({SHORT[arm]}; corrected p = {row.corrected:.2g}; {row.verdict})"
        for arm, row in pools.iterrows()
        if arm in PRIMARY
    ]
    families = NUMBERS[len(pools.families[HOLD])]
    control = pools.interval[CONTROL]
    return (
        f"Pooled as the design has it, over {families} families, the accuracy changes by {listed(said)}. The positive "
        f"control, pooled, gains {change(control)} points"
        + ("." if control_gains(control) else ", too little or too uncertain for a pooled null to count.")
    )


def _tuning(tables: Convergence) -> str:
    chosen = tables.tuning[tables.tuning.chosen.astype(bool)]
    ends = tables.tuning.groupby(["architecture", "arm"]).learning_rate.agg(["min", "max"])
    edges = [
        f"{architecture(row.architecture).title}, {row.arm}"
        for row in chosen.itertuples()
        if row.learning_rate in ends.loc[(row.architecture, row.arm)].tolist()
    ]
    low, high = chosen.learning_rate.min(), chosen.learning_rate.max()
    return (
        f"{len(tables.tuning)} runs tuned {len(chosen)} learning rates, {decimal(low)} to {decimal(high)}; "
        f"{len(edges) or 'none'} of these lie at an edge of the values that were tried"
        + (f" ({'; '.join(edges)})." if edges else ".")
    )


def _compute(tables: Convergence, seconds: float) -> str:
    first = f"The first study took {seconds / 3600:.0f} core-hours of a CPU"
    runs = tables.runs.astype({"seconds": float})
    by_card = runs.groupby("card").seconds.sum()
    spent = " and ".join(
        f"{seconds / 3600:.1f} core-hours of a CPU" if card == CPU else f"{seconds / 60:.0f} minutes of one {card}"
        for card, seconds in by_card.items()
    )
    by_seed = runs.groupby(["architecture", "seed"])[["card", "precision"]].nunique()
    mixed = len(by_card) > 1 and (by_seed == 1).all(axis=None)
    return f"{first}; the second took {spent}, not counting tuning and data loading." + (
        " The runs of a seed were made on the same kind of machine and in the same precision." if mixed else ""
    )


def _missing(tables: Convergence, comparisons: pd.DataFrame, pools: pd.DataFrame) -> str:
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
    rest = "The graphics card is no longer available; these continue on a CPU."
    said += [f"Families not finished: {', '.join(unfinished)}. {rest}" if unfinished and begun else ""]
    return " ".join(filter(None, said)) or "All families and arms of the design were run."
