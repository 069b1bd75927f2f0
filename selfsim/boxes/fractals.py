"""Networks whose box dimension is known exactly, to check estimates.

Each generator replaces every edge by a small pattern, over and over, with whole arrays of edges, so that millions of
nodes take a second. The exact dimension is the graph attribute ``"dimension"``.
"""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
from scipy import sparse

from ..checks import check_integer


def flower(u: int, v: int, generation: int, *, as_sparse: bool = False) -> nx.Graph | sparse.csr_array:
    """Return the (u, v)-flower: from a cycle of u + v nodes, each edge becomes two paths, of u and of v edges.

    Parameters
    ----------
    u, v : int
        ``2 <= u <= v``: with u = 1 the network is no fractal.
    generation : int
        1 is the cycle.
    as_sparse : bool
        Return the adjacency matrix, for millions of nodes.

    Returns
    -------
    networkx.Graph or csr_array
        Nodes of earlier generations have the lowest numbers. The box dimension is ln(u + v) / ln u.

    Raises
    ------
    ValueError
        Numbers outside these ranges.

    Notes
    -----
    Time and memory O((u + v)^generation), the number of edges.

    References
    ----------
    .. [1] H. D. Rozenfeld, S. Havlin, D. ben-Avraham, Fractal and transfractal recursive scale-free nets,
       New J. Phys. 9 (2007).

    Examples
    --------
    >>> [len(flower(2, 2, g)) for g in (1, 2, 3, 4)]
    [4, 12, 44, 172]
    >>> flower(2, 2, 3).graph["dimension"]
    2.0
    """
    check_integer(u, name="u", least=2)
    check_integer(v, name="v", least=u)
    check_integer(generation, name="generation", least=1)
    cycle = np.arange(u + v)
    edges, n = np.stack([cycle, np.roll(cycle, -1)], 1), u + v
    for _ in range(generation - 1):
        paths = []
        for length in (u, v):
            inner = n + np.arange(len(edges) * (length - 1)).reshape(len(edges), length - 1)
            n += inner.size
            path = np.concatenate([edges[:, :1], inner, edges[:, 1:]], axis=1)
            paths.append(np.stack([path[:, :-1], path[:, 1:]], 2).reshape(-1, 2))
        edges = np.concatenate(paths)
    return _graph(edges, n, math.log(u + v) / math.log(u), as_sparse)


def shm_tree(generation: int, *, m: int = 2, as_sparse: bool = False) -> nx.Graph | sparse.csr_array:
    """Return the Song–Havlin–Makse tree, the fractal one: hubs keep away from each other.

    Each edge gives both its ends `m` new nodes, and is replaced by an edge between two of these.

    Parameters
    ----------
    generation : int
        0 is a single edge.
    m : int
        New nodes per edge and end, at least 1.
    as_sparse : bool
        Return the adjacency matrix.

    Returns
    -------
    networkx.Graph or csr_array
        A tree of (2m + 1)^generation edges. The box dimension is ln(2m + 1) / ln 3.

    Raises
    ------
    ValueError
        Numbers outside these ranges.

    Notes
    -----
    Time and memory O((2m + 1)^generation).

    References
    ----------
    .. [1] C. Song, S. Havlin, H. A. Makse, Origins of fractality in the growth of complex networks, Nature Physics 2
       (2006).

    Examples
    --------
    >>> [len(shm_tree(g)) for g in (0, 1, 2, 3)]
    [2, 6, 26, 126]
    """
    check_integer(generation, name="generation", least=0)
    check_integer(m, name="m", least=1)
    edges, n = np.array([[0, 1]]), 2
    for _ in range(generation):
        fresh = n + np.arange(len(edges) * 2 * m).reshape(len(edges), 2, m)
        n += fresh.size
        twigs = np.stack([np.broadcast_to(edges[:, :, None], fresh.shape), fresh], 3).reshape(-1, 2)
        edges = np.concatenate([twigs, fresh[:, :, 0]])
    return _graph(edges, n, math.log(2 * m + 1) / math.log(3), as_sparse)


def lattice(*sides: int, as_sparse: bool = False) -> nx.Graph | sparse.csr_array:
    """Return the lattice of the given side lengths; its box dimension is the number of sides above 1.

    Raises
    ------
    ValueError
        No sides, or one below 1.

    Notes
    -----
    Time and memory O(n).

    Examples
    --------
    >>> lattice(5, 4).number_of_edges(), lattice(5, 4).graph["dimension"]
    (31, 2.0)
    """
    if not sides:
        raise ValueError("sides: got none, need one or more lengths")
    for side in sides:
        check_integer(side, name="sides", least=1)
    place = np.arange(math.prod(sides)).reshape(sides)
    steps = [np.moveaxis(place, axis, 0) for axis in range(len(sides))]
    edges = np.concatenate([np.stack([along[:-1].ravel(), along[1:].ravel()], 1) for along in steps])
    return _graph(edges, place.size, float(sum(side > 1 for side in sides)), as_sparse)


def sierpinski(generation: int, *, as_sparse: bool = False) -> nx.Graph | sparse.csr_array:
    """Return the Sierpinski gasket: three copies of the last generation, each two of which share a corner.

    Parameters
    ----------
    generation : int
        0 is a triangle.
    as_sparse : bool
        Return the adjacency matrix.

    Returns
    -------
    networkx.Graph or csr_array
        ``(3^(generation + 1) + 3) / 2`` nodes. The box dimension is ln 3 / ln 2.

    Raises
    ------
    ValueError
        A generation below 0.

    Notes
    -----
    Time O(n log n), memory O(n).

    Examples
    --------
    >>> [len(sierpinski(g)) for g in (0, 1, 2)]
    [3, 6, 15]
    """
    check_integer(generation, name="generation", least=0)
    # A triangle of side 1 at the corner (x, y) has the nodes (x, y), (x + 1, y), (x, y + 1).
    corners = np.zeros((1, 2), dtype=np.int64)
    for step in 2 ** np.arange(generation):
        corners = np.concatenate([corners + np.array(shift) * step for shift in ((0, 0), (1, 0), (0, 1))])
    triangles = corners[:, None] + np.array([(0, 0), (1, 0), (0, 1)])
    names, places = np.unique(triangles.reshape(-1, 2) @ (2**generation + 1, 1), return_inverse=True)
    places = places.reshape(-1, 3)
    edges = places[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    return _graph(edges, len(names), math.log(3) / math.log(2), as_sparse)


def _graph(edges: np.ndarray, n: int, dimension: float, as_sparse: bool) -> nx.Graph | sparse.csr_array:
    if as_sparse:
        ends = np.concatenate([edges, edges[:, ::-1]]).astype(np.int32)
        return sparse.csr_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(n, n))
    graph = nx.Graph(dimension=dimension)
    graph.add_nodes_from(range(n))
    graph.add_edges_from(edges.tolist())
    return graph
