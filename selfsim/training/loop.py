"""Training, with or without the self-similarity constraint: one plain loop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..measure.distances import pair_distances
from ..measure.rate import ss_rate
from ..models.architectures import PIXELS, create
from ..models.data import Images, Split
from ..models.probe import Probe, activations
from ..models.seeding import seeded
from ..validation import resolve_device
from .config import TrainConfig
from .environment import environment_facts
from .runs import Row, Run

# How many of the most distant neurons are left out of the rate that stands beside the rate.
LEFT_OUT = 3


def train(
    config: TrainConfig,
    *,
    images: Images | None = None,
    directory: str | os.PathLike | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Run:
    """Train one network as configured, and follow the self-similarity of its layers.

    Parameters
    ----------
    config : TrainConfig
    images : Images, optional
        Already loaded, to share between runs; must be what the configuration names.
    directory : path, optional
        Where to save the finished run, for `load_run`; new or empty.
    device : str
        ``"auto"``: CUDA where there is a card, else the CPU.
    progress : bool
        Whether to show a progress bar over epochs.

    Returns
    -------
    Run
        Its history has, after every epoch (0 is before training): accuracy and loss on "train" (running mean) and
        "validation"; the constraint's mean penalty on "train"; and for each layer, on the first `config.samples`
        validation images in eval mode, "ss_rate", "ss_rate_left_out" (without the 3 most distant neurons) and
        "median_distance". After the last epoch: accuracy and loss on "test", which nothing was chosen by.

    Raises
    ------
    ValueError, FileNotFoundError
        A configuration, data or device that cannot be used.
    FileExistsError
        `directory` is not empty.
    FloatingPointError
        The loss became NaN or infinite; names the epoch.

    Notes
    -----
    The caller's random states are left as they were. On a CPU, equal configurations with the same versions and
    number of threads give equal results.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, constrained training.

    Examples
    --------
    >>> run = train(TrainConfig("mlp", epochs=1, constraint={"target": 0.1}), device="cpu")
    >>> run.series("accuracy", split="test")[0] > 0.2
    True
    """
    device = resolve_device(device)
    if directory is not None and os.path.isdir(directory) and os.listdir(directory):
        raise FileExistsError(f"directory: {os.fspath(directory)!r} is not empty; need a new one, or load_run")
    if images is None:
        images = config.load_images()
    if images.pixels != PIXELS[config.size]:
        raise ValueError(f"images: got {images.pixels} pixels, need {PIXELS[config.size]} for size={config.size!r}")
    if len(images.validation) < config.samples:
        raise ValueError(
            f"samples: got {config.samples}, but there are only {len(images.validation)} validation images"
        )
    started = time.perf_counter()
    date = datetime.now(UTC).isoformat(timespec="minutes")
    with seeded(config.seed, device):
        built_as = dict(
            name=config.architecture, size=config.size, num_classes=len(images.classes), in_chans=images.channels
        )
        model = create(**built_as).to(device)
        history = _train(model, config, images, device, progress)
    environment = environment_facts(device) | {"date": date, "seconds": round(time.perf_counter() - started, 2)}
    run = Run(config, history, model.cpu().eval(), built_as, environment)
    if directory is not None:
        run.save(directory)
    return run


def _train(model: nn.Module, config: TrainConfig, images: Images, device: torch.device, progress: bool) -> list[Row]:
    """Train `model` in place; the history."""
    data = images.train.to(device)
    constraint = config.make_constraint()
    probe = Probe(model, config.layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * len(list(_order(data, config)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.learning_rate, total_steps=max(steps, 2), pct_start=0.2
    )
    # The order of images and their augmentation have a generator of their own, so that both runs of a pair see
    # the same batches, whatever else draws random numbers.
    generator = torch.Generator().manual_seed(config.seed)
    history = _evaluated(model, images, probe.layers, config, 0, device)
    for epoch in tqdm(range(1, config.epochs + 1), desc=config.architecture, disable=not progress):
        model.train()
        totals = torch.zeros(4, device=device)  # images, loss, correct, penalty
        for batch in _order(data, config, generator):
            x, y = images.prepared(data.images[batch]), data.labels[batch]
            if config.augment:
                x = augmented(x, generator, mirror=config.dataset != "digits")
            optimizer.zero_grad()
            if constraint is None:
                logits = model(x)
                penalty = torch.zeros((), device=device)
            else:
                with probe:
                    logits = model(x)
                penalty = constraint(probe)
            loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
            (loss + penalty).backward()
            optimizer.step()
            schedule.step()
            correct = (logits.argmax(1) == y).sum()
            totals += torch.stack(
                [totals.new_tensor(len(y)), loss.detach() * len(y), correct, penalty.detach() * len(y)]
            )
        count, loss, correct, penalty = totals.tolist()
        if not all(map(torch.isfinite, totals)):
            raise FloatingPointError(
                f"loss: became {loss / count} in epoch {epoch}; try a lower learning_rate or weight"
            )
        history += [
            Row(epoch, "train", "", "loss", loss / count),
            Row(epoch, "train", "", "accuracy", correct / count),
        ]
        if constraint is not None:
            history.append(Row(epoch, "train", "", "penalty", penalty / count))
            constraint.step(epoch=epoch, epochs=config.epochs, task_loss=loss / count)
        history += _evaluated(model, images, probe.layers, config, epoch, device)
    history += _scores(model, images, "test", config.epochs, device)
    return history


def _order(data: Split, config: TrainConfig, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Batches of indices, shuffled; the incomplete one at the end is left out where there are others."""
    order = torch.arange(len(data)) if generator is None else torch.randperm(len(data), generator=generator)
    batches = order.to(data.labels.device).split(config.batch_size)
    return iter(batches[:-1] if len(batches) > 1 and len(batches[-1]) < config.batch_size else batches)


def augmented(x: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
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


def _evaluated(model, images: Images, layers, config: TrainConfig, epoch: int, device) -> list[Row]:
    """Accuracy and loss on validation, and what is followed of each layer."""
    rows = _scores(model, images, "validation", epoch, device)
    hidden = activations(
        model,
        images.batches("validation", batch_size=config.batch_size),
        layers=layers,
        samples=config.samples,
        device=device,
    )
    for layer, values in hidden.items():
        measures = {
            "ss_rate": ss_rate(values),
            "ss_rate_left_out": ss_rate(values, leave_out=LEFT_OUT),
            "median_distance": pair_distances(values).median(),
        }
        rows += [Row(epoch, "validation", layer, name, float(value)) for name, value in measures.items()]
    return rows


@torch.no_grad()
def _scores(model: nn.Module, images: Images, split: str, epoch: int, device: torch.device) -> list[Row]:
    model.eval()
    loss = correct = count = 0
    for x, y in images.batches(split):
        logits = model(x.to(device))
        y = y.to(device)
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        correct += int((logits.argmax(1) == y).sum())
        count += len(y)
    return [Row(epoch, split, "", "loss", loss / count), Row(epoch, split, "", "accuracy", correct / count)]
