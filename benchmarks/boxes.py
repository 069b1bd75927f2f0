"""Speed, memory and quality of box covering, against plain coverings over networkx's dicts of dicts.

    .venv/bin/python -m benchmarks.boxes           # prints a table, writes results/benchmarks/boxes.json (10 minutes)
    .venv/bin/python -m benchmarks.boxes --only families fast   # measures these parts, keeps the rest of the file

Everything runs on one thread, and seconds are of CPU time, so that only the ratios mean something. The
best of some runs is taken for both sides, because what else the machine does can only add. Each memory figure
is the growth of the peak of a process of its own that has done the same on a tiny graph before (imports and compiled
code are not counted; for the million-node graphs the whole process is given beside it).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import timeit
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import networkx as nx
import numpy as np
from scipy import sparse

from benchmarks.output import output_parser, stored
from selfsim.boxes import fast
from selfsim.boxes.counts import box_counts
from selfsim.boxes.fractals import flower
from selfsim.boxes.inputs import as_distances
from selfsim.training.provenance import environment_facts
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
    seconds = timeit.repeat(lambda: ours(graph, method), number=1, repeat=9, timer=time.process_time)
    mib = memory_mib() - before
    # Random methods are compared by their mean over seeds.
    counts = ours(graph, method, seeds=range(20) if method == "cbb" else (0,))
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
        greedy = fast._most_neighbours(nodes.adjacency.indptr, nodes.adjacency.indices, nodes.by_degree)
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


def families(n: int) -> dict[str, nx.Graph]:
    """Graphs of about `n` nodes."""
    side, edge = round(n**0.5), round(n ** (1 / 3))
    points = nx.random_geometric_graph(n, (8 / np.pi / n) ** 0.5, seed=1)
    streets = nx.Graph(nx.minimum_spanning_edges(points, data=False))
    streets.add_edges_from(list(points.edges)[::20])
    return {
        "path": nx.path_graph(n), "ring": nx.cycle_graph(n), "ladder": nx.ladder_graph(n // 2),
        "lattice": nx.grid_2d_graph(side, side), "lattice of three dimensions": nx.grid_graph([edge] * 3),
        "torus": nx.grid_2d_graph(side, side, periodic=True),
        "regular, 3 neighbours": nx.random_regular_graph(3, n, seed=1),
        "regular, 8 neighbours": nx.random_regular_graph(8, n, seed=1),
        "small world": nx.watts_strogatz_graph(n, 4, 0.1, seed=1),
        "small world, few shortcuts": nx.watts_strogatz_graph(n, 4, 0.01, seed=1),
        "geometric": points, "streets": streets,
        "random tree": nx.random_labeled_tree(n, seed=1), "binary tree": nx.full_rary_tree(2, n),
        "ternary tree": nx.full_rary_tree(3, n), "hubs (Barabási-Albert)": nx.barabasi_albert_graph(n, 3, seed=1),
    }  # fmt: skip


def run_families(_: str) -> dict:
    """Sums of counts over all radii, and seconds at some radii for graphs ten times as large."""
    rows = {}
    box_counts(nx.path_graph(9), method="fast")
    large = families(30_000)
    for name, graph in families(2000).items():
        memb = box_counts(graph, method="memb")
        fast_counts = box_counts(graph, method="fast", r_B=memb.r_B).counts
        rows[name] = {"nodes": len(graph), "memb": memb.counts.sum(), "fast": fast_counts.sum()}
        rows[name]["fast / memb"] = rows[name]["fast"] / rows[name]["memb"]
        for size, copy in (("small", graph), ("large", large[name])):
            edges = as_distances(nx.to_scipy_sparse_array(copy))
            start = time.process_time()
            box_counts(edges, method="fast", r_B=[1, 2, 4, 8, 16, 32])
            rows[name][f"microseconds per edge, {size}"] = 1e6 * (time.process_time() - start) / copy.number_of_edges()
    return rows


TASKS = {"families": run_families, "plain": run_plain, "ours": run_ours, "fast": run_fast, "linkage": run_linkage}


def main() -> None:
    parser = output_parser(__doc__, "boxes.json")
    parser.add_argument("--task", nargs="+", help="one measurement in this process (used internally)")
    parser.add_argument("--quick", action="store_true", help="leave out plain MEMB without kept balls (8 minutes)")
    parts = ("covers", "families", "fast", "linkage")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="measure these parts")
    options = parser.parse_args()
    if options.task:
        print(json.dumps(TASKS[options.task[0]](*options.task[1:])))
        return
    results = stored(options.output)
    results |= {"nodes": 2732} | ({"covers": {}} if "covers" in options.only else {})
    print(f"{'method':<18} {'plain s':>9} {'ours s':>8} {'ratio':>7} {'goal':>6} {'memory 1/':>9} {'counts':>8}")
    for method in SIZES if "covers" in options.only else ():
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
    large = {
        "barabasi-albert": lambda: barabasi_albert(10**6, 3),
        "flower": lambda: flower(2, 2, 11, as_sparse=True),
    }
    for kind, make in large.items() if "fast" in options.only else ():
        with tempfile.TemporaryDirectory() as folder:
            graph = make()
            for part in ("data", "indices", "indptr"):
                np.save(f"{folder}/graph-{part}.npy", getattr(graph, part))
            del graph
            results[kind] = in_a_process("fast", kind, f"{folder}/graph")
        print(kind, results[kind], flush=True)
    if "families" in options.only:
        results["families"] = in_a_process("families", "-")
        for name, row in results["families"].items():
            print(f"{name:<28}", *(f"{key}: {value:.3g}" for key, value in row.items()))
    if "linkage" in options.only:
        both = results["linkage of 8192 neurons"] = in_a_process("linkage", "-")
        print(f"8192 neurons: {both['seconds'] / both['linkage']:.2f} times the linkage alone (goal: under 3)", both)
    of_parts = "" if set(options.only) == set(parts) else " of " + " and ".join(options.only)
    results["environment" + of_parts] = environment_facts("cpu")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
