"""Time of all statistics of one layer of 384 neurons and 640 samples, with their null draws. Goal: 20 s.

    .venv/bin/python -m benchmarks.layer_statistics   # a table, and results/benchmarks/statistics.json (1 minute)

The graph joins each neuron to its 10 nearest neighbours (about 3,700 edges). All statistics share 100 null draws, the
activations shuffled over samples. Sigma and omega, on the largest component of the graph, have 5. Seconds are CPU time
on one thread, so waiting for other processes does not count.
"""

from __future__ import annotations

import functools
import os
import time

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import networkx as nx
import numpy as np
import torch

import selfsim
from benchmarks.output import output_parser, write

NEURONS, SAMPLES, NEIGHBOURS = 384, 640, 10
GRAPH = ("clustering", "transitivity", "path_length", "components", "density", "assortativity", "modularity")


def largest_part(activations: torch.Tensor) -> nx.Graph:
    graph = selfsim.FeatureNetwork(activations).to_networkx(neighbours=NEIGHBOURS)
    return graph.subgraph(max(nx.connected_components(graph), key=len)).copy()


def made_layer() -> torch.Tensor:
    """Neurons with gains and offsets that follow a few hidden factors, with noise, under an activation function."""
    layer, fresh = np.random.default_rng(5), np.random.default_rng([5, 0, 1])
    factors = int(2 ** layer.uniform(0, 6.99))
    noise, size = 10 ** layer.uniform(-2, 0), 10 ** layer.uniform(-1, 1)
    gains = size * np.exp(layer.uniform(0, 1) * layer.standard_normal(NEURONS))
    offsets = layer.uniform(0, 1) * layer.standard_normal(NEURONS)
    weights = layer.standard_normal((factors, NEURONS)) / factors**0.5
    function = (lambda x: x, lambda x: np.maximum(x, 0), np.tanh)[layer.integers(3)]
    values = fresh.standard_normal((SAMPLES, factors)) @ weights + noise * fresh.standard_normal((SAMPLES, NEURONS))
    return torch.from_numpy(gains * function(values + offsets))


@functools.lru_cache(maxsize=1)
def topology(activations: torch.Tensor):
    """All statistics of the graph of the last activations, computed once."""
    return selfsim.topology(selfsim.FeatureNetwork(activations), neighbours=NEIGHBOURS)


def main() -> None:
    output = output_parser(__doc__, "statistics.json").parse_args().output
    torch.set_num_threads(1)
    x = made_layer()
    layer = {
        "SS rate": selfsim.ss_rate,
        "spectrum exponent": selfsim.spectrum_exponent,
        "correlation dimension": selfsim.correlation_dimension,
        "TwoNN": selfsim.two_nn,
    }
    layer |= {name: lambda a, name=name: getattr(topology(a), name) for name in GRAPH}
    small = {
        "sigma": lambda a: selfsim.small_world_sigma(largest_part(a)),
        "omega": lambda a: selfsim.small_world_omega(largest_part(a)),
    }
    for statistic in (layer | small).values():  # compiles and imports
        statistic(x)
    started = time.process_time()
    values = {name: float(statistic(x)) for name, statistic in (layer | small).items()}
    verdict = selfsim.spectrum_exponent(x).verdict
    bands = selfsim.null_band(layer, x, null="shuffled", draws=100)
    bands |= selfsim.null_band(small, x, null="shuffled", draws=5)
    seconds = time.process_time() - started
    rows = []
    for name, value in values.items():
        band = bands[name]
        rows.append({"statistic": name, "value": value, "low": band.low, "high": band.high, "draws": band.draws})
        rows[-1]["p"] = band.p_value(value)
        print(f"{name:22s} {value:8.3f}  null {band.low:8.3f} to {band.high:8.3f}  p {rows[-1]['p']:.3f}")
    print(f"{seconds:.1f} s (goal 20); the spectrum: {verdict}")
    result = {
        "neurons": NEURONS,
        "samples": SAMPLES,
        "neighbours": NEIGHBOURS,
        "seconds": seconds,
        "goal": 20,
        "rows": rows,
    }
    write(output, result)


if __name__ == "__main__":
    main()
