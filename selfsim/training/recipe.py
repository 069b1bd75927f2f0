"""The recipe of a run: how batches are augmented, and how the weights are moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..checks import check_choice, optional_package
from ..models.images import Images
from ..models.seeding import seeded

if TYPE_CHECKING:
    from .config import TrainConfig

SCHEDULES = ("one-cycle", "cosine", "constant")
# Images that share a draw of RandAugment: with fewer, a GPU would wait for launches.
_DRAWN_TOGETHER = 8


def augmentation(
    config: TrainConfig, images: Images, device: torch.device
) -> Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]:
    """Return the augmentation of whole batches, on the device where the images are.

    Returns
    -------
    callable
        ``(images uint8, labels, generator) -> (input, targets)``; targets are labels, or with mixup or cutmix the
        shares of the classes. Shifts are drawn from the generator, everything else from the global ones.
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
            x = shifted(x, Shifts.draw(len(x), x.shape[2], generator, mirror=mirrors(config)).to(x.device))
        if erase is not None:
            x = erase(x)
        return (x, targets) if mix is None else mix(x, targets)

    return apply


def mirrors(config: TrainConfig) -> bool:
    """Return whether images are mirrored at random: all but those of digits."""
    return config.dataset != "digits"


class Shifts(NamedTuple):
    """How each image of a batch is moved: rows and columns (up to an eighth of the image), and whether it is mirrored.

    Leading axes may hold several batches.
    """

    rows: Tensor  # (N,), integers
    columns: Tensor  # (N,), integers
    mirrored: Tensor  # (N,), bool

    @classmethod
    def draw(cls, n: int, pixels: int, generator: torch.Generator, *, mirror: bool) -> Shifts:
        """Return random shifts of `n` images, of which every second one is mirrored if `mirror`."""
        rows, columns = torch.randint(-(pixels // 8), pixels // 8 + 1, (2, n), generator=generator)
        mirrored = torch.rand(n, generator=generator) < 0.5 if mirror else torch.zeros(n, dtype=torch.bool)
        return cls(rows, columns, mirrored)

    def to(self, device: torch.device) -> Shifts:
        return Shifts(*(part.to(device) for part in self))


def shifted(x: Tensor, shifts: Shifts) -> Tensor:
    """Return images (N, channels, height, width) moved; pixels that come from outside repeat the border."""
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device) + shifts.rows[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + shifts.columns[:, None]).clamp(0, width - 1)
    columns = torch.where(shifts.mirrored[:, None], columns.flip(1), columns)
    x = x.gather(2, rows[:, None, :, None].expand(x.shape))
    return x.gather(3, columns[:, None, None, :].expand(x.shape))


def mixup_shares(configs: Sequence[TrainConfig], steps: int) -> Tensor:
    """Return each step's share of the first image in mixup, ``(steps, configurations)``, as single runs draw it."""
    columns = []
    for config in configs:
        if not config.mixup:
            columns.append([1.0] * steps)
            continue
        mix = optional_package("timm.data", extra="models").Mixup(config.mixup)
        with seeded(config.seed):
            columns.append([float(mix._params_per_batch()[0]) for _ in range(steps)])
    return torch.tensor(columns).t().contiguous()


def mixed(x: Tensor, share: Tensor) -> Tensor:
    """Return each batch ``(networks, N, …)`` mixed with itself in reverse order; `share` (networks,) is the first's."""
    share = share.view(-1, *[1] * (x.ndim - 1))
    return x * share + x.flip(1) * (1 - share)


def check_optimizer(name: str) -> str:
    """Return a name that `make_optimizer` takes; else raise ``ValueError`` with the nearest one."""
    if isinstance(name, str) and name == "adamw":  # known without timm, which the plain MLP does not need
        return name
    optim = optional_package("timm.optim", extra="models")
    # Without optimisers of other packages and one that needs second derivatives.
    return check_choice(name, optim.list_optimizers(exclude_filters=["bnb*", "fused*", "adahessian"]), name="optimizer")


def make_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser of a configuration."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        parameters = list(parameters)
        # On a CPU, a tenth of a small model's step. In float16, a fused step that is skipped counts as one for hooks.
        fused = config.precision != "float16" and all(weights.device.type == "cpu" for weights in parameters)
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=fused or None)
    optim = optional_package("timm.optim", extra="models")
    return optim.create_optimizer_v2(parameters, opt=config.optimizer, lr=rate, weight_decay=decay)


def make_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the learning-rate schedule of a configuration, to be stepped after every step of the optimiser."""
    steps = config.epochs * steps_per_epoch
    if config.schedule == "one-cycle":
        steps = max(steps, 2)
        share = 0.2 if config.warmup_epochs is None else config.warmup_epochs / config.epochs
        if share * steps == 1:  # torch divides by the length of the warm-up minus one
            share += 1e-9
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=config.learning_rate,
            total_steps=steps,
            pct_start=share,
            cycle_momentum=bool({"momentum", "betas"} & set(optimizer.defaults)),
        )
    warmup = round((config.warmup_epochs or 0) * steps_per_epoch)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def norms_and_angle(total: Tensor, penalty: Tensor) -> Tensor:
    """Return the norms of the task's and the penalty's gradient and the angle between them in degrees, ``(3,)``.

    Parameters
    ----------
    total : Tensor, shape (parameters,)
        Gradient of task plus penalty.
    penalty : Tensor, shape (parameters,)
        Gradient of the penalty alone.
    """
    task = total - penalty
    cosine = torch.dot(task, penalty) / (task.norm() * penalty.norm())
    return torch.stack([task.norm(), penalty.norm(), torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))])
