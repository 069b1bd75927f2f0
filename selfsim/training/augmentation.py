"""Augmentation of whole batches, on the device where the images are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import optional_package
from ..models.images import Images

# RandAugment's operations are drawn for so many images at a time: fewer would keep a GPU waiting for launches.
_DRAWN_TOGETHER = 8


def augmentation(config, images: Images, device: torch.device) -> Callable:
    """What a `TrainConfig` does to a batch.

    Returns
    -------
    callable
        ``(images uint8, labels, generator) -> (input, targets)``; targets are labels, or with mixup or cutmix the
        shares of the classes. The shifts are drawn from the generator, all else from the global ones.
    """
    vary = erase = mix = None
    if config.rand_augment:
        transforms = optional_package("torchvision.transforms.v2", extra="models")
        # Eleven bins from 0 to 10: magnitude 9 is nine tenths of the strongest, as in timm.
        vary = transforms.RandAugment(num_ops=2, magnitude=config.rand_augment, num_magnitude_bins=11)
    if config.random_erasing:
        erasing = optional_package("timm.data.random_erasing", extra="models")
        erase = erasing.RandomErasing(config.random_erasing, mode="pixel", device=device)
    if config.mixup or config.cutmix:
        data = optional_package("timm.data", extra="models")
        # The labels are smoothed by the loss, mixed or not.
        mix = data.Mixup(config.mixup, config.cutmix, label_smoothing=0.0, num_classes=len(images.classes))

    def apply(batch: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if vary is not None:
            batch = torch.cat([vary(part) for part in batch.split(_DRAWN_TOGETHER)])
        x = images.prepared(batch)
        if config.augment:
            x = shifted(x, generator, mirror=config.dataset != "digits")
        if erase is not None:
            x = erase(x)
        return (x, targets) if mix is None else mix(x, targets)

    return apply


def shifted(x: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Images ``(N, channels, pixels, pixels)``, each shifted by up to an eighth of its size and perhaps mirrored."""
    n, _, height, width = x.shape
    shift = torch.randint(-(height // 8), height // 8 + 1, (2, n, 1), generator=generator).to(x.device)
    # What moves in from outside repeats the border.
    rows = (torch.arange(height, device=x.device) + shift[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + shift[1]).clamp(0, width - 1)
    if mirror:
        flip = (torch.rand((n, 1), generator=generator) < 0.5).to(x.device)
        columns = torch.where(flip, columns.flip(1), columns)
    x = x.gather(2, rows[:, None, :, None].expand(x.shape))
    return x.gather(3, columns[:, None, None, :].expand(x.shape))
