"""Time of `analyze` on ViT-S beside its forward pass, and of null bands beside single calls.

    .venv/bin/python -m benchmarks.analysis   # writes results/benchmarks/analysis.json (2 minutes)

`analyze` reads 12 layers of ViT-S at 224 pixels on 128 samples, with two nulls of 40 draws. Goal: at most 1.5 times the
forward pass plus 6 s on two cores. `null_band` has 100 draws of the SS rate. Goal: on two cores, a quarter of the times
with which the work on it began. Seconds are CPU time on one thread, measured in turn, so waiting for other processes
does not count. On two cores the draws take half of it, because they run in threads.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
import timeit

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import torch

from benchmarks.output import output_parser, write
from selfsim import analyze, create, null_activations, null_band, ss_rate

SAMPLES, DRAWS, REPEATS = 128, 100, 5
BEFORE = {128: 2.8, 384: 7.7, 768: 27.0}  # milliseconds a draw on one core of an Intel machine
seconds = functools.partial(timeit.timeit, number=1, timer=time.process_time)


def of_analyze() -> dict:
    """Median seconds of the forward pass, of the null draws and of the whole analysis."""
    model = create("vit_small", size="paper", num_classes=1000, in_chans=3).eval()
    batches = torch.randn(SAMPLES, 3, 224, 224, generator=torch.Generator().manual_seed(0)).split(32)

    @torch.no_grad()
    def forward():
        for batch in batches:
            model(batch)

    def whole(**options):
        return analyze(model, batches, progress=False, device="cpu", **options)

    layers = len(whole(nulls=()).layers)  # loads what the statistics import
    calls = {"forward": forward, "without nulls": lambda: whole(nulls=()), "analyze": lambda: whole(draws=40)}
    times = [{name: seconds(call) for name, call in calls.items()} for _ in range(3)]
    found = {name: statistics.median(row[name] for row in times) for name in calls}
    draws = found["analyze"] - found["without nulls"]
    beyond = found["without nulls"] - found["forward"] + draws / 2
    return {"layers": layers} | found | {"beyond the forward pass, on two cores": beyond}


def of_bands(neurons: int) -> dict:
    """Median milliseconds a draw, of the band and of a loop over single calls."""
    x = torch.randn(SAMPLES, neurons, generator=torch.Generator().manual_seed(neurons))

    def loop():
        for seed in range(DRAWS):
            ss_rate(null_activations(x, null="gauss", seed=seed)).item()

    times = [(seconds(lambda: null_band(ss_rate, x, draws=DRAWS)), seconds(loop)) for _ in range(REPEATS)]
    band, single = (1e3 / DRAWS * statistics.median(column) for column in zip(*times, strict=True))
    before = BEFORE[neurons]
    found = {"neurons": neurons, "milliseconds a draw": band, "by single calls": single, "before": before}
    return found | {"times faster on two cores": 2 * before / band}


def main() -> None:
    output = output_parser(__doc__, "analysis.json").parse_args().output
    torch.set_num_threads(1)
    null_band(ss_rate, torch.randn(SAMPLES, 128), draws=4)  # compiles the loops
    result = {"bands": [of_bands(neurons) for neurons in BEFORE]}
    for row in result["bands"]:
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()), "(goal 4)")
    result["analyze"] = of_analyze()
    print("  ".join(f"{name} {value:.3g}" for name, value in result["analyze"].items()))
    write(output, result)


if __name__ == "__main__":
    main()
