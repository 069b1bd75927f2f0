"""The self-similarity constraint: a penalty that pulls the SS rate of hidden layers to a target."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real

import torch
from torch import Tensor

from ..checks import check_choice, check_integer, check_number, check_seed
from ..models.probe import Probe
from ..rate.options import RateOptions
from ..rate.rate import ss_rate
from .penalty import check_targets, check_weight, layers_of, naming
from .schedules import Moment, Schedule, schedule_from


@dataclass
class _Past:
    """All that changes during training but the draw of layers; what is kept by layer has its name as key."""

    progress: float = 0.0
    task_losses: list[float] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)  # mean of every epoch
    targets: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)  # S_old; of all layers together under ""
    sums: dict[str, list] = field(default_factory=dict)  # in this epoch: sum of the rates and their number

    def mean_rates(self) -> tuple[dict[str, float], float | None]:
        """Of this epoch: each layer's mean, and that of all values."""
        sums = self.as_numbers()
        if not sums:
            return {}, None
        total, calls = (sum(column) for column in zip(*sums.values(), strict=True))
        return {layer: s / n for layer, (s, n) in sums.items()}, total / calls

    def as_numbers(self) -> dict[str, list]:
        """The sums as plain numbers, which belong to no device."""
        return {layer: [float(total), calls] for layer, (total, calls) in self.sums.items()}


