"""The figures and tables of the book, and of yours: ``from selfsim import figures``."""

from .layers import plot_layers, plot_lines
from .network import Animation, animate_boxes, plot_counts, plot_feature_network
from .rates import SET_TITLES, plot_curves, plot_estimates
from .runs import plot_images, plot_pairs, plot_rates, plot_settings, plot_targets
from .style import use_style
from .tables import images_in_words, network_table, pair_table, rate_table, reach_table, summary

__all__ = [
    "SET_TITLES", "Animation", "animate_boxes", "images_in_words", "network_table", "pair_table",
    "plot_counts", "plot_curves", "plot_estimates", "plot_feature_network", "plot_images",
    "plot_layers", "plot_lines", "plot_pairs",
    "plot_rates", "plot_settings", "plot_targets", "rate_table", "reach_table", "summary", "use_style",
]  # fmt: skip
