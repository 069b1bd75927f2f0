"""Batches as data loaders return them: tensors, tuples, dicts and packed sequences, with one or several inputs."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

from selfsim import Probe, activations
from selfsim.models.batches import batch_samples, batch_targets, call_with_batch


class Sum(nn.Module):
    """Takes two inputs by position or name."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, first, second):
        return self.inner(first + second)


class OneOrTwo(Sum):
    def forward(self, first, second=None):
        return self.inner(first if second is None else first + second)


class AnyNumber(Sum):
    def forward(self, *inputs):
        return self.inner(sum(inputs))


class ListOfImages(Sum):
    """Takes a list of images of different sizes, as detection models do."""

    def forward(self, images, targets=None):
        assert isinstance(images, list)
        return self.inner(torch.stack([image.mean((1, 2)) for image in images]))


A, B, Y = torch.rand(4, 5), torch.rand(4, 5), torch.zeros(4)


@pytest.mark.parametrize(
    ("model", "batch", "expected"),
    [
        (Sum(), (A, B, Y), A + B),
        (Sum(), [A, B, Y], A + B),
        (Sum(), ((A, B), Y), A + B),
        (Sum(), ([A, B], Y), A + B),
        (Sum(), ({"second": B, "first": A}, Y), A + B),
        (Sum(), {"second": B, "first": A, "labels": Y}, A + B),
        (OneOrTwo(), (A, Y), A),
        (OneOrTwo(), ((A, B), Y), A + B),
        (AnyNumber(), (A, Y), A),
        (AnyNumber(), (A, B, Y), A + B),
        (AnyNumber(), (A,), A),
        (nn.Sequential(OrderedDict(inner=nn.Identity())), (A, Y), A),
        (ListOfImages(), ([torch.ones(3, 4, 4), torch.ones(3, 2, 6)], [{}, {}]), torch.ones(2, 3)),
    ],
)
def test_inputs_are_found_by_the_forward_pass(model, batch, expected):
    got = activations(model, [batch], layers=["inner"], samples=len(expected), device="cpu")["inner"]
    torch.testing.assert_close(got, expected)


def test_number_of_samples_and_targets():
    assert batch_samples(Sum(), (A, B, Y)) == 4
    assert batch_targets((A, B, Y)) is Y and batch_targets(((A, B), Y)) is Y and batch_targets(A) is None
    for name in ("labels", "label", "targets", "target"):
        assert batch_targets({"first": A, name: Y}) is Y
    batch = {"first": A}
    assert batch_targets(batch) is batch


@pytest.mark.parametrize("batch", [(), {}, ({}, Y)])
def test_empty_batches(batch):
    with pytest.raises(ValueError, match="loader: got an empty batch"):
        call_with_batch(Sum(), batch, "cpu")


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)

    def forward(self, sequences):
        return self.lstm(sequences)[0]


@pytest.mark.parametrize("as_tuple", [False, True])
def test_packed_sequences_are_pooled_over_their_own_steps(as_tuple):
    sequences = [torch.rand(steps, 3) for steps in (2, 7, 4)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    model = Recurrent()
    outputs = [model.lstm(x.unsqueeze(0))[0][0].detach() for x in sequences]
    batch = (packed, torch.zeros(3)) if as_tuple else packed
    for pooling, pool in {
        "mean": lambda x: x.mean(0),
        "max": lambda x: x.amax(0),
        "class-token": lambda x: x[0],
    }.items():
        got = activations(model, [batch], layers=["lstm"], samples=3, device="cpu", pooling=pooling)["lstm"]
        torch.testing.assert_close(got, torch.stack([pool(x) for x in outputs]))
    with pytest.raises(ValueError, match="layer 'lstm': its output is a packed sequence"):
        activations(model, [batch], layers=["lstm"], samples=3, device="cpu", pooling="flatten")


def test_a_function_gets_the_packed_sequence_itself():
    model = Recurrent()
    packed = pack_padded_sequence(torch.rand(2, 5, 3), [5, 3], batch_first=True)
    with (probe := Probe(model, ["lstm"], part=0, pooling=lambda sequence: sequence.data[:2])):
        output = model(packed)
    assert torch.equal(probe.activations["lstm"], output.data[:2])


class OnlyInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, keep=None):
        return self.linear(x) if keep is None else None


INPUTS = torch.ones(4, 3)


@pytest.mark.parametrize("batch", [(INPUTS, torch.ones(4), torch.ones(4)), {"x": INPUTS, "labels": 1}])
def test_an_average_of_a_model_gets_the_inputs_of_the_model(batch):
    model = OnlyInputs()
    average = torch.optim.swa_utils.AveragedModel(model)
    assert torch.equal(call_with_batch(average, batch, "cpu"), call_with_batch(model, batch, "cpu"))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (torch.ones(6, 3), "loader: got Tensor, need an iterable of batches, such as x.split"),
        (np.ones((6, 3)), "loader: got ndarray, need an iterable of batches"),
        ([np.ones((6, 3))], "loader: got batches of NumPy arrays, need tensors"),
    ],
)
def test_what_is_no_loader(loader, message):
    with pytest.raises(TypeError, match=message):
        activations(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), loader)
