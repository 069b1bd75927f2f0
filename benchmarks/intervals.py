"""Simulated coverage of intervals and null bands, and rejection rates of tests under a true null model.

    .venv/bin/python -m benchmarks.intervals                  # 45 minutes more, into results/benchmarks/coverage.json
    .venv/bin/python -m benchmarks.intervals --part tests     # or rows (the SS rate), statistics, scaling, formulas
    .venv/bin/python -m benchmarks.intervals --pages          # only write the tables of the two pages from the file

A run resumes from the file. Each row has its number of simulated sets, and each turn gives the same time to every row
with fewer than `--sets`. The true value for `samples_interval` is the mean over many fresh sets of the same number of
samples. For the SS rate, the plain bootstrap, which repeats samples, is simulated too, and for null bands the quantiles
of the draws. Goals: within 2 % of the level of an interval and 1 % of that of a band, 3.5 to 6.5 % for a 5 % test.
"""

from __future__ import annotations

import functools
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import networkx as nx
import numpy as np
import torch

import selfsim
from benchmarks.output import output_parser, stored, write
from selfsim import samples_interval, ss_rate
from selfsim.statistics.null_models import NullBand
from selfsim.statistics.spectrum import power_law
from selfsim.uncertainty import exponent_interval
from study.answer_text import markdown

NEURONS, SAMPLES, LEVEL = 60, 160, 0.95
LAWS = ("independent", "five causes", "clusters")
TURN = 20  # seconds for one row at a time

# A simulation: from a seed to the outcomes to count, by key.
Simulation = Callable[[int], dict[str, bool]]


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


def truth(statistic, name: str, samples: int, fresh: int) -> float:
    return float(np.mean([float(statistic(law(name, samples, 10**6 + k))) for k in range(fresh)]))


