"""The architectures: they take what they say, and keep what makes them what they are."""

from __future__ import annotations

import pytest
import torch

from selfsim import create
from selfsim.models.architectures import ARCHITECTURES, PIXELS, architecture

NAMES = [entry.name for entry in ARCHITECTURES]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_forward_and_backward(name, size, in_chans):
    model = create(name, size=size, num_classes=7, in_chans=in_chans)
    logits = model(torch.rand(2, in_chans, PIXELS[size], PIXELS[size]))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["vit_small", "resnet34", "resnet50"])
def test_paper_size_is_the_timm_model(name):
    import timm

    ours = create(name, size="paper", num_classes=10).state_dict()
    theirs = timm.create_model(architecture(name).timm_name, num_classes=10).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_paper_mlp_is_512_wide_with_5_blocks_of_expansion_4():
    model = create("mlp", size="paper", num_classes=10)
    assert len(model.blocks) == 6
    assert all(block.expand.weight.shape == (2048, 512) for block in model.blocks[1:])


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_base_is_twice_as_wide_as_small(size):
    small, base = (create(name, size=size, num_classes=10) for name in ("vit_small", "vit_base"))
    assert base.embed_dim == 2 * small.embed_dim
    assert base.blocks[0].attn.num_heads == 2 * small.blocks[0].attn.num_heads
    assert len(base.blocks) == len(small.blocks)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_resnets_differ_in_their_blocks_alone(size):
    a, b = (create(name, size=size, num_classes=10) for name in ("resnet34", "resnet50"))
    assert [len(getattr(a, f"layer{i}")) for i in range(1, 5)] == [len(getattr(b, f"layer{i}")) for i in range(1, 5)]
    assert type(a.layer1[0]).__name__ == "BasicBlock"
    assert type(b.layer1[0]).__name__ == "Bottleneck"


@pytest.mark.parametrize("spelling", ["ViT-S", "vit_small", "VIT_SMALL", "vit_small_patch16_224"])
def test_spellings(spelling):
    assert architecture(spelling).name == "vit_small"


def test_weights_from_a_local_file(tmp_path):
    model = create("mlp", size="tiny", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = create("mlp", size="tiny", num_classes=10, weights=tmp_path / "weights.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    again = create("mlp", size="tiny", num_classes=10, weights=tmp_path / "weights.safetensors")
    assert torch.equal(model.head.weight, again.head.weight)


class Boom:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def test_weights_are_never_executed(tmp_path):
    torch.save({"head.weight": Boom()}, tmp_path / "weights.pt")
    with pytest.raises(Exception, match="(?i)weights.only"):
        create("mlp", size="tiny", num_classes=10, weights=tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "vit_smal"}, ValueError, "architecture: got 'vit_smal'.*did you mean 'vit_small'"),
        ({"size": "large"}, ValueError, "size: got 'large', need one of 'tiny', 'small', 'paper'"),
        ({"num_classes": 0}, ValueError, "num_classes: got 0"),
        ({"in_chans": 2.0}, ValueError, "in_chans: got 2.0"),
        ({"pretrained": True}, ValueError, "pretrained: there are none for 'mlp' at size 'tiny'"),
        ({"weights": "no/such.pt"}, FileNotFoundError, "weights: no file"),
    ],
)
def test_messages(arguments, error, message):
    with pytest.raises(error, match=message):
        create(**{"name": "mlp", "size": "tiny", "num_classes": 10} | arguments)


def test_pretrained_without_a_network_says_what_to_do(monkeypatch):
    import timm

    def offline(*args, pretrained, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match="weights of 'resnet34' could not be fetched.*pass the file as weights="):
        create("resnet34", size="paper", num_classes=10, pretrained=True)
