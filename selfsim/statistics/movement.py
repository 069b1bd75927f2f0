"""Movement of neurons between two times: which neighbours, boxes and driving neurons stay."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..boxes.complete_linkage import merge_tree
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
    before: Tensor,
    after: Tensor,
    *,
    neighbours: int | None = None,
    boxes: int | None = None,
    drivers: int | None = None,
) -> Movement:
    """Compare the feature networks of one layer at two times.

    Parameters
    ----------
    before, after : Tensor, shape (samples, neurons)
        Activations of the same neurons. The numbers of samples may differ.
    neighbours : int, optional
        Number of nearest neighbours of each neuron, less than n - 1, the number of the others. By default 10, or half
        of the others where these are at most 10.
    boxes : int, optional
        Number of boxes of the covering by complete linkage, from 2 to n - 1; by default a tenth of the neurons, at
        least two.
    drivers : int, optional
        Number of driving neurons, less than n: those with the largest gradient of the exact rate, usually the ends of
        the shortest and the longest edge. By default 4, or n - 1 if that is less.

    Returns
    -------
    Movement

    Raises
    ------
    TypeError, ValueError
        As `ss_rate`. Also layers of different width, or a number that is no integer in its range.

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
    if after.shape[1] != before.shape[1]:
        raise ValueError(f"after: got {after.shape[1]} neurons, need the {before.shape[1]} of before")
    n = before.shape[1]
    ranges = {"neighbours": (neighbours, 1, n - 2), "boxes": (boxes, 2, n - 1), "drivers": (drivers, 1, n - 1)}
    for name, (value, least, most) in ranges.items():
        if value is not None and check_integer(value, name=name, least=least) > most:
            raise ValueError(f"{name}: got {value!r} for {n} neurons, need {least} to {most}; more are always kept")
    first, second = (Arrangement(x, neighbours=neighbours, boxes=boxes, drivers=drivers) for x in (before, after))
    return first.moved_to(second)


def _boxes(tree: np.ndarray, number: int) -> np.ndarray:
    """The box of each neuron after the first merges: exactly so many boxes, even where merges have equal heights."""
    n = len(tree) + 1
    merges = np.arange(n - number)
    children = tree[merges, :2].astype(int).T.ravel()
    graph = coo_array((np.ones(len(children)), (children, np.tile(n + merges, 2))), shape=(2 * n, 2 * n))
    return connected_components(graph, directed=False)[1][:n]


class Arrangement:
    """What `movement` compares of one layer, computed when it is first needed and kept, since a layer is met twice.

    The arguments are those of `movement`, checked.
    """

    def __init__(
        self,
        activations: Tensor,
        *,
        neighbours: int | None = None,
        boxes: int | None = None,
        drivers: int | None = None,
    ) -> None:
        n = activations.shape[1]
        self.activations = activations
        self._neighbours = neighbours or (10 if n > 11 else (n - 1) // 2)
        self._boxes, self._drivers = boxes or max(2, n // 10), drivers or min(4, n - 1)

    @functools.cached_property
    def _marks(self) -> tuple[np.ndarray, np.ndarray, set[int]]:
        """The nearest neighbours of each neuron, its box, and the driving neurons."""
        network = FeatureNetwork(self.activations.detach())
        boxes = _boxes(merge_tree(network.distances), self._boxes)
        return network.nearest(self._neighbours), boxes, _driving_neurons(self.activations, self._drivers)

    def moved_to(self, after: Arrangement) -> Movement:
        """Compare with the same neurons at a later time."""
        from sklearn.metrics import adjusted_rand_score  # takes seconds to import

        (near, boxes, driving), (near_after, boxes_after, driving_after) = self._marks, after._marks
        return Movement(
            neighbours_kept=float((near & near_after).sum() / near.sum()),
            boxes_kept=float(adjusted_rand_score(boxes, boxes_after)),
            drivers_kept=len(driving & driving_after) / len(driving),
        )


def _driving_neurons(activations: Tensor, k: int) -> set[int]:
    """Return the `k` neurons with the largest gradient of the SS rate, whatever the caller's autograd mode."""
    with torch.inference_mode(False), torch.enable_grad():
        x = activations.detach().to(torch.float64, copy=True).requires_grad_()
        (gradient,) = torch.autograd.grad(ss_rate(x), x)
    return set(gradient.norm(dim=0).topk(k).indices.tolist())
