"""Feature networks of hidden neurons, their self-similarity by box covering, and training under it.

After arXiv 2507.17785, *Self-similarity Analysis in Deep Neural Networks*. Names are loaded when they are first
used, so that ``import selfsim`` costs next to nothing beyond torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Public name -> the room that it lives in.
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
    "known_activations": "statistics.known_sets",
    "movement": "statistics.movement",
    "null_activations": "statistics.null_models",
    "null_band": "statistics.null_models",
    "pair_distances": "rate.distances",
    "rate_curve": "rate.curve",
    "rate_drivers": "rate.drivers",
    "RateDrivers": "rate.drivers",
    "rewired": "statistics.rewiring",
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


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"module 'selfsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
