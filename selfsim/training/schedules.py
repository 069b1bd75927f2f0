"""Targets that change during training: functions from the training so far to the next epoch's target."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from ..checks import check_choice, check_integer, check_number, check_seed
from ..rate.options import RateOptions
from .measure import Measure, measured


@dataclass(frozen=True)
class ScheduleInput:
    """What a schedule knows about one layer when it computes the target of the next epoch.

    Attributes
    ----------
    progress : float
        0 in the first epoch, 1 in the last.
    samples, neurons : int
        Shape of the layer's activations in the first batch of the epoch.
    measure : RateOptions or ScalingOptions
        What the constraint measures, with its options.
    task_losses : tuple of float
        Mean loss without the penalty, one value for each past epoch that reported it.
    rates : tuple of float
        Mean rate of the layer on training batches, one value for each past epoch that read the layer.
    target : float, optional
        Present target of the layer; None at its first batch.
    """

    progress: float
    samples: int
    neurons: int
    measure: Measure = field(default_factory=RateOptions)
    task_losses: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    target: float | None = None


# A schedule keeps no state of its own, so that a resumed training has the same targets. None: no target yet.
Schedule = Callable[[ScheduleInput], float | None]


def __getattr__(name: str) -> Any:
    if name == "Moment":
        warnings.warn("Moment is now called ScheduleInput", DeprecationWarning, stacklevel=2)
        return ScheduleInput
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _schedule_name(name: str) -> Any:
    """Return a dataclass field for the name that `schedule_from` looks up in plain data."""
    return field(default=name, init=False, repr=False)


@dataclass(frozen=True)
class Constant:
    """The same target in every epoch."""

    target: float
    schedule: str = _schedule_name("constant")

    def __post_init__(self) -> None:
        check_number(self.target, name="target", within="[0, 1]")

    def __call__(self, past: ScheduleInput) -> float:
        return self.target


@dataclass(frozen=True)
class Linear:
    """A straight line from `start` in the first epoch to `end` in the last.

    Examples
    --------
    >>> [round(Linear(0.2, 0.1)(ScheduleInput(p, 128, 96)), 3) for p in (0, 0.5, 1)]
    [0.2, 0.15, 0.1]
    """

    start: float
    end: float
    schedule: str = _schedule_name("linear")

    def __post_init__(self) -> None:
        check_number(self.start, name="start", within="[0, 1]")
        check_number(self.end, name="end", within="[0, 1]")

    def __call__(self, past: ScheduleInput) -> float:
        return self.start + past.progress * (self.end - self.start)


@dataclass(frozen=True)
class Cosine(Linear):
    """Half a cosine from `start` in the first epoch to `end` in the last: slow, fast, slow."""

    schedule: str = _schedule_name("cosine")

    def __call__(self, past: ScheduleInput) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * past.progress)) / 2


@dataclass(frozen=True)
class Piecewise:
    """A constant target in each phase of training.

    Parameters
    ----------
    phases : sequence of (start, target)
        `start` is the progress, from 0 to 1, at which the phase begins. Starts ascend; the first is 0.

    Examples
    --------
    >>> steps = Piecewise([(0, 0.2), (0.5, 0.1)])
    >>> [steps(ScheduleInput(p, 128, 96)) for p in (0, 0.4, 0.5, 1)]
    [0.2, 0.2, 0.1, 0.1]
    """

    phases: Sequence[tuple[float, float]]
    schedule: str = _schedule_name("piecewise")

    def __post_init__(self) -> None:
        if any(not hasattr(phase, "__len__") or len(phase) != 2 for phase in self.phases):
            raise ValueError(f"phases: got {self.phases!r}, need pairs (start, target)")
        starts = [check_number(start, name="phases", within="[0, 1]") for start, _ in self.phases]
        if starts[:1] != [0] or starts != sorted(set(starts)):
            raise ValueError(f"phases: got {self.phases!r}, need starts that ascend from 0")
        for _, target in self.phases:
            check_number(target, name="phases", within="[0, 1]")

    def __call__(self, past: ScheduleInput) -> float:
        return [target for start, target in self.phases if start <= past.progress][-1]


@dataclass(frozen=True)
class FollowTheNull:
    """The mean rate of standard normal noise of the layer's shape, plus an offset.

    Parameters
    ----------
    offset : float
        Added to the mean rate of the noise, in [-1, 1]. The sum is clipped to [0, 1].
    draws : int
        Number of noise layers.
    seed : int
        Seed of the noise.

    Examples
    --------
    >>> round(FollowTheNull(offset=-0.1)(ScheduleInput(0, 128, 96)), 2)
    0.11
    """

    offset: float = 0.0
    draws: int = 20
    seed: int = 0
    schedule: str = _schedule_name("follow-the-null")

    def __post_init__(self) -> None:
        check_number(self.offset, name="offset", within="[-1, 1]")
        check_seed(self.seed)
        check_integer(self.draws, name="draws")

    def __call__(self, past: ScheduleInput) -> float:
        null = _null_rate(past.samples, past.neurons, past.measure, self.draws, self.seed)
        return min(max(null + self.offset, 0.0), 1.0)


@functools.lru_cache(maxsize=256)
def _null_rate(samples: int, neurons: int, measure: Measure, draws: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    noise = (
        torch.randn(samples, neurons, generator=generator, dtype=torch.float32, device="cpu") for _ in range(draws)
    )
    return math.fsum(float(measured(x, measure)) for x in noise) / draws


@dataclass(frozen=True)
class Adaptive:
    """A target that moves away from its goal while the task loss stalls, and back while the loss falls.

    The first target is the goal. While the loss stalls, each epoch moves the target toward the layer's present rate,
    where the penalty vanishes. Otherwise each epoch moves it toward the goal.

    Parameters
    ----------
    goal : float
        In [0, 1].
    patience : int
        Number of recent epochs that are compared with all epochs before them.
    least : float
        The loss stalls if its recent minimum is less than this fraction below the earlier minimum. In [0, 1).
    share : float
        Fraction of the remaining distance that each epoch covers, in (0, 1].

    Examples
    --------
    >>> stalled = ScheduleInput(0.5, 128, 96, task_losses=(1.0, 1.0, 1.0), rates=(0.2,), target=0.1)
    >>> round(Adaptive(0.1)(stalled), 3)
    0.15
    """

    goal: float = 0.1
    patience: int = 2
    least: float = 0.01
    share: float = 0.5
    schedule: str = _schedule_name("adaptive")

    def __post_init__(self) -> None:
        check_number(self.goal, name="goal", within="[0, 1]")
        check_integer(self.patience, name="patience")
        check_number(self.least, name="least", within="[0, 1)")
        check_number(self.share, name="share", within="(0, 1]")

    def __call__(self, past: ScheduleInput) -> float:
        if past.target is None:
            return self.goal
        if not past.task_losses and past.progress == 0:  # the first epoch, in which the layer's shape has changed
            return self.goal
        if not past.task_losses:
            raise ValueError("task_loss: got none, need the epoch's mean loss in `step` for an adaptive target")
        before, lately = past.task_losses[: -self.patience], past.task_losses[-self.patience :]
        stalls = bool(before) and min(before) - min(lately) < self.least * abs(min(before))
        toward = past.rates[-1] if stalls and past.rates else self.goal
        return past.target + self.share * (toward - past.target)


@dataclass(frozen=True)
class Hold:
    """The layer's own rate at one time in this training, kept from then on. Before, there is no target and no pull.

    Parameters
    ----------
    start : float
        Progress, from 0 to 1, at which the layer's mean rate of the epoch before becomes the target.

    Examples
    --------
    >>> hold = Hold(0.5)
    >>> hold(ScheduleInput(0.25, 128, 96, rates=(0.2,)))
    >>> hold(ScheduleInput(0.5, 128, 96, rates=(0.2, 0.17)))
    0.17
    >>> hold(ScheduleInput(0.75, 128, 96, rates=(0.2, 0.17, 0.15), target=0.17))
    0.17
    """

    start: float = 0.3
    schedule: str = _schedule_name("hold")

    def __post_init__(self) -> None:
        check_number(self.start, name="start", within="[0, 1]")

    def __call__(self, past: ScheduleInput) -> float | None:
        if past.target is not None or past.progress < self.start or not past.rates:
            return past.target
        return min(max(past.rates[-1], 0.0), 1.0)


_BY_NAME = {s.schedule: s for s in (Constant, Linear, Cosine, Piecewise, FollowTheNull, Adaptive, Hold)}


def schedule_from(target: float | Schedule | Mapping, *, name: str = "target") -> Schedule:
    """Return the schedule that a number, plain data or a function stands for.

    Parameters
    ----------
    target : float, mapping or callable
        A number is a constant target. A mapping has the schedule's name and parameters, such as ``{"schedule":
        "linear", "start": 0.2, "end": 0.1}``; the names are "constant", "linear", "cosine", "piecewise",
        "follow-the-null", "adaptive" and "hold". A callable is returned as it is.
    name : str
        Name of the argument in error messages.

    Returns
    -------
    callable
        From a `ScheduleInput` to a target in [0, 1], or to None while there is none.

    Raises
    ------
    ValueError
        A number outside [0, 1], an unknown name or parameter (the message has the nearest one), or a parameter out
        of its range.

    Examples
    --------
    >>> schedule_from({"schedule": "linear", "start": 0.2, "end": 0.1})
    Linear(start=0.2, end=0.1)
    """
    if callable(target):
        return target
    if not isinstance(target, Mapping):
        return Constant(check_number(target, name=name, within="[0, 1]"))
    options = dict(target)
    build = _BY_NAME[check_choice(options.pop("schedule", None), _BY_NAME, name=f"{name}: schedule")]
    known = [f.name for f in fields(build) if f.init]
    for option in options:
        check_choice(option, known, name=f"{name}: {build.schedule}")
    try:
        return build(**options)
    except TypeError as error:
        raise ValueError(f"{name}: {build.schedule} got {sorted(options)}, need {known} ({error})") from error
