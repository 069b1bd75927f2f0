"""Bad and unusual activations, for every public function of activations.

A function that is added to FUNCTIONS is tested with every row.
"""

from __future__ import annotations

import contextlib
import math

import networkx as nx
import numpy as np
import pytest
import torch

import selfsim
from selfsim.statistics.null_models import NullBand
from selfsim.statistics.spectrum import power_law, spectrum
from selfsim.statistics.topology import Topology
from selfsim.uncertainty import Estimate, Interval

FUNCTIONS = {
    "ss_rate": selfsim.ss_rate,
    "ss_rate of 256 scales": lambda x: selfsim.ss_rate(x, scales=256),
    "ss_rate straight-through": lambda x: selfsim.ss_rate(x, gradient="straight-through"),
    "ss_rate complete-linkage": lambda x: selfsim.ss_rate(x, count="complete-linkage"),
    "ss_rate greedy-coloring": lambda x: selfsim.ss_rate(x, count="greedy-coloring"),
    "ss_rate at quantiles": lambda x: selfsim.ss_rate(x, quantiles=(0.0, 0.95)),
    "ss_rate by medians": lambda x: selfsim.ss_rate(x, unit="median"),
    "ss_rate in blocks": lambda x: selfsim.ss_rate(x, scales=256, max_bytes=10**6),
    "rate_curve": selfsim.rate_curve,
    "constraint": lambda x: selfsim.SelfSimilarityConstraint(weight=1.0, ramp=None, unit="absolute")(x),
    "samples_interval": lambda x: selfsim.samples_interval(lambda a: a.sum(), x, draws=3),
    "scaling": lambda x: selfsim.scaling(as_tensor(x), draws=2).deviation,
    "scaling_deviation": lambda x: selfsim.scaling_deviation(widened(x)),
    "spectrum_exponent": selfsim.spectrum_exponent,
    "correlation_dimension": selfsim.correlation_dimension,
    "two_nn": selfsim.two_nn,
    "null_band": lambda x: selfsim.null_band(lambda a: a.sum(), x, draws=2),
    "null_activations": lambda x: selfsim.null_activations(x, null="gauss", seed=0),
    "FeatureNetwork": selfsim.FeatureNetwork,
    "topology": lambda x: selfsim.topology(selfsim.FeatureNetwork(x), neighbours=2),
    "spectrum": spectrum,
    "pair_distances": selfsim.pair_distances,
}
# These need distances between neurons to exist, and to differ.
NEED_RATE = [name for name in FUNCTIONS if name.startswith("ss_rate") or name in ("rate_curve", "constraint")]
NEED_PAIRS = [*NEED_RATE, "FeatureNetwork", "topology", "pair_distances"]


def some(**changes) -> torch.Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def as_tensor(x):
    """Activations as a tensor, since `scaling` takes arrays as distances."""
    return torch.tensor(x) if isinstance(x, np.ndarray) else x


