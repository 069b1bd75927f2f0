"""Weights for an architecture: timm's by tag, or a local file, of which nothing is executed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checks import check_choice, optional_package


def from_timm(timm_name: str, *, num_classes: int, in_chans: int, pretrained: bool | str) -> nn.Module:
    """The exact timm model, with its default weights (True), those of a tag, or none (False).

    A head for another number of classes is drawn anew; the weights of the first layer are adapted to `in_chans`.

    Raises
    ------
    ValueError
        A tag that timm does not have for this model, with those that it has.
    RuntimeError
        The weights cannot be fetched; says what to do.
    """
    timm = optional_package("timm", extra="models")
    full_name = timm_name
    if isinstance(pretrained, str):
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{timm_name}.*")]
        full_name += "." + check_choice(pretrained.removeprefix(f"{timm_name}."), tags, name="pretrained")
    try:
        return timm.create_model(full_name, pretrained=bool(pretrained), num_classes=num_classes, in_chans=in_chans)
    except Exception as error:
        if not pretrained:
            raise
        raise RuntimeError(
            f"pretrained: the weights of {full_name!r} could not be fetched ({type(error).__name__}: {error}). Without "
            "a network, fetch them elsewhere and pass the file as weights=..."
        ) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict from a file into `model`.

    The file may hold it under "state_dict" or "model", and its names may begin with "module." or
    "_orig_mod.". A head for another
    number of classes is left as it was initialised, with a warning, as timm does with its own weights.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file cannot be read as tensors alone, holds no state dict, complex or non-finite values, or does not fit;
        names what is missing, left over or of another shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {str(path)!r}")
    state = _read(path)
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights: {path.name} holds no state dict, need a mapping of names to tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"weights: {path.name} has {name!r} of {type(value).__name__}, need names and tensors")
        if value.is_complex() or not bool(value.isfinite().all()):
            raise ValueError(f"weights: {name!r} in {path.name} has complex values, NaN or Inf, need finite real ones")
    state = {re.sub(r"^((module|_orig_mod)\.)+", "", name): value for name, value in state.items()}
    own = model.state_dict()
    for name in _head_names(model):
        if name in state and state[name].shape != own[name].shape and state[name].shape[1:] == own[name].shape[1:]:
            warnings.warn(
                f"weights: {name!r} is for {len(state[name])} classes, the model has {len(own[name])}; this part of "
                "the head stays as it was initialised",
                stacklevel=3,
            )
            state[name] = own[name]
    faults = {
        "missing": [name for name in own if name not in state],
        "left over": [name for name in state if name not in own],
        "of another shape": [name for name in own if name in state and state[name].shape != own[name].shape],
    }
    if any(faults.values()):
        told = "; ".join(
            f"{kind}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for kind, names in faults.items()
            if names
        )
        raise ValueError(f"weights: {path.name} does not fit {type(model).__name__} at this size ({told})")
    model.load_state_dict(state)


def _read(path: Path):
    """What a file holds; pickles are read as tensors and plain containers, and refused if they would run code."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # Of torch, pickle, zipfile and safetensors: there is no end to how a file can be broken. Torch's own message is
    # left out, for it advises to run the code in the file.
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"weights: {path.name} cannot be read as tensors alone ({kind}), need a state dict") from error


def _head_names(model: nn.Module) -> list[str]:
    """Names of the parameters of the layer that gives the classes."""
    head = model.get_classifier() if hasattr(model, "get_classifier") else getattr(model, "head", None)
    own = {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    return [name for name, p in model.named_parameters() if id(p) in own]
