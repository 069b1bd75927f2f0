"""Movement of neurons between two times: which neighbours, boxes and driving neurons stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from ..checks import check_integer
from ..rate.network import FeatureNetwork
from ..rate.rate import ss_rate
from ..validation import check_activations


@dataclass(frozen=True)
class Movement:
    """How much of a feature network is the same at a later time; 1 if all is.

    Attributes
    ----------
    neighbours_kept : float
        Share of nearest neighbours that stay nearest neighbours, mean over neurons; ``neighbours / (n - 1)`` by chance.
    boxes_kept : float
        Adjusted Rand index of the two coverings with the same number of boxes; 0 by chance.
    drivers_kept : float
        Share of the driving neurons, on which the SS rate depends most, that stay so; ``drivers / n`` by chance.
    """

    neighbours_kept: float
    boxes_kept: float
    drivers_kept: float


def movement(
    before: Tensor, after: Tensor, *, neighbours: int = 10, boxes: int | None = None, drivers: int = 4
) -> Movement:
    """Compare the feature networks of one layer at two times.

    Parameters
    ----------
    before, after : Tensor, shape (samples, neurons)
        Activations of the same neurons. The numbers of samples may differ.
    neighbours : int
        Number of nearest neighbours of each neuron, at most n - 1.
    boxes : int, optional
        Number of boxes of the covering by complete linkage; by default a tenth of the neurons, at least two.
    drivers : int
        Number of driving neurons: those with the largest gradient of the exact rate, usually the ends of the shortest
        and the longest edge.

    Returns
    -------
    Movement

    Raises
    ------
    TypeError, ValueError
        As `ss_rate`. Also layers of different width, or a number that is no integer of at least 1.

    Notes
    -----
    Time O(neurons² samples), memory O(neurons²). All three are 1 if the neurons move together.

    Examples
    --------
    >>> x = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    >>> movement(x, x + 1)
    Movement(neighbours_kept=1.0, boxes_kept=1.0, drivers_kept=1.0)
    """
    before = check_activations(before, name="before", min_neurons=3)
    after = check_activations(after, name="after", min_neurons=3)
    n = before.shape[1]
    if after.shape[1] != n:
        raise ValueError(f"after: got {after.shape[1]} neurons, need the {n} of before")
    neighbours = min(check_integer(neighbours, name="neighbours"), n - 1)
    boxes = max(2, n // 10) if boxes is None else check_integer(boxes, name="boxes")
    drivers = min(check_integer(drivers, name="drivers"), n)
    networks = [FeatureNetwork(x.detach()) for x in (before, after)]
    near = [network.nearest(neighbours) for network in networks]
    from sklearn.metrics import adjusted_rand_score  # takes seconds to import

    labels = [fcluster(linkage(network.distances, "complete"), boxes, "maxclust") for network in networks]
    driving = [_driving_neurons(x, drivers) for x in (before, after)]
    return Movement(
        neighbours_kept=float((near[0] & near[1]).sum() / near[0].sum()),
        boxes_kept=float(adjusted_rand_score(*labels)),
        drivers_kept=len(driving[0] & driving[1]) / drivers,
    )


def _driving_neurons(activations: Tensor, k: int) -> set[int]:
    """Return the `k` neurons with the largest gradient of the SS rate, whatever the caller's autograd mode."""
    with torch.inference_mode(False), torch.enable_grad():
        x = activations.detach().to(torch.float64, copy=True).requires_grad_()
        (gradient,) = torch.autograd.grad(ss_rate(x), x)
    return set(gradient.norm(dim=0).topk(k).indices.tolist())
