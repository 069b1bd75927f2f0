"""The cap beside what else acts on a layer: other losses, changes in place, second derivatives, a second penalty."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn

from selfsim import Probe, SelfSimilarityConstraint

from .capped import CAP, batch, constraint, loss_and_probe, network


def gradients_of(model, loss, **options):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuple(model.parameters()), **options)])


@pytest.mark.parametrize("pooling", ["mean", "flatten", lambda x: x.flatten(1)])
@pytest.mark.parametrize("factor", [0.1, 1000.0])
def test_a_loss_of_ones_own_on_the_activations_is_part_of_the_task(pooling, factor):
    model, (x, y) = network(), batch()

    def losses():
        with (probe := Probe(model, ["read"], pooling=pooling)):
            task = nn.functional.cross_entropy(model(x), y)
        return task + factor * probe.activations["read"].square().mean(), probe

    task, _ = losses()
    alone = gradients_of(model, task)
    task, probe = losses()
    both = gradients_of(model, task + constraint(cap=1e-9)(probe))
    torch.testing.assert_close(both, alone, rtol=1e-6, atol=1e-8)
    # And the cap is a share of the gradient of both.
    task, probe = losses()
    capped = gradients_of(model, task + constraint()(probe))
    assert not torch.allclose(capped, alone, rtol=1e-3)


class Views(nn.Module):
    """A layer whose output is a view, which the next layer changes in place."""

    def __init__(self, inplace: bool, as_tuple: bool):
        super().__init__()
        self.read, self.last = Turned(as_tuple), nn.Linear(4 * 8, 3)
        self.relu = nn.ReLU(inplace)

    def forward(self, x):
        hidden = self.read(x)
        return self.last(self.relu(hidden[0] if isinstance(hidden, tuple) else hidden).flatten(1))


class Turned(nn.Module):
    def __init__(self, as_tuple: bool):
        super().__init__()
        self.linear, self.as_tuple = nn.Linear(5, 8), as_tuple

    def forward(self, x):
        turned = self.linear(x).mT
        return (turned, None) if self.as_tuple else turned


@pytest.mark.parametrize("as_tuple", [False, True])
def test_a_view_that_is_changed_in_place_is_named(as_tuple):
    for inplace, cap in itertools.product((False, True), (CAP, None)):
        torch.manual_seed(0)
        model, x = Views(inplace, as_tuple), torch.randn(12, 4, 5, generator=torch.Generator().manual_seed(1))
        plain = model(x)
        with (probe := Probe(model, ["read"], channels="first")):
            outputs = model(x)
        assert torch.equal(outputs, plain)  # the probe changes nothing
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            constraint(cap=cap)(probe)  # without a cap, its gradient needs no meeting
        assert len(found) == (inplace and cap is not None)
        assert all("a view that is changed in place" in str(w.message) for w in found)


def test_second_derivatives_are_those_of_the_task_or_an_error():
    model, (x, y) = network(), batch()
    loss, probe = loss_and_probe(model, x, y)
    first = gradients_of(model, loss + constraint(cap=1e-9)(probe), create_graph=True)
    with pytest.raises(RuntimeError, match="the gradient has no derivative"):
        gradients_of(model, first.square().sum())
    loss, probe = loss_and_probe(model, x, y)
    ramped = SelfSimilarityConstraint(0.5, ramp=(0.5, 1.0))
    first = gradients_of(model, loss + ramped(probe), create_graph=True)
    assert gradients_of(model, first.square().sum()).isfinite().all()  # no pull, so nothing is missing


def test_a_second_penalty_on_a_probe_is_refused_before_the_ramp_as_well():
    model, (x, y) = network(), batch()
    _, probe = loss_and_probe(model, x, y)
    SelfSimilarityConstraint(0.5)(probe)  # its ramp has not begun
    with pytest.raises(ValueError, match="one Probe each"):
        constraint(cap=None)(probe)


def test_two_faults_are_two_warnings():
    model, (x, y) = network(), batch()
    for parameter in model.first.parameters():
        parameter.requires_grad_(False)
    with (probe := Probe(model, ["first", "read"])):
        loss = nn.functional.cross_entropy(model(x), y)
    pull = constraint()
    with pytest.warns(UserWarning, match="no gradient at 'first'"):
        penalty = pull(probe)
    loss.backward(retain_graph=True)
    penalty.backward()
    with pytest.warns(UserWarning, match="no gradient of the task reached 'read'"):
        pull.step(epoch=1, epochs=3)
