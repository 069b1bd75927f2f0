"""What drives the SS rate of a layer: which pairs, and which neurons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..validation import check_activations
from .distances import pair_distances
from .options import RateOptions
from .rate import slope_by_length, ss_rate


@dataclass(frozen=True)
class RateDrivers:
    """Sensitivity of one layer's SS rate.

    Attributes
    ----------
    rate : float
        The rate of the whole layer.
    by_neuron : ndarray, shape (n,)
        Norm of the rate's gradient by each neuron's activations, times the layer's median distance: by how much the
        rate changes, to first order, when the neuron moves by one median distance.
    by_pair : ndarray, shape (n * (n - 1) / 2,)
        Derivative of the rate by the length of each edge, in scipy's order of pairs.
    without : ndarray, shape (n,)
        The rate of the layer without each neuron.
    """

    rate: float
    by_neuron: np.ndarray
    by_pair: np.ndarray
    without: np.ndarray

    def most_different_without(self, k: int = 3) -> list[int]:
        """The `k` neurons without which, one at a time, the rate would be most different; the strongest first."""
        return np.argsort(-np.abs(self.without - self.rate), kind="stable")[:k].tolist()

    def share_of_strongest(self, share: float = 0.9) -> int:
        """How many neurons carry this share of the squared gradient: few mean that single neurons decide."""
        squares = np.sort(self.by_neuron**2)[::-1].cumsum()
        return int(np.searchsorted(squares, share * squares[-1])) + 1


def rate_drivers(activations: Tensor, *, ends: str = "attached") -> RateDrivers:
    """Find which pairs and neurons the exact SS rate of a layer depends on.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least four neurons.
    ends : {"attached", "detached"}
        As for `ss_rate`: whether the gradient passes through the shortest and the longest distance. Attached is the
        rate's true sensitivity.

    Returns
    -------
    RateDrivers

    Raises
    ------
    TypeError, ValueError
        As `ss_rate`; and where the rate without one of the neurons does not exist.

    Notes
    -----
    Time O(neurons³): one rate for each neuron left out (1 s for 400). Memory O(neurons²).

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785.

    Examples
    --------
    >>> x = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    >>> x[:, 7] *= 20
    >>> rate_drivers(x).most_different_without(1)
    [7]
    """
    x = check_activations(activations, min_neurons=4).detach().cpu().double().requires_grad_()
    rate = ss_rate(x, ends=ends)
    (gradient,) = torch.autograd.grad(rate, x)
    distances = pair_distances(x.detach())
    by_neuron = gradient.norm(dim=0) * distances.median() * x.shape[0] ** 0.5
    keep = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
    without = []
    for neuron in range(x.shape[1]):
        keep[neuron] = False
        without.append(ss_rate(x.detach()[:, keep]).item())
        keep[neuron] = True
    by_pair = slope_by_length(x, RateOptions(ends=ends)).cpu().numpy()
    return RateDrivers(rate.item(), by_neuron.cpu().numpy(), by_pair, np.array(without))
