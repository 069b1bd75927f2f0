"""From outputs to (samples, neurons): which tensor, which axis, how places are pooled."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from selfsim import Probe, activations
from selfsim.models.pooling import KnownChannels, channel_axis, pooled


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class LayerNorm2d(nn.LayerNorm):
    """Channels first, as in timm and torchvision."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


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
        # A number of places that is a number of channels inside.
        (nn.Linear(6, 11, bias=False), torch.rand(2, 6, 5, 6)),
        (nn.Conv1d(3, 11, 1, bias=False), torch.rand(2, 3, 8)),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 11, 1, bias=False)), torch.rand(2, 3, 8, 8)),
        (nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 11, bias=False)), torch.rand(2, 8, 6)),
        (nn.Conv2d(3, 11, 1), torch.rand(2, 3, 11, 9)),
        (nn.GroupNorm(1, 11), torch.rand(2, 11, 11, 9)),
        (LayerNorm2d(11), torch.rand(2, 11, 11, 9)),
    ],
)
def test_channels_are_found_by_the_layers_own_parameters(module, x):
    model = nn.Sequential(module)
    with (probe := Probe(model, ["0"])):
        y = model(x)
    axis = list(y.shape).index(11)
    if isinstance(module, nn.Linear):
        axis = y.ndim - 1
    torch.testing.assert_close(probe.activations["0"], y.movedim(axis, 1).flatten(2).mean(2))


@pytest.mark.parametrize(
    ("layers", "x", "widths"),
    [
        ((nn.Conv1d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 24, 1), nn.ReLU()), (4, 1, 100), (16, 16, 24, 24)),
        ((nn.Conv1d(1, 16, 3, padding=1), nn.ReLU()), (4, 1, 16), (16, 16)),
        ((nn.Conv2d(3, 16, 1), nn.ReLU(), nn.MaxPool2d(1)), (4, 3, 16, 20), (16, 16, 16)),
        ((nn.Linear(6, 11, bias=False), nn.GELU()), (4, 3, 5, 6), (11, 11)),
        ((nn.Conv1d(1, 16, 3), nn.BatchNorm1d(16), nn.PReLU(), nn.PReLU(16)), (4, 1, 50), (16,) * 4),
        ((nn.Linear(6, 11, bias=False), nn.PReLU()), (4, 3, 5, 6), (11, 11)),
        ((nn.Conv2d(3, 8, 2, 2), nn.Flatten(2), Transposed(), nn.Dropout(0.0)), (2, 3, 8, 4), (8, 8, 8, 8)),
    ],
)
def test_layers_without_weights_are_read_like_the_layer_before_them(layers, x, widths):
    model = nn.Sequential(*layers)
    with torch.no_grad(), (probe := Probe(model, [str(i) for i in range(len(layers))])):
        y = model(torch.rand(x))
    read = {i: v for i, v in probe.activations.items() if not isinstance(model[int(i)], nn.Flatten)}
    assert [v.shape[1] for i, v in read.items()] == [w for i, w in enumerate(widths) if str(i) in read]
    axis = 1 if isinstance(layers[0], (nn.Conv1d, nn.Conv2d)) and y.ndim == len(x) else y.ndim - 1
    torch.testing.assert_close(probe.activations[str(len(layers) - 1)], y.movedim(axis, 1).flatten(2).mean(2))


@pytest.mark.parametrize("steps", [7, 12, 48])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers_have_their_channels_last(steps, both):
    model = nn.Sequential(nn.LSTM(5, 12, batch_first=True, bidirectional=both))
    with torch.no_grad(), (probe := Probe(model, ["0"])):
        y, _ = model(torch.rand(3, steps, 5))
    torch.testing.assert_close(probe.activations["0"], y.mean(1))


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("resnetv2_50", (224, 256)),  # before activation
        ("densenet121", (224, 256)),  # concatenations
        ("ghostnet_050", (224, 128)),  # concatenations without a layer of their width
        ("convnext_tiny", (224, 384)),
        ("swin_tiny_patch4_window7_224", (224, 448)),
        ("pvt_v2_b0", (224, 256)),
    ],
)
def test_numbers_of_neurons_do_not_depend_on_the_resolution(name, pixels):
    timm = pytest.importorskip("timm", reason="timm comes with the extra 'models'")
    found = []
    for size in pixels:
        with torch.device("meta"), torch.no_grad():
            model = timm.create_model(name, **({"img_size": size} if name.startswith("swin") else {})).eval()
            with (probe := Probe(model)):
                model(torch.rand(2, 3, size, size))
        found.append({layer: values.shape[1] for layer, values in probe.activations.items()})
    assert found[0] == found[1] and len(found[0]) > 3


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


