"""From outputs to (samples, neurons): which tensor, which axis, how places are pooled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from selfsim import Probe, activations
from selfsim.models.pooling import channel_axis, pooled

TOKENS = torch.rand(5, 9, 7)
MAPS = torch.rand(5, 7, 3, 4)


@pytest.mark.parametrize(
    ("pooling", "x", "expected"),
    [
        ("mean", TOKENS, TOKENS.sum(1) / 9),
        ("mean", MAPS, MAPS.flatten(2).sum(2) / 12),
        ("max", TOKENS, TOKENS.sort(1).values[:, -1]),
        ("max", MAPS, MAPS.flatten(2).sort(2).values[..., -1]),
        ("class-token", TOKENS, TOKENS[:, 0]),
        ("flatten", MAPS, MAPS.reshape(5, 84)),
        (lambda x: x[:, 1:].mean(1), TOKENS, TOKENS[:, 1:].mean(1)),
    ],
)
def test_poolings(pooling, x, expected):
    model = nn.Sequential(nn.Identity())
    with (probe := Probe(model, ["0"], pooling=pooling)):
        model(x)
    torch.testing.assert_close(probe.activations["0"], expected)


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("places", [(6,), (3, 4), (2, 3, 4)])
def test_named_channels(channels, places):
    x = torch.rand(5, 7, *places)
    given = x if channels == "first" else x.movedim(1, -1)
    torch.testing.assert_close(pooled(given, channels=channels), x.flatten(2).mean(2))


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.Linear(6, 11), torch.rand(2, 3, 5, 6)),  # (samples, height, width, channels)
        (nn.Conv2d(3, 11, 1), torch.rand(2, 3, 4, 5)),
        (nn.Conv1d(3, 11, 1), torch.rand(2, 3, 8)),
        (nn.Linear(6, 11), torch.rand(2, 8, 6)),
        (nn.Sequential(nn.Conv2d(3, 11, 1), nn.BatchNorm2d(11)), torch.rand(2, 3, 4, 4)),
        (nn.LayerNorm(11), torch.rand(2, 4, 4, 11)),
    ],
)
def test_channels_are_found_by_the_layers_own_parameters(module, x):
    model = nn.Sequential(module)
    with (probe := Probe(model, ["0"])):
        y = model(x)
    axis = list(y.shape).index(11)
    torch.testing.assert_close(probe.activations["0"], y.movedim(axis, 1).flatten(2).mean(2))


def test_channels_without_parameters_go_by_the_square():
    assert channel_axis(torch.Size([2, 7, 7, 5])) == 3
    assert channel_axis(torch.Size([2, 5, 7, 7])) == 1
    assert channel_axis(torch.Size([2, 7, 7, 7])) == 1
    assert channel_axis(torch.Size([2, 7, 5])) == 2


def test_what_is_read_is_not_changed_by_the_next_layer_in_place():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True))
    x = torch.randn(9, 4)
    for pooling in ("mean", "flatten"):
        with torch.no_grad(), (probe := Probe(model, ["0"], pooling=pooling)):
            model(x)
        assert (probe.activations["0"] < 0).any()
        torch.testing.assert_close(probe.activations["0"], model[0](x).detach())


class Named(nn.Module):
    """Gives a dict, as language models do."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 5)
        self.block = nn.Sequential(nn.Linear(5, 5))

    def forward(self, tokens, attention_mask=None):
        return self.outer({"length": 3, "last_hidden_state": self.block(self.embed(tokens)), "other": torch.ones(1, 2)})

    def outer(self, output):
        return output


def text_batch():
    tokens = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    return {"tokens": tokens, "attention_mask": (tokens != 0).long()}


