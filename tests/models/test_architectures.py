"""The architectures: inputs, parts, and the ratios between sizes and between related models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfsim import Probe, create
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


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mlp"])
def test_paper_size_is_the_timm_model(name):
    import timm

    with torch.device("meta"):  # without memory for weights: some have more than 100 million
        ours = create(name, size="paper", num_classes=10)
        theirs = timm.create_model(architecture(name).timm_name, num_classes=10)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert str(ours) == str(theirs)


def test_numpy_integers_are_integers():
    assert create("mlp", size="tiny", num_classes=np.int64(7), in_chans=np.int32(1)).head.out_features == 7


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


@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("resmlp", {"ResBlock", "Affine"}),
        ("mixer", {"MixerBlock", "LayerNorm"}),
        ("vgg11", {"Conv2d", "ReLU", "MaxPool2d", "ConvMlp"}),
        ("pvt", {"PyramidVisionTransformerStage", "Attention", "MlpWithDepthwiseConv"}),
        ("poolformer", {"MetaFormerStage", "Pooling", "GroupNorm1"}),
    ],
)
def test_small_sizes_are_made_of_the_same_parts(name, kept, size):
    with torch.device("meta"):
        models = [create(name, size=s, num_classes=10) for s in (size, "paper")]
    small, paper = ({type(m).__name__ for m in model.modules()} for model in models)
    assert kept <= small
    # Only what is left out is left out: dropout and pools of larger maps, PVTv2's reduction where there is none.
    assert small <= paper | {"Identity"}
    assert len([m for m in models[0].modules() if type(m).__name__ == "BatchNorm2d"]) == 0


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_stages_keep_the_relation_of_their_widths(size):
    for name, paper in (("pvt", (64, 128, 320, 512)), ("poolformer", (64, 128, 320, 512))):
        with torch.device("meta"):
            model = create(name, size=size, num_classes=10)
        widths = [info["num_chs"] for info in model.feature_info]
        assert all(w * paper[0] == p * widths[0] for w, p in zip(widths, paper, strict=True))
        assert max(range(4), key=lambda i: len(model.stages[i].blocks)) == 2


@pytest.mark.parametrize("name", ["pvt", "poolformer", "vgg11"])
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_last_map_has_places_to_mix(name, size):
    model = create(name, size=size, num_classes=10)
    sizes = []
    for layer in Probe(model).layers:
        model.get_submodule(layer).register_forward_hook(
            lambda module, args, output: sizes.append(output.shape[1] if output.ndim == 3 else output[0, 0].numel())
        )
    model(torch.rand(2, 3, PIXELS[size], PIXELS[size]))
    assert min(sizes) == 4 and max(sizes) > 16


@pytest.mark.parametrize("name", ["resmlp", "poolformer"])
def test_small_sizes_start_with_layers_that_differ(name):
    # With timm's initial branch scale of 1e-4 or less, every block of a stage gives what the one before it gave.
    model = create(name, size="tiny", num_classes=10).eval()
    block = [layer for layer in Probe(model).layers if "blocks" in layer][1]
    seen = {}
    model.get_submodule(block).register_forward_hook(lambda m, args, output: seen.update(x=args[0], y=output))
    model(torch.rand(8, 3, 8, 8))
    assert (seen["y"] - seen["x"]).norm() > 0.01 * seen["x"].norm()


@pytest.mark.parametrize("spelling", ["ViT-S", "vit_small", "VIT_SMALL", "vit_small_patch16_224"])
def test_spellings(spelling):
    assert architecture(spelling).name == "vit_small"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "vit_smal"}, ValueError, "name: got 'vit_smal'.*did you mean 'vit_small'"),
        ({"size": "large"}, ValueError, "size: got 'large', need one of 'tiny', 'small', 'paper'"),
        ({"num_classes": 0}, ValueError, "num_classes: got 0"),
        ({"in_chans": 2.0}, ValueError, "in_chans: got 2.0"),
        ({"in_chans": True}, ValueError, "in_chans: got True, need an integer of at least 1"),
        ({"pretrained": True}, ValueError, "pretrained: there are none for 'mlp' at size 'tiny'"),
        ({"size": "tiny", "pretrained": "in1k"}, ValueError, "pretrained: there are none for 'mlp' at size 'tiny'"),
    ],
)
def test_messages(arguments, error, message):
    with pytest.raises(error, match=message):
        create(**{"name": "mlp", "size": "tiny", "num_classes": 10} | arguments)


@pytest.mark.parametrize("name", ["mlp", "resmlp", "mixer", "vit_small"])
def test_images_of_another_size_are_refused_with_the_size_that_is_needed(name):
    with pytest.raises((ValueError, AssertionError), match="8"):
        create(name, size="tiny", num_classes=10)(torch.rand(2, 3, 32, 32))
