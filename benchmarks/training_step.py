"""What the constraint adds to a training step: the ratio of steps with it to steps without it, interleaved.

    .venv/bin/python -m benchmarks.training_step               # CPU: small ViT, batch 128 (2 minutes)
    .venv/bin/python -m benchmarks.training_step --device cuda # the paper's ViT-S at 224 pixels, batch 64

The default constraint with one layer per step, and with all layers; everything is made as `train` makes it. Steps
take turns in one process, on one thread, so that what else the machine does hits all alike; the median of the
ratios of neighbouring steps counts. Prints a table and writes results/benchmarks/training_step.json.
"""

from __future__ import annotations

import json
import os
import statistics
import time

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import torch

from benchmarks.output import output_parser, stored
from selfsim import TrainConfig, create
from selfsim.models.architectures import PIXELS
from selfsim.models.images import Images, Split
from selfsim.models.seeding import seeded
from selfsim.training import loop
from selfsim.training.distributed import Ranks
from selfsim.training.provenance import environment_facts
from selfsim.training.state import TrainingState

# The default of the constraint, pulling from the first step on.
DEFAULT = {"weight": None, "cap": 0.3, "ramp": [0, 0], "unit": "median", "ends": "attached"}
CONSTRAINTS = {
    "without": None,
    "one layer per step": DEFAULT | {"layers_per_step": 1},
    "all layers": DEFAULT,
    "all layers, weight 10": {"plain": True},
    "as published": {"paper": True},
}
GOALS = {"cpu": 1.10, "cuda": 1.03}


def noise_images(pixels: int, images: int) -> Images:
    """Noise: what is in the images does not change what a step costs."""
    generator = torch.Generator().manual_seed(0)
    split = Split(
        torch.randint(0, 256, (images, 3, pixels, pixels), generator=generator, dtype=torch.uint8),
        torch.randint(0, 10, (images,), generator=generator),
    )
    return Images("noise", split, split, split, tuple("0123456789"), (0.5,) * 3, (0.3,) * 3)


def states(size: str, batch: int, device: torch.device) -> dict[str, TrainingState]:
    images, made = noise_images(PIXELS[size], 2 * batch), {}
    for name, constraint in CONSTRAINTS.items():
        config = TrainConfig("vit_small", size=size, epochs=1000, batch_size=batch, constraint=constraint)
        with seeded(0, device):
            model = create("vit_small", size=size, num_classes=10).to(device)
            made[name] = TrainingState(config, images, model, device, Ranks())
            made[name].step = 1  # the first step of an epoch also measures gradients
    return made


def seconds(state: TrainingState, batch: torch.Tensor) -> float:
    def wait() -> None:
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)

    wait()
    start = time.perf_counter() if state.device.type == "cuda" else time.process_time()
    loop.training_step(state, *state.augmentation(state.data.images[batch], state.data.labels[batch], state.generator))
    wait()
    return (time.perf_counter() if state.device.type == "cuda" else time.process_time()) - start


def main() -> None:
    parser = output_parser(__doc__, "training_step.json")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    size, batch = ("small", 128) if device.type == "cpu" else ("paper", 64)
    running = states(size, batch, device)
    indices = torch.arange(batch, device=device)
    times: dict[str, list[float]] = {name: [] for name in running}
    for step in range(arguments.steps + 3):
        for name, state in running.items():
            taken = seconds(state, indices)
            if step >= 3:  # the first ones import and compile
                times[name].append(taken)
    ratios = {
        name: statistics.median(with_it / without for with_it, without in zip(taken, times["without"], strict=True))
        for name, taken in times.items()
    }
    measured = {
        "model": f"vit_small, size {size}, batch {batch}", "steps": arguments.steps, "goal": GOALS[device.type],
        "seconds": {name: statistics.median(taken) for name, taken in times.items()}, "ratio": ratios,
        "environment": environment_facts(device),
    }  # fmt: skip
    for name, ratio in ratios.items():
        print(f"{name:20} {1000 * measured['seconds'][name]:8.1f} ms   {ratio:6.3f}")
    print(f"goal for one layer per step: at most {GOALS[device.type]}")
    found = stored(arguments.output) | {device.type: measured}
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
