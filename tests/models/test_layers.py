"""Which layers are chosen: names, patterns, a number of them, stem and head, shared modules, wrapped models."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from selfsim import Probe, create
from selfsim.models.architectures import ARCHITECTURES
from selfsim.models.layers import chosen_layers, draw_layers, natural_layers


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return create("vit_small", size="tiny", num_classes=10)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["blocks.2", "blocks.0"], ["blocks.0", "blocks.2"]),
        (["blocks.*"], [f"blocks.{i}" for i in range(4)]),
        (
            ["blocks.*.attn", "blocks.[12].mlp.fc1"],
            ["blocks.0.attn", *(f"blocks.{i}.{part}" for i in (1, 2) for part in ("attn", "mlp.fc1")), "blocks.3.attn"],
        ),
        (["blocks.0", "blocks.*"], [f"blocks.{i}" for i in range(4)]),
        (4, [f"blocks.{i}" for i in range(4)]),
        (3, ["blocks.0", "blocks.2", "blocks.3"]),
        (np.int64(2), ["blocks.0", "blocks.3"]),
        (2, ["blocks.0", "blocks.3"]),
        (1, ["blocks.3"]),
        (["stem"], ["patch_embed.proj"]),
        (["head"], ["head"]),
        (["blocks.1", "stem", "head"], ["patch_embed.proj", "blocks.1", "head"]),
    ],
    ids=str,
)
def test_chosen_layers(vit, layers, expected):
    assert list(chosen_layers(vit, layers)) == expected


def test_stem_and_head_of_a_model_without_such_modules():
    model = create("resnet34", size="tiny", num_classes=10)
    assert list(chosen_layers(model, ["stem", "head"])) == ["conv1", "fc"]


@pytest.mark.parametrize("number", [2, 3, 5, 7, 11])
def test_a_number_of_layers_is_spaced_evenly(number):
    model = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2) for _ in range(11)))
    found = [int(name) for name in chosen_layers(model, number)]
    gaps = [b - a for a, b in pairwise(found)]
    assert found[0] == 0 and found[-1] == 10 and len(found) == number
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (0, "layers: got 0, need 1 to 4, the number of natural layers"),
        (5, "layers: got 5, need 1 to 4"),
        (True, "layers: got True, need a sequence of names such as"),
        ([3], "layers: got 3, need one of"),
        (["norm?"], r"layers: no module matches 'norm\?', need one of 'patch_embed'.* and \d+ more; did"),
        (["blocks.*.nothing"], r"no module matches 'blocks.\*.nothing'"),
        (["block.2"], "did you mean 'blocks.2'"),
        (["blocks.*.atn"], r"did you mean 'blocks.\*.attn'"),
        (["block.[01].mpl.fc1"], r"did you mean 'blocks.\[01\].mlp.fc1'"),
        (["[01].mlp"], r"did you mean 'blocks.\[01\].mlp'"),
        (2.0, "layers: got 2.0, need a sequence of names such as"),
    ],
)
def test_messages(vit, layers, message):
    with pytest.raises(ValueError, match=message):
        chosen_layers(vit, layers)


def test_long_lists_of_modules_are_cut(vit):
    with pytest.raises(ValueError) as error:
        chosen_layers(vit, ["xyz"])
    assert str(error.value).count("'") == 2 * 13 and "did you mean" not in str(error.value)


@pytest.mark.parametrize("name", [entry.name for entry in ARCHITECTURES])
def test_stem_and_head_are_layers_that_the_forward_pass_reaches(name):
    model = create(name, size="tiny", num_classes=7).eval()
    with torch.no_grad(), (probe := Probe(model, ["stem", "head"])):
        logits = model(torch.rand(2, 3, 8, 8))
    stem, head = probe.activations
    assert torch.equal(probe.activations[head], logits)
    assert len(probe.activations[stem]) == 2
    assert list(chosen_layers(model, [*probe.layers])) == [*probe.layers]


@pytest.mark.parametrize("model", ["abc", None])
def test_what_is_no_model(model):
    with pytest.raises(TypeError, match="model: got .*, need an nn.Module"):
        Probe(model)


def test_head_of_a_model_without_weights():
    with pytest.raises(ValueError, match="got 'head', but no module of this model has weights"):
        chosen_layers(nn.Sequential(nn.ReLU()), ["head"])


def test_shared_blocks_are_read_under_any_of_their_names_at_the_last_call():
    block = nn.Linear(4, 4)
    model = nn.Sequential(block, nn.Tanh(), block)
    x = torch.rand(3, 4)
    with pytest.warns(UserWarning, match="layers: '0' and '2' are one module, whose last call is read for both"):
        probe = Probe(model, ["0", "2"])
    with probe:
        last = model(x)
    assert torch.equal(probe.activations["0"], last) and torch.equal(probe.activations["2"], last)


def test_a_block_in_two_containers_is_one_natural_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(8, 2) for _ in range(2))
            self.decoder = nn.ModuleList([self.encoder[1], nn.TransformerEncoderLayer(8, 2)])

    assert natural_layers(Twice()) == ["encoder.0", "encoder.1", "decoder.1"]


def test_a_model_with_a_part_called_module_is_no_wrapped_one():
    averaged = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))
    assert list(chosen_layers(averaged, ["module.*"])) == ["module.0", "module.1", "module.2"]
    assert list(chosen_layers(averaged, ["module.[01]"])) == ["module.0", "module.1"]
    assert list(chosen_layers(averaged.module, ["module.[01]"])) == ["0", "1"]


def test_data_parallel_is_refused():
    with pytest.raises(ValueError, match="model: got nn.DataParallel"):
        Probe(nn.DataParallel(nn.Sequential(nn.Linear(2, 2))), ["0"])


def test_compiled_models_are_read_and_keep_being_read(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    compiled = torch.compile(model, backend="eager")
    x = torch.rand(5, 4)
    compiled(x)  # once without hooks, so that a stale graph would show
    for layers in (["1"], ["_orig_mod.0"], ["1"]):
        with (probe := Probe(compiled, layers)):
            compiled(x)
        (value,) = probe.activations.values()
        expected = model[0](x) if probe.layers == ("0",) else model[:2](x)
        torch.testing.assert_close(value, expected)
    probe.activations["1"].sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


class Regnet(nn.Module):
    """Stages without containers, which timm lists in `feature_info`."""

    def __init__(self):
        super().__init__()
        self.s1, self.s2, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()
        self.feature_info = [{"module": "s1"}, {"module": "s2"}]


def test_natural_layers_fall_back_on_what_timm_knows():
    assert natural_layers(Regnet()) == ["s1", "s2"]


def test_parts_of_blocks_and_what_stands_around_them_are_no_blocks():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.paths = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)), nn.TransformerEncoderLayer(4, 1)])

    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

    model = nn.Module()
    model.stem = nn.Sequential(Block())
    model.stages = nn.Sequential(Stage(), Stage())
    model.head = nn.Sequential(Block())
    assert natural_layers(model) == [f"stages.{s}.blocks.{i}" for s in range(2) for i in range(2)]
    parts = {"stem": Block(), "one": Block(), "two": Block(), "classifier": Block()}
    assert natural_layers(nn.Sequential(OrderedDict(parts))) == ["one", "two"]
    others = {"header": Block(), "headline": Block(), "stem_2": Block(), "heads": Block()}
    assert natural_layers(nn.Sequential(OrderedDict(others))) == ["header", "headline"]


@pytest.mark.parametrize(
    ("last", "expected"), [(nn.LogSoftmax(-1), ["1"]), (nn.Sigmoid(), ["1"]), (nn.ReLU(), ["1", "3"])]
)
def test_probabilities_at_the_end_are_no_hidden_layer(last, expected):
    hidden = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2))
    assert natural_layers(hidden) == ["1", "3"]
    assert natural_layers(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), last)) == expected


@pytest.mark.parametrize("name", [entry.name for entry in ARCHITECTURES])
def test_natural_layers_are_found_again_by_their_names(name):
    model = create(name, size="tiny", num_classes=10)
    assert list(chosen_layers(model, natural_layers(model))) == natural_layers(model)


def test_a_nonlinearity_that_is_called_at_many_places_is_named():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = nn.Linear(4, 6), nn.Linear(6, 5), nn.ReLU()

        def forward(self, x):
            return self.act(self.second(self.act(self.first(x))))

    with (
        pytest.warns(UserWarning, match="layers: the model calls 'act' several times in one pass"),
        (probe := Probe(model := Shared(), ["act"])),
    ):
        model(torch.rand(3, 4))
    assert probe.activations["act"].shape == (3, 5)
    with warnings.catch_warnings(record=True) as caught, Probe(model, ["act"]):
        warnings.simplefilter("always")
        model(torch.rand(3, 4))
        model(torch.rand(3, 4))
        with pytest.raises(RuntimeError):
            model(torch.rand(3, 999))
        model.act(torch.rand(3, 4))
        model.act(torch.rand(3, 4))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Probe(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), ["1"]) as probe:  # once in each of two passes
            model = probe._root
            model(torch.rand(3, 4))
            model(torch.rand(3, 4))


def normed(wrap):
    first, second, last = (wrap(nn.Linear(*size)) for size in ((20, 64), (64, 64), (64, 3)))
    return first, second, last


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_modules_that_compute_weights_are_no_layers(wrap):
    first, second, last = normed(wrap)
    sequential = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    before = {name: value.clone() for name, value in sequential.state_dict().items()}
    assert natural_layers(sequential) == ["1", "3"]
    assert list(chosen_layers(sequential, ["head"])) == ["4"]
    assert all(torch.equal(before[name], value) for name, value in sequential.state_dict().items())
    functional = nn.Module()
    functional.a, functional.b, functional.c = normed(wrap)
    assert natural_layers(functional) == ["a", "b"]
    functional.head = wrap(nn.Linear(3, 2))
    assert list(chosen_layers(functional, ["head"])) == ["head"]
    assert list(chosen_layers(functional, ["stem"])) == ["a"]


def test_the_default_device_does_not_matter_to_the_draw():
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    drawn = draw_layers("abcdef", 3, generators[0])
    with torch.device("meta"):
        assert draw_layers("abcdef", 3, generators[1]) == drawn


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", [f"blocks.{i}" for i in range(6)]),
        ("vit_small", [f"blocks.{i}" for i in range(4)]),
        ("resmlp", ["stem", *(f"blocks.{i}" for i in range(4))]),
        ("mixer", [f"blocks.{i}" for i in range(4)]),
        ("pvt", [f"stages.{s}.blocks.{i}" for s in range(4) for i in range(3 if s == 2 else 1)]),
        ("poolformer", [f"stages.{s}.blocks.{i}" for s in range(4) for i in range(3 if s == 2 else 1)]),
        ("vgg11", [f"features.{i}" for i in (1, 4, 7, 9, 11, 13, 15, 17)]),
        ("resnet34", ["layer1.0", "layer2.0", "layer3.0", "layer3.1", "layer4.0"]),
        ("resnet50", ["layer1.0", "layer2.0", "layer3.0", "layer3.1", "layer4.0"]),
    ],
)
def test_natural_layers_are_the_residual_blocks(name, expected):
    assert natural_layers(create(name, size="tiny", num_classes=10)) == expected


def test_natural_layers_of_other_networks():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 3, enable_nested_tensor=False)
    assert natural_layers(encoder) == ["layers.0", "layers.1", "layers.2"]
    assert natural_layers(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))) == ["0"]
    with pytest.raises(ValueError, match="model: Linear has no blocks"):
        natural_layers(nn.Linear(2, 3))


def test_drawn_layers_keep_their_order():
    names = [f"blocks.{k}" for k in range(8)]
    for seed in range(5):
        drawn = draw_layers(names, 4, torch.Generator().manual_seed(seed))
        assert len(drawn) == 4 and drawn == sorted(drawn)
