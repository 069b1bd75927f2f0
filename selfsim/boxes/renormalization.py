"""Renormalisation: boxes become nodes. A self-similar network keeps its form."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..checks import check_integer
from .cover import box_cover
from .inputs import Distances, as_distances, is_networkx
from .sizes import check_sizes

if TYPE_CHECKING:
    import networkx as nx


def renormalize(
    graph: nx.Graph | sparse.sparray, cover: Mapping[Hashable, int] | NDArray
) -> nx.Graph | sparse.csr_array:
    """Return the network of boxes: two boxes are joined if an edge joins nodes of both.

    Parameters
    ----------
    graph : networkx.Graph or sparse matrix
        Read as by `box_cover`: undirected; a stored 0 is no edge.
    cover : mapping or ndarray
        Node → box, or boxes ``(n,)`` for a sparse matrix, as `box_cover` returns them.

    Returns
    -------
    networkx.Graph or csr_array
        A graph of boxes, with the number of nodes in each as node attribute ``nodes`` and the number of edges
        between two as edge attribute ``edges``; or a sparse matrix of the numbers of edges, whose rows are the boxes
        in ascending order.

    Raises
    ------
    TypeError, ValueError
        Neither graph nor sparse matrix, directed, a cover that overlaps or misses a node.

    Notes
    -----
    Time and memory O(n + edges).

    References
    ----------
    .. [1] C. Song, S. Havlin, H. A. Makse, Self-similarity of complex networks, Nature 433 (2005).

    Examples
    --------
    >>> import networkx as nx
    >>> boxes = renormalize(nx.path_graph(6), {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2})
    >>> sorted(boxes.edges), boxes.nodes[0]["nodes"]
    ([(0, 1), (1, 2)], 2)
    """
    if sparse.issparse(graph):
        return _renormalize_matrix(as_distances(graph), cover)
    if not is_networkx(graph) or graph.is_directed() or graph.is_multigraph():
        raise TypeError(f"graph: got {type(graph).__name__}, need an undirected networkx graph or a sparse matrix")
    if not isinstance(cover, Mapping):
        raise TypeError(f"cover: got {type(cover).__name__}, need a mapping from node to box for a networkx graph")
    import networkx as nx

    boxes = nx.Graph()
    for node in graph:
        if node not in cover:
            raise ValueError(f"cover: node {node!r} is in no box")
        box = cover[node]
        if isinstance(box, tuple):
            raise ValueError(f"cover: node {node!r} has the boxes {box!r}, need one box per node")
        if box not in boxes:
            boxes.add_node(box, nodes=0)
        boxes.nodes[box]["nodes"] += 1
    # Places are compared, not names: comparing a number of NumPy with a tuple gives an array.
    place = {box: k for k, box in enumerate(boxes)}
    for a, b in graph.edges():
        a, b = cover[a], cover[b]
        if place[a] != place[b]:
            boxes.add_edge(a, b, edges=boxes.get_edge_data(a, b, {"edges": 0})["edges"] + 1)
    return boxes


def _renormalize_matrix(distances: Distances, cover: Mapping[Hashable, int] | NDArray) -> sparse.csr_array:
    labels = np.asarray(cover)
    if labels.shape != (distances.n,) or labels.dtype.kind not in "iu":
        raise ValueError(f"cover: got {labels.dtype} of shape {labels.shape}, need {distances.n} integers")
    names, place = np.unique(labels, return_inverse=True)
    member = sparse.csr_array((np.ones(len(place)), (np.arange(len(place)), place)), shape=(len(place), len(names)))
    between = member.T @ distances.adjacency.astype(np.float64) @ member
    return sparse.csr_array(between - sparse.diags_array(between.diagonal()))


def renormalization_flow(
    graph: nx.Graph,
    *,
    l_B: float | None = None,
    r_B: float | None = None,
    method: str,
    seed: int | None = None,
    most_steps: int = 20,
) -> list[nx.Graph]:
    """Return the graph and its renormalisations: cover, renormalise, cover again with the same size, and so on.

    Parameters
    ----------
    graph, l_B, r_B, method, seed
        As for `box_cover`, with boxes that do not overlap. `l_B` should be above 2: a box of size 2 holds at most
        one edge, and the flow is slow.
    most_steps : int
        Stop after this many renormalisations.

    Returns
    -------
    list of networkx.Graph
        From the graph itself to one in which every component is a single node, or which does not change any more.

    Raises
    ------
    TypeError, ValueError
        As for `box_cover`; "overlapping".

    Notes
    -----
    Time and memory: those of the covers.

    References
    ----------
    .. [1] C. Song, S. Havlin, H. A. Makse, Origins of fractality in the growth of complex networks, Nature Physics 2
       (2006).

    Examples
    --------
    >>> from selfsim.boxes.fractals import flower
    >>> [len(g) for g in renormalization_flow(flower(2, 2, 5), r_B=1, method="memb")]
    [684, 172, 44, 12, 4, 2, 1]
    """
    check_sizes(l_B, r_B)
    if not is_networkx(graph):
        raise TypeError(f"graph: got {type(graph).__name__}, need a networkx.Graph")
    most_steps = check_integer(most_steps, name="most_steps", least=0)
    flow = [graph]
    while flow[-1].number_of_edges() and len(flow) <= most_steps:
        following = renormalize(flow[-1], box_cover(flow[-1], l_B=l_B, r_B=r_B, method=method, seed=seed))
        if len(following) == len(flow[-1]):
            break
        flow.append(following)
    return flow


def degree_tail(graph: nx.Graph) -> tuple[NDArray, NDArray]:
    """Return the degrees that occur, ascending, and the share of nodes with at least that degree.

    In a self-similar network the tails of all renormalisations agree, as far as each reaches.

    Examples
    --------
    >>> import networkx as nx
    >>> degree_tail(nx.star_graph(3))
    (array([1, 3]), array([1. , 0.25]))
    """
    degrees, times = np.unique([degree for _, degree in graph.degree()], return_counts=True)
    return degrees, times[::-1].cumsum()[::-1] / times.sum()
