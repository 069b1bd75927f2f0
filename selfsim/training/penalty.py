"""What penalties on hidden layers share: their layers, weight and targets, and errors that name the layer."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checks import check_choice, check_integer, check_number, errors_named
from ..models.branch import Branch
from ..models.probe import Probe
from ..validation import untraced

# A ramp starts at 0: so many calls without a word on the training's progress are a likely mistake.
_CALLS_WITHOUT_STEP = 1000
_CHANGED_VIEW = "its output is a view that is changed in place, as by nn.ReLU(inplace=True); need inplace=False"
_SINGLE = "activations"  # the name of a single tensor's layer


class _ByLayer(dict[str, Any]):
    """Targets by layer, which are changed as a whole."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("target: got a change of one layer, need all: constraint.target = {**constraint.target, …}")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class LayerPenalty(ABC):
    """Base class: ``weight / 2`` times the mean over layers of a squared distance to a target."""

    def __init__(
        self, target: Any, weight: float | None, *, cap: float | None = None, ramp: Sequence[float] | None = None
    ) -> None:
        self.target = target
        self.weight = None if weight is None else check_number(weight, name="weight", within="[0, inf)")
        self.cap = None if cap is None else check_number(cap, name="cap", within="(0, inf)")
        if weight is None and cap is None:
            raise ValueError("weight: got None with cap=None; need a number for one of the two")
        self.ramp = None if ramp is None else _checked_ramp(ramp)
        self._done = 0.0  # share of the training
        self._calls: float = 0  # before anything was told of the training's progress
        self._task_gradients: dict[str, Tensor] = {}  # by layer, the longest of this epoch
        self._warned: set[str] = set()

    def __call__(self, activations: Probe | Mapping[str, Tensor] | Tensor) -> Tensor:
        """Return the penalty of this batch, to add to its loss.

        Parameters
        ----------
        activations : Probe, mapping of layers to Tensor, or Tensor, shape (samples, neurons)
            A probe after its ``with`` block, or the activations that it read. A single tensor is a layer with the
            name "activations".

        Returns
        -------
        Tensor, 0-dim

        Raises
        ------
        ValueError
            A probe that has read nothing or that another penalty reads, targets of other layers, or activations without
            a rate or scale, such as those of a collapsed layer; the message names the layer.

        Warns
        -----
        UserWarning
            Gradients are enabled, but the activations of some layers have none, so that the penalty cannot change these
            layers. Likewise, with a cap, layers whose output is a view that the model changes in place. Once for each
            penalty; names the layers and the likely cause.
        """
        if isinstance(activations, Probe):
            names: tuple[str, ...] = activations.layers
            values: Mapping[str, Tensor] = activations.activations
        else:
            values = activations if isinstance(activations, Mapping) else {_SINGLE: activations}
            names = tuple(values)
        if not values:
            raise ValueError("activations: got no layers; run the forward pass inside `with probe:` first")
        if isinstance(self._target, dict):
            check_target_names(self._target, names)
        if torch.is_grad_enabled() and "activations" not in self._warned:
            cause = activations.no_gradient_cause if isinstance(activations, Probe) else _unknown_cause
            causes = {x: cause(x) for x in values if not getattr(values[x], "requires_grad", False)}
            if isinstance(activations, Probe) and self.cap is not None:
                causes |= dict.fromkeys(activations.changed_views(), _CHANGED_VIEW)
            self._warn_without_gradient(causes)
        share, read, branches = self.ramp_share(), {}, {}
        self._calls += 1
        if share == 0 and self._calls == _CALLS_WITHOUT_STEP:
            warnings.warn(
                f"ramp: the penalty was 0 in {_CALLS_WITHOUT_STEP} calls, and nothing has told how far training is; "
                "need step(...) after every epoch or advance(...) after every batch, or ramp=None",
                stacklevel=2,
            )
        for layer in self.chosen_layers(list(values)):
            x = values[layer]
            with naming(layer):
                if isinstance(x, Tensor):  # else an error that names the layer
                    self._check_alone(_branch_of(x))
                    if share == 0:
                        x = x.detach()
                    elif self.cap is not None:
                        x, branches[layer] = self._branched(x)
            read[layer] = x
        squares, pulls = self._squares_and_pulls(read)
        by_layer = [None] * len(read) if pulls is None else (pulls * share).unbind()
        for layer, pull in zip(read, by_layer, strict=True):
            if layer in branches:
                branches[layer].meeting = partial(self._meeting, layer, pull)
        return 0.5 * (1.0 if self.weight is None else self.weight) * share * squares.mean()

    @property
    def target(self) -> Any:
        """The target of all layers, or a mapping with one for each; to change one, set the whole, which is checked."""
        return _ByLayer(self._target) if isinstance(self._target, dict) else self._target

    @target.setter
    def target(self, target: Any) -> None:
        if isinstance(target, Mapping) and "schedule" not in target:
            self._target = {layer: self._checked_target(t, name=f"target of {layer!r}") for layer, t in target.items()}
        else:
            self._target = self._checked_target(target, name="target")
        self._forget_targets()

    def _forget_targets(self) -> None:  # noqa: B027
        """Forget the targets of past calls."""

    def ramp_share(self) -> float:
        """Return the share of the weight that the ramp has reached."""
        if self.ramp is None:
            return 1.0
        start, end = self.ramp
        return float(self._done >= end) if start == end else min(max((self._done - start) / (end - start), 0.0), 1.0)

    @untraced  # compiled code would lose the hooks of the branch
    def _branched(self, x: Tensor) -> tuple[Tensor, Branch]:
        """Return the activations, and the branch on which their gradient comes to the layer's output."""
        branch = _branch_of(x)
        x = getattr(x, "selfsim_twin", x)
        if branch is None:  # not from a probe: the two meet at the activations themselves
            branch = Branch()
            x = branch.of(x)
        elif x.requires_grad and not branch.reads:
            raise ValueError(
                "cap: the probe's pooling reads an output that is no tensor, at which no gradient can be compared; "
                "need `part`, the name of its tensor, or cap=None"
            )
        return x, branch

    def _check_alone(self, branch: Branch | None) -> None:
        """Refuse a second penalty on one reading of a layer: the cap would take both for one."""
        if branch is None or not torch.is_grad_enabled():
            return
        if branch.reader not in (None, self) and (self.cap or getattr(branch.reader, "cap", None)) is not None:
            raise ValueError(f"cap: {branch.reader!r} already reads this layer of the probe; need one Probe each")
        branch.reader = self

    def _meeting(self, layer: str, pull: Tensor | None, task: Tensor, penalty: Tensor) -> Tensor:
        """Return the sum of both gradients, the penalty's at most `cap` times as long as the task's.

        With a `pull` from 0 to 1, its length is `pull` times that.
        """
        cap = math.inf if self.cap is None else self.cap
        both, largest = capped_sum(task, penalty, cap if pull is None else cap * pull, pull is None)
        before = self._task_gradients.get(layer)
        self._task_gradients[layer] = largest if before is None else torch.maximum(before, largest)
        return both

    def advance(self, *, step: int, steps: int) -> None:
        """Tell that `step` of the `steps` of the whole training are done, so that the ramp rises within epochs.

        Parameters
        ----------
        step, steps : int

        Raises
        ------
        ValueError
            Not ``0 <= step <= steps``, or no steps.
        """
        steps = check_integer(steps, name="steps")
        if check_integer(step, name="step", least=0) > steps:
            raise ValueError(f"step: got {step!r}, need 0 to steps={steps!r}")
        self._set_done(step / steps)

    def _set_done(self, share: float) -> None:
        self._done, self._calls = share, -math.inf  # told once, the calls need not be counted

    def chosen_layers(self, layers: list[str]) -> list[str]:
        """Return the layers that the next call acts on; where they are drawn, this draws."""
        return layers

    @abstractmethod
    def _checked_target(self, target: Any, *, name: str) -> Any:
        """Return the target of one layer, or raise ``ValueError``."""

    @abstractmethod
    def _squares_and_pulls(self, layers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return each layer's squared distance from its target and, for a weight of None, its pull from 0 to 1.

        Both ``(layers,)``; an error names the layer.
        """

    def _check_task_gradients(self, stacklevel: int) -> None:
        """Warn of layers whose penalty the cap has set to 0 in all backward passes since the last call."""
        without = [layer for layer, length in self._task_gradients.items() if not float(length)]
        self._task_gradients = {}
        if without and "cap" not in self._warned:
            self._warned.add("cap")
            warnings.warn(
                f"cap: no gradient of the task reached {', '.join(map(repr, without))}, so the capped penalty was 0 "
                "there. Likely causes: the penalty's backward pass was apart from the loss's, or the activations are "
                "copies that the loss does not depend on. Need the sum of both in one backward pass, and a Probe or "
                "the layers' own outputs; or cap=None",
                stacklevel=stacklevel,
            )

    def _warn_without_gradient(self, causes: dict[str, str]) -> None:
        parts = []
        for cause in dict.fromkeys(causes.values()):
            layers = ", ".join(repr(layer) for layer in causes if causes[layer] == cause)
            parts.append(f"{layers} (likely cause: {cause})")
        if parts:
            self._warned.add("activations")
            message = f"activations: got no gradient at {'; '.join(parts)}; the penalty cannot change these layers"
            warnings.warn(message, stacklevel=3)

    def _layer_target(self, layer: str) -> Any:
        return self._target[layer] if isinstance(self._target, dict) else self._target

    def __repr__(self) -> str:
        strength = f"cap={self.cap:g}" if self.weight is None else f"weight={self.weight:g}"
        return f"{type(self).__name__}(target={self._target!r}, {strength})"


def capped_sum(
    task: Tensor, penalty: Tensor, share: Tensor | float, at_most: Tensor | bool, *, batch: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the task's gradient plus the penalty's, which gets `share` times its length, and the task's largest entry.

    Where `at_most`, a shorter penalty keeps its length. The first `batch` axes hold several gradients, and `share`,
    `at_most` and the largest entries have the others as axes of length 1. The lengths hold to 1e-6 in float32.
    """
    wide = torch.promote_types(task.dtype, torch.float32)
    task_wide = task.detach().to(wide)
    _, largest, length = _in_units(task_wide, batch)
    unit, own_largest, own_length = _in_units(penalty.detach().to(wide), batch)
    factor = share * (length / own_length.clamp_min(1)) * largest  # of `unit`: the penalty itself may be tiny or huge
    whole = ~(factor < own_largest) & at_most
    both = torch.addcmul(task_wide, unit, torch.where(whole, own_largest, factor)).to(task.dtype)
    if penalty.requires_grad:  # under create_graph=True: keeps the graph, so that a second derivative still raises
        both = torch.where(torch.zeros_like(both, dtype=torch.bool), penalty, both)
    return both, largest


def _in_units(gradient: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient divided by its largest entry, that entry, and the quotient's length: no square overflows."""
    axes = tuple(range(batch, gradient.ndim))
    largest = torch.linalg.vector_norm(gradient, math.inf, axes, keepdim=batch > 0)
    unit = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)
    # torch adds pairwise here, unlike in its norms, which lose four digits over five million numbers.
    return unit, largest, unit.square().sum(axes, keepdim=batch > 0).sqrt()


def _checked_ramp(ramp: Sequence[float]) -> tuple[float, float]:
    if isinstance(ramp, (tuple, list)) and len(ramp) == 2:
        start, end = (check_number(value, name="ramp", within="[0, 1]") for value in ramp)
        if start <= end:
            return start, end
    raise ValueError(f"ramp: got {ramp!r}, need None or (start, end) with 0 <= start <= end <= 1")


def _branch_of(x: Tensor) -> Branch | None:
    """Return the branch on which a probe read the layer for penalties; None for other tensors."""
    return getattr(getattr(x, "selfsim_twin", x), "selfsim_branch", None)


def _unknown_cause(layer: str) -> str:
    return "detached or read under torch.no_grad(), frozen layers, or gradient checkpointing with use_reentrant=True"


def naming(layer: str) -> AbstractContextManager[None]:
    """Put the layer's name in front of the message of an error, except for a single tensor."""
    return nullcontext() if layer == _SINGLE else errors_named(f"layer {layer!r}")


def check_target_names(target: Mapping[str, Any], layers: Sequence[str]) -> None:
    """Raise ``ValueError`` unless targets by layer have an entry for every layer, and no other."""
    for layer in target:
        check_choice(layer, layers, name="target")
    if missing := [layer for layer in layers if layer not in target]:
        raise ValueError(f"target: got none for {', '.join(map(repr, missing))}, need one for every layer")


def gate_factor(rate: Tensor, old: Tensor, gate: Tensor | float) -> Tensor:
    """Return the paper's gate: 1 at a rate equal to `old`, 0 from a relative change of `gate` on or without an old."""
    moved = (rate - old).abs() / old
    return (1 - moved.clamp(max=gate) / gate).nan_to_num(0.0)


def pull_of(distance: Tensor, target: Tensor) -> Tensor:
    """Return how strongly a rate at such a distance from its target pulls, from 0 to 1."""
    return (distance.abs() / target.clamp_min(1e-12)).clamp(max=1)