@pytest.mark.parametrize("pooling", ["mean", "max", "class-token", "flatten", lambda x: x.amax(1), lambda x: x[:, 0]])
def test_training_goes_on_before_a_layer_that_works_in_place(pooling):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True))
    x = torch.randn(9, 5, 4)
    with (probe := Probe(model, ["0"], pooling=pooling)):
        y = model(x)
    before = model[0](x)
    torch.testing.assert_close(probe.activations["0"], pooled(before, pooling=pooling))
    (y.sum() + probe.activations["0"].sum()).backward()
    got = model[0].weight.grad.clone()
    model.zero_grad()
    (before.relu().sum() + pooled(before, pooling=pooling).sum()).backward()
    torch.testing.assert_close(got, model[0].weight.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_sums_over_places_do_not_overflow_in_half_precision(dtype, masked):
    x = torch.full((2, 4096, 3), 100.0, dtype=dtype)
    got = pooled(x, mask=torch.ones(2, 4096) if masked else None)
    assert got.dtype == dtype and torch.equal(got, torch.full((2, 3), 100.0, dtype=dtype))


def test_nested_tensors_are_refused_with_what_to_do():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2).eval()
    padding = torch.tensor([[False, False, True], [False, False, False]])
    probe = Probe(model, ["layers.0"])
    with (
        torch.no_grad(),
        probe,
        pytest.raises(TypeError, match="'layers.0'.*nested tensor.*enable_nested_tensor=False"),
    ):
        model(torch.rand(2, 3, 8), src_key_padding_mask=padding)


@dataclass
class Output:
    hidden: torch.Tensor


class Object(nn.Module):
    def forward(self, x):
        return Output(x)


@pytest.mark.parametrize("options", [{"part": "hidden"}, {"pooling": lambda output: output.hidden}])
def test_objects_are_read_by_part_or_by_a_function(options):
    model, x = nn.Sequential(Object()), torch.rand(4, 3)
    with (probe := Probe(model, ["0"], **options)):
        model(x)
    assert torch.equal(probe.activations["0"], x)
    for part, error in ((None, TypeError), ("other", ValueError)):
        with pytest.raises(error, match="part"), Probe(model, ["0"], part=part):
            model(x)


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
        (torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]), {}, "mask: got a sample without places that count"),
        (torch.ones(2), {}, r"mask: got shape \(2,\), need \(samples, tokens\)"),
        (torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -torch.inf]]), {}, "mask: got other values than 0 and 1"),
        (
            torch.ones(2, 4),
            {"pooling": "flatten"},
            "mask: not for pooling='flatten'; need 'mean' or 'max'",
        ),
    ],
)
def test_masks_that_do_not_fit(mask, options, message):
    model = Named()
    probe = Probe(model, ["block"], **options)
    probe.mask = mask
    with pytest.raises(ValueError, match=message), probe:
        model(**text_batch())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("mask", [[[1, 1]], np.ones((2, 4))])
