"""What the constraint adds to a training step of ViT-S at 224 pixels, batch 64, under bfloat16 autocast."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from selfsim import Probe, SelfSimilarityConstraint

from .report import Section
from .timings import milliseconds

REPEATS, WARM_UP = 20, 4
CONSTRAINTS: dict[str, dict[str, int] | None] = {
    "without": None,
    "all layers": {},
    "one layer per step": {"draw": 1},
}


def run_step(section: Section, device: torch.device, *, small: bool) -> None:
    """Add a row for each constraint: the median step, and the median ratio of neighbouring steps.

    The steps take turns, so that what else the machine does hits all alike. The ramp is left out, so that every step
    pays for the whole penalty.
    """
    pixels, size = (32, 4) if small else (224, 64)
    steps = {name: training_step(probe, pixels, size, device, small=small) for name, probe in CONSTRAINTS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, int | None] = {}
    for repeat in range(WARM_UP + REPEATS):
        if section.left() <= 0 and len(times["without"]) >= 3:
            break
        for name, step in steps.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            taken = milliseconds(step, device)
            peaks[name] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
            if repeat >= (1 if small else WARM_UP):
                times[name].append(taken)
        if small and repeat == 3:
            break
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(taken, times["without"], strict=True)]
        section.add(
            name=name,
            milliseconds=statistics.median(taken),
            ratio=statistics.median(ratios),
            repeats=len(taken),
            bytes=peaks[name],
            model=f"ViT-S, {pixels} pixels, batch {size}, bfloat16 autocast",
        )


def training_step(
    draw: dict[str, int] | None, pixels: int, size: int, device: torch.device, *, small: bool
) -> Callable[[], Any]:
    """Return a function that does one step of AdamW on noise, as eager code."""
    import timm

    torch.manual_seed(0)
    changes = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8} if small else {}
    model = timm.create_model("vit_small_patch16_224", img_size=pixels, num_classes=10, **changes).to(device)
    images, labels = torch.randn(size, 3, pixels, pixels, device=device), torch.randint(10, (size,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    probe = None if draw is None else Probe(model, **draw)
    constraint = SelfSimilarityConstraint(ramp=None)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16), probe or contextlib.nullcontext():
            loss = nn.functional.cross_entropy(model(images), labels)
        if probe is not None:
            loss = loss + constraint(probe)
        loss.backward()
        optimizer.step()

    return step
