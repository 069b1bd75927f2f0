"""How a layer's neurons move among each other: which neighbours, boxes and driving neurons stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from ..rate.network import FeatureNetwork
from ..rate.rate import ss_rate
from ..validation import check_activations


@dataclass(frozen=True)
class Movement:
    """What of a feature network is still there at a later time; 1 where all is.

    Attributes
    ----------
    neighbours_kept : float
        Share of each neuron's nearest neighbours that are still among them, mean over neurons; `neighbours / (n - 1)`
        by chance.
    boxes_kept : float
        Adjusted Rand index of the two coverings into the same number of boxes; 0 by chance.
    drivers_kept : float
        Share of the neurons that the SS rate hangs on most that are still among them; `drivers / n` by chance.
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
        Activations of the same neurons on the same samples; the numbers of samples may differ.
    neighbours : int
        How many nearest neighbours of each neuron are followed; n - 1 in a smaller layer.
    boxes : int, optional
        Into how many boxes complete linkage puts the neurons; by default a tenth of the neurons, at least two.
    drivers : int
        How many neurons are followed on which the exact rate's gradient is largest: as a rule the ends of the
        shortest and the longest edge.

    Returns
    -------
    Movement

    Raises
    ------
    TypeError, ValueError
        As `ss_rate`; or layers of different width, or a number below 1.

    Notes
    -----
    Time O(neurons² samples), memory O(neurons²). A layer whose neurons all move together keeps everything.

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
    boxes = max(2, n // 10) if boxes is None else boxes
    for name, value in (("neighbours", neighbours), ("boxes", boxes), ("drivers", drivers)):
        if value < 1:
            raise ValueError(f"{name}: got {value!r}, need at least 1")
    networks = [FeatureNetwork(x.detach()) for x in (before, after)]
    near = [network.nearest(min(neighbours, n - 1)) for network in networks]
    labels = [fcluster(linkage(network.distances, "complete"), boxes, "maxclust") for network in networks]
    strongest = [_strongest(x, min(drivers, n)) for x in (before, after)]
    return Movement(
        neighbours_kept=float((near[0] & near[1]).sum() / near[0].sum()),
        boxes_kept=float(adjusted_rand_score(*labels)),
        drivers_kept=len(strongest[0] & strongest[1]) / len(strongest[0]),
    )


def _strongest(activations: Tensor, k: int) -> set[int]:
    x = activations.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(ss_rate(x), x)
    return set(gradient.norm(dim=0).topk(k).indices.tolist())
