"""Measure the time that reading layers adds to a forward pass, and the memory that it takes.

    .venv/bin/python -m benchmarks.probe           # prints a table, writes results/benchmarks/probe.json

Plain and probed passes run in one process on one thread, in turn; the ratio is the median of the ratios of
neighbours, so that a busy machine slows both. "Kept" is what the probe holds after a pass without gradient.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import timeit

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np
import torch

from benchmarks.output import output_parser, write
from selfsim import Probe, create

BATCH = 128
GOAL = 1.03
seconds = functools.partial(timeit.timeit, number=1, timer=time.process_time)  # other processes do not affect it


def measured(name: str, repeats: int) -> dict:
    model = create(name, size="small", num_classes=10).eval()
    images = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    every = Probe(model)
    one = Probe(model, [every.layers[len(every.layers) // 2]])
    drawn = Probe(model, draw=1)

    def passed(probe: Probe | None) -> None:
        with torch.no_grad(), probe or contextlib.nullcontext():
            model(images)

    ways = {"one layer": one, "one drawn layer": drawn, "every layer": every}
    ratios = {way: [] for way in ways}
    plain = []
    for repeat in range(repeats + 1):
        for way, probe in ways.items():
            # Both orders, so that neither profits from coming second.
            if repeat % 2:
                base, probed = seconds(lambda: passed(None)), seconds(lambda probe=probe: passed(probe))
            else:
                probed, base = seconds(lambda probe=probe: passed(probe)), seconds(lambda: passed(None))
            if repeat:  # the first warms up
                plain.append(base)
                ratios[way].append(probed / base)
    kept = {way: sum(v.numel() * v.element_size() for v in probe.activations.values()) for way, probe in ways.items()}
    return {
        "architecture": name,
        "layers": len(every.layers),
        "plain milliseconds": 1e3 * float(np.median(plain)),
        "ratio": {way: float(np.median(values)) for way, values in ratios.items()},
        "bytes kept": kept,
    }


def main() -> None:
    parser = output_parser(__doc__, "probe.json")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in ("vit_small", "resnet34"):
        row = measured(name, arguments.repeats)
        rows.append(row)
        ratios = ", ".join(f"{way} {ratio:.3f}x" for way, ratio in row["ratio"].items())
        kept = ", ".join(f"{way} {size / 1024:.0f} KiB" for way, size in row["bytes kept"].items())
        print(f"{name:9s} plain {row['plain milliseconds']:7.1f} ms: {ratios} (goal for one: {GOAL}x); kept: {kept}")
    write(arguments.output, {"batch": BATCH, "goal": GOAL, "rows": rows})


if __name__ == "__main__":
    main()
