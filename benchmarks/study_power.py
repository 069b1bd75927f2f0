"""Simulated second studies: coverage, power and false claims of the rules in book/design.md.

    .venv/bin/python -m benchmarks.study_power               # 2 minutes, into results/benchmarks/study_power.json

Five families with ten pairs each. The mean difference of a family is the effect plus a normal deviation with the
standard deviation `between`; paired differences spread by `sd` around it. Arm *lower* has the effect, *hold* has none,
and the positive control gains 3 points. Effects and deviations are in points, outcomes are shares of the studies.
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

FAMILIES, PAIRS = 5, 10
EFFECTS, SDS, BETWEEN = (0.0, 0.5, 1.0, 2.0), (0.5, 1.0), (0.0, 0.3)
CONTROL = 3.0


def simulate(effect: float, sd: float, between: float, *, studies: int, seed: int) -> dict[str, float | int]:
    """Return the shares of studies with each outcome for a true effect, in points."""
    random = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for _ in range(studies):
        means = {"lower": effect, "hold": 0.0, "control": CONTROL}
        draws = {}
        for arm, mean in means.items():
            families = mean + between * random.standard_normal((FAMILIES, 1))
            draws[arm] = (families + sd * random.standard_normal((FAMILIES, PAIRS))) / 100
        pools = {arm: pooled(d.mean(1), d.var(1, ddof=1) / PAIRS) for arm, d in draws.items()}
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
    return {"effect": effect, "sd": sd, "between": between, "studies": studies} | {
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
    cases = itertools.product(SDS, BETWEEN, EFFECTS)
    rows = [
        simulate(effect, sd, between, studies=arguments.studies, seed=seed)
        for seed, (sd, between, effect) in enumerate(cases)
    ]
    for row in rows:
        print({key: round(value, 3) for key, value in row.items()})
    write(arguments.output, {"families": FAMILIES, "pairs": PAIRS, "cases": rows})


if __name__ == "__main__":
    main()