def test_padded_tokens_are_left_out():
    model, batch = Named(), text_batch()
    full = model.block(model.embed(batch["tokens"])).detach()
    expected = torch.stack([full[0, :3].mean(0), full[1, :2].mean(0)])
    for pooling, want in (("mean", expected), ("max", torch.stack([full[0, :3].amax(0), full[1, :2].amax(0)]))):
        got = activations(
            model, [batch], layers=["block"], samples=2, device="cpu", mask="attention_mask", pooling=pooling
        )
        torch.testing.assert_close(got["block"], want)
    probe = Probe(model, ["block"])
    probe.mask = batch["attention_mask"].bool()
    with probe:
        model(**batch)
    torch.testing.assert_close(probe.activations["block"].detach(), expected)
    assert probe.mask is None  # never a stale one


def test_masked_places_send_no_gradient_even_if_they_are_not_finite():
    x = torch.tensor([[[1.0], [3.0], [float("nan")]]], requires_grad=True)
    pooled(x, mask=torch.tensor([[1, 1, 0]])).sum().backward()
    assert x.grad.flatten().tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (torch.ones(2, 3), {}, r"mask: got shape \(2, 3\), but layer 'block' has samples and places \(2, 4\)"),
        (torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]), {}, "mask: got a sample of which no place counts"),
        (torch.ones(2, 4), {"pooling": "flatten"}, "mask: not for pooling='flatten'; need 'mean' or 'max'"),
    ],
)
def test_masks_that_do_not_fit(mask, options, message):
    model = Named()
    probe = Probe(model, ["block"], **options)
    probe.mask = mask
    with pytest.raises(ValueError, match=message), probe:
        model(**text_batch())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "batch", [torch.zeros(2, 4, dtype=torch.long), {"tokens": torch.zeros(2, 4, dtype=torch.long)}]
)
def test_batches_without_the_mask(batch):
    with pytest.raises(ValueError, match="mask: need batches that are dicts with 'attention_mask', got"):
        activations(Named(), [batch], layers=["block"], samples=2, device="cpu", mask="attention_mask")


class Tuples(nn.Module):
    def forward(self, x):
        return ("name", {"inner": [x, 2 * x]}, 3 * x)


def test_the_first_tensor_or_a_named_part():
    model, x = nn.Sequential(Tuples()), torch.rand(4, 3)
    for part, expected in ((None, 3 * x), (1, x), (2, 3 * x)):
        with (probe := Probe(model, ["0"], part=part)):
            model(x)
        assert torch.equal(probe.activations["0"], expected)


@pytest.mark.parametrize(
    ("output", "options", "error", "message"),
    [
        ("text", {}, TypeError, "layer 'output': its output is a str, need a tensor"),
        ({"a": None}, {}, TypeError, "its output is a dict, need a tensor"),
        (torch.ones(3, 4).long(), {}, TypeError, "its output is of torch.int64, need a real floating-point type"),
        (torch.ones(3), {}, ValueError, r"its output has shape \(3,\), need 2 dimensions"),
        (torch.ones(3, 1, 1, 1, 4), {}, ValueError, "of more, name channels='first' or 'last'"),
        ({"a": torch.ones(2, 2)}, {"part": "b"}, ValueError, r"part: got 'b', but layer 'output' gives \['a'\]"),
        (torch.ones(2, 3, 4, 4), {"pooling": "class-token"}, ValueError, "need \\(samples, tokens, channels\\)"),
        (torch.ones(2, 3, 4), {"pooling": lambda x: x}, ValueError, r"pooling: for layer 'output' it gave \(2, 3, 4\)"),
    ],
)
def test_outputs_that_are_no_activations(output, options, error, message):
    with pytest.raises(error, match=message):
        pooled(output, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "men"}, "pooling: got 'men'.*did you mean 'mean'"),
        ({"channels": "NHWC"}, "channels: got 'NHWC', need one of 'auto', 'first', 'last'"),
        ({"draw": 0}, "draw: got 0, need None or 1 to 1"),
        ({"draw": 2}, "draw: got 2, need None or 1 to 1, the number of layers"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        Probe(nn.Sequential(nn.Identity()), ["0"], **options)
