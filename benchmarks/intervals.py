"""How often does the interval over samples cover the truth? A simulation, for the SS rate.

    .venv/bin/python benchmarks/intervals.py        # prints a table, writes results/benchmarks/coverage.json

The truth is the mean rate over many fresh sets of samples, as many as each set has. Beside the interval of the
package (random halves without repetition) stands the plain bootstrap, which repeats samples.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from selfsim import samples_interval, ss_rate
from selfsim.training.environment import environment_facts

NEURONS = 60


def law(name: str, samples: int, seed: int) -> torch.Tensor:
    """Activations ``(samples, neurons)``: samples are independent draws of one law, which is the same every time."""
    fixed = torch.Generator().manual_seed(12345)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, NEURONS, generator=generator)
    if name == "independent":
        return noise
    mixing = torch.randn(5, NEURONS, generator=fixed)
    if name == "five causes":
        return torch.randn(samples, 5, generator=generator) @ mixing + 0.3 * noise
    groups = torch.randint(0, 6, (NEURONS,), generator=fixed)  # "clusters": six groups of neurons
    return torch.randn(samples, 6, generator=generator)[:, groups] + 0.3 * noise


def bootstrap(x: torch.Tensor, draws: int, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    values = [ss_rate(x[torch.randint(0, len(x), (len(x),), generator=generator)]).item() for _ in range(draws)]
    return tuple(np.quantile(values, [0.025, 0.975]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/coverage.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in ("independent", "five causes", "clusters"):
        for samples in (32, 128):
            truth = np.mean([ss_rate(law(name, samples, 10**6 + k)).item() for k in range(3000)])
            hits = {"halves": 0, "bootstrap": 0}
            for seed in range(arguments.sets):
                x = law(name, samples, seed)
                interval = samples_interval(ss_rate, x, draws=60, seed=seed)
                hits["halves"] += interval.low <= truth <= interval.high
                low, high = bootstrap(x, 60, seed)
                hits["bootstrap"] += low <= truth <= high
            row = {"law": name, "samples": samples, "truth": truth}
            row |= {f"coverage of {key}": hit / arguments.sets for key, hit in hits.items()}
            rows.append(row)
            print(
                f"{name:12s} {samples:4d} samples, rate {truth:.3f}: "
                + ", ".join(f"{k} {h / arguments.sets:.3f}" for k, h in hits.items())
            )
    result = {
        "neurons": NEURONS,
        "sets": arguments.sets,
        "level": 0.95,
        "rows": rows,
        "environment": environment_facts(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
