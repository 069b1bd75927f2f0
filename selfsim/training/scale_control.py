"""A control for the constraint: a penalty of the same form that pulls the scale of hidden layers, not their rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from ..models.probe import Probe
from ..rate.distances import pair_distances
from .penalty import check_targets, check_weight, layers_of, naming


class ScaleControl:
    """``weight / 2 * ln(m / target)²``, to add to any loss; m is the median distance between a layer's neurons.

    The SS rate depends on the scale of a layer, so a constraint on the rate changes the scale too. Whatever training
    under it gains may come from that alone. This control takes each layer to the scale that the constraint took it to,
    and leaves the rate to itself.

    Parameters
    ----------
    target : float, or mapping of layers to float
        The median distance to be reached, above 0, in the units of the activations. A mapping names every layer.
    weight : float
        At least 0.

    Raises
    ------
    ValueError
        A target that is not above 0 and finite, or a negative weight.

    Attributes
    ----------
    targets : dict of str to float
        The target of every layer that was read.

    Notes
    -----
    The median's own gradient would hang on a single pair. The gradient here is that of the scale about the layer's mean
    neuron: it shrinks or stretches the layer as a whole, at the speed that the median has under it. Time for each layer
    O(neurons² samples), memory O(neurons²).

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785: the distance between neurons. The control
       is this project's.

    Examples
    --------
    >>> control = ScaleControl(target=0.5)
    >>> x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    >>> for _ in range(100):
    ...     gradient = torch.autograd.grad(control(x), x)[0]
    ...     x = (x - 30 * gradient).detach().requires_grad_()
    >>> round(float(pair_distances(x).median()), 2)
    0.5
    """

    def __init__(self, target: float | Mapping[str, float], weight: float = 10.0):
        check_weight(weight)
        for value in target.values() if isinstance(target, Mapping) else [target]:
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
                raise ValueError(f"target: got {value!r}, need a median distance above 0, and finite")
        self.target = dict(target) if isinstance(target, Mapping) else float(target)
        self.weight = float(weight)
        self.targets: dict[str, float] = {}

    def __call__(self, activations: Probe | Mapping[str, Tensor] | Tensor) -> Tensor:
        """The penalty, 0-dim, mean over layers, to add to the loss of this batch.

        Parameters
        ----------
        activations : Probe, mapping of layers to Tensor, or Tensor, shape (samples, neurons)
            As for `selfsim.SelfSimilarityConstraint`.

        Raises
        ------
        ValueError
            A probe that has read nothing, targets that name other layers, or activations that have no scale: not
            finite, fewer than 2 neurons, a median distance of 0 or one whose square overflows; names the layer.
        """
        known, activations = layers_of(activations)
        check_targets(self.target, known)
        by_layer = isinstance(self.target, dict)
        self.targets = {layer: self.target[layer] if by_layer else self.target for layer in activations}
        squares = []
        for layer, x in activations.items():
            with naming(layer):
                squares.append((_log_scale(x) - math.log(self.targets[layer])) ** 2)
        return 0.5 * self.weight * torch.stack(squares).mean()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(target={self.target!r}, weight={self.weight:g})"

    def step(self, *, epoch: int, epochs: int, task_loss: float | None = None) -> None:
        """Nothing: the targets stay. The loop of training calls it as it calls the constraint's."""

    def state_dict(self) -> dict:
        """Nothing changes during training: no entries."""
        return {}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from what `state_dict` gave."""
        if state:
            raise ValueError(f"state: got the entries {sorted(state)}, need those of `state_dict`, none")


def _log_scale(activations: Tensor) -> Tensor:
    """The logarithm of the median distance, with the gradient of that of the root mean square distance."""
    median = pair_distances(activations).median()
    # The mean over pairs of their squared distances is twice the neurons' variance, mean over samples.
    size = activations.to(median.dtype).var(1).mean()
    if median == 0 or not 0 < size < math.inf:
        raise ValueError(
            f"activations: got a median distance of {median.item():.3g}, need one above 0, whose square {median.dtype} "
            "can hold"
        )
    log_size = size.log() / 2
    return median.log() + log_size - log_size.detach()
