"""Training with or without the self-similarity constraint: one plain loop that resumes where it stopped."""

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

from ..checks import check_integer
from ..files import files_state
from ..models.architectures import create
from ..models.images import Images
from ..models.probe import activations
from ..models.seeding import seeded, unchanged
from ..models.small_builds import PIXELS
from ..statistics.movement import Arrangement
from ..validation import resolve_device
from .config import TrainConfig
from .data_record import check_same_data, data_record, record_of
from .distributed import Ranks, process_group
from .evaluation import Row, layer_rows, scores
from .provenance import environment_facts
from .recipe import norms_and_angle
from .runs import Run, finished_run, is_finished, last_checkpoint, locked_run, run_directory, save_checkpoint, write_run
from .state import TrainingState
from .torch_settings import torch_settings

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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
    """Train one network as configured and measure the self-similarity of its layers after every epoch.

    Parameters
    ----------
    config : TrainConfig
    images : Images, optional
        Images that are already loaded, to share between runs; by default ``config.load_images()``.
    runs : path, optional
        A folder for many runs. This run gets a directory there, named by its configuration (``config.name``). A run
        that is finished there is returned at once, and one that was stopped resumes from its last checkpoint.
    directory : path, optional
        The run's own directory instead; give at most one of the two.
    device : str
        ``"auto"``: CUDA if available, else the CPU.
    progress : bool
        Whether to show a progress bar over epochs.
    save_every : int, optional
        Steps between two checkpoints; by default one checkpoint at the end of every epoch. With AdamW, a checkpoint is
        three times as large as the weights, four times with ``ema``, and as much more with ``select="best"``. The last
        two are kept until the run is finished.
    on_epoch : callable, optional
        Called with the number of completed epochs and the network in eval mode, before training and after every epoch,
        to measure what the history does not have. It may draw random numbers without changing the run. A run that is
        resumed after an epoch repeats the call of this epoch, which may have failed.

    Returns
    -------
    Run
        Its history has these rows. After every epoch accuracy and loss on "train" (running mean). Before training
        (epoch 0), after every ``config.evaluate_every`` epochs and after the last, accuracy and loss on "validation",
        and "accuracy_ema" with a moving average. On "train" the constraint's mean "penalty", its "target" for each
        layer that it has read, "task_gradient_norm", "constraint_gradient_norm" and "gradient_angle" (degrees) at the
        epoch's first step, "weight_distance" from the start and, in float16, "skipped_steps": steps whose gradients
        overflowed, so that neither weights nor learning rate changed. For each layer, on the first `config.samples`
        validation images in eval mode, "ss_rate", "ss_rate_median_unit" (as the constraint reads it by default),
        "ss_rate_left_out" (without the 3 most distant neurons), "ss_rate_quantiles" (the curve ends at the quantiles
        .01 and .99 of the distances), "median_distance" and, from epoch 1, "neighbours_kept", "boxes_kept" and
        "drivers_kept" as `movement` defines them. At the end accuracy and loss on "test", of the weights that
        ``config.select`` chose. A layer that has collapsed, with all distances equal, has no rate: NaN.

    Raises
    ------
    ValueError, FileNotFoundError
        A configuration, data or device that cannot be used; a directory whose run has another configuration or was
        trained on other images; `images` that are not those of the configuration, if the run is stored; a constrained
        layer that collapses and so has no rate, with layer, epoch and step.
    DamagedRunError
        The finished run in the directory is damaged; a ``ValueError``.
    TypeError
        `config` is no `TrainConfig`.
    FileExistsError
        `directory` is not empty and holds no run.
    BlockingIOError
        Another process trains this run.
    OSError
        A checkpoint cannot be written (disk full, …); the one before it is intact.
    FloatingPointError
        Loss, penalty, weights or activations of a layer became NaN or infinite, with the epoch and, in training, the
        step; nothing of that step is saved. On a GPU, rates are not checked at every step: a layer's collapse is a
        penalty of NaN, found at the end of the epoch, without the layer's name. Also in float16, if gradients
        overflow in a whole epoch at every scale.

    Warns
    -----
    UserWarning
        A checkpoint is corrupt and the one before it is used. What the constraint's `step` warns of, such as layers
        that have come less than half of the way to their targets.

    Notes
    -----
    The caller's random states, default dtype, default device and autograd mode neither matter nor change. On a CPU,
    equal configurations with the same versions and number of threads give equal results to the last bit, also when
    they were stopped and resumed.

    A stored run keeps the fingerprint of its images. A finished run is returned without reading images if its data
    directory has not changed. If it has, the images are loaded and compared.

    Under `torchrun`, or in an initialised process group, each batch is split over the processes, gradients are
    averaged, rates are those of the samples of all processes, and the first process writes. Batch normalisation takes
    its statistics from each process's own share, and so the other processes' runs differ from that of the first.

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
    if save_every is not None:
        check_integer(save_every, name="save_every")
    place = run_directory(config, runs=runs, directory=directory)
    if place is not None and is_finished(place):
        return finished_run(place, config, images)
    with torch_settings(), process_group(resolve_device(device)) as (ranks, device):
        writer = place if ranks.rank == 0 else None
        with locked_run(writer, config) if writer else nullcontext():
            # Another process may have finished the run before this one got the lock.
            if place is not None and ranks.broadcast(is_finished(place)):
                return finished_run(place, config, images)
            began, date = time.perf_counter(), datetime.now(UTC).isoformat(timespec="minutes")
            files = files_state(config.data_dir)
            if images is None:
                images = config.load_images()
            elif place is not None:  # the images of a run that is stored are those that its configuration names
                check_same_data(record_of(config.images), data_record(images), where="the configuration")
            check_images(images, config, ranks)
            built_as = config.model_options(images)
            with seeded(config.seed, device):
                state = TrainingState(config, images, create(**built_as).to(device), device, ranks)
                checkpoint = ranks.broadcast(last_checkpoint(writer) if writer else None)
                if checkpoint is not None:
                    state.load_state_dict(checkpoint)
                before = state.seconds

                def save() -> None:
                    state.check_finite()
                    state.seconds = before + time.perf_counter() - began
                    content = state.state_dict() if place is not None else {}  # gathers from all ranks
                    if writer:
                        save_checkpoint(writer, (state.epoch, state.step), content)

                _train(state, images, save, save_every, progress, on_epoch)
                epoch, weights = state.selected()
                state.model.load_state_dict(weights)
                state.history += scores(state.model, images, "test", epoch=epoch, device=device)
            seconds = round(before + time.perf_counter() - began, 2)
            environment = environment_facts(device) | {"date": date, "seconds": seconds}
            environment["data"] = state.data_record | {"files": files}
            run = Run(config, state.history, built_as, environment, weights)
            if writer:
                write_run(run, writer)
    return run


def check_images(images: Images, config: TrainConfig, ranks: Ranks) -> None:
    """Raise ``ValueError`` if a configuration cannot be trained on these images by so many processes."""
    if images.pixels != PIXELS[config.size]:
        raise ValueError(f"images: got {images.pixels} pixels, need {PIXELS[config.size]} for size={config.size!r}")
    if empty := [name for name in ("train", "validation", "test") if not len(getattr(images, name))]:
        raise ValueError(f"images: got none to {', '.join(empty)}, need some of each split")
    if len(images.validation) < config.samples:
        raise ValueError(
            f"samples: got {config.samples}, but there are only {len(images.validation)} validation images"
        )
    batch = min(config.batch_size, len(images.train))
    if batch % ranks.size:
        raise ValueError(f"batch_size: got {batch} images, need a multiple of the {ranks.size} processes")
    if (config.mixup or config.cutmix) and batch % 2:
        raise ValueError(f"train_images: got {batch}, less than a batch; need an even number for mixup and cutmix")


def _train(
    state: TrainingState,
    images: Images,
    save: Callable[[], None],
    save_every: int | None,
    progress: bool,
    on_epoch: Callable[[int, nn.Module], None] | None,
) -> None:
    """Train from `state` to the end of the last epoch."""
    config = state.config

    def call_back() -> None:
        if on_epoch:
            with unchanged(state.device):  # a callback that draws must not change the run
                on_epoch(state.epoch, state.model)

    if not state.history:
        state.history += _evaluated(state, images)
        call_back()
    elif not state.step:  # resumed after an epoch whose call may have failed or been interrupted
        state.model.eval()
        call_back()
    epochs = range(state.epoch, config.epochs)
    bar = tqdm(epochs, initial=state.epoch, total=config.epochs, desc=config.architecture, disable=not progress)
    for _ in bar:
        state.model.train()
        for batch in state.batches():
            try:
                x, targets = state.augmentation(state.data.images[batch], state.data.labels[batch], state.generator)
                training_step(state, x, targets)
            except ValueError as error:  # a layer without a rate
                state.check_finite(step=state.step + 1, cause=error)
                raise ValueError(f"{error}; in {state.place(state.step + 1)}") from error
            state.step += 1
            if save_every and (state.epoch * state.steps_per_epoch + state.step) % save_every == 0:
                save()
        state.check_finite()
        finish_epoch(state, images)
        if save_every is None:
            save()
        call_back()


def training_step(state: TrainingState, x: Tensor, targets: Tensor) -> None:
    """Do one step of the optimiser on a prepared batch, and record it in ``state.steps``, without a synchronisation."""
    config = state.config
    x, targets = state.ranks.share(x), state.ranks.share(targets)
    half = HALF.get(config.precision)
    state.optimizer.zero_grad()
    precision = torch.autocast(x.device.type, dtype=half, enabled=half is not None)
    with precision, state.probe if state.constraint else nullcontext():
        logits = state.network(x)
    # Outside autocast, because losses and rates are sums, which need float32.
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=config.label_smoothing)
    labels = targets if targets.ndim == 1 else targets.argmax(1)
    record = state.steps[state.step]
    record[0].fill_(len(x))  # an assigned number would be copied from the host
    record[1], record[2] = loss.detach() * len(x), (logits.argmax(1) == labels).sum()
    if state.constraint:
        done = state.epoch * state.steps_per_epoch + state.step
        state.constraint.advance(step=done, steps=config.epochs * state.steps_per_epoch)
    penalty = state.constraint(state.probe) if state.constraint else loss.new_zeros(())
    record[3] = penalty.detach() * len(x)

    # A capped penalty has no gradient apart from the task's, so the task's is measured, and the rest is the penalty's.
    capped = state.constraint is not None and state.constraint.cap is not None
    part_gradient = _gradient_of(state, loss if capped else penalty) if state.step == 0 else None
    state.scaler.scale(loss + penalty).backward()
    state.scaler.unscale_(state.optimizer)
    if part_gradient is not None:
        total = _flat(p.grad for p in state.model.parameters())
        state.gradients.copy_(norms_and_angle(total, total - part_gradient if capped else part_gradient))
    if config.clip_gradient is not None:
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_gradient)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.ema is not None:
        state.ema.update(state.model)


def _gradient_of(state: TrainingState, part: Tensor) -> Tensor:
    """Return the gradient of the penalty or of the loss alone, averaged over the ranks; zeros without a penalty."""
    parameters = list(state.model.parameters())
    if not part.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters), device=state.device)
    scaled = state.scaler.scale(part)
    gradients = torch.autograd.grad(scaled, parameters, retain_graph=True, materialize_grads=True)
    return state.ranks.sum(_flat(gradients)) / (state.scaler.get_scale() * state.ranks.size)


def _flat(gradients: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([gradient.reshape(-1).float() for gradient in gradients if gradient is not None])


def finish_epoch(state: TrainingState, images: Images) -> None:
    """Write the history of the epoch just trained, step the constraint, evaluate, and move to the next epoch."""
    config, epoch = state.config, state.epoch + 1
    count, *sums = state.ranks.sum(state.steps).sum(0).tolist()
    loss, accuracy, penalty = (value / count for value in sums)
    measured = {"loss": loss, "accuracy": accuracy}
    task_norm, constraint_norm, angle = state.gradients.tolist()
    if state.constraint is None:
        measured["task_gradient_norm"] = task_norm
    else:
        norms = {"task_gradient_norm": task_norm, "constraint_gradient_norm": constraint_norm, "gradient_angle": angle}
        measured |= {"penalty": penalty} | {name: value for name, value in norms.items() if math.isfinite(value)}
        targets = state.constraint.targets.items()
        state.history += [Row(epoch, "train", layer, "target", value) for layer, value in targets]
        state.constraint.step(epoch=epoch, epochs=config.epochs, task_loss=loss)
    measured["weight_distance"] = state.weight_distance()
    if state.scaler.is_enabled():
        measured["skipped_steps"] = state.skipped_steps()
    state.history += [Row(epoch, "train", "", metric, value) for metric, value in measured.items()]
    state.epoch, state.step = epoch, 0
    state.steps.zero_()
    if epoch % config.evaluate_every and epoch < config.epochs:
        state.model.eval()  # as after an evaluation
        return
    rows = _evaluated(state, images)
    state.history += rows
    accuracy = next(row.value for row in rows if row.metric == "accuracy")
    if config.select == "best" and accuracy > state.best.get("accuracy", -1):
        weights = {name: value.detach().cpu().clone() for name, value in state.model.state_dict().items()}
        state.best = {"accuracy": accuracy, "epoch": epoch, "weights": weights}


def _evaluated(state: TrainingState, images: Images) -> list[Row]:
    """Return the rows of validation after the completed epochs."""
    epoch, device = state.epoch, state.device
    rows = scores(state.model, images, "validation", epoch=epoch, device=device)
    if state.ema is not None:
        _, accuracy = scores(state.ema.module, images, "validation", epoch=epoch, device=device)
        rows.append(accuracy._replace(metric="accuracy_ema"))
    batches, samples = images.batches("validation"), state.config.samples
    before = state.hidden
    hidden = activations(state.model, batches, layers=state.probe.layers, samples=samples, device=device)
    state.hidden = {layer: Arrangement(values) for layer, values in hidden.items()}
    return rows + layer_rows(state.hidden, before, epoch=epoch)