def test_masks_that_are_no_tensors(mask):
    probe = Probe(Named(), ["block"])
    probe.mask = mask
    with pytest.raises(TypeError, match="mask: got (list|ndarray), need a tensor"), probe:
        pass


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
        (torch.ones(3, 1, 1, 1, 4), {}, ValueError, "for more dimensions, need channels='first' or 'last'"),
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
        ({"draw": True}, "draw: got True, need an integer"),
        ({"seed": None}, "seed: got None, need an integer"),
        ({"draw": 2}, "draw: got 2, need None or 1 to 1, the number of layers"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        Probe(nn.Sequential(nn.Identity()), ["0"], **options)


class DeclaredLast(nn.Module):
    """Two maps, a sequence and a vector, each through a module without weights that is declared after all others."""

    def __init__(self, outputs):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.line, self.fc = nn.Conv1d(24, 12, 3, padding=1), nn.Linear(12, outputs)
        self.act1, self.act2, self.act3, self.act4 = (nn.ReLU() for _ in range(4))

    def forward(self, x):
        x = self.act2(self.conv2(self.act1(self.conv1(x))))
        x = self.act3(self.line(x.flatten(2)))
        return self.act4(self.fc(x.mean(2)))


@pytest.mark.parametrize("outputs", [10, 32, 8, 20])  # of the last layer: no size of a map, or its width or height
@pytest.mark.parametrize("size", [(32, 32), (8, 20)])
def test_layers_without_weights_may_be_declared_after_all_others(size, outputs):
    model = DeclaredLast(outputs)
    names = [f"act{k}" for k in (1, 2, 3, 4)]
    with (probe := Probe(model, names)):
        model(x := torch.randn(5, 3, *size))
    with (first := Probe(model, names, channels="first")):
        model(x)
    for layer, width in zip(names, (16, 24, 12, outputs), strict=True):
        torch.testing.assert_close(probe.activations[layer], first.activations[layer])
        assert probe.activations[layer].shape == (5, width)


def test_tokens_stay_tokens_beside_convolutions():
    model = nn.ModuleDict({"embed": nn.Conv2d(3, 48, 4, 4), "mlp": nn.Linear(48, 64), "mix": nn.Conv1d(48, 32, 1)})
    model["act"] = nn.GELU()
    with (probe := Probe(model, ["act"])):
        model["act"](model["mlp"](model["embed"](torch.randn(5, 3, 12, 12)).flatten(2).mT))
    assert probe.activations["act"].shape == (5, 64)


@pytest.mark.parametrize(
    ("first", "second", "size", "width"),
    [
        (nn.Conv2d(3, 32, 1), nn.GLU(1), (10, 10), 16),
        (nn.Conv2d(3, 32, 1), nn.GLU(1), (8, 10), 16),
        (nn.Conv1d(3, 32, 1), nn.GLU(1), (10,), 16),
        (nn.AvgPool2d(1), nn.Identity(), (8, 10), 3),
        (nn.PixelUnshuffle(2), nn.Identity(), (20, 20), 12),
    ],
)
def test_a_head_as_wide_as_a_map_does_not_decide_where_its_channels_are(first, second, size, width):
    model = nn.ModuleDict({"first": first, "second": second, "head": nn.Linear(width, 10)})
    with (probe := Probe(model, ["second"])):
        model["second"](model["first"](torch.randn(5, 3, *size)))
    assert probe.activations["second"].shape == (5, width)


class Squeezed(nn.Module):
    """A convolution on sequences beside linear layers, as in squeeze-and-excitation."""

    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv1d(64, 64, 3, padding=1), nn.Linear(64, 16), nn.Linear(16, 64)

    def forward(self, x):
        x = self.conv(x)
        return x * self.up(self.down(x.mean(2)).relu()).sigmoid()[..., None]


@pytest.mark.parametrize(("length", "warned"), [(128, False), (64, True), (16, True)])
def test_channels_that_may_be_first_or_last_are_a_warning(length, warned):
    model, x = nn.Sequential(Squeezed()), torch.randn(5, 64, length)
    with warnings.catch_warnings(record=True) as found, (probe := Probe(model, ["0"])):
        warnings.simplefilter("always")
        model(x)
    assert [("may have its channels first or last" in str(w.message)) for w in found] == [True] * warned
    if not warned:
        assert probe.activations["0"].shape == (5, 64)
    with warnings.catch_warnings(), (probe := Probe(model, ["0"], channels="first")):
        warnings.simplefilter("error")
        model(x)
    assert probe.activations["0"].shape == (5, 64)


def test_a_nonlinearity_declared_before_its_convolution_has_its_channels():
    model = nn.ModuleDict({"act": nn.ReLU(), "conv": nn.Conv1d(1, 16, 3, padding=1)})
    with (probe := Probe(model, ["act"])):
        model["act"](model["conv"](torch.randn(5, 1, 100)))
    assert probe.activations["act"].shape == (5, 16)


def test_a_nonlinearity_after_a_normed_convolution_has_its_channels():
    model = nn.ModuleDict({"conv": parametrizations.weight_norm(nn.Conv1d(1, 16, 3, padding=1)), "act": nn.ReLU()})
    with (probe := Probe(model, ["act"])):
        model["act"](model["conv"](torch.randn(5, 1, 100)))
    assert probe.activations["act"].shape == (5, 16)


def test_a_square_map_beside_linear_layers_is_no_question():
    known = KnownChannels(widths=frozenset({64, 32}), first=frozenset({4}), last=True)
    assert not known.undecided(torch.Size([2, 64, 32, 32])) and known.undecided(torch.Size([2, 64, 20, 32]))


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [[2.0], [5.0]]), ("max", [[3.0], [5.0]])])
def test_padding_of_a_packed_sequence_does_not_count(pooling, expected):
    padded = torch.tensor([[[1.0], [3.0]], [[5.0], [9.0]]])
    packed = torch.nn.utils.rnn.pack_padded_sequence(padded, torch.tensor([2, 1]), batch_first=True)
    assert pooled(packed, pooling=pooling).tolist() == expected
