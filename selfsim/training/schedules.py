"""Targets that change during training: plain functions of what training has seen so far."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real

import torch

from ..checks import check_choice, check_integer, check_number, check_seed
from ..rate.options import RateOptions
from ..rate.rate import ss_rate


@dataclass(frozen=True)
class Moment:
    """What a schedule sees of one layer, before an epoch begins.

    Attributes
    ----------
    progress : float
        0 in the first epoch, 1 in the last.
    samples, neurons : int
        Of the layer's activations in the last batch.
    measure : RateOptions
        Which SS rate the constraint takes.
    task_losses : tuple of float
        Mean loss, without the penalty, of every epoch so far for which it was given.
    rates : tuple of float
        The layer's mean rate, on training batches, of every epoch so far in which it was read.
    target : float, optional
        The layer's target until now; None at its first batch.
    """

    progress: float
    samples: int
    neurons: int
    measure: RateOptions = field(default_factory=RateOptions)
    task_losses: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    target: float | None = None


# A schedule is any function from a moment to the target of the epoch that begins. All that it has to remember is in
# the moment, so that a resumed training goes on with the same targets.
Schedule = Callable[[Moment], float]


def _named(name: str) -> str:
    """The field by which `dataclasses.asdict` of a schedule is the plain data that `schedule_from` reads."""
    return field(default=name, init=False, repr=False)


@dataclass(frozen=True)
class Constant:
    """The same target throughout."""

    target: float
    schedule: str = _named("constant")

    def __post_init__(self):
        check_number(self.target, name="target", within="[0, 1]")

    def __call__(self, moment: Moment) -> float:
        return self.target


@dataclass(frozen=True)
class Linear:
    """On a straight line from `start` in the first epoch to `end` in the last.

    Examples
    --------
    >>> [round(Linear(0.2, 0.1)(Moment(p, 128, 96)), 3) for p in (0, 0.5, 1)]
    [0.2, 0.15, 0.1]
    """

    start: float
    end: float
    schedule: str = _named("linear")

    def __post_init__(self):
        check_number(self.start, name="start", within="[0, 1]")
        check_number(self.end, name="end", within="[0, 1]")

    def __call__(self, moment: Moment) -> float:
        return self.start + moment.progress * (self.end - self.start)


@dataclass(frozen=True)
class Cosine(Linear):
    """On half a cosine from `start` in the first epoch to `end` in the last: slow, fast, slow."""

    schedule: str = _named("cosine")

    def __call__(self, moment: Moment) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * moment.progress)) / 2


@dataclass(frozen=True)
class Piecewise:
    """A constant target in each phase of training.

    Parameters
    ----------
    phases : sequence of (start, target)
        Each phase begins at this progress, from 0 to 1, ascending; the first at 0.

    Examples
    --------
    >>> steps = Piecewise([(0, 0.2), (0.5, 0.1)])
    >>> [steps(Moment(p, 128, 96)) for p in (0, 0.4, 0.5, 1)]
    [0.2, 0.2, 0.1, 0.1]
    """

    phases: Sequence[tuple[float, float]]
    schedule: str = _named("piecewise")

    def __post_init__(self):
        pairs = [tuple(phase) for phase in self.phases]
        starts = [phase[0] for phase in pairs if len(phase) == 2]
        if not pairs or len(starts) < len(pairs) or starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] > 1:
            raise ValueError(
                f"phases: got {self.phases!r}, need pairs (start, target) whose starts ascend from 0 to at most 1"
            )
        for _, target in pairs:
            check_number(target, name="phases", within="[0, 1]")

    def __call__(self, moment: Moment) -> float:
        return [target for start, target in self.phases if start <= moment.progress][-1]


@dataclass(frozen=True)
class FollowTheNull:
    """The mean rate of independent standard normal numbers, as many neurons and samples, plus an offset.

    Parameters
    ----------
    offset : float
        Added to the null's mean; the sum is kept within [0, 1].
    draws : int
        Of the null.
    seed : int

    Examples
    --------
    >>> round(FollowTheNull(offset=-0.1)(Moment(0, 128, 96)), 2)
    0.12
    """

    offset: float = 0.0
    draws: int = 20
    seed: int = 0
    schedule: str = _named("follow-the-null")

    def __post_init__(self):
        if isinstance(self.offset, bool) or not isinstance(self.offset, Real) or not -1 <= self.offset <= 1:
            raise ValueError(f"offset: got {self.offset!r}, need a number from -1 to 1")
        check_seed(self.seed)
        check_integer(self.draws, name="draws")

    def __call__(self, moment: Moment) -> float:
        null = _null_rate(moment.samples, moment.neurons, moment.measure, self.draws, self.seed)
        return min(max(null + self.offset, 0.0), 1.0)


@functools.lru_cache(maxsize=256)
def _null_rate(samples: int, neurons: int, measure: RateOptions, draws: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.randn(samples, neurons, generator=generator) for _ in range(draws))
    return math.fsum(float(ss_rate(x, **vars(measure))) for x in noise) / draws


@dataclass(frozen=True)
class Adaptive:
    """A goal that is backed off from while the task loss stalls, and approached again when it falls.

    While the loss stalls, every epoch moves the target by `share` of the way to the layer's present rate, where the
    constraint no longer pulls; else, by `share` of the way to the goal. It begins at the goal.

    Parameters
    ----------
    goal : float
    patience : int
        The loss stalls if the lowest of so many epochs is hardly lower than the lowest before them.
    least : float
        What is more than "hardly", relative to the loss.
    share : float
        Above 0, at most 1.

    Examples
    --------
    >>> stalled = Moment(0.5, 128, 96, task_losses=(1.0, 1.0, 1.0), rates=(0.2,), target=0.1)
    >>> round(Adaptive(0.1)(stalled), 3)
    0.15
    """

    goal: float = 0.1
    patience: int = 2
    least: float = 0.01
    share: float = 0.5
    schedule: str = _named("adaptive")

    def __post_init__(self):
        check_number(self.goal, name="goal", within="[0, 1]")
        check_integer(self.patience, name="patience")
        if not 0 <= self.least < 1:
            raise ValueError(f"least: got {self.least!r}, need a share of the loss, from 0 to below 1")
        if not 0 < self.share <= 1:
            raise ValueError(f"share: got {self.share!r}, need a number above 0 and at most 1")

    def __call__(self, moment: Moment) -> float:
        if moment.target is None:
            return self.goal
        if not moment.task_losses:
            raise ValueError("task_loss: got none, need the epoch's mean loss in `step` for an adaptive target")
        before, lately = moment.task_losses[: -self.patience], moment.task_losses[-self.patience :]
        stalls = bool(before) and min(before) - min(lately) < self.least * abs(min(before))
        toward = moment.rates[-1] if stalls and moment.rates else self.goal
        return moment.target + self.share * (toward - moment.target)


_BY_NAME = {s.schedule: s for s in (Constant, Linear, Cosine, Piecewise, FollowTheNull, Adaptive)}


def schedule_from(target: float | Schedule | Mapping, *, name: str = "target") -> Schedule:
    """A schedule from a number, from plain data, or from a schedule or function, which is taken as it is.

    Parameters
    ----------
    target : float, mapping or callable
        As plain data: ``{"schedule": "linear", "start": 0.2, "end": 0.1}``, the schedule's name and parameters. The
        names are "constant", "linear", "cosine", "piecewise", "follow-the-null" and "adaptive".
    name : str
        The argument's name, for messages.

    Raises
    ------
    ValueError
        A number outside [0, 1], an unknown name or parameter (with the nearest), or a value out of its range.

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
