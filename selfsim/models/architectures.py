"""The paper's architectures by name, each at three sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..checks import check_choice, check_integer
from . import small_builds
from .small_builds import PIXELS
from .weights import from_timm, load_weights


@dataclass(frozen=True)
class Architecture:
    """One of the paper's architectures.

    Attributes
    ----------
    name : str
        What `create` calls it.
    title : str
        As it is written in the paper.
    family : {"MLP", "attention", "convolution", "pooling"}
        By what mixes places of the image.
    timm_name : str or None
        The exact timm model, at 224 pixels; None for the plain MLP.
    build : callable
        ``(size, num_classes, in_chans) -> nn.Module`` for the sizes "tiny" and "small".
    """

    name: str
    title: str
    family: str
    timm_name: str | None
    build: Callable[[str, int, int], nn.Module]


ARCHITECTURES = (
    Architecture("mlp", "Plain MLP", "MLP", None, small_builds.mlp),
    Architecture("resmlp", "ResMLP-12", "MLP", "resmlp_12_224", small_builds.resmlp),
    Architecture("mixer", "MLP-Mixer-B", "MLP", "mixer_b16_224", small_builds.mlp_mixer),
    Architecture("vit_small", "ViT-S", "attention", "vit_small_patch16_224", small_builds.vit(base=False)),
    Architecture("vit_base", "ViT-B", "attention", "vit_base_patch16_224", small_builds.vit(base=True)),
    Architecture("pvt", "PVTv2-B3", "attention", "pvt_v2_b3", small_builds.pvt),
    Architecture("vgg11", "VGG-11", "convolution", "vgg11", small_builds.vgg11),
    Architecture("resnet34", "ResNet-34", "convolution", "resnet34", small_builds.resnet("resnet34")),
    Architecture("resnet50", "ResNet-50", "convolution", "resnet50", small_builds.resnet("resnet50")),
    Architecture("poolformer", "PoolFormer-S12", "pooling", "poolformer_s12", small_builds.poolformer),
)


def architecture(name: str) -> Architecture:
    """Look an architecture up by its name, its timm name or its title, however these are hyphenated.

    Raises
    ------
    ValueError
        An unknown name, with the known ones and the nearest.

    Examples
    --------
    >>> architecture("ViT-S").name, architecture("vit_small_patch16_224").name
    ('vit_small', 'vit_small')
    """
    spellings = {
        _plain(spelling): entry
        for entry in ARCHITECTURES
        for spelling in (entry.name, entry.title, entry.timm_name or entry.name)
    }
    if isinstance(name, str) and _plain(name) in spellings:
        return spellings[_plain(name)]
    check_choice(name, [entry.name for entry in ARCHITECTURES], name="architecture")
    raise AssertionError("unreachable: check_choice raised")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def create(
    name: str,
    *,
    size: str,
    num_classes: int,
    in_chans: int = 3,
    pretrained: bool | str = False,
    weights: str | os.PathLike | None = None,
) -> nn.Module:
    """Build one of the paper's architectures.

    Parameters
    ----------
    name : str
        "mlp", "resmlp", "mixer", "vit_small", "vit_base", "pvt", "vgg11", "resnet34", "resnet50" or "poolformer"; timm
        names and the paper's spellings are known too.
    size : {"tiny", "small", "paper"}
        For images of 8, 32 or 224 pixels. "paper" is the exact timm model; a smaller size keeps the type of block,
        the stages and the relation of their widths, and the relation between S and B, 34 and 50. "mlp", "resmlp",
        "mixer", "vit_small" and "vit_base" take images of exactly this size, and say so; the others take larger ones.
    num_classes, in_chans : int
    pretrained : bool or str
        Download timm's weights (size "paper" only; not for the plain MLP): True for its default ones, or a tag such as
        "augreg_in1k". A head for another number of classes is drawn anew.
    weights : path, optional
        A local file with a state dict of finite tensors (``.pt``, ``.pth`` or ``.safetensors``); nothing in it is
        executed. A head for
        another number of classes is left as initialised, with a warning.

    Returns
    -------
    nn.Module
        On the CPU, in training mode; initialised from torch's current random state.

    Raises
    ------
    ValueError
        An unknown name, size or tag, numbers below 1, pretrained weights where there are none, or `weights` that do
        not fit.
    FileNotFoundError
        `weights` that do not exist.
    RuntimeError
        Pretrained weights that cannot be fetched.

    Notes
    -----
    The residual blocks are what `Probe` reads by default.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, the models of its experiments.

    Examples
    --------
    >>> import torch
    >>> model = create("mlp", size="tiny", num_classes=10, in_chans=1)
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    found = architecture(name)
    check_choice(size, PIXELS, name="size")
    num_classes = check_integer(num_classes, name="num_classes")
    in_chans = check_integer(in_chans, name="in_chans")
    if pretrained and (size != "paper" or found.timm_name is None):
        raise ValueError(
            f"pretrained: there are none for {found.name!r} at size {size!r}; need size='paper' and a timm model"
        )
    if size != "paper" or found.timm_name is None:
        model = found.build(size, num_classes, in_chans)
    else:
        model = from_timm(found.timm_name, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained)
    if weights is not None:
        load_weights(model, Path(weights))
    return model
