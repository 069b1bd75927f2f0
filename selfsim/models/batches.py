"""Calling a model with a batch, in the forms that data loaders return."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .layers import unwrapped

# The key of the targets in a batch that is a dict, as Hugging Face and others name it.
_TARGETS = ("labels", "label", "targets", "target")


def call_with_batch(model: nn.Module, batch: Any, device: str | torch.device) -> Any:
    """Return the model's output for a batch.

    Parameters
    ----------
    model : nn.Module
    batch : Tensor, PackedSequence, tuple, list or dict
        Of a dict, the entries that ``model.forward`` takes by name are passed by name; if there are none, the first
        entry is passed. Of a tuple or list, the last entry holds the targets and the first the inputs: a tensor, a dict
        or a tuple. If ``model.forward`` has several required arguments, that many entries are passed.
    device : torch.device
        Where the inputs are moved to.

    Raises
    ------
    ValueError
        An empty batch.
    TypeError
        A NumPy array as input.

    Examples
    --------
    >>> call_with_batch(nn.Bilinear(2, 3, 4), (torch.ones(5, 2), torch.ones(5, 3), torch.zeros(5)), "cpu").shape
    torch.Size([5, 4])
    """
    inputs, names = _arguments(model, batch)
    if isinstance(next(iter([*inputs, *names.values()])), np.ndarray):
        raise TypeError("loader: got batches of NumPy arrays, need tensors; see torch.from_numpy")
    return model(*to_device(inputs, device), **to_device(names, device))


def batch_samples(model: nn.Module, batch: Any) -> int | None:
    """Return the number of samples in a batch if the first input shows it."""
    inputs, names = _arguments(model, batch)
    first = next(iter([*inputs, *names.values()]))
    if isinstance(first, PackedSequence):
        return int(first.batch_sizes[0])
    if isinstance(graphs := getattr(first, "num_graphs", None), int):  # a batch of torch_geometric
        return graphs
    return len(first) if isinstance(first, Tensor) and first.ndim else None


def batch_targets(batch: Any) -> Any:
    """Return the targets of a batch: the last entry of a tuple; of a dict, its labels or, without these, itself."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in _TARGETS if key in batch), batch)
    return batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


def _arguments(model: nn.Module, batch: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the named inputs in a batch."""
    if isinstance(batch, (Mapping, tuple, list)) and not batch:
        raise ValueError(f"loader: got an empty batch {batch!r}, need samples")
    parameters = _parameters(unwrapped(model))
    kinds = {p.kind for p in parameters}
    if isinstance(batch, Mapping):
        any_name = inspect.Parameter.VAR_KEYWORD in kinds
        names = {p.name for p in parameters}
        named = {key: value for key, value in batch.items() if any_name or key in names}
        return ([], named) if named else ([next(iter(batch.values()))], {})
    if not isinstance(batch, (tuple, list)) or isinstance(batch, PackedSequence):
        return [batch], {}
    first = batch[0]
    if isinstance(first, Mapping):
        return _arguments(model, first)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    any_number = inspect.Parameter.VAR_POSITIONAL in kinds
    if isinstance(first, (tuple, list)) and not isinstance(first, PackedSequence):
        # A list can be one argument, such as images of different sizes; a tuple that fits is several.
        several = required > 1 or (isinstance(first, tuple) and (any_number or len(first) <= len(positional)))
        return (list(first) if several else [first]), {}
    return list(batch[: max(len(batch) - 1 if any_number else required, 1)]), {}


def _parameters(model: nn.Module) -> Collection[inspect.Parameter]:
    """Return the parameters of a model's forward, looking through wrappers that take anything, as averages do."""
    parameters = inspect.signature(model.forward).parameters.values()
    inner = getattr(model, "module", None)
    anything = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    return _parameters(inner) if anything and isinstance(inner, nn.Module) else parameters


def to_device(value: Any, device: str | torch.device) -> Any:
    """Move the tensors in nested tuples, lists and dicts to a device."""
    if callable(getattr(value, "to", None)):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(entry, device) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(entry, device) for entry in value) if type(value) in (tuple, list) else value
    return value
