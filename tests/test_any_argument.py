"""A random search for arguments that a public function neither takes nor refuses by name.

Every call returns finite numbers (or an estimate with its reason), or raises a TypeError or ValueError that names the
argument. The search is seeded and bounded, so each run tries the same cases.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import selfsim
from selfsim.uncertainty import Estimate

GRAPH = nx.connected_watts_strogatz_graph(30, 4, 0.1, seed=1)
LAYER = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
POINTS = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
MODEL = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6))
COVER = selfsim.box_cover(GRAPH, l_B=3, method="greedy-coloring")
COUNTS = selfsim.box_counts(GRAPH, method="greedy-coloring")
ESTIMATES = {name: Estimate(value=value) for name, value in (("a", 1.0), ("b", 1.5), ("c", 2.0))}

# Function -> a good call, of which one argument is replaced.
CALLS: dict[Callable[..., Any], dict[str, Any]] = {
    selfsim.activations: dict(
        model=MODEL, loader=[torch.zeros(4, 5)], layers=None, samples=4, device="cpu", pooling="mean", channels="auto"
    ),
    selfsim.box_bound: dict(graph=GRAPH, l_B=3, weight=None, exact_up_to=40),
    selfsim.box_counts: dict(graph=GRAPH, method="memb", r_B=[1, 2], scales=8, weight=None, seeds=(0,)),
    selfsim.box_cover: dict(graph=GRAPH, l_B=3, method="cbb", weight=None, seed=0),
    selfsim.check_cover: dict(graph=GRAPH, cover=COVER, l_B=3, weight=None),
    selfsim.correlation_dimension: dict(activations=LAYER, window=(0.005, 0.1)),
    selfsim.create: dict(name="mlp", size="tiny", num_classes=3, in_chans=1, pretrained=False),
    selfsim.feature_networks: dict(activations={"a": LAYER}),
    selfsim.FeatureNetwork: dict(activations=LAYER),
    selfsim.fractal_dimension: dict(counts=COUNTS, window=None, fewest_boxes=2, level=0.9),
    selfsim.invariance_across_layers: dict(estimates=ESTIMATES, kind="statistical"),
    selfsim.known_activations: dict(name="cantor", n=20, seed=0),
    selfsim.mean_interval: dict(values=[1.0, 2.0, 4.0], level=0.9),
    selfsim.movement: dict(before=LAYER, after=LAYER + 1, neighbours=3, boxes=3, drivers=2),
    selfsim.multifractal: dict(
        graph=GRAPH, q=(0, 2), r_B=(1, 2, 3), centres=5, weight=None, seed=0, resamples=20, level=0.9
    ),
    selfsim.null_activations: dict(activations=LAYER, null="gauss", seed=0),
    selfsim.null_band: dict(
        statistic=selfsim.ss_rate, activations=LAYER, null="gauss", draws=45, seed=0, level=0.9
    ),
    selfsim.pair_distances: dict(activations=LAYER),
    selfsim.paired_difference: dict(treated=[1.0, 2.0, 4.0], control=[0.0, 2.0, 1.0], level=0.9),
    selfsim.Probe: dict(
        model=MODEL, layers=None, pooling="mean", channels="auto", draw=1, seed=0, gather=False, part=None
    ),
    selfsim.rank_correlation: dict(x=[1, 2, 3, 4, 5], y=[2, 1, 3, 5, 4], level=0.9),
    selfsim.rate_curve: dict(activations=LAYER, scales=9, count="surrogate"),
    selfsim.rate_drivers: dict(activations=LAYER, ends="attached"),
    selfsim.renormalization_flow: dict(graph=GRAPH, l_B=3, method="cbb", seed=0, most_steps=3),
    selfsim.renormalize: dict(graph=GRAPH, cover=COVER),
    selfsim.rewired: dict(graph=GRAPH, swaps=2, connected=False, towards="random", seed=0),
    selfsim.samples_interval: dict(
        statistic=torch.std, activations=LAYER, draws=3, seed=0, level=0.9, method="halves"
    ),
    selfsim.ScaleControl: dict(target=0.5, weight=1.0),
    selfsim.SelfSimilarityConstraint: dict(
        target=0.1, weight=1.0, ends="detached", layers_per_step=1, scales=None, gradient="exact", count="surrogate",
        cap=0.3, ramp=(0.1, 0.2), quantiles=None, unit="absolute", standardize=False, leave_out=0, gate=0.1,
        gate_every=2, gate_by="layer", seed=0
    ),
    selfsim.scaling: dict(
        activations=POINTS, window=(0.1, 0.9), threshold=0.1, weight=None, over="neurons", draws=2, seed=0, level=0.9
    ),
    selfsim.scaling_deviation: dict(activations=POINTS, window=(0.1, 0.9)),
    selfsim.small_world_omega: dict(graph=GRAPH, swaps=2, draws=2, seed=0),
    selfsim.small_world_sigma: dict(graph=GRAPH, swaps=2, draws=2, seed=0),
    selfsim.spectrum_exponent: dict(activations=LAYER, largest_exponent=10.0),
    selfsim.ss_rate: dict(
        activations=LAYER, scales=9, gradient="exact", ends="attached", count="surrogate", quantiles=(0, 1),
        unit="absolute", standardize=False, leave_out=1, max_bytes=None
    ),
    selfsim.topology: dict(graph=GRAPH, seed=0),
    selfsim.TrainConfig: dict(
        architecture="mlp", size="tiny", dataset="digits", train_images=50, epochs=2, batch_size=8, optimizer="adamw",
        learning_rate=0.1, weight_decay=0.1, schedule="cosine", warmup_epochs=0.5, label_smoothing=0.1, mixup=0.1,
        rand_augment=1, random_erasing=0.1, ema=0.9, precision="float32", clip_gradient=1.0, select="last", layers=2,
        constraint=None, samples=16, seed=0, augment=False, subset=0, evaluate_every=1,
    ),
    selfsim.two_nn: dict(activations=LAYER),
    selfsim.weight_exponents: dict(weights={"a": LAYER}),
}  # fmt: skip
# Arguments that a message may name in place of the one that was replaced, because they no longer fit together.
ALSO = {
    "x": ["x, y"],
    "y": ["x, y"],
    "graph": ["centres", "r_B", "l_B", "weight"],
    "method": ["seed", "r_B", "l_B"],
    "activations": ["statistic", "leave_out", "neighbours"],
    "counts": ["window"],
}
# What a caller's function or model does with odd input is the caller's.
CALLERS = {"statistic", "null", "pooling", "loader", "model"}


class Nothing:
    """An object of a class that nobody knows."""

    def __repr__(self) -> str:
        return "Nothing()"


def odd_values() -> st.SearchStrategy[Any]:
    """Values that somebody passes by mistake."""
    numbers = [True, False, 0, -1, 3, 2**70, -0.0, 0.5, 1.5, 1e308, 5e-324, math.nan, math.inf, -math.inf, 2j]
    texts = ["", "auto", "mean", "\x00", b"bytes"]
    containers = [(), [], {}, set(), (0.1, 0.9), (0.9, 0.1), [1, 2], [None], ["a"], {"a": 1}, {1: "a"}, range(3)]
    layers = [LAYER, LAYER[0], LAYER.numpy(), LAYER.to("meta"), {"a": LAYER}, {"a": None}]
    graphs = [GRAPH, nx.DiGraph([(0, 1)]), nx.empty_graph(0), nx.empty_graph(3)]
    others = [None, Nothing(), int, print, slice(2), MODEL, COUNTS, COVER]
    scalars = [*numbers, *texts, *containers, *layers, *graphs, *others]
    numpy_scalars = [
        np.int64(2),
        np.uint8(3),
        np.float32(0.5),
        np.float64("nan"),
        np.bool_(True),
        np.str_("a"),
        np.array(2),
    ]
    tensors = [
        torch.tensor(2),
        torch.tensor(0.5),
        torch.zeros(0),
        torch.eye(4),
        torch.zeros(3, 3, dtype=torch.complex64),
    ]
    arrays = npst.arrays(
        st.sampled_from([np.float64, np.float32, np.float16, np.int32, np.bool_]),
        npst.array_shapes(max_dims=3, max_side=5),
    )
    return st.one_of(st.sampled_from(scalars), st.sampled_from(numpy_scalars), st.sampled_from(tensors), arrays)


def check_result(result: Any, seen: int = 0) -> None:
    """A result holds finite numbers only, or says why not."""
    if isinstance(result, Estimate):
        assert result.estimable == np.isfinite(result.value)
    elif isinstance(result, torch.Tensor):
        assert result.device.type == "meta" or not result.is_floating_point() or torch.isfinite(result).all()
    elif isinstance(result, np.ndarray):
        assert result.dtype.kind != "f" or np.isfinite(result).all()
    elif isinstance(result, float):
        assert not np.isnan(result)
    elif isinstance(result, Mapping):
        for value in result.values():
            check_result(value)
    elif dataclasses.is_dataclass(result) and seen < 3 and not getattr(result, "reason", ""):
        skip = {"window", "warmup_epochs", "by_draw", "reference_clustering", "reference_path_length"}
        for field in dataclasses.fields(result):
            if field.name not in skip and not getattr(result, "reasons", None):
                check_result(getattr(result, field.name), seen + 1)


def call(function: Callable[..., Any], arguments: dict[str, Any], replaced: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(**arguments)
    except (TypeError, ValueError) as error:
        if not any(name in str(error) for name in [replaced, *ALSO.get(replaced, [])]):
            pytest.fail(f"{function.__name__}({replaced}=...) raised {type(error).__name__}: {error}")
    else:
        check_result(result)


MODES = {
    "as usual": lambda: warnings.catch_warnings(),
    "inference mode": torch.inference_mode,
    "strict numpy": lambda: np.errstate(all="raise"),
}


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_an_odd_argument_is_taken_or_refused_by_name(function, data):
    replaced = data.draw(st.sampled_from(sorted(CALLS[function])), label="argument")
    value = data.draw(odd_values(), label="value")
    if replaced in CALLERS:
        assume(not callable(value) and not isinstance(value, Iterable))
    mode = data.draw(st.sampled_from(sorted(MODES)), label="mode")
    with MODES[mode]():
        call(function, CALLS[function] | {replaced: value}, replaced)
