"""The architectures for small images: the blocks and stages of each, at a size that trains on one core.

Each function takes the size and the numbers of classes and channels, and returns a network with random weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from ..checks import optional_package
from .plain_mlp import PlainMlp

PIXELS = {"tiny": 8, "small": 32, "paper": 224}

# ResMLP and PoolFormer scale each residual branch by a learned vector. timm starts it at 1e-4 and 1e-5, for long
# training of deep networks: in the first epochs all blocks then return the same features, and all layers have the same
# rate. The authors of ResMLP use 0.1 for networks of up to 18 blocks.
BRANCH_SCALE = 0.1

# A quarter and a half of the widths of the four stages of PVTv2-B3 and PoolFormer-S12: 64, 128, 320, 512.
_STAGE_WIDTHS = {"tiny": (16, 32, 80, 128), "small": (32, 64, 160, 256)}

# (width, depth, patch) of the networks that keep one grid of patches.
_PATCHED = {"tiny": (64, 4, 2), "small": (128, 6, 4)}


def mlp(size: str, num_classes: int, in_chans: int) -> nn.Module:
    """Plain MLP, also at size "paper"."""
    width = {"tiny": 192, "small": 256, "paper": 512}[size]
    return PlainMlp(pixels=PIXELS[size], in_chans=in_chans, num_classes=num_classes, width=width)


def resmlp(size: str, num_classes: int, in_chans: int) -> nn.Module:
    """ResMLP: affine instead of normalisation, one linear layer across patches, a learned scale of each branch."""
    timm = optional_package("timm.models.mlp_mixer", extra="models")
    block = partial(timm.ResBlock, init_values=BRANCH_SCALE)
    return mlp_mixer(size, num_classes, in_chans, mlp_ratio=4, block_layer=block, norm_layer=timm.Affine)


def mlp_mixer(size: str, num_classes: int, in_chans: int, **options: Any) -> nn.Module:
    """MLP-Mixer: one MLP across patches, half as wide as the block, and one across channels, four times as wide."""
    timm = optional_package("timm.models.mlp_mixer", extra="models")
    width, depth, patch = _PATCHED[size]
    shape = dict(img_size=PIXELS[size], in_chans=in_chans, patch_size=patch, num_blocks=depth, embed_dim=width)
    return timm.MlpMixer(num_classes=num_classes, **shape, **options)


def vit(size: str, num_classes: int, in_chans: int, *, base: bool) -> nn.Module:
    """ViT-S, or ViT-B with twice its width and heads, at the same depth and the same width of a head."""
    timm = optional_package("timm", extra="models")
    width, depth, patch = _PATCHED[size]
    width *= 2 if base else 1
    grid = dict(img_size=PIXELS[size], patch_size=patch, num_classes=num_classes, in_chans=in_chans)
    blocks = dict(embed_dim=width, depth=depth, num_heads=width // 32)
    # timm's default standard deviation of .02 is meant for widths of 384 and more. At 64, the blocks then add next to
    # nothing to their input for most of a short training.
    return timm.create_model("vit_small_patch16_224", **grid, **blocks, weight_init="jax")


def resnet(timm_name: str, size: str, num_classes: int, in_chans: int) -> nn.Module:
    """ResNet-34 or ResNet-50: the same stages, other blocks; a 3x3 stem without pooling, for small images."""
    timm = optional_package("timm", extra="models")
    layers = {"tiny": (1, 1, 2, 1), "small": (2, 2, 3, 2)}[size]
    shape = dict(layers=layers, channels=(32, 64, 128, 256), num_classes=num_classes, in_chans=in_chans)
    model = timm.create_model(timm_name, **shape)
    model.conv1, model.maxpool = _convolution(in_chans, model.conv1.out_channels, bias=False), nn.Identity()
    return model


def vgg11(size: str, num_classes: int, in_chans: int) -> nn.Module:
    """VGG-11: eight plain convolutions and three linear layers; no residual connections, no normalisation."""
    vgg = optional_package("timm.models.vgg", extra="models")
    a, b, c, d = {"tiny": (24, 48, 96, 192), "small": (32, 64, 128, 256)}[size]
    # The published network pools five times. Here pooling ends at 2x2, where a 3x3 convolution still mixes places.
    late = ["M"] if size == "small" else []
    plan = [a, "M", b, "M", c, c, *late, d, d, *late, d, d]
    # The published head is for maps of 7x7 and 4096 wide. It is built thin, and replaced.
    model = vgg.VGG(plan, num_classes=num_classes, in_chans=in_chans, mlp_ratio=1 / 64)
    width = 2 * d
    model.pre_logits = vgg.ConvMlp(d, width, kernel_size=2, drop_rate=0.0)
    model.head = vgg.ClassifierHead(width, num_classes)
    model.head_hidden_size = width
    for layer in (model.pre_logits.fc1, model.pre_logits.fc2):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return model


def pvt(size: str, num_classes: int, in_chans: int) -> nn.Module:
    """PVTv2-B3: four stages of attention, with keys and values reduced to the grid of the last stage."""
    pvt_v2 = optional_package("timm.models.pvt_v2", extra="models")
    widths = _STAGE_WIDTHS[size]
    model = pvt_v2.PyramidVisionTransformerV2(
        in_chans=in_chans,
        num_classes=num_classes,
        depths={"tiny": (1, 1, 3, 1), "small": (1, 2, 6, 1)}[size],
        embed_dims=widths,
        num_heads=(1, 2, 5, 8),
        sr_ratios={"tiny": (4, 2, 1, 1), "small": (8, 4, 2, 1)}[size],
    )
    model.patch_embed.proj = _stem(size, in_chans, widths[0])
    _keep_last_grid(size, model.stages[-1].downsample.proj)
    return model


def poolformer(size: str, num_classes: int, in_chans: int) -> nn.Module:
    """PoolFormer-S12: four stages of blocks that mix places by a 3x3 average alone."""
    metaformer = optional_package("timm.models.metaformer", extra="models")
    widths = _STAGE_WIDTHS[size]
    model = metaformer.MetaFormer(
        in_chans=in_chans,
        num_classes=num_classes,
        depths={"tiny": (1, 1, 3, 1), "small": (2, 2, 6, 2)}[size],
        dims=widths,
        token_mixers=metaformer.Pooling,
        mlp_act=nn.GELU,
        mlp_bias=True,
        norm_layers=metaformer.GroupNorm1,
        downsample_norm=None,
        layer_scale_init_values=BRANCH_SCALE,
        res_scale_init_values=None,
        use_mlp_head=False,
    )
    model.stem.conv = _stem(size, in_chans, widths[0])
    _keep_last_grid(size, model.stages[-1].downsample.conv)
    return model


def _convolution(in_chans: int, width: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    layer = nn.Conv2d(in_chans, width, kernel_size=3, stride=stride, padding=1, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _stem(size: str, in_chans: int, width: int) -> nn.Conv2d:
    """Return a 3x3 convolution; the published one, 7x7 with stride 4, would leave 2x2 of 8x8 pixels."""
    return _convolution(in_chans, width, stride={"tiny": 1, "small": 2}[size])


def _keep_last_grid(size: str, downsample: nn.Conv2d) -> None:
    """At size "tiny", let the last stage keep the 2x2 grid of the third: a 1x1 grid has no places to mix."""
    if size == "tiny":
        downsample.stride = (1, 1)
