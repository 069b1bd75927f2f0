"""The configuration of a training run, as plain data."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from ..checks import check_choice, check_flag, check_integer, check_number, check_seed
from ..models.architectures import architecture
from ..models.data import DATASETS
from ..models.images import Images
from ..models.small_builds import PIXELS
from .constraint import SelfSimilarityConstraint
from .data_record import load_and_remember
from .recipe import SCHEDULES, check_optimizer
from .scale_control import ScaleControl

_CHOICES: dict[str, Iterable[str]] = {
    "size": PIXELS,
    "dataset": DATASETS,
    "schedule": SCHEDULES,
    "precision": ("float32", "bfloat16", "float16"),
    "select": ("last", "best", "ema"),
}
_SUBSETS = ("train_images", "validation_images", "test_images")
_INTEGERS = ("epochs", "batch_size", "samples", "evaluate_every", *_SUBSETS)
# Fields of later versions. At their defaults they are no part of the JSON, so that a stored run keeps its name.
_LATER: dict[str, Any] = {"subset": 0, "evaluate_every": 1}
_NUMBERS = {
    "learning_rate": "[0, inf)",
    "weight_decay": "[0, inf)",
    "label_smoothing": "[0, 1)",
    "mixup": "[0, inf)",
    "cutmix": "[0, inf)",
    "random_erasing": "[0, 1]",
    "ema": "[0, 1)",
}
# Of a plain constraint. A stored run of version 0.1 that does not name all of these has one.
_PLAIN: dict[str, Any] = {"weight": 10.0, "cap": None, "ramp": None, "unit": "absolute", "ends": "detached"}
_KINDS: dict[str, Callable[..., Any]] = {
    "plain": partial(SelfSimilarityConstraint, **_PLAIN),
    "paper": SelfSimilarityConstraint.paper,
    "scale": ScaleControl,
}
# The published learning rate for a batch of 512, weight of the constraint, and target.
_PUBLISHED = {
    "vit_small": (5e-4, 5e-2, 0.3),
    "vit_base": (1e-4, 5e-2, 0.3),
    "resmlp": (5e-3, 5e-2, 0.2),
    "mixer": (5e-4, 1e-2, 0.2),
    "poolformer": (5e-4, 1e-4, 0.3),
}


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of one training run; equal configurations on one machine give equal runs.

    Attributes
    ----------
    architecture : str
        A name that `selfsim.create` knows.
    size : {"tiny", "small", "paper"}
        Images of 8, 32 or 224 pixels.
    dataset, data_dir, train_images, validation_images, test_images, download
        Arguments of `selfsim.load_images`.
    epochs : int
    batch_size : int
        Images per step, over all processes together.
    optimizer : str
        "adamw", or another name of ``timm.optim`` that needs no further package.
    learning_rate : float
        The highest learning rate of the schedule.
    weight_decay : float
        Applied to all parameters.
    schedule : {"one-cycle", "cosine", "constant"}
        "one-cycle" is torch's, with momentum; "cosine" falls from the highest rate to 0.
    warmup_epochs : float, optional
        By default a fifth of the epochs for "one-cycle", none for the others.
    label_smoothing : float
    augment : bool
        Shift by up to an eighth of the image and, except for digits, mirror.
    mixup, cutmix : float
        The parameter alpha of each, 0 for none. With both, one of the two is drawn for each batch. The accuracy on
        "train" then counts the class with the larger share.
    rand_augment : int
        Magnitude from 1 to 10 of two operations out of torchvision's RandAugment, drawn for eight images at a time;
        0 for none.
    random_erasing : float
        Probability that a rectangle of an image is replaced by noise.
    ema : float
        Decay of a moving average of the weights, 0 for none. Its accuracy is "accuracy_ema" in the history.
    precision : {"float32", "bfloat16", "float16"}
        Precision of the forward pass in training. Evaluation is always in float32.
    clip_gradient : float, optional
        Largest norm of a step's gradient.
    select : {"last", "best", "ema"}
        Which weights are the result: those of the last epoch, those with the best validation accuracy (the earliest
        of equals), or the moving average. Only these weights are evaluated on the test images.
    constraint : mapping, optional
        Arguments of `selfsim.SelfSimilarityConstraint`; with ``{"paper": True, …}`` those of its ``.paper``, with
        ``{"scale": True, …}`` those of `selfsim.ScaleControl`. None trains without a constraint. With
        ``{"plain": True, …}``, the defaults are those of version 0.1: a weight of 10, no cap, no ramp, absolute units
        and detached ends. A mapping of none of these kinds gets the defaults of `weight`, `cap`, `ramp`, `unit` and
        `ends` written into it, so that a stored run keeps its meaning. Give ``"ends": None`` beside a changed `weight`
        or `measure` to have them decided anew.
    layers : int or list of str, optional
        Layers to follow and to constrain, as for `selfsim.Probe`. By default the natural blocks.
    samples : int
        Number of validation images on which rates are measured, the same at every epoch.
    seed : int
        Seeds initialisation, order of images, augmentation and the constraint's draws. Two runs with the same seed
        and different constraints are a pair: they start from equal weights and see equal batches.
    subset : int
        Which draw of `train_images`, as for `selfsim.load_images`.
    evaluate_every : int
        Number of epochs between two evaluations on validation images. The last epoch is always evaluated.

    Raises
    ------
    ValueError
        A value that no run can have; names field, value and need.

    Examples
    --------
    Equal values have one form, so that a run has one name.

    >>> TrainConfig("ViT-S", epochs=3).architecture
    'vit_small'
    """

    architecture: str
    size: str = "tiny"
    dataset: str = "digits"
    data_dir: str | None = None
    train_images: int | None = None
    validation_images: int | None = None
    test_images: int | None = None
    download: bool = False
    epochs: int = 15
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    schedule: str = "one-cycle"
    warmup_epochs: float | None = None
    label_smoothing: float = 0.0
    augment: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    rand_augment: int = 0
    random_erasing: float = 0.0
    ema: float = 0.0
    precision: str = "float32"
    clip_gradient: float | None = None
    select: str = "last"
    constraint: Mapping | None = None
    layers: int | list[str] | None = None
    samples: int = 128
    seed: int = 0
    subset: int = 0
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        self._set(architecture=architecture(self.architecture).name, seed=check_seed(self.seed))
        if isinstance(self.data_dir, os.PathLike):
            self._set(data_dir=os.fspath(self.data_dir))
        for name, known in _CHOICES.items():
            check_choice(getattr(self, name), known, name=name)
        check_optimizer(self.optimizer)
        for name in _INTEGERS:
            if not (name in _SUBSETS and getattr(self, name) is None):
                self._set(**{name: check_integer(getattr(self, name), name=name)})
        self._set(subset=check_integer(self.subset, name="subset", least=0))
        for name in ("augment", "download"):
            self._set(**{name: check_flag(getattr(self, name), name=name)})
        magnitude = check_integer(self.rand_augment, name="rand_augment", least=0)
        check_number(magnitude, name="rand_augment", within="[0, 10]")
        self._set(rand_augment=magnitude)
        optional = {"warmup_epochs": f"[0, {self.epochs})", "clip_gradient": "[1e-12, inf)"}
        given = {name: within for name, within in optional.items() if getattr(self, name) is not None}
        for name, within in (_NUMBERS | given).items():
            self._set(**{name: check_number(getattr(self, name), name=name, within=within)})
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"batch_size: got {self.batch_size}, need an even number for mixup and cutmix")
        if self.select == "ema" and not self.ema:
            raise ValueError("select: got 'ema' without a moving average, need its decay, such as ema=0.999")
        self._set(layers=_checked_layers(self.layers))
        if not (self.constraint is None or isinstance(self.constraint, Mapping)):
            raise ValueError(f"constraint: got {self.constraint!r}, need None or a mapping of its options")
        self._set(constraint=_one_form(self.constraint))
        made = self.make_constraint()  # wrong options fail here, before any data are loaded
        self._set(constraint=_one_form(_explicit(self.constraint, made)))

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the class is frozen

    @classmethod
    def paper(cls, architecture_name: str, *, dataset: str, data_dir: str | None = None, **changes: Any) -> TrainConfig:
        """Return the published recipe: 224 pixels, 200 epochs, batches of 256, and the published augmentation.

        Parameters
        ----------
        architecture_name : str
            Rates are published for ViT-S, ViT-B, ResMLP, MLP-Mixer and PoolFormer. Another architecture needs
            ``learning_rate`` and ``constraint`` among the changes.
        dataset, data_dir, **changes
            Fields of `TrainConfig`; ``constraint=None`` for the run without constraint.

        Notes
        -----
        As published: AdamW with weight decay .05; cosine with 5 epochs of warm-up; mixup .8, cutmix 1, label
        smoothing .1, RandAugment 9, random erasing .25; a moving average of decay .99996; half precision. Where a
        range is published, this takes its lower end. Learning rates are published for batches of 512 and halved
        here. The constraint draws one block per batch. Unlike published: no stochastic depth, weight decay on all
        parameters, RandAugment drawn for eight images at a time.

        References
        ----------
        .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, experimental settings.

        Examples
        --------
        >>> config = TrainConfig.paper("vit_small", dataset="imagenette", data_dir="data")
        >>> config.learning_rate
        0.00025
        """
        name = architecture(architecture_name).name
        recipe: dict[str, Any] = dict(
            size="paper", epochs=200, batch_size=256, schedule="cosine", warmup_epochs=5, label_smoothing=0.1,
            augment=True, mixup=0.8, cutmix=1.0, rand_augment=9, random_erasing=0.25, ema=0.99996, precision="float16",
        )  # fmt: skip
        if name in _PUBLISHED:
            rate, weight, target = _PUBLISHED[name]
            recipe["learning_rate"] = rate * 256 / 512
            recipe["constraint"] = {"paper": True, "weight": weight, "target": target}
        elif not {"learning_rate", "constraint"} <= changes.keys():
            raise ValueError(
                f"learning_rate, constraint: none are published for {name!r}, need both; published are "
                f"{', '.join(_PUBLISHED)}"
            )
        return cls(name, **({"dataset": dataset, "data_dir": data_dir} | recipe | changes))

    def as_json(self) -> str:
        """Return the configuration as JSON, one field a line.

        Raises
        ------
        TypeError
            The constraint is not plain data, so it cannot be stored with a run.
        """
        try:
            values = {name: value for name, value in asdict(self).items() if _LATER.get(name, ...) != value}
            if self.constraint:  # as version 0.1 wrote it: a stored run keeps its name
                values["constraint"].pop("plain", None)
            return json.dumps(values, indent=1) + "\n"
        except TypeError as error:
            raise TypeError(
                f"constraint: {error}; a run in a directory needs plain data, got {self.constraint!r}"
            ) from None

    @property
    def name(self) -> str:
        """The name of the run's directory: its architecture and a hash of the whole configuration."""
        return f"{self.architecture}-{hashlib.sha256(self.as_json().encode()).hexdigest()[:12]}"

    def make_constraint(self) -> SelfSimilarityConstraint | ScaleControl | None:
        """Return a new constraint as configured, seeded by the run's seed where it draws; None without one."""
        if self.constraint is None:
            return None
        options = dict(self.constraint)
        chosen = [kind for kind in _KINDS if check_flag(options.pop(kind, False), name=f"constraint: {kind}")]
        if len(chosen) > 1:
            raise ValueError(f"constraint: got {' and '.join(chosen)}, need only one of these")
        build: Callable[..., Any] = _KINDS[chosen[0]] if chosen else SelfSimilarityConstraint
        known = inspect.signature(build).parameters
        for option in options:
            check_choice(option, known, name="constraint")
        try:
            return build(**({"seed": self.seed} if "seed" in known else {}) | options)
        except TypeError as error:  # an option without a default is missing, or has the wrong type
            raise ValueError(f"constraint: {error}") from error

    def model_options(self, images: Images) -> dict[str, Any]:
        """Return the arguments of `create` for a network that is trained on such images."""
        shape = {"num_classes": len(images.classes), "in_chans": images.channels}
        return {"name": self.architecture, "size": self.size} | shape

    def load_images(self) -> Images:
        """Load the configured data set at the size of the architecture's input."""
        return load_and_remember(self.images)

    @property
    def images(self) -> dict[str, Any]:
        """Arguments of `load_images`. Runs that agree in them can share the images."""
        names = ("dataset", "data_dir", *_SUBSETS, "subset", "download")
        return {name: getattr(self, name) for name in names} | {"pixels": PIXELS[self.size]}


