"""The book's tables of statistics: what each is invariant to, verified in both directions, and what was simulated."""

from __future__ import annotations

import json
import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

import selfsim
from benchmarks.intervals import tables, verdict

ROOT = Path(__file__).parents[2]


def graph(x: torch.Tensor) -> nx.Graph:
    return selfsim.FeatureNetwork(x).to_networkx(neighbours=5)


def largest_part(x: torch.Tensor) -> nx.Graph:
    whole = graph(x)
    return whole.subgraph(max(nx.connected_components(whole), key=len))


def of_topology(name: str):
    return lambda x: getattr(selfsim.topology(graph(x)), name)


STATISTICS = {
    "spectrum exponent": selfsim.spectrum_exponent,
    "correlation dimension": selfsim.correlation_dimension,
    "TwoNN": selfsim.two_nn,
    "scaling deviation": selfsim.scaling_deviation,
    "weight exponent": lambda x: selfsim.weight_exponents({"weight": x})["weight"],
    "density": of_topology("density"),
    "components": lambda x: selfsim.topology(selfsim.FeatureNetwork(x), neighbours=1).components,
    "degree spread": of_topology("degree_spread"),
    "largest degree": of_topology("largest_degree"),
    "clustering": of_topology("clustering"),
    "transitivity": of_topology("transitivity"),
    "path length": of_topology("path_length"),
    "assortativity": of_topology("assortativity"),
    "modularity": of_topology("modularity"),
    "sigma": lambda x: selfsim.small_world_sigma(largest_part(x), swaps=10, draws=2),
    "omega": lambda x: selfsim.small_world_omega(largest_part(x), draws=2),
}


def layer(samples: int = 120, neurons: int = 64, seed: int = 0) -> torch.Tensor:
    """Structured activations: a few common causes, neurons of different size and offset."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mixing, sizes, offsets = randn(6, neurons), 0.2 + randn(neurons).abs(), randn(neurons)
    return (randn(samples, 6) @ mixing + 0.5 * randn(samples, neurons)) * sizes + offsets


def orthogonal(n: int) -> torch.Tensor:
    return torch.linalg.qr(layer(n, n, seed=9)).Q


CHANGES = {
    "order of samples": lambda x: x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))],
    "order of neurons": lambda x: x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))],
    "an offset of each neuron": lambda x: x + torch.linspace(-3, 3, x.shape[1], dtype=x.dtype),
    "rotation of neurons": lambda x: x @ orthogonal(x.shape[1]),
    "scaling": lambda x: 100.0 * x,
    "scaling of single neurons": lambda x: x * torch.linspace(0.2, 3, x.shape[1], dtype=x.dtype),
}


def book_table() -> dict[str, dict[str, bool]]:
    text = (ROOT / "book" / "statistics.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in re.search(r"(?ms)^\| statistic \| order.*?(?=\n\n)", text).group().splitlines()
    ]
    header, _, *body = rows
    return {row[0]: dict(zip(header[1:], (cell == "yes" for cell in row[1:]), strict=True)) for row in body}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", STATISTICS)
def test_the_books_table(name, change):
    statistic = STATISTICS[name]
    x = layer()
    before = float(statistic(x))
    invariant = abs(float(statistic(CHANGES[change](x))) - before) < 1e-6 * abs(before)
    assert invariant == book_table()[name][change]


@pytest.mark.parametrize(("name", "stays"), [("spectrum exponent", 0), ("correlation dimension", 1), ("TwoNN", 0)])
def test_number_of_samples(name, stays):
    """The book says so below the table: the mean over draws of noise, from 60 samples and from 400."""
    draws = [torch.randn(400, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    few, many = ([float(STATISTICS[name](x[:samples])) for x in draws] for samples in (60, 400))
    assert (abs(np.mean(few) / np.mean(many) - 1) < 0.1) == stays


def test_the_pages_have_the_tables_of_the_simulation():
    result = json.loads((ROOT / "results" / "benchmarks" / "coverage.json").read_text(encoding="utf-8"))
    pages = [(ROOT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in ("ss-rate", "statistics")]
    assert [sum(f"\n{table}\n\n" in page for page in pages) for table in tables(result)] == [1, 1, 1, 1]
    assert all(row["sets"] > 0 for part in ("rows", "statistics", "formulas", "tests") for row in result[part])


def test_verdicts_of_shares():
    shares = {0.95: "reached", 0.93: "reached", 0.92: "open", 0.98: "open", 0.90: "missed", 1.0: "missed"}
    assert {share: verdict(share, 0.02, (0.93, 0.97)) for share in shares} == shares


def test_the_books_table_is_complete():
    table = book_table()
    assert set(table) == set(STATISTICS)
    assert all(set(row) == set(CHANGES) for row in table.values())
