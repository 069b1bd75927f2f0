"""What can be covered by boxes, brought to one form: distances between the nodes, made when they are needed."""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import shortest_path

from .hops import all_pairs_hops, nearest_start

if TYPE_CHECKING:
    from torch import Tensor

# The length of edges of length 0: a sparse matrix cannot tell a stored 0 from no edge.
ZERO = 1e-300
NEEDS = (
    "an undirected networkx graph, a scipy sparse adjacency matrix, a square distance matrix, "
    "condensed distances, or an object with .distances and .n"
)


class Networkx(Protocol):
    """An undirected networkx graph."""

    def is_directed(self) -> bool: ...
    def is_multigraph(self) -> bool: ...


class SparseMatrix(Protocol):
    """A scipy sparse matrix or array."""

    def tocsr(self, copy: bool = ...) -> Any: ...


class HasDistances(Protocol):
    """Points with condensed distances, such as a `FeatureNetwork`."""

    @property
    def distances(self) -> Any: ...
    @property
    def n(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Distances:
    """A graph or point set, with its distances made on demand.

    Attributes
    ----------
    n : int
        Number of nodes.
    nodes : list or None
        The nodes of a networkx graph, in the order of the rows; None where nodes are numbers.
    hops : bool
        Whether distances are numbers of edges, so that box sizes are whole numbers.
    adjacency : csr_array or None
        Of a graph: symmetric, without a diagonal; its values are lengths unless `hops`.
    given : ndarray or None
        Of a point set: distances, square or condensed.
    """

    n: int
    nodes: list[Hashable] | None
    hops: bool
    adjacency: Any = None
    given: np.ndarray | None = None

    @functools.cached_property
    def square(self) -> NDArray[Any]:
        """All distances ``(n, n)``: float64, infinite where there is no path; hops as unsigned integers, the
        largest value of whose type says that there is no path."""
        if self.given is not None:
            square = self.given if self.given.ndim == 2 else _squareform(self.given)
            return np.ascontiguousarray(square, dtype=np.float64).reshape(self.n, self.n)
        if self.hops:
            return all_pairs_hops(self.adjacency)
        square = shortest_path(self.adjacency, method="D", directed=False)
        # The two directions of a path add up its lengths in two orders, which can differ in the last bit.
        square = np.minimum(square, square.T)
        square[square <= ZERO * self.n] = 0
        return square

    @functools.cached_property
    def by_degree(self) -> NDArray[np.int32]:
        """The nodes of a graph ``(n,)``, fewest neighbours first; equal ones in an order that is like random."""
        shuffled = np.random.default_rng([self.n, 29]).permutation(self.n)
        return shuffled[np.argsort(np.diff(self.adjacency.indptr)[shuffled], kind="stable")].astype(np.int32)

    @functools.cached_property
    def breadth_first(self) -> NDArray[np.int32]:
        """The nodes of a graph ``(n,)``, farthest first, by their distance from a node with the fewest neighbours."""
        # SciPy's Cuthill-McKee order starts at any of these nodes, depending on its version and the processor.
        order = np.argsort(np.diff(self.adjacency.indptr), kind="stable").astype(np.int32)
        starts = order[np.unique(self.components()[order], return_index=True)[1]]  # one in each component
        return nearest_start(self.adjacency.indptr, self.adjacency.indices, starts)[1][::-1].copy()

    @property
    def condensed(self) -> NDArray[np.floating]:
        """Distances ``(n (n - 1) / 2,)`` as floats, infinite where there is no path."""
        if self.given is not None and self.given.ndim == 1:
            return self.given
        flat = _squareform(self.square) if self.n > 1 else np.zeros(0, self.square.dtype)
        if not self.hops:
            return flat
        return np.where(flat == np.iinfo(flat.dtype).max, np.inf, flat.astype(np.float64))

    def reach(self, limit: float) -> np.number[Any]:
        """Return `limit` as a number to compare the entries of `square` with, below the mark for "no path"."""
        dtype = self.square.dtype
        return dtype.type(min(limit, np.iinfo(dtype).max - 1) if self.hops else limit)

    def limit(self, name: str, size: float) -> float:
        """Return the longest distance allowed: below l_B between two nodes, or up to r_B from the centre."""
        if name == "r_B":
            return math.floor(size) if self.hops else size
        return math.ceil(size) - 1 if self.hops else math.nextafter(size, -math.inf)

    def components(self) -> NDArray[np.integer]:
        """Return the connected component of every node ``(n,)``, numbered from 0."""
        reached = self.adjacency
        if self.given is not None:
            finite = np.isfinite(self.given)
            if finite.all():
                return np.zeros(self.n, dtype=np.int64)
            reached = sparse.csr_array(finite if finite.ndim == 2 else _squareform(finite))
        return sparse.csgraph.connected_components(reached, directed=False)[1]


# Covers of these are arrays; covers of networkx graphs are mappings.
Points: TypeAlias = "NDArray[Any] | SparseMatrix | HasDistances | Distances | Tensor"
Coverable: TypeAlias = "Networkx | Points"


def is_networkx(graph: object) -> bool:
    """Whether `graph` is a networkx graph. Does not import networkx, which whoever has such a graph has done."""
    networkx = sys.modules.get("networkx")
    return networkx is not None and isinstance(graph, networkx.Graph)


def _squareform(lengths: NDArray[Any]) -> NDArray[Any]:
    from scipy.spatial.distance import squareform  # takes a fifth of a second to import

    return squareform(lengths, checks=False)


def as_distances(graph: Coverable, *, weight: str | None = None) -> Distances:
    """Return a graph or point set, checked, in one form.

    Parameters
    ----------
    graph
        A networkx graph (shortest paths, in hops or along `weight`; self-loops do not count), a scipy sparse
        matrix (hops, or its entries as lengths with ``weight="data"``; a stored 0 is no edge), a square distance
        matrix, condensed distances, or anything with ``.distances`` and ``.n``. Distances may differ by rounding
        from symmetric ones: within the square root of their precision, in parts of the longest, the mean of both
        directions is taken.
    weight : str, optional
        The edge attribute that holds lengths.

    Raises
    ------
    TypeError, ValueError
        Something else, a directed graph or multigraph, negative, infinite or NaN lengths, an asymmetric matrix, a
        non-zero diagonal, infinite distances between nodes that finite ones connect.

    Warns
    -----
    UserWarning
        The distance matrix looks like an adjacency matrix: its zeros break the triangle inequality.

    Notes
    -----
    Time and memory O(n + edges) for a graph, O(n²) for distances; all pairs of a graph are computed when first used.

    Examples
    --------
    >>> import networkx as nx
    >>> as_distances(nx.path_graph(3)).square
    array([[0, 1, 2],
           [1, 0, 1],
           [2, 1, 0]], dtype=uint8)
    """
    if isinstance(graph, Distances):
        return graph
    if not (weight is None or isinstance(weight, str)):
        raise TypeError(f"weight: got {type(weight).__name__}, need the name of an edge attribute, or None")
    if is_networkx(graph):
        return _from_networkx(graph, weight)
    if sparse.issparse(graph):
        return _from_sparse(graph, weight)
    if hasattr(graph, "distances") and hasattr(graph, "n"):
        graph = graph.distances
    if weight is not None:
        raise ValueError(f"weight: got {weight!r} for distances, which carry their lengths already; need None")
    lengths = _to_array(graph)
    n = _number_of_nodes(lengths)
    return Distances(n, None, hops=False, given=_checked(lengths))


def _to_array(lengths: Any) -> NDArray[np.floating]:
    if hasattr(lengths, "detach"):  # a torch tensor, without importing torch
        if lengths.device.type == "meta":
            raise TypeError("graph: got a tensor on the meta device, which holds no numbers")
        lengths = lengths.detach().cpu().numpy()
    if not isinstance(lengths, np.ndarray) or lengths.dtype.kind not in "fiu":
        kind = lengths.dtype if isinstance(lengths, np.ndarray) else type(lengths).__name__
        raise TypeError(f"graph: got {kind}, need {NEEDS}")
    lengths = np.asarray(lengths)  # np.matrix has other methods
    return lengths if lengths.dtype in (np.float32, np.float64) else lengths.astype(np.float64)


def _number_of_nodes(lengths: NDArray[np.floating]) -> int:
    if lengths.ndim == 1:
        n = round((1 + (1 + 8 * len(lengths)) ** 0.5) / 2)
        if n * (n - 1) // 2 != len(lengths):
            raise ValueError(f"graph: got {len(lengths)} condensed distances, need n(n-1)/2 for an integer n")
        return n
    if lengths.ndim != 2 or lengths.shape[0] != lengths.shape[1]:
        raise ValueError(f"graph: got an array of shape {lengths.shape}, need (n, n) or condensed (n(n-1)/2,)")
    return len(lengths)


def _checked(lengths: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return distances, square or condensed, free of rounding: none negative, symmetric, 0 on the diagonal."""
    if not lengths.size:
        return lengths
    longest = lengths.max()
    if longest == np.inf:
        finite = np.isfinite(lengths)
        _check_infinite(finite)
        longest = lengths.max(where=finite, initial=0.0)
    if lengths.ndim == 1 and lengths.min() >= 0:
        return lengths
    rounding = longest * np.finfo(lengths.dtype).eps ** 0.5
    if not lengths.min() >= -rounding:  # a NaN makes the minimum NaN
        raise ValueError("graph: got negative or NaN distances, need distances of 0 or more")
    if lengths.ndim == 2:
        if (np.abs(lengths.diagonal()) > rounding).any():
            raise ValueError("graph: got a distance matrix with a non-zero diagonal, need 0 from each node to itself")
        lengths = _symmetric(lengths, rounding)
        if lengths.diagonal().any():
            lengths = lengths.copy()
            np.fill_diagonal(lengths, 0)
        _check_matrix(lengths)
    return np.maximum(lengths, 0) if lengths.min() < 0 else lengths


def _symmetric(matrix: NDArray[np.floating], rounding: float) -> NDArray[np.floating]:
    different = matrix != matrix.T
    if not different.any():
        return matrix
    i, j = np.nonzero(different)
    apart = np.abs(matrix[i, j] - matrix[j, i])
    if apart.max() > rounding:
        worst = apart.argmax()
        raise ValueError(
            f"graph: got an asymmetric distance matrix: d[{i[worst]}, {j[worst]}] and d[{j[worst]}, {i[worst]}] differ "
            f"by {apart[worst]:.3g}, more than rounding ({rounding:.1g}); need d[i, j] = d[j, i]: pass (d + d.T) / 2 "
            "if the two directions mean the same"
        )
    return matrix / 2 + matrix.T / 2


def _check_infinite(finite: NDArray[np.bool_]) -> None:
    """Raise where infinite distances, square or condensed, are not those between components."""
    if finite.ndim == 1:
        finite = _squareform(finite)
        np.fill_diagonal(finite, True)
    if _joins_others(finite) is not None:
        raise ValueError(
            "graph: got infinite distances between nodes that finite ones connect, need inf only between components; "
            "if these are lengths of edges, pass them as a scipy.sparse matrix with weight='data'"
        )


def _check_matrix(matrix: NDArray[np.floating]) -> None:
    """Warn where a matrix of edges is read as distances."""
    zero = matrix == 0
    if zero.sum() > len(matrix) and (component := _joins_others(zero)) is not None:
        apart = matrix[component[:, None] == component].max()
        if apart > matrix.max(where=np.isfinite(matrix), initial=0) / 10:  # rounded distances break it by a little
            warnings.warn(
                f"graph: got zeros that break the triangle inequality: nodes that they connect are up to {apart:g} "
                "apart. They are read as distances; if this is an adjacency matrix, pass "
                "scipy.sparse.csr_array(matrix) or networkx.from_numpy_array(matrix)",
                stacklevel=5,
            )


def _joins_others(near: NDArray[np.bool_]) -> NDArray[np.integer] | None:
    """Return the component of each node if paths of near pairs join pairs that are not near; else None."""
    component = sparse.csgraph.connected_components(sparse.csr_array(near), directed=False)[1]
    return component if near.sum() < (np.bincount(component) ** 2).sum() else None


def _from_networkx(graph: Any, weight: str | None) -> Distances:
    if graph.is_directed() or graph.is_multigraph():
        raise TypeError(f"graph: got a {type(graph).__name__}, need an undirected graph without parallel edges")
    nodes = list(graph)
    place = {node: i for i, node in enumerate(nodes)}
    rows, columns, lengths = [], [], []
    for a, b, length in graph.edges(data=weight, default=None) if weight else ((a, b, 1.0) for a, b in graph.edges()):
        if not _is_length(length):
            raise ValueError(f"weight: edge {(a, b)!r} has {weight}={length!r}, need a finite length of 0 or more")
        # Places are compared, not nodes: comparing a number of NumPy with a tuple gives an array.
        if place[a] != place[b]:
            rows.append(place[a])
            columns.append(place[b])
            lengths.append(max(float(length), ZERO))
    ends = (rows + columns, columns + rows)
    matrix = sparse.csr_array((lengths * 2, ends), shape=(len(nodes), len(nodes)), dtype=np.float64)
    return Distances(len(nodes), nodes, hops=weight is None, adjacency=matrix)


def _is_length(value: Any) -> bool:
    try:
        return 0 <= float(value) < np.inf
    except (TypeError, ValueError):
        return False


def _from_sparse(matrix: sparse.sparray, weight: str | None) -> Distances:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"graph: got a sparse matrix of shape {matrix.shape}, need a square adjacency matrix")
    if weight not in (None, "data"):
        raise ValueError(f"weight: got {weight!r} for a sparse matrix, need None (hops) or 'data' (its entries)")
    matrix = sparse.csr_array(matrix)
    if matrix.dtype == bool:
        matrix = matrix.astype(np.int8)
    stored = matrix.data
    if stored.size and not (stored.min() >= 0 and stored.max() < np.inf):
        raise ValueError("graph: got negative, infinite or NaN lengths in the sparse matrix, need finite ones")
    # Copied only where it must change: a million nodes should not be held twice.
    if matrix.diagonal().any():
        loops = sparse.diags_array(matrix.diagonal(), dtype=matrix.dtype)
        matrix = sparse.csr_array(matrix - loops)
    if stored.size and not stored.all():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    if not matrix.has_canonical_format:  # sorted, and no edge stored twice
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if weight is None:
        matrix = sparse.csr_array((np.ones(matrix.nnz, np.int8), matrix.indices, matrix.indptr), shape=matrix.shape)
    else:
        matrix = matrix.astype(np.float64)
    turned = matrix.T.tocsr()
    same = all(np.array_equal(getattr(matrix, part), getattr(turned, part)) for part in ("indptr", "indices"))
    rounding = matrix.data.max(initial=0) * np.finfo(np.float64).eps ** 0.5
    if not same or (weight and np.abs(matrix.data - turned.data).max(initial=0) > rounding):
        raise ValueError("graph: got an asymmetric sparse matrix, need an undirected graph")
    if weight and not np.array_equal(matrix.data, turned.data):
        matrix = (matrix + turned) / 2
    return Distances(matrix.shape[0], None, hops=weight is None, adjacency=matrix)
