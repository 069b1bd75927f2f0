"""The self-similarity constraint: a penalty that pulls the SS rate of hidden layers to a target."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checks import check_choice, check_integer, check_number, check_seed
from ..models.layers import draw_layers
from ..rate.options import RateOptions
from ..validation import check_activations
from .measure import Measure, ScalingOptions, converged_rates, measured, with_shape_gradient
from .penalty import LayerPenalty, gate_factor, naming, pull_of
from .schedules import Constant, Schedule, ScheduleInput, schedule_from

if TYPE_CHECKING:
    from ..models.images import Images
    from .runs import Run

_TARGETS = {"rate": 0.1, "scaling": 0.03}  # by default
_RATE = RateOptions(ends="detached")  # the constraint's rate by default, but for its unit


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
    """A penalty ``(S - target)² / 2`` on the SS rate S of hidden layers, to add to any loss.

    Parameters
    ----------
    target : float, schedule, or mapping of layers to these, optional
        The S to reach, in [0, 1]. By default 0.1, or 0.03 with ``measure="scaling"``: about half the value of
        unstructured noise, whose rates are about .2 to .25 and whose deviations about .06 to .08. A schedule is one of
        `selfsim.training.schedules`, its plain data such as ``{"schedule": "linear", "start": 0.2, "end": 0.1}``, or
        any function from a `ScheduleInput` to a target. It is called at the layer's first batch and in every `step`. A
        mapping needs an entry for every layer.
    weight : float, optional
        Factor of the penalty, at least 0. None: at each layer, the length of the penalty's gradient is
        ``cap * min(|S - target| / target, 1)`` times that of the task's gradient, whatever architecture and scale. A
        factor of your own in front of the penalty then changes nothing; use `cap`.
    ends : {"attached", "detached"}, optional
        "attached": the true gradient, of which almost all acts on the two pairs of neurons with the shortest and the
        longest distance. "detached": these two distances are constants to the gradient, which then spreads over all
        neurons. By default attached without a weight and detached with one: with a weight and no cap, nothing bounds
        the gradient, and single neurons would be torn away. To raise a rate above that of noise, take "detached": the
        true gradient makes outliers of single neurons.
    cap : float, optional
        At each layer's output, the penalty's gradient is at most `cap` times as long as the gradient that comes from
        the task and from the penalties of later layers. None: no limit, which needs a `weight`.
    ramp : (float, float), optional
        Shares of the training: the penalty is 0 before the first and whole after the second. `step` and `advance` tell
        how far the training is. None: whole from the start.
    layers_per_step : int, optional
        Number of layers, drawn anew for each call, that the penalty is averaged over. By default all that were read.
        With ``Probe(draw=...)`` the other layers are not even read.
    scales, gradient, count, quantiles, unit, standardize, leave_out, check
        Options of the SS rate, as in `ss_rate`. In units of the median, with detached ends and without a weight, the
        gradient leaves out the direction in which the layer only changes its scale.
    measure : {"rate", "scaling"}
        "scaling": S is not the rate but the deviation from a power law, `scaling_deviation`, which does not depend on
        the scale. The options of the rate then have no meaning, and layers need 32 neurons.
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
    The cap acts in the backward pass, where both gradients meet, without a synchronisation. So it holds under a loss
    scale, accumulation, checkpointing and on every rank. It needs the sum of loss and penalty in one backward pass, and
    a `Probe` or activations from which the loss is computed; `step` warns where no gradient of the task came.

    Each call costs one `ss_rate` and its gradient for each drawn layer. It counts in the epoch's mean rates, which gate
    and schedules use, unless it is under ``torch.no_grad()``. All ranks of a data-parallel job draw the same layers.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, the constrained loss and its gate.

    Examples
    --------
    >>> constraint = SelfSimilarityConstraint(target=0.1, ramp=None)
    >>> x = torch.randn(64, 32, requires_grad=True)
    >>> loss = x.square().mean() + constraint({"block 1": x})
    >>> loss.backward()
    >>> constraint.targets
    {'block 1': 0.1}
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
        target: float | Schedule | Mapping | None = None,
        weight: float | None = None,
        ends: str | None = None,
        *,
        cap: float | None = 0.3,
        ramp: tuple[float, float] | None = (0.3, 0.6),
        layers_per_step: int | None = None,
        scales: int | None = None,
        gradient: str = "exact",
        count: str = "surrogate",
        quantiles: tuple[float, float] | None = None,
        unit: str = "median",
        standardize: bool = False,
        leave_out: int = 0,
        check: bool = True,
        measure: str = "rate",
        gate: float | None = None,
        gate_every: int = 5,
        gate_by: str = "layer",
        seed: int = 0,
    ) -> None:
        by_default = _TARGETS[check_choice(measure, _TARGETS, name="measure")]
        self._state = _State()  # before the target, which clears a part of it
        super().__init__(by_default if target is None else target, weight, cap=cap, ramp=ramp)
        if isinstance(count, str) and count == "greedy-coloring":
            raise ValueError(
                "count: got 'greedy-coloring', which has no gradient; need 'surrogate' or 'complete-linkage'"
            )
        quantiles = tuple(quantiles) if isinstance(quantiles, list) else quantiles  # from JSON
        if ends is None:
            ends = "attached" if weight is None and measure == "rate" else "detached"
        rate = RateOptions(
            scales, gradient, ends, count, quantiles, unit, standardize, leave_out, max_bytes=None, check=check
        )
        if measure == "scaling":
            of_rate = [name for name, value in vars(rate).items() if value != vars(_RATE)[name]]
            if given := [name for name in of_rate if name not in ("unit", "check")]:
                raise ValueError(f"measure: got 'scaling' with {', '.join(given)}, which are options of the rate")
        self.measure: Measure = rate if measure == "rate" else ScalingOptions(check=check)
        self.layers_per_step = (
            None if layers_per_step is None else check_integer(layers_per_step, name="layers_per_step")
        )
        self.gate = None if gate is None else check_number(gate, name="gate", within="(0, inf)")
        self.gate_every = check_integer(gate_every, name="gate_every")
        self.gate_by = check_choice(gate_by, ("layer", "all"), name="gate_by")
        self._generator = torch.Generator().manual_seed(check_seed(seed))
        self._kept: dict[str, tuple[Any, Tensor]] = {}  # numbers on the device of the rates

    @classmethod
    def paper(
        cls,
        target: float | Schedule | Mapping = 0.3,
        weight: float = 0.05,
        *,
        gate: float = 0.05,
        gate_every: int = 5,
        gate_by: str = "all",
        run: Run | None = None,
        images: Images | None = None,
        seed: int = 0,
    ) -> SelfSimilarityConstraint:
        """Return the constraint as published: 256 scales, straight-through gradient, one drawn layer per batch, gate.

        The paper sets the target to "the value at which the unconstrained model converges". With `run`, a finished
        run without constraint and its `images`, each layer gets the target at which that run ended, as in `hold`.
        Otherwise `target` is that of all layers; 0.3 is the paper's value for most models.

        The gate is closed in the first epoch, which has no S_old, so that the penalty is 0. Then it compares the drawn
        layer's rate on one batch with the epoch's mean over the rates of all drawn layers, as published. With
        ``gate_by="layer"`` it compares each layer with its own mean. There is no cap and no ramp. Unlike the published
        code, the draw of layers is seeded, and S_old is part of the state, so that a resumed gate is not closed.
        """
        if images is not None and run is None:
            raise ValueError("images: got some without a run, need the run that was trained on them")
        options: dict[str, Any] = dict(scales=256, gradient="straight-through", unit="absolute", cap=None, ramp=None)
        options |= dict(layers_per_step=1, gate=gate, gate_every=gate_every, gate_by=gate_by, seed=seed)
        return cls(target, weight, **options) if run is None else cls.hold(run, images, weight=weight, **options)

    @classmethod
    def hold(cls, run: Run, images: Images | None = None, **options: Any) -> SelfSimilarityConstraint:
        """Return a constraint that holds each layer at the rate where a finished, unconstrained run converged.

        Parameters
        ----------
        run : Run
            From `train` or `load_run`. Its layers are read in training mode on 8 batches of its batch size, because
            rates depend on the number of samples.
        images : Images, optional
            Those of the run. By default they are loaded as its configuration says.
        **options
            As in the constructor, except `target`.

        Raises
        ------
        ValueError
            A run under a constraint, images that it was not trained on, or an option out of its range.

        Notes
        -----
        The targets are plain numbers in `targets`. In a configuration, write ``{"target": constraint.targets}``. To
        hold each layer at its own rate of the same training, use the schedule "hold". For a model of another origin,
        use the `targets` of `propose_constraint`.

        Examples
        --------
        >>> from selfsim import TrainConfig, train
        >>> run = train(TrainConfig("mlp", epochs=1), device="cpu")
        >>> constraint = SelfSimilarityConstraint.hold(run)
        >>> constraint.targets.keys() == set(run.layers)
        True
        """
        return cls(converged_rates(run, cls(**options).measure, images), **options)

    @property
    def targets(self) -> dict[str, float]:
        """The present target of every layer that was read, or for which a target by layer was given as a number."""
        by_layer = self._target.items() if isinstance(self._target, dict) else ()
        given = {layer: schedule.target for layer, schedule in by_layer if isinstance(schedule, Constant)}
        return given | self._state.targets

    def _checked_target(self, target: Any, *, name: str) -> Schedule:
        return schedule_from(target, name=name)

    def _forget_targets(self) -> None:
        self._state.targets = {}

    def chosen_layers(self, layers: list[str]) -> list[str]:
        own = self._generator  # a look at the penalty does not change what the training draws
        look = None if torch.is_grad_enabled() else torch.Generator().set_state(own.get_state())
        return draw_layers(layers, self.layers_per_step, look or own)

    def _squares_and_pulls(self, layers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        state, rate = self._state, self._rates(layers)
        now = rate.detach()
        for layer, rate_now in zip(layers, now.unbind(), strict=True):
            shape, known = list(layers[layer].shape), state.shapes.get(layer)
            trains = torch.is_grad_enabled()  # else a look at the penalty, such as on validation batches
            if known is None or (trains and layer not in state.sums):  # the last batch of an epoch may be smaller
                state.shapes[layer] = shape
            if layer not in state.targets or (state.shapes[layer] != known and layer not in state.rates):
                self._renew_target(layer)
            if trains:
                # Summed on the device: converting to a number at every step would make a GPU wait.
                total, calls = state.sums.get(layer, (0.0, 0))
                state.sums[layer] = [rate_now + total, calls + 1]
        numbers = [state.targets.get(layer) for layer in layers]
        target = self._on_device("targets", numbers, like=now)
        if None in numbers:
            target = torch.where(target.isnan(), now, target)  # at distance 0 without a target
        gate: Tensor | float = 1.0
        if self.gate is not None:
            keys = [layer if self.gate_by == "layer" else "" for layer in layers]
            gate = gate_factor(now, self._on_device("baseline", map(state.baseline.get, keys), like=now), self.gate)
        distance = rate - target
        return gate * distance**2, None if self.weight is not None else gate * pull_of(distance.detach(), target)

    def _rates(self, layers: Mapping[str, Tensor]) -> Tensor:
        """Return the rate of each layer, ``(layers,)``; those of one shape come from one call."""
        groups: dict[Any, list[str]] = {}
        for layer, x in layers.items():
            together = isinstance(x, Tensor) and x.ndim == 2 and x.layout == torch.strided
            key = (x.shape, x.dtype, x.device, x.requires_grad) if together else layer
            groups.setdefault(key, []).append(layer)
        found: dict[str, Tensor] = {}
        for names in groups.values():
            if len(names) > 1:
                with suppress(ValueError):  # one by one, the error names the layer
                    rates = self._rate(torch.stack([layers[layer] for layer in names]))
                    if len(groups) == 1:
                        return rates
                    found |= zip(names, rates.unbind(), strict=True)
                    continue
            for layer in names:
                with naming(layer):
                    found[layer] = self._rate(check_activations(layers[layer], finite=False))
        return torch.stack([found[layer] for layer in layers])

    def _rate(self, activations: Tensor) -> Tensor:
        return measured(with_shape_gradient(activations) if self.keeps_scale else activations, self.measure)

    def _on_device(self, name: str, numbers: Iterable[float | None], *, like: Tensor) -> Tensor:
        """Return numbers as a tensor, None as NaN; kept until they change, and never copied from the host."""
        key = tuple(numbers), like.dtype, like.device
        if self._kept.get(name, (None,))[0] != key:
            self._kept[name] = key, torch.stack([like.new_full((), math.nan if x is None else x) for x in key[0]])
        return self._kept[name][1]

    @property
    def keeps_scale(self) -> bool:
        """Whether the gradient leaves out the direction in which a layer only changes its scale."""
        measure = self.measure
        in_medians = isinstance(measure, RateOptions) and measure.unit == "median" and measure.ends == "detached"
        return self.weight is None and in_medians

    def _renew_target(self, layer: str) -> None:
        """Set a layer's target as its schedule has it, which may have none yet."""
        schedule, state = self._layer_target(layer), self._state
        samples, neurons = state.shapes[layer]
        rates, target = tuple(state.rates.get(layer, ())), state.targets.get(layer)
        past = ScheduleInput(state.progress, samples, neurons, self.measure, tuple(state.task_losses), rates, target)
        with naming(layer):
            if (target := schedule(past)) is not None:
                state.targets[layer] = check_number(target, name=f"target by {schedule!r}", within="[0, 1]")

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

        Warns
        -----
        UserWarning
            The first epoch again, after another training; a gate that this training never renews; layers that no
            gradient of the task has reached; after the last epoch, layers less than half of the way from before the
            ramp to their targets (means over layers).
        """
        epochs = check_integer(epochs, name="epochs")
        if check_integer(epoch, name="epoch") > epochs:
            raise ValueError(f"epoch: got {epoch!r}, need 1 to epochs={epochs!r}")
        if epoch == 1 and self._state.progress:
            message = "epoch: got 1 again, and this epoch had the targets and the ramp of the training before; make"
            warnings.warn(f"{message} a constraint for each training", stacklevel=2)
            self._state = _State(shapes=self._state.shapes, sums=self._state.sums)
        self._check_effect(epoch, epochs)
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
        if epoch == epochs:
            self._check_way(epochs)
        self._set_done(epoch / epochs)
        state.progress = min(epoch / max(epochs - 1, 1), 1.0)  # 1 while the last epoch trains
        self.renew_targets()

    def renew_targets(self) -> None:
        """Ask the schedules of all layers that were read for their targets."""
        for layer in self._state.shapes:
            self._renew_target(layer)

    def _check_effect(self, epoch: int, epochs: int) -> None:
        """Warn of a gate that stays as it was, and of layers that the task's gradient did not reach."""
        if epoch == 1 and self.gate is not None and 1 < epochs <= self.gate_every:
            warnings.warn(
                f"gate_every: got {self.gate_every}, but training has {epochs} epochs, so that S_old is the mean of "
                "epoch 1 throughout; need a smaller number for a renewal",
                stacklevel=3,
            )
        self._check_task_gradients(stacklevel=4)

    def _check_way(self, epochs: int) -> None:
        """Warn if the layers have come less than half of the way to their targets since the ramp began."""
        state = self._state
        layers = [layer for layer in state.targets if len(state.rates.get(layer, ())) == epochs]
        unpulled = math.floor(self.ramp[0] * epochs) if self.ramp and self.weight != 0 else 0
        if not layers or not unpulled:
            return

        def distance(epoch: int) -> float:
            return sum(abs(state.rates[layer][epoch - 1] - state.targets[layer]) for layer in layers) / len(layers)

        before, after = distance(unpulled), distance(epochs)
        if after <= before / 2 or before <= 0.1 * sum(state.targets[layer] for layer in layers) / len(layers):
            return
        limits = {"weight": self.weight, "cap": self.cap, "gate": self.gate}
        given = " and ".join(f"{name}={value:g}" for name, value in limits.items() if value is not None)
        warnings.warn(
            f"target: the layers were {before:.3g} away from it on average before the ramp began and {after:.3g} in "
            f"the last epoch, less than half of the way. The penalty was limited by {given}; need more, or more epochs",
            stacklevel=3,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: tensors, numbers, lists and dicts."""
        state = vars(self._state) | {"sums": self._state.sums_as_numbers()}
        return {"draw": self._generator.get_state(), "done": self._done} | copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned. Constant targets are those of this constraint.

        Raises
        ------
        ValueError
            Not the state of a constraint.
        """
        need = {"draw", "done", *vars(self._state)}
        entries = {"done": 0.0} | copy.deepcopy(dict(state))  # a state of an earlier version had no ramp
        if set(entries) != need:
            raise ValueError(f"state: got the entries {sorted(entries)}, need those of `state_dict`, {sorted(need)}")
        self._generator.set_state(entries.pop("draw").cpu())
        self._set_done(entries.pop("done"))
        self._state = _State(**entries)
        for layer in self._state.targets:
            own = self._target.get(layer) if isinstance(self._target, dict) else self._target
            if isinstance(own, Constant):
                self._state.targets[layer] = own.target
