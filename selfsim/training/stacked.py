"""Train several networks of one architecture at once.

A small network leaves a graphics card idle: each of its kernels is shorter than its launch. Stacked, K networks take
one launch together, and the whole step is recorded once as a CUDA graph.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import torch
from tqdm import tqdm

from ..files import files_state
from ..models.images import Images
from ..validation import resolve_device
from .config import TrainConfig
from .constraint import SelfSimilarityConstraint
from .data_record import data_record
from .distributed import Ranks
from .loop import check_images
from .provenance import environment_facts
from .runs import Run
from .stack import Stack
from .torch_settings import torch_settings

# In these, the configurations may differ.
_FREE = {"seed", "subset", "learning_rate", "weight_decay", "label_smoothing", "mixup", "constraint"}
# Of these, only one value can be trained together.
_FIXED: dict[str, Any] = {
    "optimizer": "adamw", "cutmix": 0.0, "rand_augment": 0, "random_erasing": 0.0, "ema": 0.0, "clip_gradient": None,
    "select": "last",
}  # fmt: skip


def train_many(
    configs: Sequence[TrainConfig],
    *,
    images: Sequence[Images] | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> list[Run]:
    """Train several networks of one architecture at once, each as `train` would by its own configuration.

    Parameters
    ----------
    configs : sequence of TrainConfig
        They may differ in `seed`, `subset`, `learning_rate`, `weight_decay`, `label_smoothing`, `mixup` and
        `constraint`; all else is equal. The optimiser is AdamW, and the result are the last weights.
    images : sequence of Images, optional
        One for each configuration; by default ``config.load_images()``. The same object may stand for several.
    device : str
        ``"auto"``: CUDA if there is a card, else the CPU.
    progress : bool
        Whether to show a progress bar over epochs.

    Returns
    -------
    list of Run
        In the order of `configs`. The history has the rows of `train`, except the gradients' norms and what was kept
        since the last evaluation; at the end, it has "clean_accuracy" on "train": that of the final network on the
        training images without augmentation.

    Raises
    ------
    ValueError
        No configuration, configurations that differ in another field or that cannot be trained together, images that
        do not fit.
    TypeError
        `configs` or `images` are no sequences of these.

    Warns
    -----
    UserWarning
        Networks whose loss, penalty or weights became NaN or infinite, with their places. The others are not affected.
        Also what `SelfSimilarityConstraint.step` warns of, with the places, but for layers without a gradient.

    Notes
    -----
    Weights, batches, augmentation and draws are those of `train` with the same configuration, so that the results agree
    up to rounding. Rounding grows in training: after many steps, accuracies agree as those of two machines do.

    On a card, the step is recorded once as a CUDA graph and replayed, without synchronisation within an epoch. Memory
    is that of the step of one network times their number. On a CPU nothing is gained over single runs.

    With precision "bfloat16", matrix products alone are in bfloat16. Convolutions and the rest stay in float32, unlike
    in `train`, because autocast does not reach them in stacked networks (seen on a CPU; not checked on a card).

    Examples
    --------
    >>> configs = [TrainConfig("mlp", epochs=1, seed=seed) for seed in (0, 1)]
    >>> runs = train_many(configs, device="cpu")
    >>> [run.config.seed for run in runs]
    [0, 1]
    """
    if not isinstance(configs, Sequence):
        raise TypeError(f"configs: got {type(configs).__name__}, need a sequence of TrainConfig")
    configs = list(configs)
    _check_alike(configs)
    device = resolve_device(device)
    loaded = _loaded(configs, images)
    for config, one in zip(configs, loaded, strict=True):
        check_images(one, config, Ranks())
    _check_one_size(loaded)
    began, date = time.perf_counter(), datetime.now(UTC).isoformat(timespec="minutes")
    with torch_settings():
        stack = Stack(configs, loaded, device)
        stack.evaluate(0)
        for epoch in tqdm(range(1, configs[0].epochs + 1), desc=configs[0].architecture, disable=not progress):
            stack.train_epoch(epoch)
            if epoch % configs[0].evaluate_every == 0 or epoch == configs[0].epochs:
                stack.evaluate(epoch)
        stack.finish()
        environment = environment_facts(device) | {"date": date, "stacked": len(configs)}
        environment["seconds"] = round((time.perf_counter() - began) / len(configs), 2)
        weights = stack.weights()
    if stack.failed:
        places = sorted(stack.failed)
        warnings.warn(
            f"loss: became NaN or infinite in the networks {places}, or their penalty or weights", stacklevel=2
        )
    data = [
        data_record(one) | {"files": files_state(config.data_dir)} for config, one in zip(configs, loaded, strict=True)
    ]
    return [
        Run(config, stack.history[k], stack.built_as, environment | {"data": data[k]}, weights[k])
        for k, config in enumerate(configs)
    ]


def _check_alike(configs: Sequence[TrainConfig]) -> None:
    if not configs:
        raise ValueError("configs: got none, need at least one")
    for place, config in enumerate(configs):
        if not isinstance(config, TrainConfig):
            raise TypeError(f"configs: got {type(config).__name__} at [{place}], need a TrainConfig")
        for field in fields(TrainConfig):
            value, first = getattr(config, field.name), getattr(configs[0], field.name)
            if field.name not in _FREE and value != first:
                raise ValueError(
                    f"configs: {field.name} is {first!r} at [0] and {value!r} at [{place}], need one value"
                )
        for name, need in _FIXED.items():
            if getattr(config, name) != need:
                raise ValueError(f"configs: got {name}={getattr(config, name)!r} at [{place}], need {need!r}")
        constraint = config.make_constraint()
        if not (constraint is None or isinstance(constraint, SelfSimilarityConstraint)):
            raise ValueError(f"configs: got {constraint!r} at [{place}], need a SelfSimilarityConstraint or None")
    if configs[0].precision == "float16":
        raise ValueError("configs: got precision='float16', whose loss scale is one for all; need 'bfloat16'")


def _loaded(configs: Sequence[TrainConfig], images: Sequence[Images] | None) -> list[Images]:
    if images is not None:
        if not isinstance(images, Sequence) or not all(isinstance(one, Images) for one in images):
            raise TypeError(f"images: got {type(images).__name__}, need None or a sequence of Images")
        images = list(images)
        if len(images) != len(configs):
            raise ValueError(f"images: got {len(images)}, need one for each of the {len(configs)} configurations")
        return images
    by_subset: dict[int, Images] = {}
    for config in configs:
        if config.subset not in by_subset:
            by_subset[config.subset] = config.load_images()
    return [by_subset[config.subset] for config in configs]


def _check_one_size(loaded: Sequence[Images]) -> None:
    sizes = [
        {part: len(getattr(images, part)) for part in ("train", "validation", "test", "classes")}
        | {"channels": images.channels}
        for images in loaded
    ]
    for place, size in enumerate(sizes):
        if size != sizes[0]:
            raise ValueError(f"images: got {sizes[0]} at [0] and {size} at [{place}], need equal numbers")
