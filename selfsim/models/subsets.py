"""Which images belong to which part: the same share of every class in each, always the same ones."""

from __future__ import annotations

import numpy as np

# The split is part of the data set, not of a run: runs with different seeds share one test set.
_SPLIT_SEED = 0


def divide(labels: np.ndarray, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two parts with the same share of each class, in a fixed random order; the second has `second`."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels)
    rarest = int(counts[counts > 0].min())
    if rarest < 2:
        raise ValueError(
            f"data_dir: class {int(counts.argmin())} has {rarest} image; need at least 2 of each class, better 10"
        )
    return tuple(train_test_split(np.arange(len(labels)), test_size=second, stratify=labels, random_state=_SPLIT_SEED))


def subset(labels: np.ndarray, limit: int | None) -> np.ndarray:
    """Indices of `limit` images with the same share of each class, or of all; in a fixed random order.

    In random order, because probes read the front of a split, and folders are listed class by class.
    """
    if limit is None or limit >= len(labels):
        return np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    if limit < len(np.unique(labels)):
        raise ValueError(
            f"train_images, validation_images, test_images: got {limit}, need at least one for each of "
            f"{len(np.unique(labels))} classes"
        )
    if len(labels) - limit < len(np.unique(labels)):
        return np.random.default_rng(_SPLIT_SEED).permutation(len(labels))[:limit]
    return divide(labels, limit)[1]
