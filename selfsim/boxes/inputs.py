"""What can be covered by boxes, brought to one form: a matrix of distances and the names of its nodes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import networkx as nx
import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import squareform

NEEDS = (
    "an undirected networkx graph, a scipy sparse adjacency matrix, a square distance matrix, "
    "condensed distances, or an object with .distances and .n"
)


@dataclass(frozen=True)
class Distances:
    """All pairwise distances of a graph or point set.

    Attributes
    ----------
    square : ndarray, shape (n, n)
        float64, zero diagonal; infinite between components.
    nodes : list or None
        The nodes of a networkx graph, in the order of the rows; None where nodes are numbers.
    hops : bool
        Whether distances are numbers of edges, so that box sizes are whole numbers.
    """

    square: np.ndarray
    nodes: list[Hashable] | None
    hops: bool

    @property
    def n(self) -> int:
        return len(self.square)

    @property
    def condensed(self) -> np.ndarray:
        return squareform(self.square, checks=False)


def as_distances(graph, *, weight: str | None = None) -> Distances:
    """All-pairs distances of anything that can be covered.

    Parameters
    ----------
    graph
        A networkx graph (shortest paths, in hops or along `weight`; self-loops do not count), a scipy sparse
        matrix (hops, or its entries as lengths with ``weight="data"``), a square distance matrix, condensed
        distances, or anything with ``.distances`` and ``.n``.
    weight : str, optional
        The edge attribute that holds lengths.

    Raises
    ------
    TypeError, ValueError
        Something else, a directed graph or multigraph, negative or NaN lengths, an asymmetric matrix, a non-zero
        diagonal.

    Notes
    -----
    Time O(n (n + edges)) for hops, memory O(n²).

    Examples
    --------
    >>> as_distances(nx.path_graph(3)).square
    array([[0., 1., 2.],
           [1., 0., 1.],
           [2., 1., 0.]])
    """
    if hasattr(graph, "distances") and hasattr(graph, "n"):
        graph = graph.distances
    elif isinstance(graph, nx.Graph):
        return _from_networkx(graph, weight)
    elif sparse.issparse(graph):
        return _from_sparse(graph, weight)
    if weight is not None:
        raise ValueError(f"weight: got {weight!r} for distances, which carry their lengths already; need None")
    return Distances(_checked_square(_to_array(graph)), None, hops=False)


def _to_array(matrix) -> np.ndarray:
    if isinstance(matrix, torch.Tensor):
        matrix = matrix.detach().cpu().numpy()
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "fiu":
        kind = matrix.dtype if isinstance(matrix, np.ndarray) else type(matrix).__name__
        raise TypeError(f"graph: got {kind}, need {NEEDS}")
    return matrix.astype(np.float64)


def _checked_square(matrix: np.ndarray) -> np.ndarray:
    if matrix.ndim == 1:
        n = round((1 + (1 + 8 * len(matrix)) ** 0.5) / 2)
        if n * (n - 1) // 2 != len(matrix):
            raise ValueError(f"graph: got {len(matrix)} condensed distances, need n(n-1)/2 for a whole n")
        matrix = squareform(matrix, checks=False) if len(matrix) else np.zeros((1, 1))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"graph: got an array of shape {matrix.shape}, need (n, n) or condensed (n(n-1)/2,)")
    if np.isnan(matrix).any() or (matrix < 0).any():
        raise ValueError("graph: got negative or NaN distances, need distances of 0 or more")
    if matrix.diagonal().any():
        raise ValueError("graph: got a distance matrix with a non-zero diagonal, need 0 from each node to itself")
    if not np.array_equal(matrix, matrix.T):
        raise ValueError("graph: got an asymmetric distance matrix, need one with d[i, j] = d[j, i]")
    return matrix


def _from_networkx(graph: nx.Graph, weight: str | None) -> Distances:
    if graph.is_directed() or graph.is_multigraph():
        raise TypeError(f"graph: got a {type(graph).__name__}, need an undirected graph without parallel edges")
    nodes = list(graph)
    if weight is not None:
        for a, b, length in graph.edges(data=weight):
            if length is None or not length >= 0:
                raise ValueError(f"weight: edge {(a, b)!r} has {weight}={length!r}, need a length of 0 or more")
    if not nodes:
        return Distances(np.zeros((0, 0)), nodes, hops=weight is None)
    # csgraph reads a stored 0 as no edge, and a sparse array cannot tell them apart: lengths of 0 become tiny.
    lengths = [1.0 if weight is None else max(float(w), 1e-300) for _, _, w in graph.edges(data=weight)]
    place = {node: i for i, node in enumerate(nodes)}
    ends = np.array([(place[a], place[b]) for a, b in graph.edges()], dtype=np.int64).reshape(-1, 2)
    matrix = sparse.csr_array((lengths, (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    return Distances(_paths(matrix, hops=weight is None), nodes, hops=weight is None)


def _from_sparse(matrix, weight: str | None) -> Distances:
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"graph: got a sparse matrix of shape {matrix.shape}, need a square adjacency matrix")
    if weight not in (None, "data"):
        raise ValueError(f"weight: got {weight!r} for a sparse matrix, need None (hops) or 'data' (its entries)")
    matrix = sparse.csr_array(matrix).astype(np.float64)
    if (matrix.data < 0).any() or np.isnan(matrix.data).any():
        raise ValueError("graph: got negative or NaN lengths in the sparse matrix, need 0 or more")
    if (matrix != matrix.T).nnz:
        raise ValueError("graph: got an asymmetric sparse matrix, need an undirected graph")
    return Distances(_paths(matrix, hops=weight is None), None, hops=weight is None)


def _paths(matrix: sparse.csr_array, hops: bool) -> np.ndarray:
    square = shortest_path(matrix, method="D", directed=False, unweighted=hops)
    np.fill_diagonal(square, 0.0)
    return np.minimum(square, square.T)
