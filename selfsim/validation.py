"""Checks of what callers pass in, with messages that name the argument, what it got and what it needs."""

from __future__ import annotations

import difflib
import importlib
import operator
from collections.abc import Iterable
from types import ModuleType

import numpy as np
import torch
from torch import Tensor


def check_activations(
    activations: Tensor | np.ndarray,
    *,
    name: str = "activations",
    min_neurons: int = 1,
    finite: bool = True,
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

    Returns
    -------
    Tensor, shape (samples, neurons)

    Raises
    ------
    TypeError
        Neither a tensor nor an array, or not of a real floating-point type.
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
        activations = torch.as_tensor(activations)
    if not isinstance(activations, Tensor):
        raise TypeError(f"{name}: got {type(activations).__name__}, need a tensor or array (samples, neurons)")
    if activations.layout != torch.strided:
        raise TypeError(f"{name}: got layout {activations.layout}, need a dense tensor (call .to_dense())")
    if not activations.is_floating_point():
        raise TypeError(
            f"{name}: got {activations.dtype}, need a real floating-point type (float16, bfloat16, float32, float64)"
        )
    if activations.ndim != 2:
        raise ValueError(f"{name}: got shape {tuple(activations.shape)}, need two dimensions (samples, neurons)")
    samples, neurons = activations.shape
    if samples < 1:
        raise ValueError(f"{name}: got no samples (shape {(samples, neurons)}), need at least 1")
    if neurons < min_neurons:
        raise ValueError(f"{name}: got {neurons} neurons (shape {(samples, neurons)}), need at least {min_neurons}")
    if finite:
        check_finite(activations, name=name)
    return activations if activations.dtype in (torch.float32, torch.float64) else activations.float()


def check_finite(activations: Tensor, *, name: str = "activations") -> None:
    """Raise ``ValueError`` with the number and place of NaN and Inf in ``(samples, neurons)``, if any."""
    bad = ~torch.isfinite(activations.detach())
    if bad.any():
        sample, neuron = bad.nonzero()[0].tolist()
        value = activations[sample, neuron].item()
        raise ValueError(
            f"{name}: got {int(bad.sum())} values that are NaN or Inf (the first is {value} at sample {sample}, "
            f"neuron {neuron}), need finite values"
        )


def check_whole(value: object, *, name: str, least: int | None = 1) -> int:
    """Return a whole number, of Python or NumPy, as an int; else raise a ``ValueError``. A bool is none.

    Examples
    --------
    >>> check_whole(2.5, name="steps")
    Traceback (most recent call last):
        ...
    ValueError: steps: got 2.5, need a whole number of at least 1
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        floor = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name}: got {value!r}, need a whole number{floor}")
    return number


def check_choice(value: object, known: Iterable[str], *, name: str) -> str:
    """Return `value` if it is one of the `known` names; else raise a ``ValueError`` with the nearest one.

    Examples
    --------
    >>> check_choice("vit_smal", ["mlp", "vit_small"], name="architecture")
    Traceback (most recent call last):
        ...
    ValueError: architecture: got 'vit_smal', need one of 'mlp', 'vit_small'; did you mean 'vit_small'?
    """
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    listed = ", ".join(repr(k) for k in known)
    raise ValueError(f"{name}: got {value!r}, need one of {listed}{_nearest(value, known)}")


def _nearest(value: object, known: list[str]) -> str:
    close = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def optional_package(name: str, *, extra: str) -> ModuleType:
    """Import a package that comes with one of selfsim's extras; if it is missing, say which.

    Examples
    --------
    >>> optional_package("no_such_package", extra="models")
    Traceback (most recent call last):
        ...
    ModuleNotFoundError: no_such_package is not installed; need it for this: pip install ".[models]"
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        message = f'{error.name} is not installed; need it for this: pip install ".[{extra}]"'
        raise ModuleNotFoundError(message, name=error.name) from error


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
    except RuntimeError as error:
        raise ValueError(f"device: got {device!r}, need 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: got {device!r}, but torch {torch.__version__} sees no CUDA card; need 'auto' or 'cpu'"
        )
    return found