def widened(x):
    """Activations with 40 more neurons of the same size, if they are few."""
    y = as_tensor(x)
    if not isinstance(y, torch.Tensor) or y.ndim != 2 or not y.is_floating_point() or y.layout != torch.strided:
        return x
    if y.device.type == "meta" or len(y) == 0 or not 2 < y.shape[1] < 32:
        return x
    more = torch.randn(len(y), 40, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    return torch.cat([y, (more * y.float().nan_to_num(0, 0, 0).abs().max()).to(y)], 1)


def with_value(value: float) -> torch.Tensor:
    x = some()
    x[2, 3] = value
    return x


BAD = {
    "a list": ([[1.0, 2.0], [3.0, 4.0]], TypeError, "got list"),
    "None": (None, TypeError, "got NoneType"),
    "integers": (some().long(), TypeError, "got torch.int64"),
    "booleans": (some() > 0, TypeError, "got torch.bool"),
    "complex": (some().to(torch.complex64), TypeError, "got torch.complex64"),
    "sparse": (some().to_sparse(), TypeError, "got layout torch.sparse_coo"),
    "meta": (some().to("meta"), TypeError, "got a tensor on the meta device"),
    "one dimension": (some()[0], ValueError, r"got shape \(6,\)"),
    "no samples": (some()[:0], ValueError, "got no samples"),
    "NaN": (with_value(float("nan")), ValueError, "1 values that are NaN or Inf.*sample 2, neuron 3"),
    "Inf": (with_value(float("inf")), ValueError, "1 values that are NaN or Inf"),
    "minus Inf": (with_value(-float("inf")), ValueError, "1 values that are NaN or Inf"),
}
FEW = {
    "no neurons": (some()[:, :0], "got 0 neurons"),
    "one neuron": (some()[:, :1], "got 1 neurons"),
}
EQUAL = {
    "constant": torch.full((8, 6), 3.0),
    "zeros": torch.zeros(8, 6),
    "identical neurons": some()[:, :1].expand(8, 6),
    "equilateral": torch.eye(6),
    "equilateral to rounding": torch.eye(6) @ torch.linalg.qr(some()[:6]).Q.T + 1.0,
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", BAD)
def test_bad(function, kind):
    value, error, message = BAD[kind]
    with pytest.raises(error, match=f"^activations: .*{message}"):
        FUNCTIONS[function](value)


@pytest.mark.parametrize(
    "function", [name for name in FUNCTIONS if not name.startswith(("ss_rate", "scaling_deviation"))]
)
def test_three_dimensions_where_leading_axes_are_no_batch(function):
    with pytest.raises(ValueError, match=r"^activations: got shape \(1, 8, 6\)"):
        FUNCTIONS[function](some()[None])


@pytest.mark.parametrize("function", NEED_PAIRS)
@pytest.mark.parametrize("kind", FEW)
def test_too_few_neurons(function, kind):
    value, message = FEW[kind]
    with pytest.raises(ValueError, match=f"^activations: {message}"):
        FUNCTIONS[function](value)


@pytest.mark.parametrize("function", NEED_RATE)
def test_two_neurons_have_no_rate(function):
    with pytest.raises(ValueError, match="^activations: got 2 neurons.*need at least 3"):
        FUNCTIONS[function](some()[:, :2])


@pytest.mark.parametrize("function", NEED_RATE)
@pytest.mark.parametrize("kind", EQUAL)
def test_all_distances_equal(function, kind):
    with pytest.raises(ValueError, match="^activations: all .*distances between neurons are equal"):
        FUNCTIONS[function](EQUAL[kind])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "value",
    [
        some(),
        some().double(),
        some().half(),
        some().bfloat16(),
        some()[:1],
        some().numpy(),
        torch.cat([some(), some()[:, :2]], 1),  # duplicate neurons
        torch.cat([some(), torch.zeros(8, 3)], 1),  # dead neurons
        some() * 1e30,
        some() * 1e-40,
    ],
    ids=["float32", "float64", "float16", "bfloat16", "one sample", "numpy", "duplicates", "dead", "1e30", "1e-40"],
)
def test_unusual_but_good(function, value):
    if function == "samples_interval" and len(value) == 1:
        with pytest.raises(ValueError, match="activations: got 1 samples, need at least 4"):
            FUNCTIONS[function](value)
        return
    check(FUNCTIONS[function](value))


def check(result):
    """Check that a result is finite, or states why it is not."""
    if isinstance(result, torch.Tensor | np.ndarray):
        assert np.isfinite(np.asarray(result.detach() if isinstance(result, torch.Tensor) else result)).all()
    elif isinstance(result, Topology):
        statistics = ("density", "clustering", "transitivity", "path_length", "assortativity", "modularity")
        assert all(np.isfinite(getattr(result, name)) != (name in result.reasons) for name in statistics)
    elif isinstance(result, Estimate):
        assert np.isfinite(result.value) if result.estimable else np.isnan(result.value)
    elif isinstance(result, NullBand):
        assert np.isfinite(result.values).all()
    elif isinstance(result, selfsim.FeatureNetwork):
        assert np.isfinite(result.distances).all()
    else:
        assert np.isfinite(result.estimate if isinstance(result, Interval) else result.slope)


@contextlib.contextmanager
def default_float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "strict NumPy": lambda: np.errstate(all="raise"),
    "default float64": default_float64,
}


