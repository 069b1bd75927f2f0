"""What a training run is asked to do, as plain data."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..checks import check_choice, check_integer, check_seed
from ..models.architectures import PIXELS, architecture
from ..models.data import DATASETS, load_images
from ..models.images import Images
from .constraint import SelfSimilarityConstraint
from .optimization import SCHEDULES, check_optimizer
from .scale_control import ScaleControl

PRECISIONS = ("float32", "bfloat16", "float16")
SELECTIONS = ("last", "best", "ema")

# Field -> lowest, highest, whether the highest is allowed.
_SUBSETS = ("train_images", "validation_images", "test_images")
_WHOLE = {"epochs": 1, "batch_size": 1, "samples": 1, "rand_augment": 0} | dict.fromkeys(_SUBSETS, 1)
_RANGES = {
    "learning_rate": (0, math.inf, False),
    "weight_decay": (0, math.inf, False),
    "label_smoothing": (0, 1, False),
    "mixup": (0, math.inf, False),
    "cutmix": (0, math.inf, False),
    "rand_augment": (0, 10, True),
    "random_erasing": (0, 1, True),
    "ema": (0, 1, False),
}
# Learning rate for a batch of 512, weight of the constraint and its target, as published.
_PUBLISHED = {
    "vit_small": (5e-4, 5e-2, 0.3),
    "vit_base": (1e-4, 5e-2, 0.3),
    "resmlp": (5e-3, 5e-2, 0.2),
    "mixer": (5e-4, 1e-2, 0.2),
    "poolformer": (5e-4, 1e-4, 0.3),
}


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of one run; equal configurations on one machine give equal runs.

    Attributes
    ----------
    architecture : str
        A name that `selfsim.create` knows.
    size : {"tiny", "small", "paper"}
        Images of 8, 32 or 224 pixels.
    dataset, data_dir, train_images, validation_images, test_images, download
        As for `selfsim.load_images`.
    epochs : int
    batch_size : int
        Of all processes together.
    optimizer : str
        "adamw", or any other name that ``timm.optim`` knows and that needs no further package.
    learning_rate : float
        The highest of the schedule.
    weight_decay : float
        Of all parameters.
    schedule : {"one-cycle", "cosine", "constant"}
        "one-cycle" is torch's, with momentum; "cosine" falls from the highest rate to 0.
    warmup_epochs : float, optional
        By default a fifth of the epochs for "one-cycle", none for the others.
    label_smoothing : float
    augment : bool
        Shift by up to an eighth of the image and, but for digits, mirror.
    mixup, cutmix : float
        The parameter alpha of each, 0 for none; with both, one of the two is drawn for each batch. The accuracy on
        "train" is then that of the class with the larger share.
    rand_augment : int
        Magnitude from 1 to 10 of two operations out of torchvision's RandAugment, drawn for eight images at a time;
        0 for none.
    random_erasing : float
        Probability that a rectangle of an image is replaced by noise.
    ema : float
        Decay of a moving average of the weights, which is evaluated as "accuracy_ema"; 0 for none.
    precision : {"float32", "bfloat16", "float16"}
        Of the forward pass of training; evaluation is always in float32.
    clip_gradient : float, optional
        The largest norm of a step's gradient.
    select : {"last", "best", "ema"}
        Which weights are the result: those of the last epoch, those with the best accuracy on validation (the
        earliest of equals), or the moving average. They alone see the test images.
    constraint : mapping, optional
        Arguments of `selfsim.SelfSimilarityConstraint`; ``{"paper": True, …}`` for those of its ``.paper``,
        ``{"scale": True, …}`` for those of `selfsim.ScaleControl`. None trains without.
    layers : int or list of str, optional
        Layers to follow and to constrain, as for `selfsim.Probe`; by default the natural blocks.
    samples : int
        Validation images on which rates are followed, always the same.
    seed : int
        Of initialisation, order of images, augmentation and the constraint's draws. Two runs with the same seed
        differ only in what their configurations differ in: they are a pair.

    Raises
    ------
    ValueError
        A value that no run can have.

    Examples
    --------
    A value is kept in one form, however it was written, so that a run has one name.

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

    def __post_init__(self):
        self._set(architecture=architecture(self.architecture).name)
        if isinstance(self.data_dir, os.PathLike):
            self._set(data_dir=os.fspath(self.data_dir))
        for name, known in (
            ("size", PIXELS),
            ("dataset", DATASETS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("select", SELECTIONS),
        ):
            check_choice(getattr(self, name), known, name=name)
        check_optimizer(self.optimizer)
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is None and name in _SUBSETS:
                continue
            self._set(**{name: check_integer(value, name=name, least=least)})
        for name in ("augment", "download"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, need True or False")
        ranges = dict(_RANGES)
        if self.warmup_epochs is not None:
            ranges["warmup_epochs"] = (0, self.epochs, False)
        if self.clip_gradient is not None:
            ranges["clip_gradient"] = (1e-12, math.inf, False)
        for name, (low, high, closed) in ranges.items():
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and (low <= value < high or (closed and value == high))):
                raise ValueError(
                    f"{name}: got {value!r}, need a number from {low} to {'' if closed else 'below '}{high}"
                )
            if name not in _WHOLE:
                self._set(**{name: float(value)})
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"batch_size: got {self.batch_size}, need an even number for mixup and cutmix")
        if self.select == "ema" and not self.ema:
            raise ValueError("select: got 'ema' without a moving average, need its decay as ema=0.999 or so")
        check_seed(self.seed)
        self._check_layers()
        if not (self.constraint is None or isinstance(self.constraint, Mapping)):
            raise ValueError(f"constraint: got {self.constraint!r}, need None or a mapping of its options")
        self._set(constraint=_one_form(self.constraint))
        self.make_constraint()  # wrong options fail here, not after loading the data

    def _set(self, **values) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the class is frozen for all others

    def _check_layers(self) -> None:
        layers = self.layers
        if isinstance(layers, (list, tuple)) and layers and all(isinstance(layer, str) for layer in layers):
            self._set(layers=list(layers))
        elif isinstance(layers, bool) or not (layers is None or (isinstance(layers, int) and layers >= 1)):
            raise ValueError(f"layers: got {layers!r}, need None, a integer of at least 1 or a list of names")

    @classmethod
    def paper(cls, architecture_name: str, *, dataset: str, data_dir: str | None = None, **changes) -> TrainConfig:
        """The published recipe: 224 pixels, 200 epochs, batch 256, and all that goes with it.

        Parameters
        ----------
        architecture_name : str
            Published are rates for ViT-S, ViT-B, ResMLP, MLP-Mixer and PoolFormer. For another one, give
            ``learning_rate`` and ``constraint`` among the changes.
        dataset, data_dir, **changes
            Fields of `TrainConfig`; ``constraint=None`` for the run without.

        Notes
        -----
        Published, and the same here: AdamW with weight decay .05; cosine with 5 epochs of warm-up; mixup .8, cutmix 1,
        label smoothing .1, RandAugment 9, random erasing .25; a moving average of decay .99996; half precision.
        Where a range is published, its lower end is taken. Learning rates are published for a batch of 512, and
        halved here. The constraint draws one block per batch. Other than published: no stochastic depth, weight
        decay on all parameters, RandAugment drawn for eight images at a time.

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
        if name in _PUBLISHED:
            rate, weight, target = _PUBLISHED[name]
            published = {
                "learning_rate": rate * 256 / 512,
                "constraint": {"paper": True, "weight": weight, "target": target},
            }
        elif {"learning_rate", "constraint"} <= set(changes):
            published = {}
        else:
            raise ValueError(
                f"learning_rate, constraint: none are published for {name!r}, need both; published are "
                f"{', '.join(_PUBLISHED)}"
            )
        recipe = dict(
            size="paper", epochs=200, batch_size=256, schedule="cosine", warmup_epochs=5, label_smoothing=0.1,
            augment=True, mixup=0.8, cutmix=1.0, rand_augment=9, random_erasing=0.25, ema=0.99996, precision="float16",
        )  # fmt: skip
        return cls(name, dataset=dataset, data_dir=data_dir, **(recipe | published | changes))

    def as_json(self) -> str:
        """The configuration as JSON, one field a line.

        Raises
        ------
        TypeError
            A constraint that is not plain data: it cannot be kept with a run.
        """
        try:
            return json.dumps(asdict(self), indent=1) + "\n"
        except TypeError as error:
            raise TypeError(
                f"constraint: {error}; a run in a directory needs plain data, got {self.constraint!r}"
            ) from None

    @property
    def name(self) -> str:
        """What a run's directory is called, by the architecture and a hash of the whole configuration."""
        return f"{self.architecture}-{hashlib.sha256(self.as_json().encode()).hexdigest()[:12]}"

    def make_constraint(self) -> SelfSimilarityConstraint | ScaleControl | None:
        """The constraint of this run, seeded by the run's seed where it draws; None for none."""
        if self.constraint is None:
            return None
        options = dict(self.constraint)
        kinds = {"paper": SelfSimilarityConstraint.paper, "scale": ScaleControl}
        asked = {kind: options.pop(kind) for kind in kinds if kind in options}
        for kind, value in asked.items():
            if not isinstance(value, bool):
                raise ValueError(f"constraint: {kind}: got {value!r}, need True or False")
        chosen = [kind for kind, value in asked.items() if value]
        if len(chosen) > 1:
            raise ValueError(f"constraint: got {' and '.join(chosen)}, need only one of these")
        build = kinds[chosen[0]] if chosen else SelfSimilarityConstraint
        known = inspect.signature(build).parameters
        for option in options:
            check_choice(option, known, name="constraint")
        return build(**({"seed": self.seed} if "seed" in known else {}) | options)

    def load_images(self) -> Images:
        """The data set that this run is about, at its size."""
        return load_images(**self.images)

    @property
    def images(self) -> dict:
        """What `load_images` is asked for. Runs that agree in it can share the images."""
        fields = ("dataset", "data_dir", *_SUBSETS, "download")
        return {name: getattr(self, name) for name in fields} | {"pixels": PIXELS[self.size]}


def _one_form(value):
    """Plain data in the form that JSON gives back, so that what is equal has one hash; 1.0 is 1."""
    if isinstance(value, Mapping):
        return {key: _one_form(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [_one_form(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