def bootstrap(x: torch.Tensor, draws: int, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    values = [ss_rate(x[torch.randint(0, len(x), (len(x),), generator=generator)]).item() for _ in range(draws)]
    return tuple(np.quantile(values, [0.025, 0.975]))


def rate_rows() -> Iterator[tuple[dict, Callable[[dict], Simulation]]]:
    """Coverage for the SS rate, by random halves and by the plain bootstrap."""

    def prepared(row):
        if "truth" not in row:
            row["truth"] = truth(ss_rate, row["law"], row["samples"], 3000)

        def simulate(seed):
            x = law(row["law"], row["samples"], seed)
            interval = samples_interval(ss_rate, x, draws=60, seed=seed)
            low, high = bootstrap(x, 60, seed)
            return {
                "coverage of halves": interval.low <= row["truth"] <= interval.high,
                "coverage of bootstrap": low <= row["truth"] <= high,
            }

        return simulate

    for name in LAWS:
        for samples in (32, 128):
            yield {"law": name, "samples": samples}, prepared


@functools.lru_cache(maxsize=2000)
def _topology(data: bytes, samples: int) -> selfsim.Topology:
    activations = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(samples, -1)
    return selfsim.topology(selfsim.FeatureNetwork(activations), quantile=0.1)


def of_graph(name: str):
    """Return a statistic of the graph of the shortest tenth of the edges; all are computed at once and cached."""
    return lambda x: getattr(_topology(x.numpy().tobytes(), len(x)), name)


def largest_part(x: torch.Tensor) -> nx.Graph:
    graph = selfsim.FeatureNetwork(x).to_networkx(neighbours=6)
    return graph.subgraph(max(nx.connected_components(graph), key=len))


STATISTICS = {
    "spectrum exponent": (selfsim.spectrum_exponent, "halves"),
    "correlation dimension": (selfsim.correlation_dimension, "pairs"),
    "TwoNN": (selfsim.two_nn, "splits"),
    "clustering": (of_graph("clustering"), "halves"),
    "path length": (of_graph("path_length"), "halves"),
    "assortativity": (of_graph("assortativity"), "halves"),
    "modularity": (of_graph("modularity"), "halves"),
    "sigma": (lambda x: selfsim.small_world_sigma(largest_part(x), swaps=10, draws=5), "halves"),
    "omega": (lambda x: selfsim.small_world_omega(largest_part(x), draws=5), "halves"),
}


def statistics_rows():
    """Coverage of `samples_interval` for the other statistics, each by the method on its card."""

    def prepared(row):
        statistic, method = STATISTICS[row["statistic"]]
        if "truth" not in row:
            row["truth"] = truth(statistic, row["law"], SAMPLES, 600)

        def simulate(seed):
            interval = samples_interval(statistic, law(row["law"], SAMPLES, seed), draws=30, seed=seed, method=method)
            return {"coverage": interval.low <= row["truth"] <= interval.high}

        return simulate

    for key, (_, method) in STATISTICS.items():
        for name in LAWS[: 3 if key in ("correlation dimension", "TwoNN") else 2]:
            yield {"statistic": key, "method": method, "law": name}, prepared


def sets_of_points(name: str, n: int, seed: int) -> torch.Tensor:
    """`n` points of a known set: of its law, for those that are not random by themselves."""
    if name != "sierpinski":
        return selfsim.known_activations(name, n=n, seed=seed)
    chosen = torch.randperm(3**9, generator=torch.Generator().manual_seed(seed))[:n]
    return _triangle()[:, chosen]


@functools.cache
def _triangle() -> torch.Tensor:
    return selfsim.known_activations("sierpinski", n=3**9)


def scaling_rows():
    """Coverage of the intervals of `scaling`, over other neurons and over other samples."""
    laws = {
        "points of a square": (lambda seed: sets_of_points("square", 128, seed), "neurons"),
        "points of a Sierpinski triangle": (lambda seed: sets_of_points("sierpinski", 128, seed), "neurons"),
        "noise": (lambda seed: sets_of_points("gauss", 128, seed), "neurons"),
        "five causes": (lambda seed: law("five causes", SAMPLES, seed), "samples"),
    }
    names = ("deviation", "dimension", "octaves")

    def prepared(row, draw, over):
        if "truth" not in row:
            found = [selfsim.scaling(draw(10**6 + k), draws=0) for k in range(600)]
            means = {name: float(np.mean([getattr(fit, name).value for fit in found])) for name in names}
            row["truth"] = {name: mean for name, mean in means.items() if not math.isnan(mean)}

        def simulate(seed):
            intervals = selfsim.scaling(draw(seed), over=over, seed=seed).intervals
            return {
                f"coverage of {name}": interval.low <= row["truth"][name] <= interval.high
                for name, interval in intervals.items()
                if name in row["truth"]  # estimable in all sets
            }

        return simulate

    for name, (draw, over) in laws.items():
        yield {"law": name, "over": over}, functools.partial(prepared, draw=draw, over=over)


def formulas_rows():
    """Coverage of the intervals by formula, and of null bands for a fresh draw."""

    def means(n, rng):
        interval = selfsim.mean_interval(rng.normal(5, 2, n))
        return interval.low <= 5 <= interval.high

    def exponents(n, searched, rng):
        values = rng.pareto(1.5, n) + 1
        fit = power_law(values) if searched else None
        interval = fit.interval if searched else exponent_interval(1 + 1 / np.log(values).mean(), n)
        return interval.low <= 2.5 <= interval.high

    def ranks(n, correlation, rng):
        x = rng.normal(size=n)
        y = correlation * x + math.sqrt(1 - correlation**2) * rng.normal(size=n)
        interval = selfsim.rank_correlation(x, y)
        return interval.low <= 6 / math.pi * math.asin(correlation / 2) <= interval.high

    def bands(draws, distribution, rng):
        *values, fresh = getattr(rng, distribution)(size=draws + 1)
        band = NullBand(np.array(values), distribution, LEVEL)
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return {"coverage": band.low <= fresh <= band.high, "coverage of plain quantiles": low <= fresh <= high}

    cases = {
        ("mean_interval, paired_difference", "normal, 3 values"): (means, 3),
        ("mean_interval, paired_difference", "normal, 10 values"): (means, 10),
        ("exponent_interval", "power law, 100 values, start known"): (exponents, 100, False),
        ("exponent_interval", "power law, 100 values, start searched"): (exponents, 100, True),
        ("rank_correlation", "10 pairs, none"): (ranks, 10, 0.0),
        ("rank_correlation", "10 pairs, correlation 0.6"): (ranks, 10, 0.6),
        ("null_band", "normal, 10 draws"): (bands, 10, "normal"),
        ("null_band", "normal, 20 draws"): (bands, 20, "normal"),
        ("null_band", "normal, 40 draws"): (bands, 40, "normal"),
        ("null_band", "log-normal, 40 draws"): (bands, 40, "lognormal"),
        ("null_band", "normal, 100 draws"): (bands, 100, "normal"),
    }
    for (interval, name), (case, *values) in cases.items():

        def prepared(row, case=case, values=values):
            def simulate(seed):
                held = case(*values, np.random.default_rng(seed))
                return held if case is bands else {"coverage": held}

            return simulate

        level = {"level": NullBand(np.zeros(values[0]), "", LEVEL).level} if case is bands else {}
        yield {"interval": interval, "law": name, **level}, prepared


def tests_rows():
    """How often p is at most 0.05 under a true null model, with 39 draws."""

    def skewed(seed):  # independent neurons that are not normal
        return law("independent", 128, seed).abs() ** 1.5

    made = {
        "gauss": lambda seed: law("independent", 128, seed),
        "shuffled": skewed,
        "gauss-covariance": lambda seed: law("five causes", 128, seed),
    }
    statistics = {
        "SS rate": ss_rate,
        "correlation dimension": selfsim.correlation_dimension,
        "spectrum exponent": selfsim.spectrum_exponent,
    }

    def prepared(row):
        def simulate(seed):
            if row["null"] == "rewired":
                x, statistic = nx.gnm_random_graph(60, 180, seed=seed), nx.transitivity
                null = {"null": lambda k: selfsim.rewired(x, seed=k)}
            else:
                x, statistic = made[row["null"]](seed), statistics[row["statistic"]]
                null = {"activations": x, "null": row["null"]}
            band = selfsim.null_band(statistic, draws=39, seed=1000 * seed, **null)
            return {"rejected": band.p_value(float(statistic(x))) <= 0.05}

        return simulate

    for key, null in (
        ("SS rate", "gauss"),
        ("SS rate", "shuffled"),
        ("SS rate", "gauss-covariance"),
        ("correlation dimension", "shuffled"),
        ("spectrum exponent", "shuffled"),
        ("correlation dimension", "gauss-covariance"),
        ("transitivity", "rewired"),
    ):
        yield {"statistic": key, "null": null}, prepared


PARTS = {
    "rows": rate_rows,
    "statistics": statistics_rows,
    "scaling": scaling_rows,
    "formulas": formulas_rows,
    "tests": tests_rows,
}


def advance(row: dict, simulate: Simulation, sets: int, seconds: float) -> None:
    """Simulate more sets, up to a number or a time, and update the shares of the row."""
    started, done = time.monotonic(), row.get("sets", 0)
    while row.get("sets", 0) < sets and time.monotonic() - started < seconds:
        counted = simulate(row.get("sets", 0))
        row["sets"] = row.get("sets", 0) + 1
        for key, outcome in counted.items():
            row[key] = row.get(key, 0.0) + (bool(outcome) - row.get(key, 0.0)) / row["sets"]
    for key in [key for key in row if key.startswith(("coverage", "rejected"))]:
        row[key] = round(row[key] * row["sets"]) / row["sets"]
    # Half the width of a 95 % interval for the share, if it equals its nominal value.
    share = 0.05 if "rejected" in row else row.get("level", LEVEL)
    row["uncertainty"] = 1.96 * math.sqrt(share * (1 - share) / row["sets"])
    print(f"+{row['sets'] - done}", json.dumps(row), flush=True)


def verdict(share: float, uncertainty: float, goal: tuple[float, float]) -> str:
    """Return "reached" for a share within its goal, "open" if only its uncertainty reaches it, or "missed"."""
    if goal[0] <= share <= goal[1]:
        return "reached"
    return "open" if goal[0] - uncertainty <= share <= goal[1] + uncertainty else "missed"


def tables(result: dict) -> list[str]:
    """The tables of the book's pages."""
    rate, coverage, bands = [], [], []
    for row in result["rows"]:
        shares = (f"{row[f'coverage of {way}']:.3f}" for way in ("halves", "bootstrap"))
        rate.append([row["law"], str(row["samples"]), *shares, f"{row['sets']:,}"])
    within = (round(LEVEL - 0.02, 6), round(LEVEL + 0.02, 6))
    for row in [*result["statistics"], *result["formulas"]]:
        if row.get("interval") == "null_band":
            held, sets, goal = _judged(row["coverage"], row, (row["level"] - 0.01, row["level"] + 0.01))
            plain = f"{row['coverage of plain quantiles']:.3f}"
            bands.append([row["law"], f"{row['level']:.3f}", held, goal, plain, sets])
            continue
        name = f"`{row.get('interval', 'samples_interval')}`".replace(", ", "`, `")
        if "statistic" in row:
            name += f", {row['statistic']}, by {row['method']}"
        coverage.append([name, row["law"], *_judged(row["coverage"], row, within)])
    for row in result.get("scaling", []):
        for key in [key for key in row if key.startswith("coverage of ")]:
            name = f"`scaling`, {key.removeprefix('coverage of ')}, over {row['over']}"
            coverage.append([name, row["law"], *_judged(row[key], row, within)])
    rejected = [
        [row["statistic"], row["null"], *_judged(row["rejected"], row, (0.035, 0.065))] for row in result["tests"]
    ]
    return [
        markdown(("activations", "samples", "random halves", "plain bootstrap", "sets"), rate),
        markdown(("interval", "law", "held the truth", "sets", "goal"), coverage),
        markdown(
            ("null band of draws", "stated level", "held a fresh draw", "goal", "between plain quantiles", "sets"),
            bands,
        ),
        markdown(("statistic", "null model", "rejected", "sets", "goal"), rejected),
    ]


def _judged(share: float, row: dict, goal: tuple[float, float]) -> list[str]:
    spread = row["uncertainty"]
    return [f"{share:.3f} ± {spread:.3f}", f"{row['sets']:,}", verdict(share, spread, goal)]


def with_tables(page: str, result: dict) -> str:
    """Return a page with its tables replaced: those with the header of one of `tables`."""
    for table in tables(result):
        page = re.sub(rf"(?ms)^{re.escape(table.splitlines()[0])}.*?(?=\n\n)", table, page)
    return page


def main() -> None:
    parser = output_parser(__doc__, "coverage.json")
    parser.add_argument("--sets", type=int, default=2000, help="of each row; ten times as many for the formulas")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--part", choices=PARTS, help="only this part; the others stay as they are")
    parser.add_argument("--pages", action="store_true", help="only write the tables of the pages")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = stored(arguments.output)
    if arguments.pages:
        for page in (Path("book/statistics.md"), Path("book/ss-rate.md")):
            page.write_text(with_tables(page.read_text(encoding="utf-8"), result), encoding="utf-8")
        return
    ends = time.monotonic() + 60 * arguments.minutes
    waiting = []
    for part in [arguments.part] if arguments.part else PARTS:
        rows = []
        for fresh, prepared in PARTS[part]():
            known = (row for row in result.get(part, []) if fresh.items() <= row.items())
            rows.append(next(known, fresh))
            waiting.append((rows[-1], prepared, arguments.sets * (10 if part == "formulas" else 1)))
        result[part] = rows
    while waiting and time.monotonic() < ends:
        for row, prepared, sets in waiting:
            if row.get("sets", 0) < sets and time.monotonic() < ends:
                advance(row, prepared(row), sets, TURN)
                write(arguments.output, result | {"neurons": NEURONS, "samples": SAMPLES, "level": LEVEL})
        waiting = [(row, prepared, sets) for row, prepared, sets in waiting if row.get("sets", 0) < sets]


if __name__ == "__main__":
    main()
