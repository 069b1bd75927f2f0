"""Speed and values of the small-world coefficients, sigma against networkx.

    .venv/bin/python -m benchmarks.small_world   # writes results/benchmarks/small_world.json (4 minutes)

The graph has 384 nodes and 3,072 edges. At networkx's default numbers of swaps and draws, only our functions are timed.
At one swap per edge and one draw, sigma is timed in both. Our omega swaps until its lattice is finished, so that
networkx's does less work and has another value: they are not compared. No time is extrapolated. Seconds are CPU time on
one thread; for our functions the best of several runs, because other processes can only add time.
"""

from __future__ import annotations

import json
import os
import time
import timeit
from collections.abc import Callable

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import networkx as nx
import numpy as np

from benchmarks.output import output_parser, write
from selfsim import small_world_omega, small_world_sigma

GOALS = {"sigma": 1.5, "omega": 1.5}  # seconds at networkx's defaults
OURS = {"sigma": small_world_sigma, "omega": small_world_omega}


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Best CPU time of some calls."""
    return min(timeit.repeat(call, number=1, repeat=repeats, timer=time.process_time))


def main() -> None:
    output = output_parser(__doc__, "small_world.json").parse_args().output
    graph = nx.connected_watts_strogatz_graph(384, 16, 0.1, seed=0)
    rows = []
    for name, ours in OURS.items():
        ours(graph, swaps=1, draws=1)  # compiles
        rows.append({"coefficient": name, "value at the defaults": float(ours(graph))})
        rows[-1] |= {"seconds at the defaults": seconds(lambda ours=ours: ours(graph), 5), "goal": GOALS[name]}
        if name == "sigma":
            once = seconds(lambda ours=ours: ours(graph, swaps=1, draws=1), 20)
            values = [float(ours(graph, swaps=1, draws=1, seed=seed)) for seed in range(200)]
            started = time.process_time()
            their_value = nx.sigma(graph, niter=1, nrand=1, seed=0)
            theirs = time.process_time() - started
            rows[-1] |= {
                "seconds at one randomisation": once,
                "networkx's seconds at one randomisation": theirs,
                "times as fast": theirs / once,
                "mean value at one randomisation": float(np.mean(values)),
                "its standard deviation over draws": float(np.std(values, ddof=1)),
                "networkx's value at one randomisation": their_value,
            }
        print(json.dumps(rows[-1], indent=1), flush=True)
    write(output, {"nodes": len(graph), "edges": graph.number_of_edges(), "rows": rows})


if __name__ == "__main__":
    main()
