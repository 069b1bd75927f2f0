"""What a type checker infers for the public names. `make lint` checks this file; nothing runs it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import assert_type

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import selfsim
from selfsim.boxes.dimension import FractalDimension
from selfsim.boxes.inputs import Networkx
from selfsim.models.images import Images
from selfsim.statistics.null_models import NullBand
from selfsim.statistics.scaling import Scaling
from selfsim.uncertainty import Interval


def rates(x: Tensor, layers: dict[str, Tensor], read_only: Mapping[str, Tensor]) -> None:
    assert_type(selfsim.ss_rate(x), Tensor)
    assert_type(selfsim.ss_rate(x, scales=256, gradient="straight-through"), Tensor)
    assert_type(selfsim.ss_rate(layers, ends="detached"), dict[str, Tensor])
    assert_type(selfsim.ss_rate(read_only), dict[str, Tensor])
    assert_type(selfsim.scaling_deviation(x), Tensor)
    assert_type(selfsim.scaling_deviation(layers, check=False), dict[str, Tensor])
    assert_type(selfsim.scaling(x), Scaling)
    assert_type(selfsim.pair_distances(x), Tensor)
    assert_type(selfsim.FeatureNetwork(x).n, int)
    assert_type(selfsim.feature_networks(layers), dict[str, selfsim.FeatureNetwork])
    assert_type(selfsim.rate_drivers(x), selfsim.RateDrivers)


def null_models(x: Tensor) -> None:
    assert_type(selfsim.null_activations(x, null="gauss", seed=0), Tensor)
    assert_type(selfsim.null_band(selfsim.ss_rate, x), NullBand)
    assert_type(selfsim.null_band({"rate": selfsim.ss_rate}, x), dict[str, NullBand])
    assert_type(selfsim.null_band(selfsim.ss_rate, x).low, float)


def intervals(values: list[float]) -> None:
    assert_type(selfsim.mean_interval(values), Interval)
    assert_type(selfsim.paired_difference(values, values), Interval)


def boxes(network: selfsim.FeatureNetwork, graph: Networkx, matrix: NDArray[np.float64]) -> None:
    assert_type(selfsim.box_cover(graph, l_B=2, method="greedy-coloring"), dict[Hashable, int])
    assert_type(selfsim.box_cover(graph, l_B=2, method="overlapping"), dict[Hashable, tuple[int, ...]])
    assert_type(selfsim.box_cover(matrix, r_B=0.5, method="memb"), NDArray[np.int64])
    assert_type(selfsim.box_cover(network, l_B=0.5, method="overlapping"), NDArray[np.bool_])
    counts = selfsim.box_counts(network, method="greedy-coloring")
    assert_type(counts, selfsim.BoxCounts)
    assert_type(selfsim.fractal_dimension(counts), FractalDimension)


def models(loader: list[Tensor]) -> None:
    model = selfsim.create("resmlp", size="tiny", num_classes=10)
    assert_type(model, nn.Module)
    assert_type(selfsim.activations(model, loader), dict[str, Tensor])
    with selfsim.Probe(model) as probe:
        model(torch.zeros(1, 3, 8, 8))
    assert_type(probe, selfsim.Probe)
    assert_type(probe.activations, dict[str, Tensor])
    assert_type(selfsim.load_images("digits", pixels=8), Images)


def training(config: selfsim.TrainConfig, layers: dict[str, Tensor]) -> None:
    assert_type(selfsim.SelfSimilarityConstraint(target=0.1)(layers), Tensor)
    assert_type(selfsim.ScaleControl(target=1.0)(layers), Tensor)
    assert_type(selfsim.train(config), selfsim.Run)
    assert_type(selfsim.load_run("runs/one"), selfsim.Run)
