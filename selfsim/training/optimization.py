"""How the weights are moved: optimiser, schedule of the learning rate, and the norms of what moves them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import check_choice, optional_package

SCHEDULES = ("one-cycle", "cosine", "constant")


def check_optimizer(name: str) -> str:
    """Return a name that `make_optimizer` takes; else raise ``ValueError`` with the nearest one."""
    if name == "adamw":  # known without timm, which the plain MLP does not need
        return name
    optim = optional_package("timm.optim", extra="models")
    # Left out: those of other packages, and one that needs second derivatives.
    return check_choice(name, optim.list_optimizers(exclude_filters=["bnb*", "fused*", "adahessian"]), name="optimizer")


def make_optimizer(config, parameters) -> torch.optim.Optimizer:
    """The optimiser of a `TrainConfig`."""
    options = dict(lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    optim = optional_package("timm.optim", extra="models")
    return optim.create_optimizer_v2(parameters, opt=config.optimizer, **options)


def make_schedule(config, optimizer: torch.optim.Optimizer, steps_per_epoch: int):
    """The schedule of a `TrainConfig`, to be stepped after every step of the optimiser."""
    steps = config.epochs * steps_per_epoch
    if config.schedule == "one-cycle":
        steps = max(steps, 2)
        share = 0.2 if config.warmup_epochs is None else config.warmup_epochs / config.epochs
        if share * steps == 1:  # torch divides by the length of the warm-up less one
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
    """Norms of the task's and the penalty's gradient and the angle between them in degrees, ``(3,)``.

    Parameters
    ----------
    total : Tensor, shape (parameters,)
        The gradient of their sum.
    penalty : Tensor, shape (parameters,)
    """
    task = total - penalty
    cosine = torch.dot(task, penalty) / (task.norm() * penalty.norm())
    return torch.stack([task.norm(), penalty.norm(), torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))])
