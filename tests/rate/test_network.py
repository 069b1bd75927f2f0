"""Feature networks and the paper's picture, against scipy, networkx and numpy."""

from __future__ import annotations

import errno
import os

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from selfsim import FeatureNetwork, feature_networks, pair_distances, rate_curve, ss_rate
from tests import reference


def some(samples=20, neurons=12, seed=0) -> torch.Tensor:
    return torch.randn(samples, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distances_are_scipys():
    x = some()
    np.testing.assert_allclose(pair_distances(x).numpy(), pdist(x.numpy().T) / 20**0.5, rtol=1e-14)


@pytest.mark.parametrize("factor", [2.0**-300, 2.0**300])
def test_distances_at_any_magnitude(factor):
    x = some()
    np.testing.assert_allclose((pair_distances(x * factor) / factor).numpy(), pair_distances(x).numpy(), rtol=1e-14)


def test_complete_network():
    network = FeatureNetwork(some())
    graph = network.to_networkx()
    assert (network.n, network.samples) == (12, 20)
    assert graph.number_of_edges() == 66
    assert graph.edges[2, 7]["length"] == network.matrix()[2, 7]


def test_thresholds():
    network = FeatureNetwork(some())
    length = float(np.median(network.distances))
    assert network.to_networkx(distance=length).number_of_edges() == int((network.distances < length).sum())
    assert network.to_networkx(quantile=0.25).number_of_edges() == int(
        (network.distances <= np.quantile(network.distances, 0.25)).sum()
    )
    nearest = network.to_networkx(neighbours=2)
    assert nearest.number_of_nodes() == 12
    matrix = network.matrix()
    for node in nearest:
        closest = np.argsort(matrix[node])[1:3]
        assert all(nearest.has_edge(node, other) for other in closest)


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ({"distance": 0}, "distance: got 0"),
        ({"quantile": 1.5}, "quantile: got 1.5"),
        ({"neighbours": 12}, "neighbours: got 12, need an integer from 1 to 11"),
        ({"neighbours": 2.5}, "neighbours: got 2.5"),
        ({"distance": 1, "quantile": 0.5}, "got distance and quantile, need at most one"),
    ],
)
def test_bad_thresholds(threshold, message):
    with pytest.raises(ValueError, match=message):
        FeatureNetwork(some()).to_networkx(**threshold)


def test_saves_and_loads(tmp_path):
    network = FeatureNetwork(some().float())
    network.save(tmp_path / "network.npz")
    loaded = FeatureNetwork.load(tmp_path / "network.npz")
    assert repr(loaded) == repr(network)
    assert loaded.distances.dtype == np.float32
    assert np.array_equal(loaded.distances, network.distances)


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="path: no file"):
        FeatureNetwork.load(tmp_path / "none.npz")
    (tmp_path / "other.npz").write_bytes(b"not a network")
    with pytest.raises(ValueError, match="not a feature network"):
        FeatureNetwork.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    "changes",
    [
        {"n": -1},
        {"n": 11},
        {"n": 12.5},
        {"n": "12"},
        {"samples": 0},
        {"distances": np.full(66, np.nan, np.float32)},
        {"distances": np.full(66, -1, np.float32)},
        {"distances": np.ones((6, 11), np.float32)},
        {"distances": np.ones(66, np.int64)},
        {"distances": np.array(["text"] * 66)},
    ],
)
def test_load_refuses_what_no_network_has(tmp_path, changes):
    network = FeatureNetwork(some())
    stored = {"distances": network.distances, "n": network.n, "samples": network.samples}
    np.savez(tmp_path / "network.npz", **(stored | changes))
    with pytest.raises(ValueError, match="not a feature network"):
        FeatureNetwork.load(tmp_path / "network.npz")


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "network.npz"
    FeatureNetwork(some()).save(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        FeatureNetwork(some(9, 30)).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.npz"]


def test_numpy_integers_are_integers():
    network = FeatureNetwork(some())
    assert nx.utils.graphs_equal(network.to_networkx(neighbours=np.int64(2)), network.to_networkx(neighbours=2))
    assert rate_curve(some(), scales=np.int64(20)).l_B.shape == (20,)
    assert ss_rate(some(), scales=np.int64(20), leave_out=np.uint8(1)) == ss_rate(some(), scales=20, leave_out=1)


def test_errors_of_a_mapping_name_the_layer():
    for function in (ss_rate, feature_networks):
        with pytest.raises(ValueError, match=r"^layer 'b': activations: got shape"):
            function({"a": some(), "b": some()[0]})


def test_graphml(tmp_path):
    network = FeatureNetwork(some())
    network.write_graphml(tmp_path / "network.graphml", neighbours=3)
    read = nx.read_graphml(tmp_path / "network.graphml", node_type=int)
    written = network.to_networkx(neighbours=3)
    assert set(read.nodes) == set(written.nodes)
    assert {frozenset(e): read.edges[e]["length"] for e in read.edges} == {
        frozenset(e): written.edges[e]["length"] for e in written.edges
    }


def test_of_layers():
    assert {k: v.n for k, v in feature_networks({"a": some(), "b": some(5, 7)}).items()} == {"a": 12, "b": 7}


@pytest.mark.parametrize("scales", [2, 2.5, True])
def test_curve_needs_three_scales(scales):
    with pytest.raises(ValueError, match="scales: got"):
        rate_curve(some(), scales=scales)


@pytest.mark.parametrize("count", ["surrogate", "complete-linkage"])
def test_curve(count):
    x = some(30, 40)
    curve = rate_curve(x, count=count)
    d = reference.lengths(x).numpy()
    assert curve.l_B[[0, -1]] == pytest.approx([d.min(), d.max()])
    middle = curve.l_B[128]
    if count == "surrogate":
        expected = 40 - 39 * np.log(1 + 39 * np.mean(d < middle)) / np.log(40)
    else:
        expected = 40 - np.sum(np.array(reference.agglomerate(d)) < middle)
    assert curve.counts[128] == pytest.approx(expected)
    slope, intercept = np.polyfit(np.log1p(curve.l_B), np.log(curve.counts), 1)
    assert (curve.slope, curve.intercept) == pytest.approx((slope, intercept))
    assert curve.residual == pytest.approx(np.std(np.log(curve.counts) - curve.fitted))
