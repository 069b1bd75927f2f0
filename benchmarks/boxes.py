"""Speed, memory and quality of box covering, against plain coverings over networkx's dicts of dicts.

    .venv/bin/python -m benchmarks.boxes           # prints a table, writes results/benchmarks/boxes.json (10 minutes)

Everything runs on one thread, and seconds are of CPU time, so that only the ratios mean something. The
best of some runs is taken for both sides, because what else the machine does can only add. Each memory figure
is the growth of the peak of a process of its own that has done the same on a tiny graph before (imports and compiled
code are not counted; for the million-node graphs the whole process is given beside it).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np
from scipy import sparse

from selfsim.boxes import fast
from selfsim.boxes.counts import box_counts
from selfsim.boxes.fractals import flower
from selfsim.boxes.inputs import as_distances
from tests import reference_boxes

SIZES = {"greedy-coloring": range(1, 66), "cbb": range(1, 66), "memb": range(1, 33)}
GOALS = {"greedy-coloring": 200, "cbb": 150, "memb": 1000}


def memory_mib(field: str = "VmHWM") -> float:
    """Of this process, from Linux: VmHWM is the peak since it was last forgotten, VmRSS what is used now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def forget_peak() -> float:
    """Start a new peak; what is used now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mib("VmRSS")


def ours(graph, method: str, seeds=(0,)):
    name = "r_B" if method == "memb" else "l_B"
    return box_counts(graph, method=method, seeds=seeds, **{name: SIZES[method]})


def plain(graph, method: str) -> list[int]:
    distances = reference_boxes.all_pairs(graph)
    if method == "greedy-coloring":
        order = np.random.default_rng(0).permutation(len(graph)).tolist()
        return reference_boxes.greedy_coloring(distances, SIZES[method], order)
    if method == "cbb":
        return reference_boxes.compact_box(distances, SIZES[method], 0)
    return reference_boxes.memb(distances, SIZES[method], keep_balls=method == "memb, balls kept")


SIZES["memb, balls kept"] = SIZES["memb"]


def run_plain(method: str) -> dict:
    plain(flower(2, 2, 2), method)
    graph, before, seconds = flower(2, 2, 6), forget_peak(), []
    while not seconds or (len(seconds) < 3 and seconds[0] < 60):
        start = time.process_time()
        counts = plain(graph, method)
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "mib": memory_mib() - before, "counts": counts}


def run_ours(method: str) -> dict:
    ours(flower(2, 2, 2), method)
    graph = flower(2, 2, 6)
    before = forget_peak()
    seconds = []
    for _ in range(9):
        start = time.process_time()
        counts = ours(graph, method)
        seconds.append(time.process_time() - start)
    mib = memory_mib() - before
    # Random methods are compared by their mean over seeds.
    if method == "cbb":
        counts = ours(graph, method, seeds=range(20))
    return {"seconds": min(seconds), "mib": mib, "counts": counts.counts.tolist()}


def barabasi_albert(n: int, m: int) -> sparse.csr_array:
    """Preferential attachment: each new node takes m ends of edges drawn so far. Doubled edges are one."""
    rng = np.random.default_rng(0)
    ends = np.empty(2 * m * (n - m), dtype=np.int64)
    ends[: 2 * m : 2], ends[1 : 2 * m : 2] = m, np.arange(m)
    picks = (rng.random((n, m)) * (2 * m * np.arange(-m, n - m))[:, None]).astype(np.int64)
    for node in range(m + 1, n):
        first = 2 * m * (node - m)
        ends[first : first + 2 * m : 2] = node
        ends[first + 1 : first + 2 * m : 2] = ends[picks[node]]
    pairs = np.concatenate([ends.reshape(-1, 2), ends.reshape(-1, 2)[:, ::-1]]).astype(np.int32)
    graph = sparse.csr_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    graph.data[:] = 1
    return graph


def run_fast(kind: str, path: str) -> dict:
    parts = [np.load(f"{path}-{part}.npy") for part in ("data", "indices", "indptr")]
    graph = sparse.csr_array(tuple(parts), shape=(len(parts[2]) - 1,) * 2)
    radii = list(range(1, 9)) if kind == "barabasi-albert" else [1, 2, 4, 8]
    for radius in (1, 2):
        box_counts(flower(2, 2, 3, as_sparse=True), method="fast", r_B=[radius])
    before, start, clock = forget_peak(), time.process_time(), time.perf_counter()
    counts = box_counts(graph, method="fast", r_B=radii)
    result = {
        "nodes": graph.shape[0], "r_B": radii, "counts": counts.counts.tolist(),
        "seconds": time.process_time() - start, "wall": time.perf_counter() - clock,
        "mib": memory_mib() - before, "mib of the process": memory_mib(),
    }  # fmt: skip
    if kind == "barabasi-albert":
        # For a radius of one edge the greedy choice before centres are dropped is exact lazy-greedy MEMB.
        nodes = as_distances(graph)
        greedy = fast._most_neighbours(nodes.graph.indptr, nodes.graph.indices, nodes.by_degree)
        result["MEMB at r_B = 1"] = len(greedy)
    return result


def run_linkage(_: str) -> dict:
    import torch
    from scipy.cluster.hierarchy import linkage

    from selfsim import FeatureNetwork

    torch.set_num_threads(1)
    x = torch.randn(64, 8192, generator=torch.Generator().manual_seed(0))
    box_counts(FeatureNetwork(x[:, :64]), method="complete-linkage")
    start = time.process_time()
    box_counts(FeatureNetwork(x), method="complete-linkage")
    whole = time.process_time() - start
    distances = FeatureNetwork(x).distances.astype(float)
    start = time.process_time()
    linkage(distances, "complete")
    return {"seconds": whole, "linkage": time.process_time() - start}


def in_a_process(task: str, *arguments: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.boxes", "--task", task, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


TASKS = {"plain": run_plain, "ours": run_ours, "fast": run_fast, "linkage": run_linkage}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", help="one measurement in this process (used internally)")
    parser.add_argument("--quick", action="store_true", help="leave out plain MEMB without kept balls (8 minutes)")
    parser.add_argument("--output", default="results/benchmarks/boxes.json")
    options = parser.parse_args()
    if options.task:
        print(json.dumps(TASKS[options.task[0]](*options.task[1:])))
        return
    from selfsim.training.provenance import environment_facts

    results: dict = {"nodes": 2732, "covers": {}}
    print(f"{'method':<18} {'plain s':>9} {'ours s':>8} {'ratio':>7} {'goal':>6} {'memory 1/':>9} {'counts':>8}")
    for method in SIZES:
        if options.quick and method == "memb":
            continue
        theirs, mine = in_a_process("plain", method), in_a_process("ours", method.split(",")[0])
        counts = np.mean(mine["counts"]) / np.mean(theirs["counts"])
        results["covers"][method] = {
            "plain": {k: theirs[k] for k in ("seconds", "mib")}, "ours": {k: mine[k] for k in ("seconds", "mib")},
            "ratio": theirs["seconds"] / mine["seconds"], "memory": theirs["mib"] / mine["mib"], "counts": counts,
        }  # fmt: skip
        row = results["covers"][method]
        print(
            f"{method:<18} {theirs['seconds']:9.1f} {mine['seconds']:8.4f} {row['ratio']:6.0f}x "
            f"{GOALS.get(method, 0):5}x {row['memory']:9.1f} {counts:8.4f}",
            flush=True,
        )
    for kind, make in (
        ("barabasi-albert", lambda: barabasi_albert(10**6, 3)),
        ("flower", lambda: flower(2, 2, 11, as_sparse=True)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            graph = make()
            for part in ("data", "indices", "indptr"):
                np.save(f"{folder}/graph-{part}.npy", getattr(graph, part))
            del graph
            results[kind] = in_a_process("fast", kind, f"{folder}/graph")
        print(kind, results[kind], flush=True)
    results["linkage of 8192 neurons"] = in_a_process("linkage", "-")
    both = results["linkage of 8192 neurons"]
    print(f"8192 neurons: {both['seconds'] / both['linkage']:.2f} times the linkage alone (goal: under 3)", both)
    results["environment"] = environment_facts("cpu")
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    Path(options.output).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
