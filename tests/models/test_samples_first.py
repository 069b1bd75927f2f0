"""Layers of torch whose first axis is not the samples are warned of."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from selfsim import Probe


@pytest.mark.parametrize(
    ("layer", "part", "warned"),
    [
        (nn.LSTM(4, 8), None, "time is there"),
        (nn.LSTM(4, 8, batch_first=True), None, ""),
        (nn.GRU(4, 8, batch_first=True), 1, "layers there"),
        (nn.TransformerEncoderLayer(4, 2, 8), None, "time is there"),
        (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), None, ""),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 1, enable_nested_tensor=False), None, "time"),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1), None, ""),
    ],
)
def test_time_or_layers_in_front_of_the_samples_are_a_warning(layer, part, warned):
    model = nn.Sequential(layer)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            with (probe := Probe(model, ["0"], part=part)):
                model(torch.randn(6, 5, 4))
        with Probe(model, ["0"], part=part, pooling=lambda x: x[0]):
            model(torch.randn(6, 5, 4))
    assert len(found) == 2 * bool(warned) and all(warned in str(w.message) for w in found)
    assert probe.activations["0"].shape[1] in (4, 8)
