"""Training many small networks at once on a card: against the single runs, in results and in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from selfsim import TrainConfig, load_images, train
from selfsim.training.stacked import train_many

from .check import Check, Errors, run_checks
from .checks import apart, synchronisations
from .report import Section

ARCHITECTURES = {"mlp": 64, "vit_small": 32}  # with the number of networks
SINGLE_RUNS = 2


def run_stacked(section: Section, device: torch.device, *, small: bool) -> None:
    """Add the checks of stacked training, and a row for each architecture: seconds a network, and the ratio."""
    run_checks(section, checks(device))
    for name, networks in ARCHITECTURES.items():
        if section.left() <= 0:
            section.leave_out(name, "no time left")
        else:
            section.add(**throughput(name, 2 if small else networks, 1 if small else 5, device))


def configs(networks: int, epochs: int, name: str = "mlp", **options: Any) -> list[TrainConfig]:
    constraints: list[dict[str, Any] | None] = [None, {}]
    return [
        TrainConfig(name, epochs=epochs, seed=k // 2, constraint=constraints[k % 2], **options) for k in range(networks)
    ]


def checks(device: torch.device) -> Iterator[Check]:
    def against_single() -> Errors:
        made = configs(4, 2, train_images=512)
        single = [train(config, device="cpu") for config in made]
        return {"": max(map(apart, train_many(made, device=device), single))}

    def a_step() -> tuple[Errors, str]:
        """Count the synchronisations of more steps in as many epochs."""

        def run(size: int) -> list[str]:
            return synchronisations(lambda: train_many(configs(2, 2, batch_size=size), device=device))

        many, few = run(32), run(128)
        steps = 2 * (1122 // 32 - 1122 // 128)
        return {"": max(0, len(many) - len(few)) / steps}, ", ".join(sorted(set(many)))

    yield Check("train_many, 2 epochs: accuracy and rates", 0.05, against_single)
    if device.type == "cuda":
        yield Check("train_many: synchronisations a step", 0.0, a_step)


def throughput(name: str, networks: int, epochs: int, device: torch.device) -> dict[str, Any]:
    images = load_images("digits")
    made = configs(networks, epochs, name)

    def seconds(runs: list[TrainConfig], at_once: bool) -> float:
        began = time.perf_counter()
        if at_once:
            train_many(runs, images=[images] * len(runs), device=device)
        else:
            for config in runs:
                train(config, images=images, device=device)
        return (time.perf_counter() - began) / len(runs)

    seconds(made[:1], False)  # loads kernels
    single, stacked = seconds(made[:SINGLE_RUNS], False), seconds(made, True)
    return {
        "name": f"{name}, {networks} networks of the digits, {epochs} epochs",
        "seconds a network": stacked,
        "seconds a single run": single,
        "ratio": single / stacked,
    }
