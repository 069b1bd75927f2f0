"""Speed and memory of the SS rate, forward and backward, against a plain transcription of the paper's formula.

    .venv/bin/python -m benchmarks.rate            # prints a table, writes results/benchmarks/rate.json

Both run in one process on one thread, in turn. The median of the CPU time of each is taken, so waiting for other
processes does not count. Only the ratios mean something.
"Floor" is what no implementation can avoid: one and a half products X Xᵀ and one pass over the pairs.
"""

from __future__ import annotations

import functools
import math
import os
import statistics
import subprocess
import sys
import time
import timeit

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import torch

from benchmarks.output import output_parser, write
from selfsim import scaling_deviation, ss_rate
from selfsim.boxes.complete_linkage import merge_pairs, merge_tree

SAMPLES = 64
GOALS = {(192, "exact"): 60, (768, "exact"): 200, (2048, "exact"): 350}
GOALS |= {(192, "scales"): 30, (768, "scales"): 200, (2048, "scales"): 400}


def plain(activations: torch.Tensor, scales: int = 256) -> torch.Tensor:
    """The paper's formula as it stands: autograd through a scales x pairs sigmoid."""
    x = activations.t()
    n, samples = x.shape
    d = torch.pdist(x) / math.sqrt(samples)
    low, high = d.min().detach(), d.max().detach()
    s = torch.arange(scales, device=x.device) / (scales - 1)
    sizes = ((1 + low) * ((1 + high) / (1 + low)) ** s - 1)[:, None]
    hard = (d[None] < sizes).float().mean(1)
    soft = n * torch.sigmoid(sizes - d[None]).mean(1)
    fraction = soft + (hard - soft).detach()
    count = n - (n - 1) * torch.log(1 + (n - 1) * fraction) / math.log(n)
    return 2 * ((1 - s) - torch.log(count) / math.log(n)).abs().mean()


WAYS = {
    "plain": plain,
    "exact": ss_rate,
    "detached": lambda x: ss_rate(x, ends="detached"),
    "scales": lambda x: ss_rate(x, scales=256, gradient="straight-through"),
}


seconds = functools.partial(timeit.timeit, number=1, timer=time.process_time)


def step(way, activations: torch.Tensor) -> None:
    way(activations.detach().requires_grad_()).backward()


def floor(vectors: torch.Tensor, pairs: torch.Tensor) -> None:
    vectors @ vectors.t()
    vectors[: len(vectors) // 2] @ vectors.t()
    pairs.sum()


def measured(n: int, ways: dict, repeats: int) -> dict:
    """Median seconds of each way, taken in turn."""
    activations = torch.randn(SAMPLES, n, generator=torch.Generator().manual_seed(n))
    vectors, pairs = activations.t().contiguous(), torch.randn(n * (n - 1) // 2)
    times = {name: [] for name in [*ways, "floor"]}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            if name == "plain" and repeat > max(3, repeats // 4):
                continue
            times[name].append(seconds(lambda way=way: step(way, activations)))
        times["floor"].append(seconds(lambda: floor(vectors, pairs)))
    return {name: statistics.median(values[1:]) for name, values in times.items()}  # the first warms up


def linkage(n: int) -> dict:
    """Seconds of scipy's linkage, and of finding the pair of every merge beyond it."""
    d = torch.pdist(torch.randn(n, SAMPLES, generator=torch.Generator().manual_seed(n))).double().numpy()
    tree = statistics.median(seconds(lambda: merge_tree(d)) for _ in range(5))
    both = statistics.median(seconds(lambda: merge_pairs(d)) for _ in range(5))
    return {"linkage": tree, "merge pairs": both - tree, "ratio": (both - tree) / tree}


def scaling_cost(n: int) -> dict:
    """Seconds of the scaling deviation and of the rate, forward and backward."""
    times = measured(n, {"rate": ss_rate, "scaling": scaling_deviation}, repeats=30)
    return {"rate": times["rate"], "scaling": times["scaling"], "ratio": times["scaling"] / times["rate"]}


def peak_memory(way: str, n: int) -> float:
    """Peak memory of one forward and backward beyond what is there before, in bytes, in its own process (Linux)."""
    code = (
        "import torch\nfrom benchmarks import rate\n"
        "def read(key): return 1024 * int(open('/proc/self/status').read().split(key + ':')[1].split()[0])\n"
        "ways = rate.WAYS | {'blocks': lambda x: "
        "rate.ss_rate(x, scales=256, gradient='straight-through', max_bytes=2**28)}\n"
        f"way, big = ways['{way}'], torch.randn({SAMPLES}, {n})\n"
        f"rate.step(way, torch.randn({SAMPLES}, 128))\n"  # loads the compiled loops, which are no memory of a rate
        "open('/proc/self/clear_refs', 'w').write('5')\n"  # the peak starts anew
        "before = read('VmRSS'); rate.step(way, big); print(read('VmHWM') - before)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = output_parser(__doc__, "rate.json")
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 768, 2048])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for n in arguments.sizes:
        times = measured(n, WAYS, repeats={192: 200, 768: 30}.get(n, 7))
        for way in ("exact", "detached", "scales"):
            row = {"n": n, "way": way, "milliseconds": 1e3 * times[way], "plain milliseconds": 1e3 * times["plain"]}
            row |= {"times faster": times["plain"] / times[way], "times the floor": times[way] / times["floor"]}
            row["goal"] = GOALS.get((n, way))
            rows.append(row)
            print(
                f"n={n:5d} {way:9s} {row['milliseconds']:9.2f} ms, plain {row['plain milliseconds']:9.1f} ms: "
                f"{row['times faster']:6.0f}x (goal {row['goal'] or '-'}), {row['times the floor']:4.1f}x the floor"
            )
    result = {"samples": SAMPLES, "rows": rows}
    large = measured(8192, {k: WAYS[k] for k in ("exact", "scales")}, repeats=3)
    result["floor at 8192"] = {way: large[way] / large["floor"] for way in ("exact", "scales")}
    print("n= 8192, times the floor:", {k: round(v, 1) for k, v in result["floor at 8192"].items()}, "(goal 3)")
    result["linkage at 768"] = linkage(768)
    print("merge pairs, times the linkage:", round(result["linkage at 768"]["ratio"], 2), "(goal 0.5)")
    result["scaling deviation at 768"] = scaling_cost(768)
    print("scaling deviation, times the rate:", round(result["scaling deviation at 768"]["ratio"], 2), "(goal 1.5)")
    memory = {f"{way}, 2,048 neurons": peak_memory(way, 2048) for way in ("plain", "exact", "scales", "blocks")}
    memory["blocks, 16,384 neurons"] = peak_memory("blocks", 16384)
    result["bytes"] = memory
    print(
        "memory, MiB:", {k: round(v / 2**20) for k, v in memory.items()}, "(goals: scales 1/400 of plain; blocks 1024)"
    )
    write(arguments.output, result)


if __name__ == "__main__":
    main()