def stored_config(values: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a stored run, whose constraint means what it meant in the version that wrote it."""
    constraint = values.get("constraint")
    if isinstance(constraint, Mapping):
        of_a_kind, explicit = any(map(constraint.get, _KINDS)), _PLAIN.keys() <= constraint.keys()
        values = values if of_a_kind or explicit else {**values, "constraint": {**constraint, "plain": True}}
    return TrainConfig(**values)


def check_same_configuration(stored: Mapping[str, Any], config: TrainConfig, *, where: str) -> None:
    """Raise ``ValueError`` with the fields in which a stored configuration differs from `config`.

    A field that an earlier version did not have counts as its default.
    """
    there = {option.name: option.default for option in fields(TrainConfig)} | dict(stored)
    here = _LATER | json.loads(config.as_json())
    names = [name for name in here | there if there[name] != here.get(name)]
    if names:
        different = [f"{name} is {there[name]!r} there and {here.get(name)!r} here" for name in names]
        plain = names == ["constraint"] and config.constraint and "plain" in (stored_config(stored).constraint or {})
        remedy = " (a run of version 0.1 goes on with constraint={'plain': True, …})" if plain else ""
        raise ValueError(
            f"directory: {where!r} holds a run with another configuration ({'; '.join(different)}); need another "
            f"directory, or runs=..., which names one for each configuration{remedy}"
        )


def _checked_layers(layers: object) -> int | list[str] | None:
    if layers is None:
        return None
    if isinstance(layers, (list, tuple)) and layers and all(isinstance(layer, str) for layer in layers):
        return list(layers)
    try:
        return check_integer(layers, name="layers")
    except ValueError:
        raise ValueError(f"layers: got {layers!r}, need None, an integer of at least 1 or a list of names") from None


def _explicit(options: Mapping | None, made: SelfSimilarityConstraint | ScaleControl | None) -> Mapping | None:
    """Return the options of a constraint, with the defaults that differ from those of version 0.1."""
    if options is None:
        return None
    options = {option: value for option, value in options.items() if option not in _KINDS or value}
    if _PLAIN.keys() <= options.keys():
        options.pop("plain", None)
    if _KINDS.keys() & options.keys():
        return options
    known = inspect.signature(SelfSimilarityConstraint).parameters
    options = {name: known[name].default for name in _PLAIN} | options
    if options["ends"] is None:  # decided by the others
        options["ends"] = getattr(getattr(made, "measure", None), "ends", "detached")
    return options


def _one_form(value: Any) -> Any:
    """Return plain data in the form that JSON gives back, so that equal values have one hash; 1.0 becomes 1."""
    if isinstance(value, Mapping):
        return {key: _one_form(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [_one_form(entry) for entry in value]
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
