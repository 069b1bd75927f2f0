"""The self-similarity constraint: a penalty that pulls the SS rate of hidden layers to a target."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..checks import check_choice, check_integer, check_number, check_seed
from ..models.layers import draw_layers
from ..rate.options import RateOptions
from ..rate.rate import ss_rate
from ..validation import check_activations
from .penalty import LayerPenalty, naming
from .schedules import Schedule, ScheduleInput, schedule_from


@dataclass
class _State:
    """What changes during training, except the draw of layers. Dicts have the layers' names as keys."""

    progress: float = 0.0
    task_losses: list[float] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)  # mean rate of each past epoch
    targets: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)  # S_old; with gate_by="all" under the key ""
    sums: dict[str, list[Any]] = field(default_factory=dict)  # of this epoch: sum of the rates, and their number

    def sums_as_numbers(self) -> dict[str, list[Any]]:
        """Return the sums as Python numbers, which belong to no device."""
        return {layer: [float(total), calls] for layer, (total, calls) in self.sums.items()}


class SelfSimilarityConstraint(LayerPenalty):
    """A penalty ``weight / 2 * (S - target)²`` on the SS rate S of hidden layers, to add to any loss.

    Parameters
    ----------
    target : float, schedule, or mapping of layers to these
        The SS rate to reach, in [0, 1]. Unstructured noise of hundreds of neurons and samples has rates of about .2
        to .25. A schedule is one of `selfsim.training.schedules`, its plain data such as ``{"schedule": "linear",
        "start": 0.2, "end": 0.1}``, or any function from a `ScheduleInput` to a target. It is called at the layer's
        first batch and in every `step`. A mapping needs an entry for every layer.
    weight : float
        At least 0.
    ends : {"detached", "attached"}
        "detached": the shortest and the longest distance are constants to the gradient, which then spreads over all
        neurons. "attached": almost all of the gradient acts on the two pairs of neurons with these distances, and
        training moves single neurons instead of the layer.
    layers_per_step : int, optional
        Number of layers, drawn anew for each call, that the penalty is averaged over. By default all that were read.
        With ``Probe(draw=...)`` the other layers are not even read.
    scales, gradient, count, quantiles, unit, standardize, leave_out, check
        Options of the SS rate, as in `ss_rate`.
    gate : float, optional
        The paper's gate A. It multiplies the penalty of a layer by ``1 - min(|S - S_old| / S_old, A) / A``, where
        S_old is the mean of S over an earlier epoch. Without an earlier epoch the factor is 0. None: no gate.
    gate_every : int
        Number of epochs after which S_old is renewed.
    gate_by : {"layer", "all"}
        Whether each layer has an S_old of its own, or all share the mean over their values.
    seed : int
        Seed of the draw of layers. No other random state is used.

    Raises
    ------
    ValueError
        A target outside [0, 1], a negative weight, an unknown schedule, or another option out of its range.

    Notes
    -----
    Each call costs one `ss_rate` and its gradient for each drawn layer. Each call counts in the epoch's mean rates,
    which gate and schedules use. In a data-parallel job all ranks draw the same layers, because they have the same
    seed.

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
    ) -> None:
        super().__init__(target, weight)
        if isinstance(count, str) and count == "greedy-coloring":
            raise ValueError(
                "count: got 'greedy-coloring', which has no gradient; need 'surrogate' or 'complete-linkage'"
            )
        quantiles = tuple(quantiles) if isinstance(quantiles, list) else quantiles  # from JSON
        self.measure = RateOptions(
            scales, gradient, ends, count, quantiles, unit, standardize, leave_out, max_bytes=None, check=check
        )
        self.layers_per_step = (
            None if layers_per_step is None else check_integer(layers_per_step, name="layers_per_step")
        )
        self.gate = None if gate is None else check_number(gate, name="gate", within="(0, inf)")
        self.gate_every = check_integer(gate_every, name="gate_every")
        self.gate_by = check_choice(gate_by, ("layer", "all"), name="gate_by")
        self._generator = torch.Generator().manual_seed(check_seed(seed))
        self._state = _State()

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
        """Return the constraint as published: 256 scales, straight-through gradient, one drawn layer per batch, gate.

        The gate compares the drawn layer's rate on one batch with the epoch's mean over the rates of all drawn layers,
        as published. With ``gate_by="layer"`` it compares each layer with its own mean. Two things differ from the
        published code. The draw of layers is seeded, and S_old is part of the state, so that a resumed training does
        not begin with a closed gate.
        """
        return cls(
            target,
            weight,
            scales=256,
            gradient="straight-through",
            layers_per_step=1,
            gate=gate,
            gate_every=gate_every,
            gate_by=gate_by,
            seed=seed,
        )

    @property
    def targets(self) -> dict[str, float]:
        """The present target of every layer that was read."""
        return dict(self._state.targets)

    def _checked_target(self, target: Any, *, name: str) -> Schedule:
        return schedule_from(target, name=name)

    def _chosen_layers(self, layers: list[str]) -> list[str]:
        return draw_layers(layers, self.layers_per_step, self._generator)

    def _squared_error(self, layer: str, activations: Tensor) -> Tensor:
        state = self._state
        rate = ss_rate(check_activations(activations, finite=False), **vars(self.measure))
        state.shapes[layer] = list(activations.shape)
        if layer not in state.targets:
            state.targets[layer] = self._scheduled_target(layer)
        # Summed on the device: converting to a number at every step would make a GPU wait.
        total, calls = state.sums.get(layer, (0.0, 0))
        state.sums[layer] = [rate.detach() + total, calls + 1]
        return self._gate_factor(layer, rate.detach()) * (rate - state.targets[layer]) ** 2

    def _scheduled_target(self, layer: str) -> float:
        schedule, state = self._layer_target(layer), self._state
        samples, neurons = state.shapes[layer]
        rates, target = tuple(state.rates.get(layer, ())), state.targets.get(layer)
        past = ScheduleInput(state.progress, samples, neurons, self.measure, tuple(state.task_losses), rates, target)
        return check_number(schedule(past), name=f"target by {schedule!r}", within="[0, 1]")

    def _gate_factor(self, layer: str, rate: Tensor) -> Tensor | float:
        if self.gate is None:
            return 1.0
        old = self._state.baseline.get(layer if self.gate_by == "layer" else "")
        return 0.0 if old is None else 1 - ((rate - old).abs() / old).clamp(max=self.gate) / self.gate

    def step(self, *, epoch: int, epochs: int, task_loss: float | None = None) -> None:
        """Renew targets and gate after epoch number `epoch` (from 1) of `epochs`.

        Parameters
        ----------
        epoch, epochs : int
        task_loss : float, optional
            Mean loss of the epoch without the penalty. The adaptive schedule needs it.

        Raises
        ------
        ValueError
            An epoch out of range, a loss that is not finite, or a schedule that returns no number in [0, 1].
        """
        if not 1 <= epoch <= epochs:
            raise ValueError(f"epoch: got {epoch!r}, need 1 to epochs={epochs!r}")
        state = self._state
        if task_loss is not None:
            task_loss = float(task_loss.detach() if isinstance(task_loss, Tensor) else task_loss)
            state.task_losses.append(check_number(task_loss, name="task_loss"))
        sums = state.sums_as_numbers()
        means = {layer: total / calls for layer, (total, calls) in sums.items()}
        for layer, mean in means.items():
            state.rates.setdefault(layer, []).append(mean)
        if self.gate_by == "all" and sums:
            totals, calls = zip(*sums.values(), strict=True)
            means = {"": sum(totals) / sum(calls)}
        for key, mean in means.items():
            if self.gate is not None and (key not in state.baseline or epoch % self.gate_every == 0):
                state.baseline[key] = mean
        state.sums = {}
        state.progress = min(epoch / max(epochs - 1, 1), 1.0)  # 1 while the last epoch trains
        for layer in state.targets:
            with naming(layer):
                state.targets[layer] = self._scheduled_target(layer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: tensors, numbers, lists and dicts."""
        sums = self._state.sums_as_numbers()
        return {"draw": self._generator.get_state()} | copy.deepcopy(vars(self._state) | {"sums": sums})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises
        ------
        ValueError
            Not the state of a constraint.
        """
        need = {"draw", *vars(self._state)}
        if set(state) != need:
            raise ValueError(f"state: got the entries {sorted(state)}, need those of `state_dict`, {sorted(need)}")
        entries = copy.deepcopy(dict(state))
        self._generator.set_state(entries.pop("draw").cpu())
        self._state = _State(**entries)
