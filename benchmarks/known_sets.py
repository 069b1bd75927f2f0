"""Which measures tell sets that are alike at every scale from noise and from clusters, whatever the unit of length?

    .venv/bin/python -m benchmarks.known_sets     # 20 minutes, into results/benchmarks/known_sets.json

The sets are those of `selfsim.known_activations`. A draw reads seven of eight neurons of a set, as if the others had
not been recorded. Each measure is computed in three units of length. The area under the curve (AUC) of a measure is the
probability that a fractal has a smaller value than another set; where the measure gives no number, each order counts
half. Intervals are Newcombe's fifth method, for other draws of the same sets.

A run resumes from the file. ``--again`` repeats what ``--measures`` and ``--neurons`` name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

import selfsim
from benchmarks.output import output_parser, stored, write
from selfsim import ss_rate
from selfsim.statistics.synthetic import KNOWN_DIMENSIONS

FRACTALS = ("line", "square", "cube", "lattice", "cantor", "sierpinski", "menger", "ultrametric tree")
AGAINST = {"noise": ("gauss",), "clusters": ("clusters",), "uneven noise": ("log-normal scales", "power-law spectrum")}
UNITS = (1.0, 1e-4, 1e4)
DRAWS = {64: 20, 128: 20, 256: 20, 512: 8, 1024: 2, 2048: 1}
OUTPUT = Path("results/benchmarks/known_sets.json")
ALONE = "scaling: deviation"  # ranked without the rule that less than an octave is the worst


def rate(**options) -> Callable[[torch.Tensor], dict[str, float]]:
    return lambda x: {"": float(ss_rate(x, **options))}


def of_scaling(x: torch.Tensor) -> dict[str, float]:
    """The deviation, which counts only over an octave and more, and what stands beside it."""
    found = selfsim.scaling(x, draws=0)
    beside = {key: getattr(found, key).value for key in ("deviation", "dimension", "octaves")}
    value = math.inf if beside["octaves"] < 1 else beside["deviation"]
    verdicts = {": scales": float(found.scales), ": below threshold": float(beside["deviation"] < found.threshold)}
    return {"": value, **{f": {key}": number for key, number in beside.items()}, **verdicts}


# Name in the book -> from activations to numbers by their addition to the name; the first one is what AUC is about.
MEASURES: dict[str, Callable[[torch.Tensor], dict[str, float]]] = {
    "SS rate (surrogate)": rate(),
    "rate by real boxes": rate(count="complete-linkage"),
    "rate between quantiles": rate(quantiles=(0.01, 0.99)),
    "rate in median units": rate(unit="median"),
    "rate without 3 neurons": rate(leave_out=3),
    "rate, standardised": rate(standardize=True),
    # The neurons of a known set are its points, and these two statistics take samples for points.
    "spectrum exponent": lambda x: {"": selfsim.spectrum_exponent(x.T).value},
    "correlation dimension": lambda x: {"": selfsim.correlation_dimension(x.T).value},
    "scaling": of_scaling,
}


def drawn(name: str, n: int, draw: int) -> torch.Tensor:
    """Seven of eight neurons of a set."""
    many = selfsim.known_activations(name, n=math.ceil(8 * n / 7), seed=draw)
    return many[:, np.random.default_rng(draw).permutation(many.shape[1])[:n]]


def measured(measure: str, name: str, n: int, draws: int) -> dict[str, np.ndarray]:
    """The numbers of a measure for a set, as arrays (draws, units); NaN where there is no number."""
    values: dict[str, np.ndarray] = {}
    for draw in range(draws):
        x = drawn(name, n, draw)
        for number, unit in enumerate(UNITS):
            try:
                found = MEASURES[measure](x * unit)
            except ValueError:  # a constant neuron cannot be standardised
                found = {"": math.nan}
            for key, value in found.items():
                values.setdefault(measure + key, np.full((draws, len(UNITS)), np.nan))[draw, number] = value
    return values


def area_under_curve(fractals: np.ndarray, others: np.ndarray, *, level: float = 0.95) -> dict[str, float]:
    """The probability that a fractal has the smaller value, with an interval.

    Without a number, or with equal ones, each order is as likely as the other.
    """
    a, b = fractals.ravel(), others.ravel()
    known_a, known_b = a[~np.isnan(a)], b[~np.isnan(b)]
    ranks = rankdata(np.concatenate([known_b, known_a]))[: len(known_b)]
    below = ranks.sum() - len(known_b) * (len(known_b) + 1) / 2  # pairs in which the fractal has the smaller value
    auc = float((below + 0.5 * (len(a) * len(b) - len(known_a) * len(known_b))) / (len(a) * len(b)))
    # Draws are independent, the units of a draw are not.
    m, n = len(fractals), len(others)

    def deviance(theta: float) -> float:
        extra = (m + n) / 2 - 1
        spread = theta * (1 - theta) * (1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
        return (theta - auc) ** 2 - norm.ppf((1 + level) / 2) ** 2 * spread

    tiny = 1e-12  # the deviance is 0 at 0 and at 1 as well
    low = brentq(deviance, 0, min(auc, 1 - tiny)) if auc > tiny else 0.0
    high = brentq(deviance, max(auc, tiny), 1) if auc < 1 - tiny else 1.0
    return {"auc": auc, "low": float(low), "high": float(high)}


def rows_of(measure: str, n: int, draws: int) -> dict[str, list[dict]]:
    """The rows of the two tables for one measure and number of neurons."""
    values = {name: measured(measure, name, n, draws) for name in KNOWN_DIMENSIONS}
    rows = [
        {"set": name, "n": n, "draws": draws, "measure": key}
        | {"numbers": int(np.isfinite(array[:, 0]).sum()), "mean": _mean(array[:, 0]), "spread": _spread(array[:, 0])}
        for name, of_set in values.items()
        for key, array in of_set.items()
    ]
    areas = []
    ranked = [measure] + [ALONE] * (measure == "scaling")
    for key, (against, names) in itertools.product(ranked, AGAINST.items()):
        fractals, others = (np.concatenate([values[name][key] for name in side]) for side in (FRACTALS, names))
        for unit, chosen in (("one", slice(1)), ("any", slice(None))):
            area = area_under_curve(fractals[:, chosen], others[:, chosen])
            areas.append({"measure": key, "n": n, "against": against, "unit": unit, **area})
    by_set = [
        {
            "measure": ALONE,
            "n": n,
            "set": name,
            **area_under_curve(values[name][ALONE][:, :1], values["gauss"][ALONE][:, :1]),
        }
        for name in FRACTALS
        if measure == "scaling"
    ]
    return {"sets": rows, "auc": areas, "auc of each set against noise": by_set}


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(f"{known.mean():.6g}") if len(known) else None


def _spread(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(f"{known.std(ddof=1):.3g}") if len(known) > 1 else None


def main() -> None:
    parser = output_parser(__doc__, OUTPUT.name)
    parser.add_argument("--neurons", type=int, nargs="+", default=list(DRAWS), choices=DRAWS)
    parser.add_argument("--measures", nargs="+", default=list(MEASURES), choices=MEASURES)
    parser.add_argument("--again", action="store_true", help="repeat what the file has")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = stored(arguments.output)
    for n, measure in itertools.product(arguments.neurons, arguments.measures):
        if not arguments.again and any((row["n"], row["measure"]) == (n, measure) for row in result.get("auc", [])):
            continue
        for key, rows in rows_of(measure, n, DRAWS[n]).items():
            kept = [row for row in result.get(key, []) if row["n"] != n or row["measure"].split(": ")[0] != measure]
            result[key] = sorted(kept + rows, key=lambda row: (row["n"], row["measure"]))
        write(arguments.output, result | {"units": UNITS, "level": 0.95})
        for row in result["auc"]:
            if (row["n"], row["measure"], row["unit"]) == (n, measure, "any"):
                area = f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
                print(f"n = {n:4d}  {measure:24s} fractals against {row['against']:12s} {area}", flush=True)


if __name__ == "__main__":
    main()
