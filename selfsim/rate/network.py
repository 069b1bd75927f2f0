"""The feature network: hidden neurons as nodes, distances between their activations as edges."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..checks import check_integer, check_number
from ..files import read_arrays, write_arrays
from ..validation import by_layer
from .distances import pair_distances, square_form

if TYPE_CHECKING:
    import networkx as nx


class FeatureNetwork:
    """Complete weighted network of the neurons of one layer (arXiv 2507.17785, "Graphical Model").

    Two neurons are joined by an edge of length ``||v_i - v_j||_2 / sqrt(samples)``, where ``v_i`` is neuron i's
    activation on each sample. No edge is dropped.

    Parameters
    ----------
    activations : Tensor, shape (samples, neurons)
        At least two neurons and one sample; any device and float type.

    Attributes
    ----------
    distances : ndarray, shape (n * (n - 1) / 2,)
        Edge lengths, condensed, in scipy's order of pairs; float32 or float64 like the activations.
    n : int
        Number of neurons.
    samples : int
        Number of samples behind each length.

    Raises
    ------
    TypeError, ValueError
        Activations of another shape or type, no samples, fewer than two neurons, NaN or Inf.

    Notes
    -----
    Time O(n² samples), memory O(n²).

    Examples
    --------
    >>> import torch
    >>> network = FeatureNetwork(torch.tensor([[0.0, 3.0, 0.0], [0.0, 4.0, 1.0]]))
    >>> network
    FeatureNetwork(n=3, samples=2)
    >>> network.to_networkx(quantile=0.5).number_of_edges()
    2
    """

    def __init__(self, activations: Tensor) -> None:
        self.distances: np.ndarray = pair_distances(activations).cpu().numpy()
        self.samples, self.n = activations.shape

    def __repr__(self) -> str:
        return f"FeatureNetwork(n={self.n}, samples={self.samples})"

    def matrix(self) -> np.ndarray:
        """Symmetric matrix ``(n, n)`` of edge lengths, zero on the diagonal."""
        return square_form(torch.from_numpy(self.distances), self.n).numpy()

    def nearest(self, neighbours: int) -> np.ndarray:
        """Boolean ``(n, n)``: row i marks the nearest other neurons of neuron i; among equals, the first."""
        k = check_integer(neighbours, name="neighbours")
        if k >= self.n:
            raise ValueError(f"neighbours: got {k}, need an integer from 1 to {self.n - 1}")
        matrix = self.matrix()
        np.fill_diagonal(matrix, np.inf)
        near = np.zeros(matrix.shape, dtype=bool)
        np.put_along_axis(near, np.argsort(matrix, axis=1, kind="stable")[:, :k], True, axis=1)
        return near

    def to_networkx(
        self, *, distance: float | None = None, quantile: float | None = None, neighbours: int | None = None
    ) -> nx.Graph:
        """Return a networkx graph with edge attribute ``length``, complete or thresholded in one of three ways.

        Parameters
        ----------
        distance : float, optional
            Keep edges shorter than this.
        quantile : float, optional
            Keep edges up to this quantile of the lengths, in (0, 1].
        neighbours : int, optional
            Keep each neuron's edges to this many nearest others (an edge stays if either end keeps it).

        Returns
        -------
        networkx.Graph
            Nodes are the indices of the neurons; neurons without edges stay.

        Raises
        ------
        ValueError
            More than one threshold, or one out of its range.
        """
        import networkx as nx

        named = {"distance": distance, "quantile": quantile, "neighbours": neighbours}
        given = [name for name, value in named.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"to_networkx: got {' and '.join(given)}, need at most one threshold")
        i, j = np.triu_indices(self.n, 1)
        keep = np.ones(len(self.distances), dtype=bool)
        if distance is not None:
            keep = self.distances < check_number(distance, name="distance", within="(0, inf]")
        if quantile is not None:
            share = check_number(quantile, name="quantile", within="(0, 1]")
            keep = self.distances <= np.quantile(self.distances, share)
        if neighbours is not None:
            near = self.nearest(neighbours)
            keep = (near | near.T)[i, j]
        graph = nx.Graph()
        graph.add_nodes_from(range(self.n))
        lengths = self.distances[keep].astype(float).tolist()
        graph.add_weighted_edges_from(zip(i[keep].tolist(), j[keep].tolist(), lengths, strict=True), weight="length")
        return graph

    def save(self, path: str | os.PathLike) -> None:
        """Write to a ``.npz`` file of arrays, in one step: a full disk leaves the previous file intact."""
        write_arrays(path, {"distances": self.distances, "n": self.n, "samples": self.samples})

    @classmethod
    def load(cls, path: str | os.PathLike) -> FeatureNetwork:
        """Read what `save` wrote; nothing in the file is executed.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file, or not one that `save` wrote.
        """
        with read_arrays(path, what="a feature network") as stored:
            distances, n, samples = stored["distances"], stored["n"].item(), stored["samples"].item()
            n, samples = check_integer(n, name="n", least=2), check_integer(samples, name="samples")
            if distances.dtype not in (np.float32, np.float64) or distances.shape != (n * (n - 1) // 2,):
                raise ValueError(f"distances: got {distances.dtype} of shape {distances.shape} for n = {n}")
            if not np.isfinite(distances).all() or distances.min() < 0:
                raise ValueError("distances: got NaN, Inf or negative ones")
        network = cls.__new__(cls)
        network.distances, network.n, network.samples = distances, n, samples
        return network

    def write_graphml(self, path: str | os.PathLike, **threshold: Any) -> None:
        """Write as GraphML, for other tools; thresholds as for `to_networkx`."""
        import networkx as nx

        nx.write_graphml(self.to_networkx(**threshold), os.fspath(path))


def feature_networks(activations: Mapping[str, Tensor]) -> dict[str, FeatureNetwork]:
    """Return the feature network of every layer in a mapping such as `Probe.activations`.

    Parameters
    ----------
    activations : mapping of str to Tensor (samples, neurons)

    Returns
    -------
    dict of str to FeatureNetwork
        In the same order.

    Raises
    ------
    TypeError, ValueError
        As `FeatureNetwork`; names the layer.

    Examples
    --------
    >>> import torch
    >>> feature_networks({"block 1": torch.eye(4)})
    {'block 1': FeatureNetwork(n=4, samples=4)}
    """
    return by_layer(activations, FeatureNetwork)
