"""Made-up tables of the second study, for the tests of its statistics and its page."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from study import convergence_tables as tables
from study.convergence_tables import ARMS, CONTROL, FREE, HOLD, LOWER, PUBLISHED, SCALING, Convergence

FAMILIES = ("mlp", "resmlp", "mixer", "vit_small", "resnet34")
LAYERS = ("blocks.0", "blocks.1")
LOOKS = (0, 30, 54, 60)
_MEASURES = {HOLD: "ss_rate_median", LOWER: "ss_rate_median", SCALING: "scaling_deviation", PUBLISHED: "ss_rate"}
_FREE_VALUES = {"ss_rate": 0.2, "ss_rate_median": 0.24, "scaling_deviation": 0.08}
_TARGETS = {HOLD: 0.24, LOWER: 0.1, SCALING: 0.03, PUBLISHED: 0.2}


def made_tables(gains=None, *, families=FAMILIES, arms=ARMS, seeds=10, sd=0.006, between=0.003, reach=0.8, number=0):
    """Return tables with these mean gains by arm (shares); `reach` is how far of the way the targets are reached."""
    gains = {CONTROL: 0.03} | dict(gains or {})
    random = np.random.default_rng(number)
    runs, history, tuning = [], [], []
    for family in families:
        starts = 0.45 + 0.01 * random.standard_normal(seeds)
        for arm in arms:
            gain = gains.get(arm, 0.0) + between * random.standard_normal() if arm != FREE else 0.0
            tuning += [
                dict(architecture=family, arm=arm, learning_rate=0.001 * 2**k, seed=1000)
                | dict(validation_accuracy=0.45 - 0.01 * abs(k), form="none", train_accuracy=0.9, chosen=k == 0)
                for k in range(-2, 3)
            ]
            for seed in range(seeds):
                run = f"{family}-{arm}-{seed}"
                accuracy = starts[seed] + gain + sd * random.standard_normal() / (1 if arm != FREE else 2)
                options = None
                if arm in _TARGETS:
                    options = json.dumps({"target": dict.fromkeys(LAYERS, _TARGETS[arm])})
                values = dict(run=run, status="done", architecture=family, arm=arm, seed=seed, subset=seed)
                values |= dict(learning_rate=0.001, test_accuracy=accuracy, train_accuracy=0.95, constraint=options)
                values |= dict(validation_accuracy=accuracy, epochs=60, train_images=2000, card="NVIDIA H100")
                values |= dict(seconds=6.0, together=10, date="2026-11-27T01:00+00:00", commit="0123456789ab")
                runs.append(values)
                for epoch in LOOKS:
                    about = dict(run=run, epoch=epoch)
                    shown = accuracy - (0.3 if epoch == 0 else 0.02 if epoch == 30 else 0.001 if epoch == 54 else 0)
                    history.append(about | dict(split="validation", layer="", accuracy=shown))
                    for layer in LAYERS:
                        rates = {name: rate + 0.002 * random.standard_normal() for name, rate in _FREE_VALUES.items()}
                        if arm in _TARGETS and epoch == LOOKS[-1]:
                            name = _MEASURES[arm]
                            rates[name] += reach * (_TARGETS[arm] - _FREE_VALUES[name])
                        history.append(about | dict(split="train", layer=layer, median_distance=2.0) | rates)
    columns = {"runs": tables.RUNS, "history": tables.HISTORY, "tuning": tables.TUNING}
    made = {"runs": runs, "history": history, "tuning": tuning}
    return Convergence(**{name: pd.DataFrame(made[name], columns=list(columns[name])) for name in columns})