@pytest.mark.filterwarnings("ignore:activations. got no gradient")  # of the constraint, on purpose
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_result_does_not_depend_on_the_mode_of_the_caller(function, mode):
    compute, x = FUNCTIONS[function], large(60)
    expected = compute(x)
    with MODES[mode]():
        for same in (x, x + 0):  # in inference mode, a sum is an inference tensor
            found = compute(same)
            check(found)
            if isinstance(found, torch.Tensor):
                assert found.dtype == expected.dtype
                torch.testing.assert_close(found, expected)
            elif isinstance(found, Estimate | Interval):
                assert f"{found}" == f"{expected}"


@pytest.mark.filterwarnings("ignore:activations. got no gradient")  # of the constraint, on purpose
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function", [name for name in FUNCTIONS if "scaling" not in name])  # given tensors here
def test_arrays_that_torch_does_not_take(function):
    x = large(60).numpy()
    for unusual in (x[:, ::-1], x.astype(">f4")):
        check(FUNCTIONS[function](unusual))
    with pytest.raises(TypeError, match="masked array"):
        FUNCTIONS[function](np.ma.masked_greater(x, 3))


@pytest.mark.filterwarnings("ignore:activations. got no gradient")  # of the constraint, on purpose
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_read_only_arrays(function):
    x = large(60).numpy()
    x.flags.writeable = False
    check(FUNCTIONS[function](x))


def large(samples: int = 200) -> torch.Tensor:
    """Enough samples and neurons for every statistic."""
    return torch.randn(samples, 64, generator=torch.Generator().manual_seed(0))


HARD = {
    "noise": large(),
    "most samples zero": torch.cat([large(65), torch.zeros(200, 64)]),
    "most neurons dead": large() * (torch.arange(64) < 5),
    "samples twice": large(100).repeat(2, 1),
    "neurons twice": large()[:, :32].repeat(1, 2),
    "whole numbers": large().round(),
    "signs": large().sign(),
    "one cause": large()[:, :1] * large()[:1] + 3,
    "one outlier": large().index_fill(0, torch.tensor([7]), 1e6),
    "an offset": large() + 1e4,
    "float16": large().half(),
    "bfloat16": large().bfloat16(),
    "float64 of 1e120": large().double() * 1e120,
}
ESTIMATES = {
    "spectrum_exponent": (selfsim.spectrum_exponent, 1, 1e4),
    "weight_exponents": (lambda x: selfsim.weight_exponents({"weight": x})["weight"], 1, 1e4),
    "correlation_dimension": (selfsim.correlation_dimension, 0, 64),
    "two_nn": (selfsim.two_nn, 0, 64),
}


@pytest.mark.parametrize("function", ESTIMATES)
@pytest.mark.parametrize("kind", HARD)
def test_hard_for_estimates(function, kind):
    estimate, low, high = ESTIMATES[function]
    found = estimate(HARD[kind])
    assert low < found.value < high if found.estimable else found.reason


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", HARD)
def test_hard_but_good(function, kind):
    if (function, kind) == ("ss_rate by medians", "most neurons dead"):
        with pytest.raises(ValueError, match="unit: got 'median', but the median distance is 0"):
            FUNCTIONS[function](HARD[kind])
        return
    if (function, kind) == ("scaling_deviation", "most neurons dead"):
        with pytest.raises(ValueError, match="^activations: more than 713 of 2016 pairs coincide"):
            FUNCTIONS[function](HARD[kind])
        return
    check(FUNCTIONS[function](HARD[kind]))


GRAPHS = {
    "no edges": nx.empty_graph(5),
    "one node": nx.empty_graph(1),
    "one edge": nx.path_graph(2),
    "a loop": nx.Graph([(0, 0)]),
    "two parts": nx.disjoint_union(nx.cycle_graph(5), nx.complete_graph(4)),
    "star": nx.star_graph(8),
    "ring": nx.cycle_graph(9),
    "complete": nx.complete_graph(7),
}
OF_GRAPHS = {
    "topology": selfsim.topology,
    "sigma": lambda graph: selfsim.small_world_sigma(graph, draws=2),
    "omega": lambda graph: selfsim.small_world_omega(graph, draws=2),
    "topology of the rewired": lambda graph: selfsim.topology(selfsim.rewired(graph)),
}


@pytest.mark.parametrize("function", OF_GRAPHS)
@pytest.mark.parametrize("kind", GRAPHS)
def test_graphs_with_little_in_them(function, kind):
    check(OF_GRAPHS[function](GRAPHS[kind]))


