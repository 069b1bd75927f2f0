"""Division of labelled data into parts: stratified by class, and the same in every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A constant, because the split belongs to the data set: runs with different seeds share one test set.
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Part:
    """Labels of some images, and how to read the images.

    Attributes
    ----------
    labels : array of int64, shape (N,)
    read : callable
        Takes n indices into `labels`; returns the bytes of these images, (n, height, width, channels).
    """

    labels: NDArray[np.int64]
    read: Callable[[NDArray[np.intp]], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.intp]) -> Part:
        """Return the images at `indices`, in their order."""
        return Part(self.labels[indices], lambda chosen: self.read(indices[chosen]))

    def divide(self, second: int) -> tuple[Part, Part]:
        """Return two parts in random order, the second with `second` images, both with the same share of each class."""
        first_indices, second_indices = self._stratified(second)
        return self.take(first_indices), self.take(second_indices)

    def limit(self, number: int | None, *, draw: int = 0) -> Part:
        """Return `number` images with the same share of each class, or all of them; in random order.

        Where fewer than the number of classes are left out, these are any but the last of a class.

        Another `draw` takes other images, in another order.

        The order is random because probes read the first images of a split, and folders are listed class by class.
        """
        classes = len(np.unique(self.labels))
        if number is not None and number < classes:
            raise ValueError(
                f"train_images, validation_images, test_images: got {number}, need at least one for each of "
                f"{classes} classes"
            )
        # A stratified draw needs one image of each class on both sides.
        if number is None or len(self) - number < classes:
            order = np.random.default_rng(_SPLIT_SEED + draw).permutation(len(self))
            taken = np.zeros(len(self), dtype=bool)
            taken[np.unique(self.labels[order], return_index=True)[1]] = True  # the first of each class
            others = np.flatnonzero(~taken)
            taken[others[: len(self) if number is None else number - classes]] = True
            return self.take(order[taken])
        return self.take(self._stratified(number, _SPLIT_SEED + draw)[1])

    def _stratified(self, second: int, seed: int = _SPLIT_SEED) -> list[NDArray[np.intp]]:
        """Return the indices of two parts, the second of `second` images, as scikit-learn draws them."""
        from sklearn.model_selection import train_test_split

        classes, counts = np.unique(self.labels, return_counts=True)
        if counts.min() < 2:
            raise ValueError(
                f"data_dir: class {classes[counts.argmin()]} has 1 image left for two parts; need at least 3 of each "
                "class, better 10"
            )
        options = dict(stratify=self.labels, random_state=seed % 2**32)
        return train_test_split(np.arange(len(self)), test_size=second, **options)
