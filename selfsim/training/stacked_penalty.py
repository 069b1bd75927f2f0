"""The constraints of several stacked networks, computed together: one rate of all their layers, one backward pass."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.branch import Branch, Meeting
from .constraint import SelfSimilarityConstraint
from .measure import Measure, measured, with_shape_gradient
from .penalty import capped_sum, check_target_names, gate_factor, naming, pull_of

Constraints = Sequence[SelfSimilarityConstraint | None]


class StackedPenalty:
    """What `SelfSimilarityConstraint` does, for K networks at once, as tensors on their device.

    Each network has its own constraint or none. Those with the same measure share one call of it for all layers of
    equal width.

    Parameters
    ----------
    constraints : sequence of SelfSimilarityConstraint or None
        One for each network. Each renews its own targets and S_old, in `step`.
    layers : sequence of str
    device : torch.device
    """

    def __init__(self, constraints: Constraints, layers: Sequence[str], device: torch.device) -> None:
        self.constraints, self.layers = constraints, tuple(layers)
        for constraint in constraints:
            if constraint is not None and isinstance(constraint.target, dict):
                check_target_names(constraint.target, layers)
        on_device: Any = dict(dtype=torch.float32, device=device)

        def column(value: Callable[[SelfSimilarityConstraint], float]) -> Tensor:
            return torch.tensor([0.0 if c is None else value(c) for c in constraints], **on_device)

        self.weight = column(lambda c: 1.0 if c.weight is None else c.weight)
        self.cap = column(lambda c: math.inf if c.cap is None else c.cap)
        self.weighted = column(lambda c: c.weight is not None) > 0
        self.gate = column(lambda c: math.inf if c.gate is None else c.gate)
        self.groups: dict[tuple[Measure, bool, int], list[int]] = {}
        for place, constraint in enumerate(constraints):
            if constraint is not None:
                measure = dataclasses.replace(constraint.measure, check=False)
                drawn = min(constraint.layers_per_step or 0, len(layers))
                self.groups.setdefault((measure, constraint.keeps_scale, drawn), []).append(place)
        self.rows = [torch.tensor(places, device=device) for places in self.groups.values()]
        shape = len(constraints), len(layers)
        self.share = torch.zeros(len(constraints), **on_device)
        self.chosen = torch.zeros(shape, **on_device)
        self.target, self.old = torch.zeros(shape, **on_device), torch.zeros(shape, **on_device)  # from `_renew`
        self.sums, self.calls = torch.zeros(shape, **on_device), torch.zeros(shape, **on_device)
        self._widths: list[tuple[list[str], Tensor]] = []  # layers of equal width, and their places; from `_begin`
        self._branches: dict[str, Branch] = {}

    def controls(self, steps: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return what the host decides for steps ``(step, steps of the training)``: shares of the ramps, and layers.

        Returns
        -------
        share : Tensor, shape (steps, networks)
        chosen : Tensor, shape (steps, networks, layers)
            1 where the constraint draws the layer.
        """
        share = torch.zeros(len(steps), *self.share.shape)
        chosen = torch.zeros(len(steps), *self.chosen.shape)
        for place, constraint in enumerate(self.constraints):
            if constraint is None:
                continue
            for row, (step, total) in enumerate(steps):
                constraint.advance(step=step, steps=total)
                share[row, place] = constraint.ramp_share()
                drawn = set(constraint.chosen_layers(list(self.layers)))
                chosen[row, place] = torch.tensor([float(layer in drawn) for layer in self.layers])
        return share, chosen

    def acting(self, share: Tensor) -> frozenset[int]:
        """Return the groups that act somewhere in ``share`` (networks,); the others' rates have no gradient."""
        return frozenset(group for group, places in enumerate(self.groups.values()) if bool((share[places] > 0).any()))

    def read(self, layer: str, branch: Branch) -> None:
        """Take note of the branch on which a layer of all networks is read."""
        self._branches[layer] = branch

    def __call__(self, values: Mapping[str, Tensor], groups: frozenset[int]) -> Tensor:
        """Return the penalty of each network, ``(networks,)``.

        Parameters
        ----------
        values : mapping of str to Tensor, shape (networks, samples, neurons)
        groups : frozenset of int
            Those that act, from `acting`.
        """
        if not self._widths:
            self._begin(values)
        rate = self._rates(values, groups)
        now = rate.detach()
        target = torch.where(self.target.isnan(), now, self.target)  # at distance 0 without a target
        gate = torch.where(self.gate[:, None] < math.inf, gate_factor(now, self.old, self.gate[:, None]), 1.0)
        gate = torch.where(self.chosen > 0, gate, 0.0)
        distance = rate - target
        pull = gate * pull_of(distance.detach(), target) * self.share[:, None]
        for place, layer in enumerate(self.layers):
            self._branches[layer].meeting = self._meeting(pull[:, place])
        self.sums += torch.where(self.chosen > 0, now, 0.0)
        self.calls += self.chosen
        squares = torch.where(self.chosen > 0, gate * distance**2, 0.0).sum(1)
        return 0.5 * self.weight * self.share * squares / self.chosen.sum(1).clamp_min(1)

    def _rates(self, values: Mapping[str, Tensor], groups: frozenset[int]) -> Tensor:
        """Return the rate of every layer of every network, 0 where none was drawn."""
        rates = torch.zeros_like(self.target)
        for group, ((measure, keeps_scale, drawn), rows) in enumerate(zip(self.groups, self.rows, strict=True)):
            for layers, columns in self._widths:
                x = torch.stack([values[layer].index_select(0, rows) for layer in layers])
                x = x if group in groups else x.detach()
                chosen = columns.expand(len(rows), -1)
                if drawn and len(self._widths) == 1:  # the other layers need not be measured
                    chosen = self.chosen[rows].topk(drawn).indices
                    x = x.gather(0, chosen.t()[..., None, None].expand(-1, -1, *x.shape[-2:]))
                acts = self.chosen[rows[:, None], chosen] > 0
                if drawn:  # a layer that was not drawn may have no rate: NaN, and so its gradient
                    x = torch.where(acts.t()[..., None, None], x, x.detach())
                if keeps_scale:
                    x = with_shape_gradient(x)
                with naming(layers[0]):
                    found = measured(x, measure).t().to(rates.dtype)
                rates = rates.index_put((rows[:, None], chosen), torch.where(acts, found, 0.0))
        return rates

    def _meeting(self, pull: Tensor) -> Meeting:
        """Return the function by which each network's two gradients meet at one layer, as `LayerPenalty` has it."""

        def meet(task: Tensor, penalty: Tensor) -> Tensor:
            several = len(pull), *[1] * task.ndim
            cap, weighted, strength = (x.reshape(several) for x in (self.cap, self.weighted, pull))
            share = torch.where(weighted, cap, cap * strength)
            task, penalty = (x.unflatten(0, (len(pull), -1)) for x in (task, penalty))
            return capped_sum(task, penalty, share, weighted, batch=1)[0].flatten(0, 1)

        return meet

    def _begin(self, values: Mapping[str, Tensor]) -> None:
        """Sort the layers by width, and set the first targets, which may depend on the shapes."""
        widths: dict[int, list[str]] = {}
        for layer in self.layers:
            widths.setdefault(values[layer].shape[-1], []).append(layer)
        places = {layer: place for place, layer in enumerate(self.layers)}
        for layers in widths.values():
            self._widths.append((layers, torch.tensor([places[layer] for layer in layers], device=self.target.device)))
        for constraint in self.constraints:
            if constraint is not None:
                constraint._state.shapes = {layer: list(values[layer].shape[1:]) for layer in self.layers}
                constraint.renew_targets()
        self._renew()

    def _renew(self) -> None:
        """Copy targets and S_old of all constraints to the device; NaN where there is none."""
        targets = [{} if c is None else c._state.targets for c in self.constraints]
        old = [{} if c is None else c._state.baseline for c in self.constraints]
        for there, here in ((self.target, targets), (self.old, old)):
            there.copy_(torch.tensor([[x.get(layer, x.get("", math.nan)) for layer in self.layers] for x in here]))

    def end_epoch(self, epoch: int, epochs: int, losses: Sequence[float]) -> dict[str, list[int]]:
        """Step every constraint whose network is finite, and return what they warn of, with the networks' places."""
        messages: dict[str, list[int]] = {}
        sums = torch.stack([self.sums, self.calls], 2).tolist()
        for place, (constraint, loss) in enumerate(zip(self.constraints, losses, strict=True)):
            if constraint is None or not math.isfinite(loss):
                continue
            constraint._state.sums = {layer: x for layer, x in zip(self.layers, sums[place], strict=True) if x[1]}
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                constraint.step(epoch=epoch, epochs=epochs, task_loss=loss)
            for warning in found:
                messages.setdefault(str(warning.message), []).append(place)
        self._renew()
        self.sums.zero_()
        self.calls.zero_()
        return messages
