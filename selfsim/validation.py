"""Checks of activations and devices."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checks import errors_named

T = TypeVar("T")

# Layers that a GPU takes at once have at most so many pairs (i, j) together: 1 GB in float64.
_AT_ONCE = 2**27


def check_activations(
    activations: Tensor | np.ndarray,
    *,
    name: str = "activations",
    min_neurons: int = 1,
    finite: bool = True,
    batched: bool = False,
) -> Tensor:
    """Return activations as a floating-point tensor of shape ``(samples, neurons)``, or say what is wrong.

    Parameters
    ----------
    activations : Tensor or ndarray, shape (samples, neurons)
        float16, bfloat16, float32 or float64. Half precision is returned as float32, in which all sums
        are taken; float32 and float64 are returned as they are, on their device and with their graph.
    name : str
        The argument's name, for the message.
    min_neurons : int
        The fewest neurons that the caller can use.
    finite : bool
        Whether to look for NaN and Inf. This costs one pass and, on a GPU, one synchronisation.
    batched : bool
        Whether leading axes are allowed, ``(…, samples, neurons)``.

    Returns
    -------
    Tensor, shape (samples, neurons)

    Raises
    ------
    TypeError
        Neither a tensor nor an array, without values (device meta), or not of a real floating-point type.
    ValueError
        Not two-dimensional, no samples, too few neurons, NaN or Inf.

    Examples
    --------
    >>> import torch
    >>> check_activations(torch.zeros(5, 4, dtype=torch.float16)).dtype
    torch.float32
    >>> check_activations(torch.zeros(5))
    Traceback (most recent call last):
        ...
    ValueError: activations: got shape (5,), need two dimensions (samples, neurons)
    """
    if isinstance(activations, np.ndarray):
        activations = as_tensor(activations, name=name)
    if not isinstance(activations, Tensor):
        raise TypeError(f"{name}: got {type(activations).__name__}, need a tensor or array (samples, neurons)")
    if activations.device.type == "meta":
        raise TypeError(f"{name}: got a tensor on the meta device, which holds no numbers; need cpu, cuda or mps")
    if activations.layout != torch.strided:
        raise TypeError(f"{name}: got layout {activations.layout}, need a dense tensor (call .to_dense())")
    if not activations.is_floating_point():
        raise TypeError(
            f"{name}: got {activations.dtype}, need a real floating-point type (float16, bfloat16, float32, float64)"
        )
    shape = tuple(activations.shape)
    if len(shape) < 2 or (len(shape) > 2 and not batched):
        need = "(…, samples, neurons)" if batched else "two dimensions (samples, neurons)"
        raise ValueError(f"{name}: got shape {shape}, need {need}")
    samples, neurons = shape[-2:]
    if samples < 1:
        raise ValueError(f"{name}: got no samples (shape {shape}), need at least 1")
    if neurons < min_neurons:
        raise ValueError(f"{name}: got {neurons} neurons (shape {shape}), need at least {min_neurons}")
    if finite:
        check_finite(activations, name=name)
    return activations if activations.dtype in (torch.float32, torch.float64) else activations.float()


def as_tensor(array: NDArray[Any], *, name: str) -> Tensor:
    """Return an array as a tensor: one that shares its memory, or a copy where torch cannot or warns."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name}: got a masked array, whose mask would be lost; need one without missing values")
    native = array.dtype.newbyteorder("=")
    if not array.flags.writeable or min(array.strides, default=0) < 0 or array.dtype != native:
        array = np.array(array, dtype=native, order="C")
    return torch.as_tensor(array)


def check_finite(activations: Tensor, *, name: str = "activations") -> None:
    """Raise ``ValueError`` with the number and place of NaN and Inf in ``(…, samples, neurons)``, if any."""
    bad = ~torch.isfinite(activations.detach())
    if bad.any():
        place = [int(index) for index in bad.nonzero()[0]]
        sample, neuron = place[-2:]
        value = activations[tuple(place)].item()
        raise ValueError(
            f"{name}: got {int(bad.sum())} values that are NaN or Inf (the first is {value} at sample {sample}, "
            f"neuron {neuron}), need finite values"
        )


