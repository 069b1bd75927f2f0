"""Training, with or without the self-similarity constraint: one plain loop, which goes on where it was stopped."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import UTC, datetime

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..models.architectures import PIXELS, create
from ..models.images import Images
from ..models.probe import activations
from ..models.seeding import seeded
from ..validation import resolve_device
from .checkpoints import last_checkpoint, save_checkpoint
from .config import TrainConfig
from .distributed import Ranks, joined
from .environment import environment_facts
from .evaluation import Row, layer_rows, scores
from .optimization import norms_and_angle
from .run_directory import check_configuration, held, is_finished, run_directory
from .runs import Run, load_run, write_run
from .state import TrainingState

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def train(
    config: TrainConfig,
    *,
    images: Images | None = None,
    runs: str | os.PathLike | None = None,
    directory: str | os.PathLike | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    save_every: int | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> Run:
    """Train one network as configured, and follow the self-similarity of its layers.

    Parameters
    ----------
    config : TrainConfig
    images : Images, optional
        Already loaded, to share between runs; must be what the configuration names.
    runs : path, optional
        A folder for many runs: this one lives there in a directory that is named by its configuration
        (``config.name``). If it is finished there, it is returned at once; if it was stopped, however that was, it goes
        on from its last checkpoint.
    directory : path, optional
        The same with the run's own directory given; at most one of the two.
    device : str
        ``"auto"``: CUDA where there is a card, else the CPU.
    progress : bool
        Whether to show a progress bar over epochs.
    save_every : int, optional
        Steps between two checkpoints, by default one at the end of every epoch. With AdamW, a checkpoint is three times
        as large as the weights, four times with ``ema`` and as much more with ``select="best"``; the last two are
        kept, and none of a finished run.
    on_epoch : callable, optional
        Gets the number of epochs that are over and the network, in eval mode: before training and after every epoch,
        to measure what the history does not have. Not for epochs that were over before a stopped run went on.

    Returns
    -------
    Run
        Its history has, after every epoch (0 is before training): accuracy and loss on "train" (running mean) and
        "validation", and "accuracy_ema" where there is a moving average; on "train" the constraint's mean "penalty",
        its "target" for each layer, "task_gradient_norm", "constraint_gradient_norm" and "gradient_angle" (degrees) at
        the epoch's first step, "weight_distance" from the start and, in float16, "skipped_steps", whose gradients
        overflowed: neither weights nor learning rate moved there; and for each layer, on the first `config.samples`
        validation images in eval mode, "ss_rate", "ss_rate_left_out" (without the 3 most distant neurons),
        "ss_rate_quantiles" (its curve ends at the quantiles .01 and .99 of the distances), "median_distance" and, from
        the second time on, what `movement` finds since the epoch before: "neighbours_kept", "boxes_kept",
        "drivers_kept". At the end accuracy and loss on "test", of the weights and epoch that ``config.select`` chose. A
        layer that has collapsed, all distances equal, has no rate: NaN.

    Raises
    ------
    ValueError, FileNotFoundError
        A configuration, data or device that cannot be used; a directory whose run has another configuration; a
        constrained layer that collapses, so that it has no rate: names layer, epoch and step.
    TypeError
        `config` is no `TrainConfig`.
    FileExistsError
        `directory` is not empty and holds no run.
    BlockingIOError
        Another process trains there.
    OSError
        A checkpoint cannot be written (disk full, …); the one before it is intact.
    FloatingPointError
        Loss, penalty, weights or the activations of a layer became NaN or infinite; names the epoch and, in
        training, the step. Nothing of it is saved. On a GPU, where rates are not checked at every step, a layer's
        collapse is a penalty of NaN, found at the end of the epoch, and the layer is not named. Or in float16,
        gradients overflow in a whole epoch however they are scaled.

    Warns
    -----
    UserWarning
        A damaged checkpoint was found, and the one before it used.

    Notes
    -----
    The caller's random states are left as they were. On a CPU, equal configurations with the same versions and
    number of threads give equal results to the last bit, also when they were stopped and went on in between.

    Under `torchrun`, or in an initialised process group, each batch is split over the processes, gradients are
    averaged, rates are of the samples of all processes, and the first process writes. Batch normalisation takes its
    statistics from each process's own share.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, constrained training.

    Examples
    --------
    >>> config = TrainConfig("mlp", epochs=1, constraint={"target": 0.1})
    >>> run = train(config, device="cpu")
    >>> run.series("accuracy", split="test")[0] > 0.2
    True
    """
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config: got {type(config).__name__}, need a TrainConfig, such as TrainConfig(**options)")
    if save_every is not None and (isinstance(save_every, bool) or not isinstance(save_every, int) or save_every < 1):
        raise ValueError(f"save_every: got {save_every!r}, need None or an integer of steps, at least 1")
    place = run_directory(config, runs=runs, directory=directory)
    if place is not None and is_finished(place):
        check_configuration(place, config)
        return load_run(place)
    with joined(resolve_device(device)) as (ranks, device):
        writes = place is not None and ranks.rank == 0
        with held(place, config) if writes else nullcontext():
            images = _checked(config.load_images() if images is None else images, config, ranks)
            began, date = time.perf_counter(), datetime.now(UTC).isoformat(timespec="minutes")
            built_as = dict(
                name=config.architecture, size=config.size, num_classes=len(images.classes), in_chans=images.channels
            )
            with seeded(config.seed, device):
                state = TrainingState(config, images, create(**built_as).to(device), device, ranks)
                stored = ranks.from_first(last_checkpoint(place) if writes else None)
                if stored is not None:
                    state.load_state_dict(stored)
                before = state.seconds

                def save() -> None:
                    state.check_finite()
                    state.seconds = before + time.perf_counter() - began
                    content = state.state_dict() if place is not None else None
                    if writes:
                        save_checkpoint(place, (state.epoch, state.step), content)

                _train(state, images, save, save_every, progress, on_epoch)
                epoch, weights = state.selected()
                state.model.load_state_dict(weights)
                state.history += scores(state.model, images, "test", epoch=epoch, device=device)
            seconds = round(before + time.perf_counter() - began, 2)
            environment = environment_facts(device) | {"date": date, "seconds": seconds}
            run = Run(config, state.history, built_as, environment, weights)
            if writes:
                write_run(run, place)
    return run


def _checked(images: Images, config: TrainConfig, ranks: Ranks) -> Images:
    if images.pixels != PIXELS[config.size]:
        raise ValueError(f"images: got {images.pixels} pixels, need {PIXELS[config.size]} for size={config.size!r}")
    if len(images.validation) < config.samples:
        raise ValueError(
            f"samples: got {config.samples}, but there are only {len(images.validation)} validation images"
        )
    batch = min(config.batch_size, len(images.train))
    if batch % ranks.size:
        raise ValueError(f"batch_size: got {batch} images, need a multiple of the {ranks.size} processes")
    if (config.mixup or config.cutmix) and batch % 2:
        raise ValueError(f"train_images: got {batch}, less than a batch; need an even number for mixup and cutmix")
    return images


def _train(
    state: TrainingState, images: Images, save: Callable, save_every: int | None, progress: bool, on_epoch
) -> None:
    """From where `state` is to the end of the last epoch."""
    config = state.config
    tell = on_epoch or (lambda epoch, model: None)
    if not state.history:
        state.history += _evaluated(state, images)
        tell(0, state.model)
    epochs = range(state.epoch, config.epochs)
    bar = tqdm(epochs, initial=state.epoch, total=config.epochs, desc=config.architecture, disable=not progress)
    for _ in bar:
        state.model.train()
        for batch in state.batches():
            try:
                _step(state, *state.augmentation(state.data.images[batch], state.data.labels[batch], state.generator))
            except ValueError as error:  # a layer without a rate
                state.check_finite(step=state.step + 1, cause=error)
                raise ValueError(f"{error}; in {state.place(state.step + 1)}") from error
            state.step += 1
            if save_every and (state.epoch * state.steps_per_epoch + state.step) % save_every == 0:
                save()
        state.check_finite()
        _finish_epoch(state, images)
        if save_every is None:
            save()
        tell(state.epoch, state.model)


def _step(state: TrainingState, x: Tensor, targets: Tensor) -> None:
    """One step of the optimiser; what is said about it stays on the device."""
    config = state.config
    x, targets = state.ranks.own(x), state.ranks.own(targets)
    half = _HALF.get(config.precision)
    state.optimizer.zero_grad()
    precision = torch.autocast(x.device.type, dtype=half, enabled=half is not None)
    with precision, state.probe if state.constraint else nullcontext():
        logits = state.network(x)
    # Outside of autocast: losses and rates are sums, and sums need float32.
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=config.label_smoothing)
    labels = targets if targets.ndim == 1 else targets.argmax(1)
    seen = state.steps[state.step]
    seen[0], seen[1], seen[2] = len(x), loss.detach() * len(x), (logits.argmax(1) == labels).sum()
    penalty = state.constraint(state.probe) if state.constraint else loss.new_zeros(())
    seen[3] = penalty.detach() * len(x)

    of_penalty = _penalty_gradient(state, penalty) if state.step == 0 else None
    state.scaler.scale(loss + penalty).backward()
    state.scaler.unscale_(state.optimizer)
    if of_penalty is not None:
        state.gradients.copy_(norms_and_angle(_flat(p.grad for p in state.model.parameters()), of_penalty))
    if config.clip_gradient is not None:
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_gradient)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.ema is not None:
        state.ema.update(state.model)


def _penalty_gradient(state: TrainingState, penalty: Tensor) -> Tensor:
    """Gradient of the penalty alone, averaged over the ranks; zeros where there is none."""
    parameters = list(state.model.parameters())
    if not penalty.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters), device=state.device)
    found = torch.autograd.grad(state.scaler.scale(penalty), parameters, retain_graph=True, materialize_grads=True)
    return state.ranks.summed(_flat(found)) / (state.scaler.get_scale() * state.ranks.size)


def _flat(gradients: Iterable[Tensor]) -> Tensor:
    return torch.cat([gradient.reshape(-1).float() for gradient in gradients])


def _finish_epoch(state: TrainingState, images: Images) -> None:
    """What there is to say about the epoch, and on to the next one."""
    config, epoch = state.config, state.epoch + 1
    count, *sums = state.ranks.summed(state.steps).sum(0).tolist()
    loss, accuracy, penalty = (value / count for value in sums)
    told = {"loss": loss, "accuracy": accuracy}
    norms = dict(
        zip(("task_gradient_norm", "constraint_gradient_norm", "gradient_angle"), state.gradients.tolist(), strict=True)
    )
    if state.constraint is None:
        told["task_gradient_norm"] = norms["task_gradient_norm"]
    else:
        told |= {"penalty": penalty} | {name: value for name, value in norms.items() if math.isfinite(value)}
        targets = state.constraint.targets.items()
        state.history += [Row(epoch, "train", layer, "target", value) for layer, value in targets]
        state.constraint.step(epoch=epoch, epochs=config.epochs, task_loss=loss)
    told["weight_distance"] = state.weight_distance()
    if state.scaler.is_enabled():
        told["skipped_steps"] = state.skipped_steps()
    state.history += [Row(epoch, "train", "", metric, value) for metric, value in told.items()]
    state.epoch, state.step = epoch, 0
    state.steps.zero_()
    rows = _evaluated(state, images)
    state.history += rows
    accuracy = next(row.value for row in rows if row.metric == "accuracy")
    if config.select == "best" and accuracy > state.best.get("accuracy", -1):
        weights = {name: value.detach().cpu().clone() for name, value in state.model.state_dict().items()}
        state.best = {"accuracy": accuracy, "epoch": epoch, "weights": weights}


def _evaluated(state: TrainingState, images: Images) -> list[Row]:
    """Validation, after the epochs that are over."""
    where = dict(epoch=state.epoch, device=state.device)
    rows = scores(state.model, images, "validation", **where)
    if state.ema is not None:
        _, (*key, accuracy) = scores(state.ema.module, images, "validation", **where)
        rows.append(Row(*key[:3], "accuracy_ema", accuracy))
    batches, followed = images.batches("validation"), {"layers": state.probe.layers, "samples": state.config.samples}
    before, state.hidden = state.hidden, activations(state.model, batches, device=state.device, **followed)
    return rows + layer_rows(state.hidden, before, epoch=state.epoch)
