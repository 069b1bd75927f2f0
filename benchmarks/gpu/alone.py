"""Checks in a process of their own, which a crash or a time limit ends: `torch.compile`, and CUDA graphs.

python -m benchmarks.gpu.alone compile cuda    # prints one row a line, as JSON
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from selfsim import Probe, SelfSimilarityConstraint, scaling_deviation, ss_rate

from .check import Check, Errors, batch, gradients, perceptron, relative, rows_of, some, value_and_gradient
from .report import ROOT, Section
from .timings import captured

# By kind of device: the time limit of a process in seconds. A dry run may meet a busy machine.
SECONDS = {"cuda": 60.0, "cpu": 600.0}


class Alone:
    """A process that runs one kind of check while the others run here."""

    def __init__(self, kind: str, device: torch.device) -> None:
        command = [sys.executable, "-m", "benchmarks.gpu.alone", kind, str(device)]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.kind, self._seconds = kind, SECONDS[device.type]
        self._until = time.monotonic() + self._seconds
        self._process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # with the compiler's own processes, which end with it
        )

    def collect(self, section: Section) -> None:
        """Add the rows of the process, and end it once its time is over."""
        try:
            output, errors = self._process.communicate(timeout=max(0.1, self._until - time.monotonic()))
            ending = "" if self._process.returncode == 0 else errors[-1500:] or "no message"
        except subprocess.TimeoutExpired:
            self.end()
            output, _ = self._process.communicate()
            ending = f"not done after {self._seconds:.0f} s"
        for line in output.splitlines():
            if line.startswith("{"):
                section.add(**json.loads(line))
        if ending:
            row = {"passed": False, "error": None, "tolerance": None, "seconds": None, "note": ending}
            section.add(name=f"{self.kind}: process", **row)

    def end(self) -> None:
        """Kill the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()


def compile_checks(device: torch.device) -> Iterator[Check]:
    """Yield the checks of compiled models and functions: by inductor on a card, traced only on a CPU."""
    compiled = functools.partial(torch.compile, backend="inductor" if device.type == "cuda" else "aot_eager")
    x = some(torch.float32)

    def of_rate(measure: Callable[..., Tensor]) -> Errors:
        def layer(x: Tensor) -> Tensor:
            return measure(torch.tanh(x) * 2, check=False)

        value, gradient = value_and_gradient(compiled(layer), x.to(device))
        expected, expected_gradient = value_and_gradient(layer, x.double())
        assert gradient is not None and expected_gradient is not None
        return {
            "value": abs(float(value.cpu().double() - expected)),
            "gradient": relative(gradient, expected_gradient),
        }

    def of_step(compile_first: bool) -> Errors:
        def gradient(change: Callable[[nn.Module], nn.Module]) -> Tensor:
            model, (images, labels) = perceptron(device), batch(device)
            if compile_first:
                changed = change(model)
                probe = Probe(changed, layers=["1", "3", "5"])
            else:
                probe = Probe(model, layers=["1", "3", "5"])
                changed = change(model)
            nn.functional.cross_entropy(changed(images), labels).backward()  # a step without the probe is compiled
            model.zero_grad()
            with probe:
                loss = nn.functional.cross_entropy(changed(images), labels)
            (loss + SelfSimilarityConstraint(ramp=None)(probe)).backward()
            return gradients(model)

        return {"gradient": relative(gradient(compiled), gradient(lambda model: model).cpu())}

    yield Check("compile: model, then probe and constraint", 1e-4, lambda: of_step(True))
    yield Check("compile: probe, then model", 1e-4, lambda: of_step(False))
    for measure in (ss_rate, scaling_deviation):
        yield Check(f"compile: {measure.__name__} of a layer", 1e-4, functools.partial(of_rate, measure))


def graph_checks(device: torch.device) -> Iterator[Check]:
    """Yield the checks of CUDA graphs: captured on one batch, replayed on another."""
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "rate": functools.partial(ss_rate, check=False),
        "rate, detached ends, medians": functools.partial(ss_rate, ends="detached", unit="median", check=False),
        "rate, straight-through": functools.partial(ss_rate, scales=256, gradient="straight-through", check=False),
        "deviation": functools.partial(scaling_deviation, check=False),
        "rate of 8 layers": functools.partial(ss_rate, check=False),
    }
    for name, measure in measures.items():
        layers = 8 if name.endswith("layers") else None
        yield Check(f"CUDA graph: {name}", 1e-4, functools.partial(_replayed_errors, measure, layers, device))


def _replayed_errors(measure: Callable[[Tensor], Tensor], layers: int | None, device: torch.device) -> Errors:
    first, second = (some(torch.float32, seed=seed, layers=layers).to(device) for seed in (0, 1))
    graph, x, value, gradient = captured(measure, first)
    with torch.no_grad():
        x.copy_(second)
    graph.replay()
    torch.cuda.synchronize()
    expected, expected_gradient = value_and_gradient(measure, second.cpu().double())
    assert expected_gradient is not None
    errors = {"value": float((value.detach().cpu().double() - expected).abs().max())}
    return errors | {"gradient": relative(gradient, expected_gradient)}


KINDS = {"compile": compile_checks, "graphs": graph_checks}

if __name__ == "__main__":
    for found in KINDS[sys.argv[1]](torch.device(sys.argv[2])):
        for made in rows_of(found):
            print(json.dumps(made), flush=True)
