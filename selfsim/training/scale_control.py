"""A control for the constraint: a penalty of the same form that pulls the scale of hidden layers, not their rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checks import check_number
from ..rate.distances import edge_lengths
from ..validation import check_activations, check_finite
from .penalty import LayerPenalty, naming


class ScaleControl(LayerPenalty):
    """A penalty ``weight / 2 * ln(m / target)²`` on the median distance m of hidden layers, to add to any loss.

    The SS rate depends on the scale of a layer, so a constraint on the rate changes the scale too, and the scale alone
    may explain what training under the constraint gains. This control pulls each layer to a given scale and ignores
    its rate.

    Parameters
    ----------
    target : float, or mapping of layers to float
        The median distance between a layer's neurons to reach, above 0, in the units of the activations. A mapping
        needs an entry for every layer.
    weight : float
        At least 0.

    Raises
    ------
    ValueError
        A target that is not above 0 and finite, or a negative weight.

    Attributes
    ----------
    targets : dict of str to float
        Target of every layer in the last call.

    Notes
    -----
    The gradient of a median acts on a single pair of neurons. The gradient used here is that of the layer's scale about
    its mean neuron: it shrinks or stretches the layer as a whole, and the median follows. Time for each layer
    O(neurons² samples), memory O(neurons²).

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785: the distance between neurons. The control
       is this project's.

    Examples
    --------
    >>> import torch
    >>> from selfsim.rate.distances import pair_distances
    >>> control = ScaleControl(target=0.5)
    >>> x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    >>> for _ in range(100):
    ...     gradient = torch.autograd.grad(control(x), x)[0]
    ...     x = (x - 30 * gradient).detach().requires_grad_()
    >>> round(float(pair_distances(x).median()), 2)
    0.5
    """

    def __init__(self, target: float | Mapping[str, float], weight: float = 10.0) -> None:
        super().__init__(target, weight)
        self.targets: dict[str, float] = {}

    def _checked_target(self, target: Any, *, name: str) -> float:
        return check_number(target, name=name, within="(0, inf)")

    def chosen_layers(self, layers: list[str]) -> list[str]:
        self.targets = {layer: self._layer_target(layer) for layer in layers}
        return layers

    def _squares_and_pulls(self, layers: Mapping[str, Tensor]) -> tuple[Tensor, None]:
        distances = []
        for layer, x in layers.items():
            with naming(layer):
                distances.append(_log_scale(x) - math.log(self.targets[layer]))
        return torch.stack(distances).square(), None

    def step(self, *, epoch: int, epochs: int, task_loss: float | None = None) -> None:
        """Do nothing: targets are constant. Training loops call this after every epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the targets of the last call, for the history of a training that is resumed."""
        return {"targets": dict(self.targets)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; before version 0.2, nothing.

        Raises
        ------
        ValueError
            A state with other entries.
        """
        if state.keys() - {"targets"}:
            raise ValueError(f"state: got the entries {sorted(state)}, need those of `state_dict`, 'targets'")
        self.targets = dict(state.get("targets", {}))


def _log_scale(activations: Tensor) -> Tensor:
    """Return the logarithm of the median distance, with the gradient of the logarithm of the rms distance."""
    x = check_activations(activations, min_neurons=2, finite=False)
    median = edge_lengths(x.detach()).median()
    # The mean squared distance of pairs is twice the variance over neurons, averaged over samples.
    size = x.var(1).mean()
    if not bool((median > 0) & (size > 0) & (size < math.inf)):  # one synchronisation
        check_finite(x)
        raise ValueError(
            f"activations: got a median distance of {median.item():.3g}, need one above 0, whose square {median.dtype} "
            "can hold"
        )
    log_size = size.log() / 2
    return median.log() + log_size - log_size.detach()
