"""The feature network: hidden neurons as nodes, distances between their activations as edges."""

from __future__ import annotations

import os
from pathlib import Path

import networkx as nx
import numpy as np
from scipy.spatial.distance import squareform
from torch import Tensor

from .distances import pair_distances


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
        Number of samples that the lengths were taken over.

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

    def __init__(self, activations: Tensor):
        self.distances: np.ndarray = pair_distances(activations).cpu().numpy()
        self.samples, self.n = activations.shape

    def __repr__(self) -> str:
        return f"FeatureNetwork(n={self.n}, samples={self.samples})"

    def matrix(self) -> np.ndarray:
        """Symmetric matrix ``(n, n)`` of edge lengths, zero on the diagonal."""
        return squareform(self.distances, checks=False)

    def nearest(self, k: int) -> np.ndarray:
        """Boolean ``(n, n)``: row i has its k nearest other neurons; among equals, the first."""
        matrix = self.matrix()
        np.fill_diagonal(matrix, np.inf)
        near = np.zeros(matrix.shape, dtype=bool)
        np.put_along_axis(near, np.argsort(matrix, axis=1, kind="stable")[:, :k], True, axis=1)
        return near

    def to_networkx(
        self, *, distance: float | None = None, quantile: float | None = None, neighbours: int | None = None
    ) -> nx.Graph:
        """As a networkx graph with edge attribute ``length``: complete, or thresholded in one of three ways.

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
            Nodes are numbers of neurons; neurons without edges stay.

        Raises
        ------
        ValueError
            More than one threshold, or one out of its range.
        """
        given = {"distance": distance, "quantile": quantile, "neighbours": neighbours}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"to_networkx: got {' and '.join(given)}, need at most one threshold")
        i, j = np.triu_indices(self.n, 1)
        keep = self._kept(i, j, **given)
        graph = nx.Graph()
        graph.add_nodes_from(range(self.n))
        lengths = self.distances[keep].astype(float).tolist()
        graph.add_weighted_edges_from(zip(i[keep].tolist(), j[keep].tolist(), lengths, strict=True), weight="length")
        return graph

    def _kept(self, i, j, *, distance=None, quantile=None, neighbours=None) -> np.ndarray:
        if distance is not None:
            if not distance > 0:
                raise ValueError(f"distance: got {distance!r}, need a length above 0")
            return self.distances < distance
        if quantile is not None:
            if not 0 < quantile <= 1:
                raise ValueError(f"quantile: got {quantile!r}, need a share in (0, 1]")
            return self.distances <= np.quantile(self.distances, quantile)
        if neighbours is not None:
            if isinstance(neighbours, bool) or not isinstance(neighbours, int) or not 1 <= neighbours < self.n:
                raise ValueError(f"neighbours: got {neighbours!r}, need an integer from 1 to {self.n - 1}")
            near = self.nearest(neighbours)
            return (near | near.T)[i, j]
        return np.ones(len(self.distances), dtype=bool)

    def save(self, path: str | os.PathLike) -> None:
        """Write to a ``.npz`` file (numpy arrays only, nothing executable)."""
        with open(path, "wb") as file:
            np.savez_compressed(file, distances=self.distances, n=self.n, samples=self.samples)

    @classmethod
    def load(cls, path: str | os.PathLike) -> FeatureNetwork:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file, or not one that `save` wrote.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path: no file {os.fspath(path)!r}")
        try:
            with np.load(path, allow_pickle=False) as stored:
                distances, n, samples = stored["distances"], int(stored["n"]), int(stored["samples"])
        except Exception as error:
            raise ValueError(f"path: {os.fspath(path)!r} is not a feature network that save() wrote") from error
        network = cls.__new__(cls)
        network.distances, network.n, network.samples = distances, n, samples
        return network

    def write_graphml(self, path: str | os.PathLike, **threshold) -> None:
        """Write as GraphML, for other tools; thresholds as in `to_networkx`."""
        nx.write_graphml(self.to_networkx(**threshold), os.fspath(path))


def feature_networks(activations: dict[str, Tensor]) -> dict[str, FeatureNetwork]:
    """The feature network of every layer in a mapping such as `Probe.activations`.

    Parameters
    ----------
    activations : dict of str to Tensor (samples, neurons)

    Returns
    -------
    dict of str to FeatureNetwork
        In the same order.

    Raises
    ------
    ValueError
        As `FeatureNetwork`.

    Examples
    --------
    >>> import torch
    >>> feature_networks({"block 1": torch.eye(4)})
    {'block 1': FeatureNetwork(n=4, samples=4)}
    """
    return {name: FeatureNetwork(layer) for name, layer in activations.items()}
