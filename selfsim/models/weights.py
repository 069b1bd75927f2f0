"""Weights of an architecture: timm's by tag, or those of a local file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checks import check_choice, optional_package
from .layers import chosen_layers


def from_timm(timm_name: str, *, num_classes: int, in_chans: int, pretrained: bool | str) -> nn.Module:
    """Return a timm model, with its default weights (True), those of a tag, or random ones (False).

    A head for another number of classes is initialised at random; timm adapts the weights of the first layer to
    `in_chans`.

    Raises
    ------
    ValueError
        timm has no such tag for this model; lists the known ones.
    RuntimeError
        The weights cannot be downloaded; names the remedy.
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

    The file may hold it under "state_dict" or "model", and its names may begin with "module." or "_orig_mod.". A head
    for another number of classes keeps its random initialisation, with a warning, as with timm's own weights.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file cannot be read as tensors alone, holds no state dict, does not fit (names what is missing, left over or
        of another shape), or has values that the model's dtype does not hold as finite numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {str(path)!r}")
    state = _state_dict(path)
    expected = model.state_dict()
    for name in _head_names(model):
        if name not in state or state[name].shape == expected[name].shape:
            continue
        if state[name].shape[1:] == expected[name].shape[1:]:
            warnings.warn(
                f"weights: {name!r} is for {len(state[name])} classes, the model has {len(expected[name])}; this part "
                "of the head stays as it was initialised",
                stacklevel=3,
            )
            state[name] = expected[name]
    faults = {
        "missing": [name for name in expected if name not in state],
        "left over": [name for name in state if name not in expected],
        "of another shape": [n for n in expected if n in state and state[n].shape != expected[n].shape],
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {_first_three(names)}" for fault, names in faults.items() if names)
        raise ValueError(f"weights: {path.name} does not fit {type(model).__name__} at this size ({listed})")
    model.load_state_dict({name: _cast(state[name], value.dtype, name, path) for name, value in expected.items()})


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file, under the names of the plain model."""
    content = _content(path)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights: {path.name} holds no state dict, need a mapping of names to tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"weights: {path.name} has {name!r} of {type(value).__name__}, need names and tensors")
    return {re.sub(r"^((module|_orig_mod)\.)+", "", name): value for name, value in content.items()}


def _content(path: Path) -> object:
    """Return what a file holds. A pickle of anything but tensors and plain containers is refused, not executed."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # A broken file raises errors of torch, pickle, zipfile or safetensors. Torch's own message is left out, because it
    # advises to execute the code in the file.
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"weights: {path.name} cannot be read as tensors alone ({kind}), need a state dict") from error


def _cast(value: Tensor, dtype: torch.dtype, name: str, path: Path) -> Tensor:
    """Return a tensor in the model's dtype; raise if a value is not finite there, or changes in an integer buffer."""
    if value.layout == torch.strided and not (value.is_complex() or value.is_quantized or value.is_meta):
        cast = value.to(dtype)
        if bool(cast.isfinite().all()) and (dtype.is_floating_point or cast.double().equal(value.double())):
            return cast
    raise ValueError(
        f"weights: {name!r} in {path.name} has {value.dtype} values that are no finite real numbers in {dtype}, the "
        "model's type"
    )


def _first_three(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _head_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters of the last layer, which gives the logits."""
    ((name, head),) = chosen_layers(model, ["head"]).items()
    return [f"{name}.{parameter}" for parameter, _ in head.named_parameters()]
