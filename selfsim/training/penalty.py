"""What penalties on hidden layers have in common: which layers they get, a weight, targets by layer, named errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real

from torch import Tensor

from ..checks import check_choice
from ..models.probe import Probe


def layers_of(activations: Probe | Mapping[str, Tensor] | Tensor) -> tuple[list[str], Mapping[str, Tensor]]:
    """The names of all layers that may be read, and the activations of those that were."""
    if isinstance(activations, Probe):
        known, activations = activations.layers, activations.activations
    else:
        activations = activations if isinstance(activations, Mapping) else {"activations": activations}
        known = list(activations)
    if not activations:
        raise ValueError("activations: got no layers; run the forward pass inside `with probe:` first")
    return known, activations


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Add the layer to the message of a ``ValueError``; not to that of a single tensor, which names it already."""
    try:
        yield
    except ValueError as error:
        if layer == "activations":
            raise
        raise ValueError(f"layer {layer!r}: {error}") from error


def check_targets(target: object, layers: list[str]) -> None:
    """Raise a ``ValueError`` unless a target by layer, a dict, names all of these layers and no other."""
    if isinstance(target, dict) and target.keys() != set(layers):
        for layer in target:
            check_choice(layer, layers, name="target")
        missing = [layer for layer in layers if layer not in target]
        raise ValueError(f"target: got none for {', '.join(map(repr, missing))}, need one for every layer")


def check_weight(weight: object) -> None:
    """Raise a ``ValueError`` unless this is a weight that a penalty can have."""
    if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 <= weight < math.inf:
        raise ValueError(f"weight: got {weight!r}, need a number of at least 0, and finite")
