"""The paper's architectures by name, each at three sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
        Name for `create`.
    title : str
        Name in the paper.
    family : {"MLP", "attention", "convolution", "pooling"}
        The operation that mixes places of the image.
    timm_name : str or None
        Name of the exact timm model, at 224 pixels; None for the plain MLP.
    build : callable
        ``(size, num_classes, in_chans) -> nn.Module`` for "tiny" and "small"; of the plain MLP, for "paper" too.
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
    Architecture("vit_small", "ViT-S", "attention", "vit_small_patch16_224", partial(small_builds.vit, base=False)),
    Architecture("vit_base", "ViT-B", "attention", "vit_base_patch16_224", partial(small_builds.vit, base=True)),
    Architecture("pvt", "PVTv2-B3", "attention", "pvt_v2_b3", small_builds.pvt),
    Architecture("vgg11", "VGG-11", "convolution", "vgg11", small_builds.vgg11),
    Architecture("resnet34", "ResNet-34", "convolution", "resnet34", partial(small_builds.resnet, "resnet34")),
    Architecture("resnet50", "ResNet-50", "convolution", "resnet50", partial(small_builds.resnet, "resnet50")),
    Architecture("poolformer", "PoolFormer-S12", "pooling", "poolformer_s12", small_builds.poolformer),
)


def architecture(name: str, *, argument: str = "architecture") -> Architecture:
    """Return the architecture with this name, timm name or title; hyphens and upper case do not matter.

    Raises
    ------
    ValueError
        The name is unknown; the message has `argument`, the known names and the nearest.

    Examples
    --------
    >>> architecture("ViT-S").name, architecture("vit_small_patch16_224").name
    ('vit_small', 'vit_small')
    """
    spellings = {
        _letters_and_digits(spelling): entry
        for entry in ARCHITECTURES
        for spelling in (entry.name, entry.title, entry.timm_name)
        if spelling
    }
    spelling = _letters_and_digits(str(name))
    if spelling not in spellings:
        check_choice(name, [entry.name for entry in ARCHITECTURES], name=argument)
    return spellings[spelling]


def _letters_and_digits(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def create(
    name: str,
    *,
    size: str,
    num_classes: int,
    in_chans: int = 3,
    pretrained: bool | str = False,
    weights: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Build one of the paper's architectures.

    Parameters
    ----------
    name : str
        "mlp", "resmlp", "mixer", "vit_small", "vit_base", "pvt", "vgg11", "resnet34", "resnet50" or "poolformer"; also
        timm's name or the paper's spelling of one of them.
    size : {"tiny", "small", "paper"}
        For images of 8, 32 or 224 pixels. "paper" is the exact timm model. The smaller sizes keep the type of block,
        the stages, the ratios of their widths, and the ratio between S and B and between 34 and 50. "mlp", "resmlp",
        "mixer", "vit_small" and "vit_base" raise an error for images of another size; the others take larger ones.
    num_classes : int
        Number of logits.
    in_chans : int
        Number of channels of the images, by default 3.
    pretrained : bool or str
        Download timm's weights (size "paper" only; not for the plain MLP): True for its default ones, or a tag such as
        "augreg_in1k". A head for another number of classes is initialised at random.
    weights : path, optional
        A local file with a state dict of tensors (``.pt``, ``.pth`` or ``.safetensors``). No code in it is executed. A
        head for another number of classes keeps its random initialisation, with a warning.

    Returns
    -------
    nn.Module
        On the CPU, in training mode; initialised from torch's global generator.

    Raises
    ------
    ValueError
        An unknown name, size or tag, a number below 1, `pretrained` where timm has no weights, or `weights` that do
        not fit or are not finite in the model's dtype.
    FileNotFoundError
        The file `weights` does not exist.
    RuntimeError
        Pretrained weights cannot be downloaded.

    Notes
    -----
    `Probe` reads the residual blocks by default.

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
    entry = architecture(name, argument="name")
    if not isinstance(pretrained, bool | str):
        raise TypeError(f"pretrained: got {type(pretrained).__name__}, need True, False or a tag of timm's")
    check_choice(size, PIXELS, name="size")
    num_classes = check_integer(num_classes, name="num_classes")
    in_chans = check_integer(in_chans, name="in_chans")
    if size == "paper" and entry.timm_name is not None:
        model = from_timm(entry.timm_name, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained)
    elif pretrained:
        raise ValueError(
            f"pretrained: there are none for {entry.name!r} at size {size!r}; need size='paper' and a timm model"
        )
    else:
        model = entry.build(size, num_classes, in_chans)
    if weights is not None:
        load_weights(model, Path(os.path.expanduser(weights)))
    return model
