"""Speed and memory of rate, deviation and null bands on a card, beside the published loss and the floor.

The floor is what no implementation can avoid: one product of the activations with themselves, and a sort of the pairs.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.rate import plain
from selfsim import null_band, scaling_deviation, ss_rate

from .check import value_and_gradient
from .report import Section, short_traceback

SIZES, SMALL = (128, 768, 4096, 16384), (48, 96)
SAMPLES = 128
SCALES = 256
# Tensors of scales x pairs that autograd keeps of the published loss, and makes on the way back.
PLAIN_TENSORS = 6
MOST_REPEATS = 50


def run_timings(section: Section, device: torch.device, *, small: bool) -> None:
    """Add a row for each measured call: milliseconds (the median), repeats, and peak memory."""
    sizes, layers, draws = (SMALL, 4, 4) if small else (SIZES, 64, 100)
    for n in sizes:
        for name, call, needed in calls(noise(n, device)):
            measure(section, name, n, call, needed, device)
    n = sizes[0]
    for name, call in calls_of_batch(noise(n, device, layers)):
        measure(section, name, n, call, 0, device)
    for n in sizes:
        bands(section, noise(n, device), draws, device)
    # In a process of its own a failed capture does no harm; here it might.
    if device.type == "cuda" and section.passed("checks", "CUDA graph: rate, detached ends, medians: gradient"):
        for n in sizes[:-1]:
            for name in ("rate, unchecked", "rate, detached ends, medians", "deviation, unchecked"):
                graph = captured(functions()[name], noise(n, device))[0]
                measure(section, f"{name}, CUDA graph", n, graph.replay, 0, device)


def captured(
    measure: Callable[[Tensor], Tensor], activations: Tensor
) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]:
    """Record value and gradient as a CUDA graph; return it with its input, its value and its gradient."""
    x = activations.clone().requires_grad_()

    def call() -> tuple[Tensor, Tensor]:
        value = measure(x)
        return value, torch.autograd.grad(value.sum(), x)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, gradient = call()
    return graph, x, value, gradient


def noise(n: int, device: torch.device, *layers: int) -> Tensor:
    return torch.randn(*layers, SAMPLES, n, generator=torch.Generator().manual_seed(n)).to(device)


def bands(section: Section, activations: Tensor, draws: int, device: torch.device) -> None:
    """Time the null bands of one layer, unless they would take longer than there is time."""
    n = activations.shape[1]
    for name, statistic in {"null_band, rate": ss_rate, "null_band, deviation": scaling_deviation}.items():
        name = f"{name}, {draws} draws"
        band = functools.partial(null_band, statistic, activations, null="shuffled")
        try:
            band(draws=2)
            began = time.perf_counter()
            band(draws=2)
        except Exception:
            section.leave_out(f"{name}, {n} neurons", short_traceback())
            continue
        expected = (time.perf_counter() - began) * draws / 2
        if expected > section.left():
            section.leave_out(f"{name}, {n} neurons", f"would take about {expected:.0f} s")
        else:
            measure(section, name, n, functools.partial(band, draws=draws), 0, device)


def measure(section: Section, name: str, n: int, call: Callable[[], Any], needed: int, device: torch.device) -> None:
    """Time one call, or say why not."""
    label = f"{name}, {n} neurons"
    if section.left() <= 0:
        section.leave_out(label, "no time left")
    elif needed > free_bytes(device):
        section.leave_out(label, f"needs about {needed / 2**30:.0f} GiB")
    else:
        try:
            section.add(name=name, n=n, samples=SAMPLES, **timed(call, device, seconds=min(1.0, section.left() / 8)))
        except torch.OutOfMemoryError:
            section.leave_out(label, "out of memory")
        except Exception:
            section.leave_out(label, short_traceback())
    if device.type == "cuda":
        torch.cuda.empty_cache()


def calls(activations: Tensor) -> Iterator[tuple[str, Callable[[], Any], int]]:
    """Yield the calls at one size with their names, and the bytes that they are known to need."""
    n = activations.shape[1]
    pairs = n * (n - 1) // 2
    for name, measure in functions().items():
        yield name, functools.partial(value_and_gradient, measure, activations), 0
    needed = PLAIN_TENSORS * SCALES * pairs * activations.element_size()
    yield "published loss", functools.partial(value_and_gradient, plain, activations), needed
    neurons = activations.t().contiguous()
    values = torch.rand(pairs, device=activations.device)
    yield "floor: product", lambda: neurons @ neurons.t(), 0
    yield "floor: sort", values.sort, 0


def functions() -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the rates and the deviation that are timed with their gradient, by name."""
    return {
        "rate": ss_rate,
        "rate, unchecked": functools.partial(ss_rate, check=False),
        "rate, detached ends, medians": functools.partial(ss_rate, ends="detached", unit="median", check=False),
        "rate, 256 scales": functools.partial(ss_rate, scales=SCALES, gradient="straight-through"),
        "deviation": scaling_deviation,
        "deviation, unchecked": functools.partial(scaling_deviation, check=False),
    }


def calls_of_batch(batch: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    for name, measure in {"rate": ss_rate, "deviation": scaling_deviation}.items():

        def in_turn(measure: Callable[[Tensor], Tensor] = measure) -> None:
            for layer in batch:
                value_and_gradient(measure, layer)

        yield f"{name} of {len(batch)} layers, one call", functools.partial(value_and_gradient, measure, batch)
        yield f"{name} of {len(batch)} layers, in turn", in_turn


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2**32


def timed(call: Callable[[], Any], device: torch.device, *, seconds: float) -> dict[str, Any]:
    """Return the median milliseconds of a call that repeats for about `seconds`, and the bytes at its peak.

    On a card, a repeat lasts until the card is done, by the card's own clock.
    """
    on_card = device.type == "cuda"
    if on_card:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    began = time.perf_counter()
    call()  # loads kernels, fills caches
    if on_card:
        torch.cuda.synchronize(device)
    first = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(device) - before if on_card else None
    # What takes long is measured once: what its first call loads is then small beside it.
    taken = [1e3 * first] if first > 2 * seconds else []
    end = time.perf_counter() + seconds
    while first <= 2 * seconds and (len(taken) < 3 or (time.perf_counter() < end and len(taken) < MOST_REPEATS)):
        taken.append(milliseconds(call, device))
    return {
        "milliseconds": statistics.median(taken),
        "fastest": min(taken),
        "first": 1e3 * first,
        "repeats": len(taken),
        "bytes": peak,
    }


def milliseconds(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
