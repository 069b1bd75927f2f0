"""What both penalties share: a warning where they cannot act, and errors that name the layer."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from selfsim import Probe, ScaleControl, SelfSimilarityConstraint


class Network(nn.Module):
    """Two blocks of which the second can be checkpointed, detached or run without gradient."""

    def __init__(self, second: str = "plain"):
        super().__init__()
        self.first, self.second, self.how = nn.Linear(4, 12), nn.Linear(12, 12), second

    def forward(self, x):
        x = self.first(x)
        if self.how == "reentrant":
            return checkpoint(self.second, x, use_reentrant=True)
        if self.how == "not reentrant":
            return checkpoint(self.second, x, use_reentrant=False)
        if self.how == "no_grad":
            with torch.no_grad():
                return self.second(x)
        return self.second(x)


@pytest.fixture(
    params=[lambda: SelfSimilarityConstraint(weight=1.0, ramp=None), lambda: ScaleControl(0.5)],
    ids=["constraint", "control"],
)
def penalty(request):
    return request.param()


def read(model: nn.Module, x: torch.Tensor | None = None) -> Probe:
    with (probe := Probe(model, ["first", "second"])):
        model(torch.rand(9, 4) if x is None else x)
    return probe


def warnings_of(penalty, activations, times: int = 1) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            penalty(activations)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("second", "cause"),
    [
        ("reentrant", "gradient checkpointing with use_reentrant=True"),
        ("no_grad", r"torch.no_grad\(\) inside the model"),
    ],
)
def test_layers_without_gradient_are_one_warning_with_layer_and_cause(penalty, second, cause):
    probe = read(Network(second))
    with pytest.warns(UserWarning, match=f"activations: got no gradient at 'second' .*cause: .*{cause}"):
        penalty(probe)
    assert warnings_of(penalty, probe, times=3) == []  # once


def test_a_frozen_backbone_is_named(penalty):
    model = Network()
    model.first.requires_grad_(False)
    (message,) = warnings_of(penalty, read(model), times=2)
    assert "at 'first' (likely cause: the layer and all before it are frozen (requires_grad=False))" in message
    assert "'second'" not in message


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_grad_around_the_forward_pass_is_named(penalty, mode):
    with mode():
        probe = read(Network())
    (message,) = warnings_of(penalty, probe)
    assert "'first', 'second' (likely cause: the forward pass ran under torch.no_grad()" in message


def test_activations_without_a_probe_are_looked_at_too(penalty):
    x = torch.rand(9, 12)
    (message,) = warnings_of(penalty, {"first": x.clone().requires_grad_(), "second": x})
    assert "got no gradient at 'second' (likely cause: detached or" in message


def test_no_warning_where_the_penalty_acts_or_is_only_looked_at(penalty):
    for model in (Network(), Network("not reentrant")):
        assert warnings_of(penalty, read(model)) == []
    with torch.no_grad():
        assert warnings_of(penalty, read(Network())) == []