class SelfSimilarityConstraint:
    """``weight / 2 * (S - target)²``, to add to any loss; S is the SS rate of the probed layers.

    Parameters
    ----------
    target : float, schedule, or mapping of layers to these
        The SS rate to be reached, in [0, 1]. Rates of unstructured noise lie at about .2 to .25 for hundreds of
        neurons and samples. A schedule is one of `selfsim.training.schedules`, its plain data such as
        ``{"schedule": "linear", "start": 0.2, "end": 0.1}``, or any function from a `Moment` to a target. It is asked
        once per epoch and layer: at the layer's first batch, and in every `step`. A mapping names every layer.
    weight : float
        At least 0.
    ends : {"detached", "attached"}
        Detached, the shortest and the longest distance are constants to the gradient, which then spreads over all
        neurons. Attached, almost all of it sits on the two pairs that realise them, and training moves single
        neurons instead of the layer.
    layers_per_step : int, optional
        How many layers, drawn anew each time, the penalty is averaged over; by default all that were read.
    scales, gradient, count, quantiles, unit, standardize, leave_out, check
        Which SS rate: as for `ss_rate`.
    gate : float, optional
        The paper's gate A: the penalty of a layer is multiplied by ``1 - min(|S - S_old| / S_old, A) / A``, where
        S_old is the mean of S over an earlier epoch; it is 0 until there is one. None for no gate.
    gate_every : int
        S_old is taken anew each time so many epochs are over.
    gate_by : {"layer", "all"}
        S_old of each layer by itself, or one mean over the values of all layers.
    seed : int
        Of the draw of layers; no other random state is touched.

    Raises
    ------
    ValueError
        A target outside [0, 1], a negative weight, an unknown schedule, or another option out of its range.

    Notes
    -----
    Each call costs one `ss_rate` per drawn layer, and its gradient; it counts in the epoch's mean rates, by which gate
    and schedules go. Under data parallelism all ranks draw the same layers, since they have the same seed.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, the constrained loss and its gate.

    Examples
    --------
    >>> constraint = SelfSimilarityConstraint(target=0.1)
    >>> x = torch.randn(64, 32, requires_grad=True)
    >>> loss = constraint({"block 1": x})
    >>> loss.backward()
    >>> bool(x.grad.abs().sum() > 0)
    True
    >>> line = {"schedule": "linear", "start": 0.2, "end": 0.1}
    >>> falling = SelfSimilarityConstraint(line)
    >>> for epoch in (1, 2):
    ...     _ = falling({"block 1": x})
    ...     falling.step(epoch=epoch, epochs=3)
    >>> falling.targets
    {'block 1': 0.1}
    """

    def __init__(
        self,
        target: float | Schedule | Mapping = 0.1,
        weight: float = 10.0,
        ends: str = "detached",
        *,
        layers_per_step: int | None = None,
        scales: int | None = None,
        gradient: str = "exact",
        count: str = "surrogate",
        quantiles: tuple[float, float] | None = None,
        unit: str = "absolute",
        standardize: bool = False,
        leave_out: int = 0,
        check: bool = True,
        gate: float | None = None,
        gate_every: int = 5,
        gate_by: str = "layer",
        seed: int = 0,
    ):
        check_weight(weight)
        if gate is not None and (isinstance(gate, bool) or not isinstance(gate, Real) or not gate > 0):
            raise ValueError(f"gate: got {gate!r}, need None or a number above 0")
        check_seed(seed)
        for argument, value in (("layers_per_step", layers_per_step), ("gate_every", gate_every)):
            if value is not None:
                check_integer(value, name=argument)
        check_choice(gate_by, ("layer", "all"), name="gate_by")
        if count == "greedy-coloring":
            raise ValueError(
                "count: got 'greedy-coloring', which has no gradient; need 'surrogate' or 'complete-linkage'"
            )
        # Wrong options fail here, not in the middle of a training. A list of quantiles is what JSON has for a pair.
        quantiles = tuple(quantiles) if isinstance(quantiles, list) else quantiles
        self.measure = RateOptions(
            scales, gradient, ends, count, quantiles, unit, standardize, leave_out, max_bytes=None, check=check
        )
        by_layer = isinstance(target, Mapping) and "schedule" not in target
        self.target = (
            {layer: schedule_from(of, name=f"target of {layer!r}") for layer, of in target.items()}
            if by_layer
            else schedule_from(target)
        )
        self.weight = float(weight)
        self.layers_per_step, self.gate, self.gate_every, self.gate_by = layers_per_step, gate, gate_every, gate_by
        self._draw = torch.Generator().manual_seed(seed)
        self._past = _Past()

    @classmethod
    def paper(
        cls,
        target: float | Schedule | Mapping = 0.3,
        weight: float = 0.05,
        *,
        gate: float = 0.05,
        gate_every: int = 5,
        gate_by: str = "all",
        seed: int = 0,
    ) -> SelfSimilarityConstraint:
        """The constraint as published: 256 scales, straight-through gradient, one drawn layer per batch, the gate.

        The gate compares the drawn layer's value on one batch with the epoch's mean over the values of all drawn
        layers, as published; ``gate_by="layer"`` compares each layer with its own mean. Two things differ from the
        published code: the draw of layers is seeded, and S_old is part of the state, so that a resumed training does
        not begin with a closed gate.
        """
        published = dict(scales=256, gradient="straight-through", layers_per_step=1)
        return cls(target, weight, **published, gate=gate, gate_every=gate_every, gate_by=gate_by, seed=seed)

    def __call__(self, activations: Probe | Mapping[str, Tensor] | Tensor) -> Tensor:
        """The penalty, 0-dim, to add to the loss of this batch.

        Parameters
        ----------
        activations : Probe, mapping of layers to Tensor, or Tensor, shape (samples, neurons)
            A probe after its ``with`` block around the forward pass, or its activations. A single tensor is the layer
            "activations".

        Raises
        ------
        ValueError
            A probe that has read nothing, targets that name other layers, or activations that have no rate, such as
            those of a layer that has collapsed; names the layer. With ``check=False`` the penalty is NaN instead.
        """
        known, activations = layers_of(activations)
        check_targets(self.target, known)
        past, penalties = self._past, []
        for layer in self._drawn(list(activations)):
            with naming(layer):
                rate = ss_rate(activations[layer], **vars(self.measure))
            past.shapes[layer] = list(activations[layer].shape)
            if layer not in past.targets:
                past.targets[layer] = self._asked(layer)
            openness = 1.0 if self.gate is None else self._openness(layer, rate.detach())
            penalties.append(openness * (rate - past.targets[layer]) ** 2)
            # Summed on the device: reading the number at every step would make a GPU wait.
            total, calls = past.sums.get(layer, (0.0, 0))
            past.sums[layer] = [rate.detach() + total, calls + 1]
        return 0.5 * self.weight * torch.stack(penalties).mean()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(target={self.target!r}, weight={self.weight:g})"

    @property
    def targets(self) -> dict[str, float]:
        """The present target of every layer that was read."""
        return dict(self._past.targets)

    def _drawn(self, layers: list[str]) -> list[str]:
        if self.layers_per_step is None or self.layers_per_step >= len(layers):
            return layers
        chosen = torch.randperm(len(layers), generator=self._draw)[: self.layers_per_step]
        return [layers[i] for i in sorted(chosen.tolist())]

    def _asked(self, layer: str) -> float:
        """The target that the layer's schedule gives now."""
        schedule = self.target[layer] if isinstance(self.target, dict) else self.target
        past = self._past
        now = Moment(
            past.progress,
            *past.shapes[layer],
            self.measure,
            tuple(past.task_losses),
            tuple(past.rates.get(layer, ())),
            past.targets.get(layer),
        )
        return check_number(schedule(now), name=f"target of {layer!r} by {schedule!r}", within="[0, 1]")

    def _openness(self, layer: str, rate: Tensor) -> Tensor | float:
        old = self._past.baseline.get(layer if self.gate_by == "layer" else "")
        return 0.0 if old is None else 1 - ((rate - old).abs() / old).clamp(max=self.gate) / self.gate

    def step(self, *, epoch: int, epochs: int, task_loss: float | None = None) -> None:
        """Tell the constraint that epoch number `epoch` (from 1) of `epochs` is over: targets and gate move on.

        Parameters
        ----------
        epoch, epochs : int
        task_loss : float, optional
            The epoch's mean loss without the penalty. An adaptive target needs it.

        Raises
        ------
        ValueError
            An epoch out of range, a loss that is not finite, or a schedule that gives no target in [0, 1].
        """
        if not 1 <= epoch <= epochs:
            raise ValueError(f"epoch: got {epoch!r}, need 1 to epochs={epochs!r}")
        if task_loss is not None:
            task_loss = float(task_loss.detach() if isinstance(task_loss, Tensor) else task_loss)
            if not math.isfinite(task_loss):
                raise ValueError(f"task_loss: got {task_loss!r}, need a finite number")
            self._past.task_losses.append(task_loss)
        past = self._past
        means, overall = past.mean_rates()
        for layer, mean in means.items():
            past.rates.setdefault(layer, []).append(mean)
        if self.gate is not None and means:
            for key, mean in (means if self.gate_by == "layer" else {"": overall}).items():
                if key not in past.baseline or epoch % self.gate_every == 0:
                    past.baseline[key] = mean
        past.sums = {}
        past.progress = min(epoch / max(epochs - 1, 1), 1.0)  # 1 while the last epoch trains
        past.targets = {layer: self._asked(layer) for layer in past.targets}

    def state_dict(self) -> dict:
        """All that changes during training, for a checkpoint: tensors, numbers, lists and dicts."""
        return {"draw": self._draw.get_state()} | copy.deepcopy(vars(self._past) | {"sums": self._past.as_numbers()})

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from what `state_dict` gave.

        Raises
        ------
        ValueError
            Not the state of a constraint.
        """
        need = {"draw", *vars(self._past)}
        if set(state) != need:
            raise ValueError(f"state: got the entries {sorted(state)}, need those of `state_dict`, {sorted(need)}")
        state = copy.deepcopy(dict(state))
        self._draw.set_state(state.pop("draw").cpu())
        self._past = _Past(**state)
