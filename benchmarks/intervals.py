"""How often do the intervals cover the truth, and how often do tests reject a null model that holds? Simulations.

    .venv/bin/python -m benchmarks.intervals                 # all parts, into results/benchmarks/coverage.json
    .venv/bin/python -m benchmarks.intervals --part tests    # or rate, statistics, formulas: 2 to 5 minutes each

The truth of `samples_interval` is the mean over many fresh sets of samples, as many as each set has. For the SS rate
the plain bootstrap, which repeats samples, stands beside it. Goals: 93 to 97 % for a 95 % interval, 3.5 to 6.5 % for a
5 % test.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import networkx as nx
import numpy as np
import torch

import selfsim
from selfsim import samples_interval, ss_rate
from selfsim.measure.spectrum import power_law
from selfsim.training.environment import environment_facts
from selfsim.uncertainty import exponent_interval

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


def rate_part(sets: int) -> list[dict]:
    """Coverage for the SS rate, by random halves and by the plain bootstrap."""
    rows = []
    for name in ("independent", "five causes", "clusters"):
        for samples in (32, 128):
            truth = np.mean([ss_rate(law(name, samples, 10**6 + k)).item() for k in range(3000)])
            hits = {"halves": 0, "bootstrap": 0}
            for seed in range(sets):
                x = law(name, samples, seed)
                interval = samples_interval(ss_rate, x, draws=60, seed=seed)
                hits["halves"] += interval.low <= truth <= interval.high
                low, high = bootstrap(x, 60, seed)
                hits["bootstrap"] += low <= truth <= high
            row = {"law": name, "samples": samples, "truth": truth}
            rows.append(row | {f"coverage of {key}": hit / sets for key, hit in hits.items()})
            print(rows[-1], flush=True)
    return rows


def clustering(activations: torch.Tensor) -> float:
    return selfsim.topology(selfsim.FeatureNetwork(activations), quantile=0.1).clustering


def statistics_part(sets: int) -> list[dict]:
    """Coverage of `samples_interval` for the other statistics, at 160 samples."""
    statistics = {
        "spectrum exponent": selfsim.spectrum_exponent,
        "correlation dimension": selfsim.correlation_dimension,
        "TwoNN": selfsim.two_nn,
        "clustering": clustering,
    }
    rows = []
    for key, statistic in statistics.items():
        for name in ("independent", "five causes"):
            truth = np.mean([float(statistic(law(name, 160, 10**6 + k))) for k in range(600)])
            found = [samples_interval(statistic, law(name, 160, seed), draws=30, seed=seed) for seed in range(sets)]
            held = np.mean([interval.low <= truth <= interval.high for interval in found])
            rows.append({"statistic": key, "law": name, "samples": 160, "truth": truth, "coverage": held})
            print(rows[-1], flush=True)
    return rows


def formulas_part(sets: int) -> list[dict]:
    """Coverage of the intervals by formula, whose laws are cheap to draw: 20 times as many sets."""
    rng, sets = np.random.default_rng(0), 20 * sets

    def means(n):
        interval = selfsim.mean_interval(rng.normal(5, 2, n))
        return interval.low <= 5 <= interval.high

    def exponents(n, searched):
        values = rng.pareto(1.5, n) + 1
        fit = power_law(values) if searched else None
        interval = fit.interval if searched else exponent_interval(1 + 1 / np.log(values).mean(), n)
        return interval.low <= 2.5 <= interval.high

    def ranks(n, correlation):
        x = rng.normal(size=n)
        y = correlation * x + math.sqrt(1 - correlation**2) * rng.normal(size=n)
        interval = selfsim.rank_correlation(x, y)
        return interval.low <= 6 / math.pi * math.asin(correlation / 2) <= interval.high

    cases = {
        ("mean_interval, paired_difference", "normal, 3 values"): lambda: means(3),
        ("mean_interval, paired_difference", "normal, 10 values"): lambda: means(10),
        ("exponent_interval", "power law, 100 values, start known"): lambda: exponents(100, False),
        ("exponent_interval", "power law, 100 values, start searched"): lambda: exponents(100, True),
        ("rank_correlation", "10 pairs, none"): lambda: ranks(10, 0.0),
        ("rank_correlation", "10 pairs, correlation 0.6"): lambda: ranks(10, 0.6),
    }
    rows = []
    for (interval, name), case in cases.items():
        rows.append({"interval": interval, "law": name, "coverage": np.mean([case() for _ in range(sets)])})
        print(rows[-1], flush=True)
    return rows


def tests_part(sets: int) -> list[dict]:
    """How often p is at most 0.05 where the null model is true, with 39 draws."""

    def skewed(seed):  # independent neurons, none of them Gauss
        return law("independent", 128, seed).abs() ** 1.5

    cases = {
        ("SS rate", "gauss"): (ss_rate, lambda seed: law("independent", 128, seed)),
        ("SS rate", "shuffled"): (ss_rate, skewed),
        ("SS rate", "gauss-covariance"): (ss_rate, lambda seed: law("five causes", 128, seed)),
        ("correlation dimension", "shuffled"): (selfsim.correlation_dimension, skewed),
        ("spectrum exponent", "shuffled"): (selfsim.spectrum_exponent, skewed),
        ("correlation dimension", "gauss-covariance"): (
            selfsim.correlation_dimension,
            lambda seed: law("five causes", 128, seed),
        ),
    }
    rows = []
    for (key, null), (statistic, made) in cases.items():
        p = []
        for seed in range(sets):
            x = made(seed)
            band = selfsim.null_band(statistic, x, null=null, draws=39, seed=1000 * seed)
            p.append(band.p_value(float(statistic(x))))
        rows.append({"statistic": key, "null": null, "rejected": np.mean(np.array(p) <= 0.05)})
        print(rows[-1], flush=True)
    p = []
    for seed in range(sets):
        graph = nx.gnm_random_graph(60, 180, seed=seed)
        band = selfsim.null_band(
            nx.transitivity, null=lambda k, graph=graph: selfsim.rewired(graph, seed=k), draws=39, seed=1000 * seed
        )
        p.append(band.p_value(nx.transitivity(graph)))
    rows.append({"statistic": "transitivity", "null": "rewired", "rejected": np.mean(np.array(p) <= 0.05)})
    print(rows[-1], flush=True)
    return rows


PARTS = {"rate": rate_part, "statistics": statistics_part, "formulas": formulas_part, "tests": tests_part}
KEYS = {"rate": "rows"}  # where each part lies in the file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--part", choices=PARTS, help="only this part; the others stay as they are in the file")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/coverage.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = [arguments.part] if arguments.part else PARTS
    made = {KEYS.get(part, part): PARTS[part](arguments.sets) for part in parts}
    result = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    result |= {"neurons": NEURONS, "level": 0.95} | made
    result["sets"] = result.get("sets", {}) | dict.fromkeys(made, arguments.sets)
    result["environment"] = environment_facts()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
