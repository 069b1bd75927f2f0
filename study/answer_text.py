"""Words, numbers and Markdown that the sentences about both studies share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from selfsim.uncertainty import Interval

from .convergence_tables import CONTROL, HOLD, LOWER, PUBLISHED, SCALING

ARMS = {
    HOLD: "rate held: pulled to the final rates of one unconstrained run",
    LOWER: "rate lowered: pulled to half the lower end of the rates of noise",
    PUBLISHED: "as published: pulled to the targets of *rate held*",
    SCALING: "deviation lowered: that from a power law pulled to 0.03 (rate left free)",
    CONTROL: "positive control: label smoothing with mixup, or weight decay (rate left free)",
}
SHORT = {HOLD: "rate held", LOWER: "rate lowered", PUBLISHED: "as published", SCALING: "deviation lowered"}
SHORT |= {CONTROL: "positive control"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def listed(names: Iterable[str]) -> str:
    """Return names as a list in words.

    Examples
    --------
    >>> listed(["ViT-S", "ViT-B", "PVT"])
    'ViT-S, ViT-B and PVT'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def capitalized(text: str) -> str:
    """Begin a sentence."""
    return text[:1].upper() + text[1:]


def change(interval: Interval, digits: int = 1, unit: str = "") -> str:
    """Return a change of the accuracy in points with its interval, with minus signs."""
    low, middle, high = (signed(100 * v, digits) for v in (interval.low, interval.estimate, interval.high))
    return minus(f"{middle}{unit} [{low}, {high}]")


def points(interval: Interval, digits: int = 1) -> str:
    """Return the same with the word "points" behind the change."""
    return change(interval, digits, " points")


def ends(values: Sequence[float]) -> str:
    """Return the smallest and the largest of some changes, in points."""
    return minus(" to ".join(dict.fromkeys(signed(100 * v) for v in (min(values), max(values)))))


def signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign unless it rounds to 0."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def decimal(value: float) -> str:
    """Return a learning rate without a power of ten.

    Examples
    --------
    >>> decimal(6.25e-05)
    '0.0000625'
    """
    return np.format_float_positional(value, trim="-")


def minus(text: str) -> str:
    """Replace hyphens in front of numbers by minus signs."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\u2212", text)


def span(values: pd.Series, form: str = ",g", factor: float = 1) -> str:
    """Return the smallest and the largest value as text, once if they look equal."""
    return " to ".join(dict.fromkeys(f"{factor * value:{form}}" for value in (values.min(), values.max())))


def markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table."""
    heads = list(heads)
    first, *others = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return "\n".join([first, "|---" * len(heads) + "|", *others])
