"""Feature networks of hidden neurons, their self-similarity by box covering, and training under it.

After arXiv 2507.17785, *Self-similarity Analysis in Deep Neural Networks*. Names are loaded on first use, so
``import selfsim`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and completion; `_ROOMS` says the same at run time
    from .boxes.check import check_cover as check_cover
    from .boxes.counts import BoxCounts as BoxCounts
    from .boxes.counts import box_counts as box_counts
    from .boxes.cover import box_cover as box_cover
    from .boxes.dimension import fractal_dimension as fractal_dimension
    from .boxes.exact import box_bound as box_bound
    from .boxes.multifractal import multifractal as multifractal
    from .boxes.renormalization import renormalization_flow as renormalization_flow
    from .boxes.renormalization import renormalize as renormalize
    from .models.architectures import create as create
    from .models.data import load_images as load_images
    from .models.probe import Probe as Probe
    from .models.probe import activations as activations
    from .rate.curve import rate_curve as rate_curve
    from .rate.distances import pair_distances as pair_distances
    from .rate.drivers import RateDrivers as RateDrivers
    from .rate.drivers import rate_drivers as rate_drivers
    from .rate.network import FeatureNetwork as FeatureNetwork
    from .rate.network import feature_networks as feature_networks
    from .rate.rate import ss_rate as ss_rate
    from .statistics.dimension import correlation_dimension as correlation_dimension
    from .statistics.dimension import two_nn as two_nn
    from .statistics.invariance import invariance_across_layers as invariance_across_layers
    from .statistics.movement import movement as movement
    from .statistics.null_models import null_activations as null_activations
    from .statistics.null_models import null_band as null_band
    from .statistics.rewiring import rewired as rewired
    from .statistics.scaling import scaling as scaling
    from .statistics.scaling import scaling_deviation as scaling_deviation
    from .statistics.small_world import small_world_omega as small_world_omega
    from .statistics.small_world import small_world_sigma as small_world_sigma
    from .statistics.spectrum import spectrum_exponent as spectrum_exponent
    from .statistics.spectrum import weight_exponents as weight_exponents
    from .statistics.synthetic import known_activations as known_activations
    from .statistics.topology import topology as topology
    from .training.config import TrainConfig as TrainConfig
    from .training.constraint import SelfSimilarityConstraint as SelfSimilarityConstraint
    from .training.loop import train as train
    from .training.proposal import ConstraintProposal as ConstraintProposal
    from .training.proposal import propose_constraint as propose_constraint
    from .training.runs import Run as Run
    from .training.runs import load_run as load_run
    from .training.runs import load_runs as load_runs
    from .training.scale_control import ScaleControl as ScaleControl
    from .uncertainty import mean_interval as mean_interval
    from .uncertainty import paired_difference as paired_difference
    from .uncertainty import rank_correlation as rank_correlation
    from .uncertainty import samples_interval as samples_interval

__version__ = "0.1.0"

# Public name -> the module that defines it.
_ROOMS = {
    "box_bound": "boxes.exact",
    "box_counts": "boxes.counts",
    "box_cover": "boxes.cover",
    "BoxCounts": "boxes.counts",
    "check_cover": "boxes.check",
    "fractal_dimension": "boxes.dimension",
    "multifractal": "boxes.multifractal",
    "renormalization_flow": "boxes.renormalization",
    "renormalize": "boxes.renormalization",
    "correlation_dimension": "statistics.dimension",
    "feature_networks": "rate.network",
    "FeatureNetwork": "rate.network",
    "invariance_across_layers": "statistics.invariance",
    "known_activations": "statistics.synthetic",
    "movement": "statistics.movement",
    "null_activations": "statistics.null_models",
    "null_band": "statistics.null_models",
    "pair_distances": "rate.distances",
    "rate_curve": "rate.curve",
    "rate_drivers": "rate.drivers",
    "RateDrivers": "rate.drivers",
    "rewired": "statistics.rewiring",
    "scaling": "statistics.scaling",
    "scaling_deviation": "statistics.scaling",
    "small_world_omega": "statistics.small_world",
    "small_world_sigma": "statistics.small_world",
    "spectrum_exponent": "statistics.spectrum",
    "ss_rate": "rate.rate",
    "topology": "statistics.topology",
    "two_nn": "statistics.dimension",
    "weight_exponents": "statistics.spectrum",
    "activations": "models.probe",
    "create": "models.architectures",
    "load_images": "models.data",
    "Probe": "models.probe",
    "ConstraintProposal": "training.proposal",
    "load_run": "training.runs",
    "load_runs": "training.runs",
    "propose_constraint": "training.proposal",
    "Run": "training.runs",
    "ScaleControl": "training.scale_control",
    "SelfSimilarityConstraint": "training.constraint",
    "train": "training.loop",
    "TrainConfig": "training.config",
    "mean_interval": "uncertainty",
    "paired_difference": "uncertainty",
    "rank_correlation": "uncertainty",
    "samples_interval": "uncertainty",
}

__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'selfsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
