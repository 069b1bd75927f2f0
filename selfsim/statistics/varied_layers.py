"""Made-up layers of many kinds: on which two measures can be compared without training anything."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def varied_activations(seed: int, *, samples: int = 128, n: int = 96, draw: int = 0) -> Tensor:
    """Activations of a made-up layer: few or many hidden factors, noise, gains, an activation function.

    Parameters
    ----------
    seed : int
        Of the layer: number of factors (1 to 64), weights, share of noise, offsets, spread of the gains, activation
        function (none, ReLU or tanh) and overall size (0.1 to 10).
    samples, n : int
        Numbers of samples and neurons, at least 1.
    draw : int
        Of the samples: other draws are independent samples of the same layer.

    Returns
    -------
    Tensor, shape (samples, n)
        float64.

    Examples
    --------
    >>> varied_activations(3).shape, bool((varied_activations(3) == varied_activations(3, draw=1)).any())
    (torch.Size([128, 96]), False)
    """
    layer, fresh = np.random.default_rng(seed), np.random.default_rng([seed, draw, 1])
    factors = int(2 ** layer.uniform(0, 6.99))
    noise, size = 10 ** layer.uniform(-2, 0), 10 ** layer.uniform(-1, 1)
    gains = size * np.exp(layer.uniform(0, 1) * layer.standard_normal(n))
    offsets = layer.uniform(0, 1) * layer.standard_normal(n)
    weights = layer.standard_normal((factors, n)) / math.sqrt(factors)
    function = (lambda x: x, lambda x: np.maximum(x, 0), np.tanh)[layer.integers(3)]
    values = fresh.standard_normal((samples, factors)) @ weights + noise * fresh.standard_normal((samples, n))
    return torch.from_numpy(gains * function(values + offsets))
