"""What penalties on hidden layers share: their layers, weight and targets, and errors that name the layer."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..checks import check_choice, check_number
from ..models.probe import Probe

_SINGLE = "activations"  # the name of a single tensor's layer


class LayerPenalty(ABC):
    """Base class: ``weight / 2`` times the mean over layers of a squared distance to a target."""

    def __init__(self, target: Any, weight: float) -> None:
        # A dict has one target for each layer; anything else is the target of every layer.
        self.target: Any
        if isinstance(target, Mapping) and "schedule" not in target:
            self.target = {layer: self._checked_target(t, name=f"target of {layer!r}") for layer, t in target.items()}
        else:
            self.target = self._checked_target(target, name="target")
        self.weight = check_number(weight, name="weight", within="[0, inf)")
        self._warned = False

    def __call__(self, activations: Probe | Mapping[str, Tensor] | Tensor) -> Tensor:
        """Return the penalty of this batch, to add to its loss.

        Parameters
        ----------
        activations : Probe, mapping of layers to Tensor, or Tensor, shape (samples, neurons)
            A probe after its ``with`` block, or the activations that it read. A single tensor is a layer with the
            name "activations".

        Returns
        -------
        Tensor, 0-dim

        Raises
        ------
        ValueError
            A probe that has read nothing, targets of other layers, or activations without a rate or scale, such as
            those of a collapsed layer; the message names the layer.

        Warns
        -----
        UserWarning
            Gradients are enabled, but the activations of some layers have none, so that the penalty cannot change these
            layers. Once for each penalty; names the layers and the likely cause.
        """
        if isinstance(activations, Probe):
            names: tuple[str, ...] = activations.layers
            values: Mapping[str, Tensor] = activations.activations
        else:
            values = activations if isinstance(activations, Mapping) else {_SINGLE: activations}
            names = tuple(values)
        if not values:
            raise ValueError("activations: got no layers; run the forward pass inside `with probe:` first")
        if isinstance(self.target, dict):
            _check_target_names(self.target, names)
        if torch.is_grad_enabled() and not self._warned:
            cause = activations.no_gradient_cause if isinstance(activations, Probe) else _unknown_cause
            self._warn_without_gradient({x: cause(x) for x in values if not getattr(values[x], "requires_grad", False)})
        squares = []
        for layer in self._chosen_layers(list(values)):
            with naming(layer):
                squares.append(self._squared_error(layer, values[layer]))
        return 0.5 * self.weight * torch.stack(squares).mean()

    def _chosen_layers(self, layers: list[str]) -> list[str]:
        return layers

    @abstractmethod
    def _checked_target(self, target: Any, *, name: str) -> Any:
        """Return the target of one layer, or raise ``ValueError``."""

    @abstractmethod
    def _squared_error(self, layer: str, activations: Tensor) -> Tensor:
        """Return the squared distance of a layer from its target, 0-dim."""

    def _warn_without_gradient(self, causes: dict[str, str]) -> None:
        parts = []
        for cause in dict.fromkeys(causes.values()):
            layers = ", ".join(repr(layer) for layer in causes if causes[layer] == cause)
            parts.append(f"{layers} (likely cause: {cause})")
        if parts:
            self._warned = True
            message = f"activations: got no gradient at {'; '.join(parts)}; the penalty cannot change these layers"
            warnings.warn(message, stacklevel=3)

    def _layer_target(self, layer: str) -> Any:
        return self.target[layer] if isinstance(self.target, dict) else self.target

    def __repr__(self) -> str:
        return f"{type(self).__name__}(target={self.target!r}, weight={self.weight:g})"


def _unknown_cause(layer: str) -> str:
    return "detached or read under torch.no_grad(), frozen layers, or gradient checkpointing with use_reentrant=True"


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Put the layer's name in front of the message of a ``ValueError``, except for a single tensor."""
    try:
        yield
    except ValueError as error:
        if layer == _SINGLE:
            raise
        raise ValueError(f"layer {layer!r}: {error}") from error


def _check_target_names(target: dict[str, Any], layers: tuple[str, ...]) -> None:
    for layer in target:
        check_choice(layer, layers, name="target")
    if missing := [layer for layer in layers if layer not in target]:
        raise ValueError(f"target: got none for {', '.join(map(repr, missing))}, need one for every layer")
