"""What the first study says in a few sentences, the same on every page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from selfsim.training.runs import Run
from selfsim.uncertainty import mean_interval

from . import design
from .answer_text import NUMBERS, listed, points, span
from .convergence_statistics import t_tests
from .design import DEFAULT, PUBLISHED
from .findings import Finding, title
from .statistics import differences, manipulation, off_target, pairs


def first_study(stages: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """State what the two constraints did over all families, whose means are the units."""
    of_arms = differences(pairs([*stages[design.FIRST], *stages[design.OTHERS]]), "accuracy")
    said = {}
    for key, arm in (("default", DEFAULT), ("published", PUBLISHED)):
        by_family = {name: values for (name, of), values in of_arms.items() if of == arm}
        pool = mean_interval([float(np.mean(values)) for values in by_family.values()])
        small = sum(
            t_tests(float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5, len(values) - 1)[1]
            < design.ALPHA
            for values in by_family.values()
        )
        said[f"first.{key}"] = points(pool, digits=1 if key == "default" else 2)
        said[f"first.{key}.families"] = NUMBERS[len(by_family)]
        said[f"first.{key}.equivalent"] = NUMBERS[small]
    return said


def epoch_sentence(stages: Mapping[str, Sequence[Run]]) -> str:
    """Say how long an epoch of one network takes, from the fastest architecture to the slowest."""
    runs = [run for run in (*stages[design.FIRST], *stages[design.OTHERS]) if run.history]
    seconds = pd.Series(
        [float(run.environment["seconds"]) / run.config.epochs for run in runs],
        index=[title(run.config.architecture) for run in runs],
    )
    each = seconds.groupby(level=0).median()
    return f"{each.min():.0f} seconds ({each.idxmin()}) to {each.max() / 60:.0f} minutes ({each.idxmax()})"


def pools_sentence(stages: Mapping[str, Sequence[Run]]) -> str:
    """Say what the two constraints of all families did."""
    said = first_study(stages)
    return (
        f"After {_epochs(stages[design.FIRST])} epochs a target of 0.1, with a weight of 10 and no cap, changed the "
        f"accuracy by {said['first.default']} over {said['first.default.families']} families, and the constraint as "
        f"published by {said['first.published']}."
    )


def published_sentence(stages: Mapping[str, Sequence[Run]]) -> str:
    """Say which part of the way to its target the published form led the layers, and where it led them nowhere."""
    of_arms = pairs([*stages[design.FIRST], *stages[design.OTHERS]])
    own = {name: both for (name, arm), both in of_arms.items() if arm == PUBLISHED}
    moved = manipulation({(name, PUBLISHED): both for name, both in own.items()}).moved.to_dict()
    shares = {}
    for name, both in own.items():
        if moved[name, PUBLISHED]:
            free, there = (np.mean([off_target(pair[k], pair[1]) for pair in both]) for k in (0, 1))
            shares[name] = f"{100 * (1 - there / free):.0f} % in {title(name)}"
    return (
        f"Of the distance between the layers and the target of 0.3, it closed {listed(shares.values())}. In the other "
        f"{NUMBERS[len(own) - len(shares)]} networks the layers are not shown to come nearer."
    )


def gain_sentence(stages: Mapping[str, Sequence[Run]], found: Mapping[str, Finding]) -> str:
    """Say what a target of 0.2 did with new seeds, and what scale alone did."""
    table = found["confirm"].table
    assert table is not None
    rows = {title(name): row for (name, _), row in table.iterrows()}
    shown = [name for name, row in rows.items() if row.verdict == "shown"]
    every = {run.config.architecture for stage in (design.FIRST, design.OTHERS) for run in stages[stage]}
    count = {0: "no gain was", 1: "one gain was"}.get(len(shown), f"{NUMBERS[len(shown)]} gains were")
    changes = listed(f"{name} by {points(rows[name].interval)}" for name in shown or rows)
    said = [
        f"After {_epochs(stages[design.CONFIRM])} epochs {count} found: a target of 0.2, tried in {NUMBERS[len(rows)]} "
        f"of the {NUMBERS[len(every)]} families, changed the accuracy of {changes} ({span(table.pairs)} new seeds)."
    ]
    scaled = {title(run.config.architecture) for run in stages.get(design.CONTROL, [])}
    for name in filter(scaled.__contains__, shown):
        alone = found["scale"].table
        assert alone is not None
        said.append(f"Pulling the scale of {name}'s layers alone gave {points(alone.interval.iloc[0])}.")
    others = [name for name in rows if shown and name not in shown]
    said += [f"For {name} no gain is shown: {points(rows[name].interval)}." for name in others]
    return " ".join(said)


def _epochs(runs: Sequence[Run]) -> str:
    epochs = runs[0].config.epochs
    return NUMBERS[epochs] if epochs < len(NUMBERS) else str(epochs)
