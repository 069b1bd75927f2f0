"""Made-up runs of a study, for the tests of its statistics and findings."""

from __future__ import annotations

import numpy as np

from selfsim.training.config import stored_config
from selfsim.training.evaluation import Row
from selfsim.training.runs import Run
from selfsim.uncertainty import Interval

DEFAULT, PUBLISHED = {"plain": True, "target": 0.1, "weight": 10}, {"paper": True, "target": 0.3, "weight": 0.05}
FAMILIES = ("mlp", "resmlp", "vit_small", "resnet34")
LAYERS = {"resnet34": "layer1.0", "resnet50": "layer1.0", "vgg11": "features.1"}
LAYERS |= dict.fromkeys(("poolformer", "pvt"), "stages.0.blocks.0")


def made_run(name, constraint=None, seed=0, *, accuracy=0.5, rates=(0.2, 0.2, 0.2), kin=None, median=2.0, travel=7.0):
    """A run of one layer with these numbers; `kin` are the two robust rates, by default the rate itself."""
    layer = LAYERS.get(name, "blocks.0")
    rows = [Row(len(rates) - 1, "test", "", "accuracy", accuracy), Row(1, "train", "", "weight_distance", travel)]
    for epoch, rate in enumerate(rates):
        values = {"ss_rate": rate, "median_distance": median}
        values |= dict.fromkeys(("ss_rate_left_out", "ss_rate_quantiles"), rate if kin is None else kin)
        rows += [Row(epoch, "validation", layer, metric, value) for metric, value in values.items()]
    built_as = {"name": name, "size": "tiny", "num_classes": 10, "in_chans": 1}
    return Run(stored_config({"architecture": name, "seed": seed, "constraint": constraint}), rows, built_as, {}, {})


def made_stage(*, gain=0.0, change=-0.1, published=0.0, seeds=5, families=FAMILIES, spread=0.003, number=0):
    """Stage a with a gain of the default constraint, a change of the rate by each constraint, and noise."""
    random = np.random.default_rng(number)
    runs = []
    for name in families:
        for seed in range(seeds):
            start = 0.5 + 0.02 * random.standard_normal()
            for constraint, better, moved in ((None, 0, 0), (DEFAULT, gain, change), (PUBLISHED, 0, published)):
                noise, other = random.standard_normal(2)
                rates = (0.21, 0.2, 0.2 + moved + 0.005 * other)
                runs.append(made_run(name, constraint, seed, accuracy=start + better + spread * noise, rates=rates))
    return runs


def interval(low, high):
    return Interval((low + high) / 2, low, high, 0.95, 5)
