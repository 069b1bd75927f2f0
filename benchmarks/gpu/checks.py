"""Checks on a card: every value and gradient against the CPU's in float64, synchronisations, autocast.

A check is a function without arguments from which one error or several come, by name. What the errors are is said where
they are made: relative norms for gradients and vectors, differences for rates, numbers for synchronisations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import selfsim
from selfsim import Probe, SelfSimilarityConstraint, TrainConfig, null_band, scaling_deviation, ss_rate

from .check import SAMPLES, Check, Errors, batch, gradients, perceptron, relative, some, value_and_gradient
from .report import without_root

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
RATES: dict[str, dict[str, Any]] = {
    "exact": {},
    "detached ends": {"ends": "detached"},
    "unchecked": {"check": False},
    "quantiles": {"quantiles": (0.05, 0.95)},
    "quantiles, detached ends": {"quantiles": (0.05, 0.95), "ends": "detached"},
    "medians": {"unit": "median"},
    "medians, detached ends": {"unit": "median", "ends": "detached"},
    "medians of quantiles": {"unit": "median", "quantiles": (0.05, 0.95)},
    "standardized": {"standardize": True},
    "without 3": {"leave_out": 3},
    "256 scales": {"scales": 256},
    "256 scales, unchecked": {"scales": 256, "check": False},
    "straight-through": {"scales": 256, "gradient": "straight-through"},
    "straight-through, unchecked": {"scales": 256, "gradient": "straight-through", "check": False},
    "straight-through in blocks": {"scales": 256, "gradient": "straight-through", "max_bytes": 2**20},
    "complete linkage": {"count": "complete-linkage"},
    "complete linkage, 64 scales": {"count": "complete-linkage", "scales": 64},
    "greedy colouring": {"count": "greedy-coloring", "scales": 16},
}
DEVIATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "unchecked": {"check": False},
    "window": {"window": (0.02, 0.4)},
}
# Without a ramp the penalty acts from the first step, but for "ramp" and "hold".
CONSTRAINTS: dict[str, Callable[[], SelfSimilarityConstraint]] = {
    "cap": lambda: SelfSimilarityConstraint(ramp=None),
    "ramp": lambda: SelfSimilarityConstraint(ramp=(0.2, 0.8)),
    "weight": lambda: SelfSimilarityConstraint(weight=10.0, cap=None, ramp=None, unit="absolute"),
    "weight and cap": lambda: SelfSimilarityConstraint(weight=10.0, cap=0.3, ramp=None),
    "hold": lambda: SelfSimilarityConstraint({"schedule": "hold", "start": 0.3}, ramp=None),
    "paper": lambda: SelfSimilarityConstraint.paper(gate_every=1),
    "scaling": lambda: SelfSimilarityConstraint(measure="scaling", ramp=None),
    "one layer": lambda: SelfSimilarityConstraint(layers_per_step=1, ramp=None),
}


def all_checks(device: torch.device) -> Iterator[Check]:
    """Yield the checks, the cheap and important ones first."""
    for name, options in RATES.items():
        rate = functools.partial(ss_rate, **options)
        for dtype in TOLERANCES:
            yield of_function(f"rate, {name}", rate, device, dtype)
    for name, options in DEVIATIONS.items():
        for dtype in TOLERANCES:
            yield of_function(f"deviation, {name}", functools.partial(scaling_deviation, **options), device, dtype)
    for dtype in TOLERANCES:
        for measure in (ss_rate, scaling_deviation):
            yield of_batch(measure, device, dtype)
            yield of_vmap(measure, device, dtype)
    if device.type == "cuda":
        yield from synchronisation_checks(device)
    yield Check("rate, TF32 allowed, float32", 2e-3, functools.partial(tf32_errors, device))
    for half in (torch.bfloat16, torch.float16):
        yield from half_checks(half, device)
    for name, make in CONSTRAINTS.items():
        for dtype in TOLERANCES:
            yield of_constraint(name, make, device, dtype)
    yield Check("loss scale: penalty of the default constraint", 1e-2, functools.partial(loss_scale_error, device))
    for name, value in VALUES.items():
        for dtype in TOLERANCES:
            yield of_value(name, value, device, dtype)
    yield Check("activations of a ViT, float64", 1e-9, functools.partial(activations_error, device))
    yield Check("analyze, float64", 1e-6, functools.partial(analyze_error, device))
    yield Check("train, 2 epochs: accuracy and rates", 0.05, functools.partial(train_error, device))
    if device.type == "cuda":
        yield Check("train twice on the card: rates", 0.0, functools.partial(train_twice_error, device))
        yield Check("train: synchronisations a step", 0.0, functools.partial(train_synchronisations, device))


def errors_of(compute: Callable[[Tensor], Tensor], x: Tensor, device: torch.device) -> Errors:
    """Compare value and gradient on the device with those on the CPU in float64, for the same activations."""
    value, gradient = value_and_gradient(compute, x.to(device))
    expected, expected_gradient = value_and_gradient(compute, x.double())
    if value.device.type != device.type:
        raise AssertionError(f"value: got it on {value.device}, need {device}")
    errors = {"value": float((value.cpu().double() - expected).abs().max())}
    if gradient is not None and expected_gradient is not None:
        errors["gradient"] = relative(gradient, expected_gradient)
    return errors


def _named(what: str, dtype: torch.dtype) -> str:
    return f"{what}, {str(dtype).removeprefix('torch.')}"


def of_function(name: str, compute: Callable[[Tensor], Tensor], device: torch.device, dtype: torch.dtype) -> Check:
    # Not seed 0: there, two neighbours where the curve in medians crosses its line differ by 8e-8, which float32 cannot
    # tell from a tie. Swapped, they change the gradient by 5e-4 (1.6e-3 with detached ends), on a CPU as on a card.
    return Check(_named(name, dtype), TOLERANCES[dtype], lambda: errors_of(compute, some(dtype, seed=1), device))


def of_batch(measure: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> Check:
    name = _named(f"{measure.__name__} of 2 x 3 layers", dtype)
    x = some(dtype, layers=6).unflatten(0, (2, 3))
    return Check(name, TOLERANCES[dtype], lambda: errors_of(measure, x, device))


def of_vmap(measure: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> Check:
    """Make the check of ``vmap(grad(measure))``, against one layer after another."""
    x = some(dtype, layers=3)

    def errors() -> Errors:
        unchecked = functools.partial(measure, check=False)
        found = torch.func.vmap(torch.func.grad_and_value(unchecked))(x.to(device))
        expected = [value_and_gradient(measure, layer.double()) for layer in x]
        values, gradients = torch.stack([v for v, _ in expected]), torch.stack([g for _, g in expected])
        return {"value": float((found[1].cpu() - values).abs().max()), "gradient": relative(found[0], gradients)}

    return Check(_named(f"{measure.__name__} under vmap", dtype), TOLERANCES[dtype], errors)


# Other functions of activations: what they return, as numbers.
VALUES: dict[str, Callable[[Tensor], Any]] = {
    "pair_distances": selfsim.pair_distances,
    "FeatureNetwork": lambda x: torch.as_tensor(selfsim.FeatureNetwork(x).distances),
    "rate_curve": selfsim.rate_curve,
    "rate_drivers": lambda x: selfsim.rate_drivers(x).by_neuron,
    "scaling": lambda x: selfsim.scaling(x, draws=4),
    "correlation_dimension": lambda x: selfsim.correlation_dimension(x).value,
    "spectrum_exponent": lambda x: selfsim.spectrum_exponent(x).value,
    "movement": lambda x: selfsim.movement(x, x.flip(0) + x.sin()),
    "null_band, shuffled": lambda x: null_band(ss_rate, x, null="shuffled", draws=5).values,
    "null_band, gauss": lambda x: null_band(scaling_deviation, x, draws=5).values,
    "null_band, covariance": lambda x: null_band(ss_rate, x, null="gauss-covariance", draws=5).values,
}


def of_value(name: str, value: Callable[[Tensor], Any], device: torch.device, dtype: torch.dtype) -> Check:
    def errors() -> Errors:
        x = some(dtype)
        return {"": relative(_as_vector(value(x.to(device))), _as_vector(value(x.double())))}

    return Check(_named(name, dtype), TOLERANCES[dtype], errors)


def _as_vector(value: Any) -> Tensor:
    return torch.tensor(list(_numbers(value)), dtype=torch.float64)


def _numbers(value: Any) -> Iterator[float]:
    """Yield the finite numbers in a result, in order; texts and flags have none."""
    if isinstance(value, Tensor | np.ndarray):
        yield from torch.as_tensor(value).double().flatten().tolist()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif dataclasses.is_dataclass(value):
        yield from _numbers([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield float(value)


def constrained_gradient(
    make: Callable[[], SelfSimilarityConstraint], device: torch.device, dtype: torch.dtype, epochs: int = 5
) -> Tensor:
    """Train for some epochs of one step; return all parameters' gradients of the last, as one vector."""
    model, constraint, (x, y) = perceptron(device, dtype), make(), batch(device, dtype)
    probe = Probe(model, layers=["1", "3", "5"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the gate that is closed, the ramp that has not begun
        for epoch in range(1, epochs + 1):
            optimizer.zero_grad()
            with probe:
                loss = nn.functional.cross_entropy(model(x), y)
            (loss + constraint(probe)).backward()
            optimizer.step()
            constraint.step(epoch=epoch, epochs=epochs)
    return gradients(model)


def of_constraint(
    name: str, make: Callable[[], SelfSimilarityConstraint], device: torch.device, dtype: torch.dtype
) -> Check:
    def errors() -> Errors:
        expected = constrained_gradient(make, torch.device("cpu"), torch.float64)
        return {"gradient": relative(constrained_gradient(make, device, dtype), expected)}

    return Check(_named(f"constraint, {name}", dtype), TOLERANCES[dtype], errors)


def tf32_errors(device: torch.device) -> Errors:
    """Compare the rate where the caller lets products of float32 be rounded to ten bits.

    Its distances come from a product in float64. Its gradient comes from one in float32, which such a caller wants
    rounded by up to 2 ** -11 in each factor.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return errors_of(ss_rate, some(torch.float32, seed=1), device)
    finally:
        torch.set_float32_matmul_precision(before)


def half_checks(half: torch.dtype, device: torch.device) -> Iterator[Check]:
    """Yield the checks of a half precision: of such activations, and of autocast."""
    x, eps = some(torch.float32), torch.finfo(half).eps

    def autocast(measure: Callable[..., Tensor], x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, half, enabled=x.dtype == torch.float32):
            return measure(x)

    def constrained() -> Errors:
        def gradient(enabled: bool) -> Tensor:
            model, (images, labels) = perceptron(device), batch(device)
            probe = Probe(model, layers=["1", "3", "5"])
            with torch.autocast(device.type, half, enabled=enabled), probe:
                loss = nn.functional.cross_entropy(model(images), labels)
            (loss + SelfSimilarityConstraint(ramp=None)(probe)).backward()
            return gradients(model)

        return {"gradient": relative(gradient(True), gradient(False).cpu())}

    for measure in (ss_rate, scaling_deviation):
        name = measure.__name__
        yield Check(
            _named(f"{name} of float32 under autocast", half),
            TOLERANCES[torch.float32],
            functools.partial(errors_of, functools.partial(autocast, measure), x, device),
        )
        # Value and gradient are of the rounded activations; a value comes back in float32, a gradient rounded.
        of_rounded = functools.partial(errors_of, measure, x.to(half), device)
        yield Check(_named(f"{name} of activations", half), 2 * eps, of_rounded)
    # A layer's own rounding moves the order of distances, so that only the direction can be compared.
    yield Check(_named("step with the default constraint under autocast", half), 0.05, constrained)


def loss_scale_error(device: torch.device) -> Errors:
    """Compare the gradients of a float16 step under two loss scales; the cap must not notice them."""

    def gradient(scale: float) -> Tensor:
        model, (x, y) = perceptron(device), batch(device)
        probe = Probe(model, layers=["1", "3", "5"])
        with torch.autocast(device.type, torch.float16), probe:
            loss = nn.functional.cross_entropy(model(x), y)
        (scale * (loss + SelfSimilarityConstraint(ramp=None)(probe))).backward()
        return gradients(model) / scale

    return {"gradient": relative(gradient(2.0**14), gradient(2.0**8).cpu())}


def activations_error(device: torch.device) -> Errors:
    model = selfsim.create("vit_small", size="tiny", num_classes=10, in_chans=1).double()
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def read(device: torch.device) -> Tensor:
        return torch.cat(
            [a.cpu().flatten() for a in selfsim.activations(model, [images], samples=40, device=device).values()]
        )

    return {"": relative(read(device), read(torch.device("cpu")))}


def analyze_error(device: torch.device) -> Errors:
    """Return the largest relative difference of each column of `analyze`."""

    def table(device: torch.device) -> Any:
        model = perceptron(torch.device("cpu"), torch.float64)
        loader = [batch(torch.device("cpu"), torch.float64)[0]]
        options: dict[str, Any] = {"draws": 5, "samples": SAMPLES, "device": device, "progress": False}
        return selfsim.analyze(model, loader, **options).to_pandas().select_dtypes("number")

    found, expected = table(device), table(torch.device("cpu"))
    if (found.isna() != expected.isna()).any(axis=None):
        raise AssertionError("columns: the device and the CPU have numbers in different places")
    return {"": float(((found - expected).abs() / (1e-6 + expected.abs())).max(axis=None))}


def digits_run(device: torch.device, **changes: Any) -> Any:
    config = TrainConfig("mlp", epochs=2, train_images=512, constraint={"ramp": [0, 0.5], "cap": 0.3}, **changes)
    return selfsim.train(config, device=device)


def apart(one: Any, other: Any) -> float:
    """Return the largest difference between the last rates and accuracies of two runs."""
    rates = [[run.series("ss_rate", layer=layer)[-1] for layer in run.layers] for run in (one, other)]
    accuracies = ([run.series("accuracy")[-1]] for run in (one, other))
    return max(abs(a - b) for both in (rates, accuracies) for a, b in zip(*both, strict=True))


def train_error(device: torch.device) -> Errors:
    """Compare the last epoch of a training run: rounding grows with every step, so only roughly."""
    return {"": apart(digits_run(device), digits_run(torch.device("cpu")))}


def train_twice_error(device: torch.device) -> Errors:
    return {"": apart(digits_run(device), digits_run(device))}


def synchronisations(call: Callable[[], Any]) -> list[str]:
    """Return where a call waits for the card, once for each time."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{without_root(w.filename)}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]


def counted(call: Callable[[], Any]) -> tuple[Errors, str]:
    call()  # fills caches, loads kernels
    where = synchronisations(call)
    return {"": float(len(where))}, ", ".join(sorted(set(where)))


def synchronisation_checks(device: torch.device) -> Iterator[Check]:
    """Yield the counts of synchronisations; the first shows that they are counted."""
    x, layers = some(torch.float32).to(device), some(torch.float32, layers=8).to(device)

    def uncounted() -> Errors:
        return {"": 1.0 - len(synchronisations(lambda: x.sum().item()))}

    yield Check("synchronisations: .item() counts as one", 0.0, uncounted)
    for name, options in RATES.items():
        if options.get("count", "surrogate") == "surrogate":
            most = 1 if options.get("check", True) else 0
            call = functools.partial(value_and_gradient, functools.partial(ss_rate, **options), x)
            yield Check(f"synchronisations: rate, {name}", most, functools.partial(counted, call))
    for check in (True, False):
        for measure in (ss_rate, scaling_deviation):
            rate = functools.partial(measure, check=check)
            ending = "" if check else ", unchecked"
            call = functools.partial(value_and_gradient, rate, layers)
            name = f"synchronisations: {measure.__name__} of 8 layers{ending}"
            yield Check(name, int(check), functools.partial(counted, call))
    call = functools.partial(null_band, ss_rate, x, draws=40)
    yield Check("synchronisations: null_band, 40 draws", 40, functools.partial(counted, call))
    for name, make in CONSTRAINTS.items():
        yield Check(f"synchronisations: step, constraint {name}", 0, functools.partial(_step_count, make, device))


def _step_count(make: Callable[[], SelfSimilarityConstraint], device: torch.device) -> tuple[Errors, str]:
    """Count the synchronisations of a training step with AdamW, with checks off."""
    model, constraint, (x, y) = perceptron(device), make(), batch(device)
    constraint.measure = dataclasses.replace(constraint.measure, check=False)
    probe, optimizer = Probe(model, layers=["1", "3", "5"]), torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with probe:
            loss = nn.functional.cross_entropy(model(x), y)
        (loss + constraint(probe)).backward()
        optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step()
        constraint.step(epoch=1, epochs=2)
    return counted(step)


def train_synchronisations(device: torch.device) -> tuple[Errors, str]:
    """Return how many more synchronisations a run with more steps has, for each step more."""
    digits_run(device)
    runs = {size: synchronisations(lambda size=size: digits_run(device, batch_size=size)) for size in (64, 128)}
    steps = 2 * (512 // 64 - 512 // 128)
    more = {place: runs[64].count(place) - runs[128].count(place) for place in sorted(set(runs[64]))}
    note = ", ".join(f"{place} ({number / steps:.1f} a step)" for place, number in more.items() if number > 0)
    return {"": (len(runs[64]) - len(runs[128])) / steps}, note
