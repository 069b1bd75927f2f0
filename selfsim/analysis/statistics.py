"""The statistics that `analyze` can be asked for by name; each loads what it needs at its first call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

import selfsim

from ..uncertainty import Estimate

Values = Mapping[str, Any]  # column -> a number, or an estimate with its reason


def _scaling(activations: Tensor) -> Values:
    found = selfsim.scaling(activations, draws=0)
    values = {name: getattr(found, name) for name in ("deviation", "dimension", "octaves")}
    return values | {"scales": found.scales if math.isfinite(values["deviation"]) else math.nan}


def _spectrum(activations: Tensor) -> Values:
    fit = selfsim.spectrum_exponent(activations)
    return {"exponent": fit, "spectrum": fit.verdict}


def _topology(activations: Tensor) -> Values:
    network = selfsim.FeatureNetwork(activations)
    found = selfsim.topology(network.to_networkx(neighbours=min(10, network.n - 1)))
    return {
        name: Estimate(value=getattr(found, name), reason=found.reasons.get(name, ""))
        for name in ("clustering", "path_length", "modularity")
    }


# What `analyze` can be asked for by name. A function returns the values of several columns, or the one named like it.
STATISTICS: Mapping[str, Callable[[Tensor], Any]] = {
    "rate": lambda x: selfsim.ss_rate(x),
    "scaling": _scaling,
    "dimension": lambda x: {"sample_dimension": selfsim.correlation_dimension(x)},
    "spectrum": _spectrum,
    "median_distance": lambda x: selfsim.pair_distances(x).median(),
    "rate_quantiles": lambda x: selfsim.ss_rate(x, quantiles=(0.01, 0.99)),
    "rate_left_out": lambda x: selfsim.ss_rate(x, leave_out=3),
    "rate_median_unit": lambda x: selfsim.ss_rate(x, unit="median"),
    "rate_linkage": lambda x: selfsim.ss_rate(x, count="complete-linkage"),
    "two_nn": lambda x: selfsim.two_nn(x),
    "topology": _topology,
}
# The columns of those that have others than their name.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "scaling": ("deviation", "dimension", "octaves", "scales"),
    "dimension": ("sample_dimension",),
    "spectrum": ("exponent", "spectrum"),
    "topology": ("clustering", "path_length", "modularity"),
}
