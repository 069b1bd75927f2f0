"""The pairs and neurons that the SS rate of a layer depends on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..checks import check_integer, check_number
from ..validation import check_activations
from .distances import pair_distances, raw_distances, scaled_neurons
from .options import RateOptions
from .rate import ss_rate, value_and_slope


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
        """The `k` neurons whose removal changes the rate most, strongest first."""
        k = check_integer(k, name="k", least=0)
        return np.argsort(-np.abs(self.without - self.rate), kind="stable")[:k].tolist()

    def carriers(self, share: float = 0.9) -> int:
        """Number of neurons that carry this share of the squared gradient; few mean that single neurons decide."""
        share = check_number(share, name="share", within="(0, 1]")
        squares = np.sort(self.by_neuron**2)[::-1].cumsum()
        return int(np.searchsorted(squares, share * squares[-1])) + 1

    def share_of_strongest(self, share: float = 0.9) -> int:
        """Deprecated name of `carriers`."""
        warnings.warn("share_of_strongest: use carriers, its new name", DeprecationWarning, stacklevel=2)
        return self.carriers(share)


def rate_drivers(activations: Tensor, *, ends: Literal["attached", "detached"] = "attached") -> RateDrivers:
    """Return the pairs and neurons that the exact SS rate of a layer depends on.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least four neurons.
    ends : {"attached", "detached"}
        Whether the gradient passes through the shortest and the longest distance, as for `ss_rate`. "attached" is
        the rate's true sensitivity.

    Returns
    -------
    RateDrivers

    Raises
    ------
    TypeError, ValueError
        As `ss_rate`; also where the layer without one of its neurons has no rate.

    Notes
    -----
    Time O(neurons³): one rate for each neuron left out (1 s for 400 neurons). Memory O(neurons²). Works under
    `torch.no_grad` and `torch.inference_mode` too.

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
    options = RateOptions(ends=ends)
    # A copy outside inference mode, where a gradient can be taken whatever the caller's mode is.
    with torch.inference_mode(False), torch.enable_grad():
        x = check_activations(activations, min_neurons=4).detach().cpu().double().clone().requires_grad_()
        rate = ss_rate(x, ends=ends)
        (gradient,) = torch.autograd.grad(rate, x)
    x = x.detach()
    by_neuron = (gradient * pair_distances(x).median() * x.shape[0] ** 0.5).norm(dim=0)
    neurons = torch.arange(x.shape[1])
    without = np.array([ss_rate(x[:, neurons != left_out]).item() for left_out in neurons])
    scaled, scale = scaled_neurons(x)
    one = scale[None] * x.shape[0] ** 0.5
    slope: Any = value_and_slope(raw_distances(scaled), one, x.shape[1], options, True)[1]  # never None of a surrogate
    return RateDrivers(rate.item(), by_neuron.numpy(), (slope * one).numpy(), without)
