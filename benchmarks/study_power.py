"""Simulated second studies: coverage, power and false claims of the rules in book/design.md.

    .venv/bin/python -m benchmarks.study_power               # 2 minutes, into results/benchmarks/study_power.json

Five families. The mean difference of a family is the effect plus a normal deviation with the standard deviation
`between`; paired differences spread by `sd` around it. Arm *lower* has the effect, *hold* has none. There are two sets
of cases. As planned: ten pairs, and the positive control gains 3 points. As found in the first two families: eight
pairs, and it gains 1.6 points, with a standard deviation of 0.7 between families. Effects and deviations are in points,
outcomes are shares of the studies.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np

from benchmarks.output import output_parser, write
from study.convergence_statistics import (
    ALPHA,
    INCONCLUSIVE,
    NULL,
    NULL_DOES_NOT_COUNT,
    control_gains,
    pooled,
    sign_flip,
    verdict,
)
from study.statistics import holm

FAMILIES = 5
EFFECTS, SDS, BETWEEN = (0.0, 0.5, 1.0, 2.0), (0.5, 1.0), (0.0, 0.3)
PLANNED = {"pairs": 10, "control": 3.0, "control_between": None}
FOUND = {"pairs": 8, "control": 1.6, "control_between": 0.7}


def simulate(
    effect: float,
    sd: float,
    between: float,
    *,
    pairs: int,
    control: float,
    control_between: float | None,
    studies: int,
    seed: int,
) -> dict[str, float | int | None]:
    """Return the shares of studies with each outcome for a true effect, in points."""
    random = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for _ in range(studies):
        means = {"lower": effect, "hold": 0.0, "control": control}
        draws = {}
        for arm, mean in means.items():
            spread = between if arm != "control" or control_between is None else control_between
            families = mean + spread * random.standard_normal((FAMILIES, 1))
            draws[arm] = (families + sd * random.standard_normal((FAMILIES, pairs))) / 100
        pools = {arm: pooled(d.mean(1), d.var(1, ddof=1) / pairs) for arm, d in draws.items()}
        corrected = dict(zip(("lower", "hold"), holm([pools["lower"].p, pools["hold"].p]), strict=True))
        counts_as_null = control_gains(pools["control"].interval)
        said = {
            arm: verdict(pools[arm].interval, corrected[arm], pools[arm].equivalence, null_counts=counts_as_null)
            for arm in corrected
        }
        interval = pools["lower"].interval
        counts["covered"] += interval.low <= effect / 100 <= interval.high
        counts["gain or loss"] += said["lower"].startswith(("gain", "loss"))
        counts["gain"] += said["lower"].startswith("gain")
        counts["loss"] += said["lower"].startswith("loss")
        counts["small"] += said["lower"].endswith("less than one point")
        counts["null"] += said["lower"] == NULL
        counts["null does not count"] += said["lower"] == NULL_DOES_NOT_COUNT
        counts["inconclusive"] += said["lower"] == INCONCLUSIVE
        counts["false claim of hold"] += said["hold"].startswith(("gain", "loss"))
        first = draws["lower"][0]
        counts["one family, sign flips"] += sign_flip(first) < ALPHA
    about = {"effect": effect, "sd": sd, "between": between, "pairs": pairs, "control": control, "studies": studies}
    return about | {
        key: counts[key] / studies
        for key in (
            "covered", "gain", "loss", "small", "null", "null does not count", "inconclusive",
            "false claim of hold", "one family, sign flips",
        )
    }  # fmt: skip


def main() -> None:
    """Simulate every case and write the file."""
    parser = output_parser(__doc__, "study_power.json")
    parser.add_argument("--studies", type=int, default=1000)
    arguments = parser.parse_args()
    planned = [(case, PLANNED) for case in itertools.product(SDS, BETWEEN, EFFECTS)]
    found = [((max(SDS), max(BETWEEN), effect), FOUND) for effect in EFFECTS]
    rows = [
        simulate(effect, sd, between, **assumed, studies=arguments.studies, seed=seed)
        for seed, ((sd, between, effect), assumed) in enumerate([*planned, *found])
    ]
    for row in rows:
        print({key: round(value, 3) for key, value in row.items()})
    write(arguments.output, {"families": FAMILIES, "cases": rows})


if __name__ == "__main__":
    main()
