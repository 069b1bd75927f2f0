"""The figures of runs."""

from __future__ import annotations

import torch

from selfsim import TrainConfig, null_band, ss_rate, train
from selfsim.figures.runs import plot_rates
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
