# The public names, each from the module that defines it. Type checkers and completion read this file, and
# `__init__.py` reads it to load a name on first use.

from .analysis.analyze import Analysis as Analysis, analyze as analyze
from .boxes.check import check_cover as check_cover
from .boxes.counts import BoxCounts as BoxCounts, box_counts as box_counts
from .boxes.cover import box_cover as box_cover
from .boxes.dimension import fractal_dimension as fractal_dimension
from .boxes.exact import box_bound as box_bound
from .boxes.multifractal import multifractal as multifractal
from .boxes.renormalization import renormalization_flow as renormalization_flow, renormalize as renormalize
from .models.architectures import create as create
from .models.data import load_images as load_images
from .models.probe import Probe as Probe, activations as activations
from .rate.curve import rate_curve as rate_curve
from .rate.distances import pair_distances as pair_distances
from .rate.drivers import RateDrivers as RateDrivers, rate_drivers as rate_drivers
from .rate.network import FeatureNetwork as FeatureNetwork, feature_networks as feature_networks
from .rate.rate import ss_rate as ss_rate
from .statistics.dimension import correlation_dimension as correlation_dimension, two_nn as two_nn
from .statistics.invariance import invariance_across_layers as invariance_across_layers
from .statistics.movement import movement as movement
from .statistics.null_models import null_activations as null_activations, null_band as null_band
from .statistics.rewiring import rewired as rewired
from .statistics.scaling import scaling as scaling, scaling_deviation as scaling_deviation
from .statistics.small_world import small_world_omega as small_world_omega, small_world_sigma as small_world_sigma
from .statistics.spectrum import spectrum_exponent as spectrum_exponent, weight_exponents as weight_exponents
from .statistics.synthetic import known_activations as known_activations
from .statistics.topology import topology as topology
from .training.config import TrainConfig as TrainConfig
from .training.constraint import SelfSimilarityConstraint as SelfSimilarityConstraint
from .training.loop import train as train
from .training.proposal import ConstraintProposal as ConstraintProposal, propose_constraint as propose_constraint
from .training.runs import Run as Run, load_run as load_run, load_runs as load_runs
from .training.scale_control import ScaleControl as ScaleControl
from .training.stacked import train_many as train_many
from .uncertainty import (
    mean_interval as mean_interval,
    paired_difference as paired_difference,
    rank_correlation as rank_correlation,
    samples_interval as samples_interval,
)

__version__: str