def over_batch(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """Apply `function` to each layer of a batch, and stack what it returns: a tensor or a tuple of tensors.

    On a CPU in as many threads as ``torch.get_num_threads()``. On a GPU, `function` takes many layers at once, with one
    leading axis. The first tensor is ``(…, samples, neurons)``, and the others have the same leading axes, none of them
    empty; without leading axes, `function` is called directly. An error names the place in the batch. Gradients are not
    recorded, and autocast is off.

    Examples
    --------
    >>> import torch
    >>> over_batch(lambda x: x.sum(), torch.ones(2, 3, 4, 5)).shape
    torch.Size([2, 3])
    """
    batch, neurons, device = tensors[0].shape[:-2], tensors[0].shape[-1], tensors[0].device.type
    if not batch:
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return function(*tensors)

    def compute(place: int) -> Any:
        at = ", ".join(map(str, np.unravel_index(place, batch)))
        with torch.no_grad(), torch.autocast(device, enabled=False), errors_named(f"[{at}] of the batch"):
            return function(*(tensor[place] for tensor in flat))

    flat = [tensor.reshape(-1, *tensor.shape[len(batch) :]) for tensor in tensors]
    at_once = _AT_ONCE // neurons**2 if device != "cpu" else 1
    if at_once > 1:
        with contextlib.suppress(ValueError), torch.no_grad(), torch.autocast(device, enabled=False):
            pieces = zip(*(tensor.split(at_once) for tensor in flat), strict=True)
            return _joined(torch.cat, [function(*piece) for piece in pieces], batch)
    # One by one: on a GPU, layers that fill it, and a batch with an error, which then names the layer.
    threads = min(torch.get_num_threads(), len(flat[0])) if device == "cpu" else 1
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            return _joined(torch.stack, list(pool.map(compute, range(len(flat[0])))), batch)
    return _joined(torch.stack, [compute(place) for place in range(len(flat[0]))], batch)


def _joined(join: Callable[[list[Tensor]], Tensor], found: list[Any], batch: torch.Size) -> Any:
    """Join what a function returned for the parts of a batch, and give it the batch's leading axes."""
    if isinstance(found[0], Tensor):
        return join(found).unflatten(0, batch)
    return tuple(join(list(part)).unflatten(0, batch) for part in zip(*found, strict=True))


def by_layer(layers: Mapping[str, Tensor], function: Callable[[Tensor], T]) -> dict[str, T]:
    """Apply `function` to every layer of a mapping; its TypeError or ValueError then names the layer.

    Examples
    --------
    >>> import torch
    >>> by_layer({"block 1": torch.zeros(4)}, check_activations)
    Traceback (most recent call last):
        ...
    ValueError: layer 'block 1': activations: got shape (4,), need two dimensions (samples, neurons)
    """
    if not isinstance(layers, Mapping):
        raise TypeError(f"activations: got {type(layers).__name__}, need a mapping of layers to tensors")
    results = {}
    for name, layer in layers.items():
        with errors_named(f"layer {name!r}"):
            results[name] = function(layer)
    return results


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn ``"auto"`` into CUDA where there is a card, else the CPU; any other name is taken as it is.

    Apple's ``mps`` is used only when named, because it has no float64.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"device: got {device!r}, need 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: got {device!r}, but torch {torch.__version__} sees no CUDA card; need 'auto' or 'cpu'"
        )
    return found


def untraced(function: Callable[..., T]) -> Callable[..., T]:
    """As `torch.compiler.disable`, which costs 8 s of imports, but only once something is being compiled."""
    disabled: Callable[..., T] | None = None

    @functools.wraps(function)
    def call(*arguments: Any) -> T:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return function(*arguments)
        if disabled is None:
            disabled = torch.compiler.disable(function)
        return disabled(*arguments)

    return call
