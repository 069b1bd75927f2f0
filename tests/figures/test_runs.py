"""The figures of runs."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from selfsim import TrainConfig, null_band, ss_rate, train
from selfsim.figures.runs import draw_seeds, plot_rates
from selfsim.figures.style import UNCONSTRAINED, use_style
from study.plots import plot_epochs


def test_rates_stand_at_the_epochs_of_the_evaluations():
    sizes = dict(train_images=64, validation_images=64, test_images=64, samples=32)
    run = train(TrainConfig("mlp", epochs=4, evaluate_every=3, **sizes), device="cpu")
    band = null_band(ss_rate, torch.randn(32, 192, generator=torch.Generator().manual_seed(0)), draws=10)
    for figure in (
        plot_rates([run], [run], bands=[{layer: [band] for layer in run.layers}]),
        plot_epochs([run]),
    ):
        lines = [line for axes in figure.axes for line in axes.get_lines() if len(line.get_xdata()) > 2]
        assert lines and all(list(line.get_xdata()) == [0, 3, 4] for line in lines)


def test_the_mean_is_that_of_all_runs_and_lines_go_forward():
    axes = Figure().subplots()
    often = pd.Series([0.1, 0.2, 0.3, 0.4, math.nan], index=[0, 1, 2, 3, 4])
    draw_seeds(axes, [pd.Series([0.3, 0.5, 0.7], index=[0, 2, 4]), often], UNCONSTRAINED)
    first, second, mean = axes.get_lines()
    assert [list(line.get_xdata()) for line in (first, second, mean)] == [[0, 2, 4], [0, 1, 2, 3], [0, 2]]
    assert list(mean.get_ydata()) == pytest.approx([0.2, 0.4])


def test_the_style_is_readable_after_a_dark_one():
    with plt.style.context("dark_background"):
        use_style()
        figure = plt.figure()
        axes = figure.subplots()
        grounds = {to_rgb(ground) for ground in (figure.get_facecolor(), axes.get_facecolor())}
        words = {to_rgb(text.get_color()) for text in (axes.title, axes.xaxis.label, *axes.get_xticklabels())}
        plt.close(figure)
    assert (grounds, words) == ({(1, 1, 1)}, {(0, 0, 0)})