@pytest.mark.parametrize("function", [*OF_GRAPHS.values(), selfsim.rewired], ids=[*OF_GRAPHS, "rewired"])
@pytest.mark.parametrize("graph", [None, [(0, 1)], np.eye(3), nx.DiGraph([(0, 1)]), nx.MultiGraph([(0, 1)])])
def test_no_graphs(function, graph):
    with pytest.raises(TypeError, match="^graph: got"):
        function(graph)


VALUES = {
    "none": np.zeros(0),
    "zeros": np.zeros(100),
    "negative": -np.ones(100),
    "too few": np.arange(49.0),
    "equal": np.full(100, 3.0),
    "two different": np.repeat([1.0, 2.0], 50),
    "tiny and huge": np.geomspace(1e-300, 1e300, 100),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_without_a_power_law(kind):
    found = power_law(VALUES[kind])
    check(found)
    assert found.estimable == (kind in ("two different", "tiny and huge"))


@pytest.mark.parametrize("values", [np.full(100, math.nan), np.array([1.0, math.inf]), np.ones((60, 2)), 3.0])
def test_no_values(values):
    with pytest.raises(ValueError, match="^values: got shape"):
        power_law(values)


@pytest.mark.parametrize("weights", [None, [some()], {"weight": [1.0]}, some()])
def test_no_weights(weights):
    with pytest.raises(TypeError, match="^weights: got"):
        selfsim.weight_exponents(weights)


@pytest.mark.parametrize("kind", ["NaN", "Inf"])
def test_weights_that_are_no_numbers(kind):
    with pytest.raises(ValueError, match=r"^weights\['head'\]: got 1 values that are NaN or Inf"):
        selfsim.weight_exponents({"head": BAD[kind][0]})


@pytest.mark.parametrize("kind", EQUAL)
def test_weights_without_a_spectrum(kind):
    assert selfsim.weight_exponents({"head": EQUAL[kind]})["head"].reason


RATES = {
    "area": {},
    "scales": {"scales": 64},
    "blocks": {"scales": 64, "max_bytes": 1000, "gradient": "straight-through"},
    "straight-through": {"gradient": "straight-through"},
    "linkage": {"count": "complete-linkage"},
    "linkage at scales": {"count": "complete-linkage", "scales": 64},
    "coloring": {"count": "greedy-coloring"},
    "quantiles": {"quantiles": (0.1, 0.9)},
    "median": {"unit": "median"},
    "standardized": {"standardize": True},
    "left out": {"leave_out": 1},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", RATES.values(), ids=RATES)
@pytest.mark.parametrize("x", [with_value(math.nan), with_value(math.inf), EQUAL["zeros"], EQUAL["equilateral"]])
def test_unchecked_gives_nan_not_a_number_that_looks_good(x, options):
    x = x.clone().requires_grad_()
    rate = selfsim.ss_rate(x, check=False, **options)
    assert torch.isnan(rate)
    if rate.requires_grad:
        rate.backward()
        assert not (x.grad.nan_to_num() != 0).any()


@pytest.mark.parametrize("options", [RATES["quantiles"], {"quantiles": (0.0, 0.9), "count": "complete-linkage"}])
def test_nan_beyond_the_quantiles_is_found(options):
    x = torch.randn(16, 60, generator=torch.Generator().manual_seed(0))
    x[2, 3] = math.nan
    with pytest.raises(ValueError, match="^activations: got 1 values that are NaN or Inf"):
        selfsim.ss_rate(x, **options)


@pytest.mark.parametrize("options", RATES.values(), ids=RATES)
def test_rates_at_the_ends_of_float64(options):
    """Tiny activations have the rate of a linear axis, whatever their size, and huge ones that of a logarithmic one."""
    x = some().double()
    for sizes in ((1e-20, 1e-200, 1e-300), (1e30, 1e200, 1e307)):
        rates = [selfsim.ss_rate(size * x, **options).item() for size in sizes]
        assert rates[1:] == pytest.approx(rates[:1] * 2, rel=1e-9)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_straight_through_gradient_of_any_magnitude(size):
    x = (size * some()).requires_grad_()
    selfsim.ss_rate(x, gradient="straight-through").backward()
    assert torch.isfinite(x.grad).all()
