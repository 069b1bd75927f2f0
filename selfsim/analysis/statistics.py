"""The statistics that `analyze` can be asked for by name; each loads what it needs at its first call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

Values = Mapping[str, Any]  # column -> a number, or an estimate with its reason


def _rate(**options: Any) -> Callable[[Tensor], Any]:
    def rate(activations: Tensor) -> Tensor:
        from ..rate.rate import ss_rate

        return ss_rate(activations, **options)

    return rate


def _scaling(activations: Tensor) -> Values:
    from ..statistics.scaling import scaling

    found = scaling(activations, draws=0)
    return {name: getattr(found, name) for name in ("deviation", "dimension", "octaves", "scales")}


def _median_distance(activations: Tensor) -> float:
    from ..rate.distances import pair_distances

    return float(np.median(pair_distances(activations).double().cpu().numpy()))


def _sample_dimension(activations: Tensor) -> Values:
    from ..statistics.dimension import correlation_dimension

    return {"sample_dimension": correlation_dimension(activations)}


def _two_nn(activations: Tensor) -> Any:
    from ..statistics.dimension import two_nn

    return two_nn(activations)


def _spectrum(activations: Tensor) -> Values:
    from ..statistics.spectrum import spectrum_exponent

    fit = spectrum_exponent(activations)
    return {"exponent": fit, "spectrum": fit.verdict}


def _topology(activations: Tensor) -> Values:
    from ..rate.network import FeatureNetwork
    from ..statistics.topology import topology

    network = FeatureNetwork(activations)
    found = topology(network.to_networkx(neighbours=min(10, network.n - 1)))
    return {
        name: found.reasons.get(name) or getattr(found, name) for name in ("clustering", "path_length", "modularity")
    }


# What `analyze` can be asked for by name. A function returns the values of several columns, or the one named like it.
STATISTICS: Mapping[str, Callable[[Tensor], Any]] = {
    "rate": _rate(),
    "scaling": _scaling,
    "dimension": _sample_dimension,
    "spectrum": _spectrum,
    "median_distance": _median_distance,
    "rate_quantiles": _rate(quantiles=(0.01, 0.99)),
    "rate_left_out": _rate(leave_out=3),
    "rate_median_unit": _rate(unit="median"),
    "rate_linkage": _rate(count="complete-linkage"),
    "two_nn": _two_nn,
    "topology": _topology,
}
