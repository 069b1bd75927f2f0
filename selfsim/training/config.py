"""What a training run is asked to do, as plain data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..models.architectures import PIXELS, architecture
from ..models.data import DATASETS, Images, load_images
from ..validation import check_choice
from .constraint import SelfSimilarityConstraint


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of one run; equal configurations on one machine give equal runs.

    Attributes
    ----------
    architecture : str
        A name that `selfsim.create` knows.
    size : {"tiny", "small", "paper"}
        Images of 8, 32 or 224 pixels.
    dataset, data_dir, train_images, test_images, download
        As for `selfsim.load_images`.
    epochs : int
    batch_size : int
    learning_rate : float
        The highest of a one-cycle schedule (20 % warm-up).
    weight_decay : float
        Of AdamW.
    label_smoothing : float
    augment : bool
        Shift by up to an eighth of the image and, but for digits, mirror.
    constraint : mapping, optional
        Arguments of `selfsim.SelfSimilarityConstraint`; ``{"paper": True, …}`` for those of its ``.paper``. None
        trains without.
    layers : list of str, optional
        Layers to follow and to constrain; by default the natural blocks.
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
    >>> TrainConfig("vit_small", epochs=3).dataset
    'digits'
    """

    architecture: str
    size: str = "tiny"
    dataset: str = "digits"
    data_dir: str | None = None
    train_images: int | None = None
    test_images: int | None = None
    download: bool = False
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    augment: bool = False
    constraint: Mapping | None = None
    layers: list[str] | None = None
    samples: int = 128
    seed: int = 0

    def __post_init__(self):
        architecture(self.architecture)
        check_choice(self.size, PIXELS, name="size")
        check_choice(self.dataset, DATASETS, name="dataset")
        for name in ("epochs", "batch_size", "samples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, need a whole number of at least 1")
        for name, low, high in (
            ("learning_rate", 0, math.inf),
            ("weight_decay", 0, math.inf),
            ("label_smoothing", 0, 1),
        ):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and low <= value < high):
                raise ValueError(f"{name}: got {value!r}, need a number from {low} to below {high}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"seed: got {self.seed!r}, need a whole number")
        self.make_constraint()  # wrong options fail here, not after loading the data

    def make_constraint(self) -> SelfSimilarityConstraint | None:
        """The constraint of this run, seeded by the run's seed; None for none."""
        if self.constraint is None:
            return None
        options = {"seed": self.seed} | dict(self.constraint)
        build = SelfSimilarityConstraint.paper if options.pop("paper", False) else SelfSimilarityConstraint
        for option in options:
            check_choice(option, inspect.signature(build).parameters, name="constraint")
        return build(**options)

    def load_images(self) -> Images:
        """The data set that this run is about, at its size."""
        return load_images(
            self.dataset,
            data_dir=self.data_dir,
            pixels=PIXELS[self.size],
            train_images=self.train_images,
            test_images=self.test_images,
            download=self.download,
        )
