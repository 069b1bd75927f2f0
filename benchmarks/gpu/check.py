"""A check and its rows, and what the checks are made of: activations, a small network, comparisons."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .report import Section, short_traceback

SAMPLES, NEURONS = 64, 96
Errors = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Check:
    """A check: its name, the largest error that passes, and the function that measures it."""

    name: str
    tolerance: float
    errors: Callable[[], Errors | tuple[Errors, str]]


def run_checks(section: Section, every: Iterator[Check]) -> None:
    """Add a row for each error; a check that raises is a row that failed, with its traceback."""
    for check in every:
        if section.left() <= 0:
            section.leave_out(check.name, "no time left")
            continue
        for row in rows_of(check):
            section.add(**row)


def rows_of(check: Check) -> list[dict[str, Any]]:
    began, note, errors = time.perf_counter(), "", {}
    try:
        found = check.errors()
        errors, note = found if isinstance(found, tuple) else (found, "")
    except Exception:
        errors, note = {"": math.nan}, short_traceback()
    seconds = round(time.perf_counter() - began, 3)
    rows = []
    for key, error in errors.items():
        passed = bool(error <= check.tolerance)
        name = f"{check.name}: {key}" if key else check.name
        row = {"name": name, "passed": passed, "error": error if math.isfinite(error) else None}
        rows.append(row | {"tolerance": check.tolerance, "seconds": seconds} | ({"note": note} if note else {}))
    return rows


def some(dtype: torch.dtype = torch.float64, *, seed: int = 0, layers: int | None = None) -> Tensor:
    """Return activations ``(samples, neurons)`` with correlated neurons of different sizes, far from 0, on the CPU."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (SAMPLES,) if layers is None else (layers, SAMPLES)
    common = normal(*shape, 8) @ normal(8, NEURONS)
    return ((common + normal(*shape, NEURONS)) * (0.3 * normal(NEURONS)).exp() + 3).to(dtype)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over that of what was expected."""
    expected = expected.double()
    return float((found.detach().cpu().double() - expected).norm() / expected.norm())


def value_and_gradient(compute: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor | None]:
    x = x.detach().requires_grad_()
    value = compute(x)
    if not value.requires_grad:
        return value, None
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def perceptron(device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Return a small network with three hidden layers, the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = (20, NEURONS, NEURONS, NEURONS)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.GELU())]
        return nn.Sequential(*layers, nn.Linear(NEURONS, 10)).to(device, dtype)


def batch(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, 20, generator=generator, dtype=torch.float64)
    return x.to(device, dtype), torch.randint(0, 10, (SAMPLES,), generator=generator).to(device)


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
