"""The constraints of several stacked networks, computed together: one rate of all their layers, one backward pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.branch import Branch, Meeting
from .constraint import SelfSimilarityConstraint, gate_factor, pull_of
from .measure import Measure, measured, with_shape_gradient
from .penalty import capped_sum, check_target_names
from .schedules import Constant

Constraints = Sequence[SelfSimilarityConstraint | None]


class StackedPenalty:
    """What `SelfSimilarityConstraint` does, for K networks at once, as tensors on their device.

    Each network has its own constraint or none. Those with the same measure share one call of it for all layers of
    equal width.

    Parameters
    ----------
    constraints : sequence of SelfSimilarityConstraint or None
        One for each network. Targets must be numbers.
    layers : sequence of str
    device : torch.device
    """

    def __init__(self, constraints: Constraints, layers: Sequence[str], device: torch.device) -> None:
        self.constraints, self.layers = constraints, tuple(layers)
        present = [c for c in constraints if c is not None]
        on_device: Any = dict(dtype=torch.float32, device=device)

        def column(value: Callable[[SelfSimilarityConstraint], float]) -> Tensor:
            return torch.tensor([0.0 if c is None else value(c) for c in constraints], **on_device)

        self.weight = column(lambda c: 1.0 if c.weight is None else c.weight)
        self.cap = column(lambda c: math.inf if c.cap is None else c.cap)
        self.weighted = column(lambda c: c.weight is not None) > 0
        self.gate = column(lambda c: math.inf if c.gate is None else c.gate)
        self.target = torch.tensor([_targets(c, layers) for c in constraints], **on_device)
        self.groups: dict[tuple[Measure, bool, int], list[int]] = {}
        for place, constraint in enumerate(constraints):
            if constraint is not None:
                measure = dataclasses.replace(constraint.measure, check=False)
                drawn = min(constraint.layers_per_step or 0, len(layers))
                self.groups.setdefault((measure, constraint.keeps_scale, drawn), []).append(place)
        self.rows = [_places(places, device) for places in self.groups.values()]
        shape = len(constraints), len(layers)
        self.share = torch.zeros(len(constraints), **on_device)
        self.chosen = torch.zeros(shape, **on_device)
        self.old = torch.full(shape, math.nan, **on_device)  # S_old of the gate; NaN before it has one
        self.sums, self.calls = torch.zeros(shape, **on_device), torch.zeros(shape, **on_device)
        self.gated = any(c.gate is not None for c in present)
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
        """Return the groups that act somewhere in ``share`` (networks,), or whose rates a gate needs."""
        return frozenset(
            group
            for group, places in enumerate(self.groups.values())
            if any(float(share[k]) > 0 or getattr(self.constraints[k], "gate", None) is not None for k in places)
        )

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
        rate = self._rates(values, groups)
        now = rate.detach()
        gate = torch.where(self.gate[:, None] < math.inf, gate_factor(now, self.old, self.gate[:, None]), 1.0)
        gate = torch.where(self.chosen > 0, gate, 0.0)
        distance = rate - self.target
        pull = gate * pull_of(distance.detach(), self.target) * self.share[:, None]
        for place, layer in enumerate(self.layers):
            self._branches[layer].meeting = self._meeting(pull[:, place])
        self.sums += torch.where(self.chosen > 0, now, 0.0)
        self.calls += self.chosen
        squares = torch.where(self.chosen > 0, gate * distance**2, 0.0).sum(1)
        return 0.5 * self.weight * self.share * squares / self.chosen.sum(1).clamp_min(1)

    def _rates(self, values: Mapping[str, Tensor], groups: frozenset[int]) -> Tensor:
        """Return the rate of every layer of every network, equal to its target where none acts."""
        rates = self.target.clone()
        widths: dict[int, list[int]] = {}
        for place, layer in enumerate(self.layers):
            widths.setdefault(values[layer].shape[-1], []).append(place)
        for group, (key, rows) in enumerate(zip(self.groups, self.rows, strict=True)):
            if group not in groups:
                continue
            measure, keeps_scale, drawn = key
            for places in widths.values():
                x = torch.stack([values[self.layers[place]][rows] for place in places])
                here = torch.stack([rates[rows][:, place] for place in places], 1)
                if drawn and len(widths) == 1:  # the other layers need not be measured
                    chosen = self.chosen[rows].topk(drawn).indices
                    x = x.gather(0, chosen.t()[..., None, None].expand(-1, -1, *x.shape[-2:]))
                else:
                    chosen = torch.arange(len(places), device=x.device).expand(here.shape)
                acts = None
                if drawn and len(widths) > 1:  # a layer that was not drawn may have no rate: NaN, and so its gradient
                    acts = torch.stack([self.chosen[rows][:, place] for place in places], 1) > 0
                    x = torch.where(acts.t()[..., None, None], x, x.detach())
                if keeps_scale:
                    x = with_shape_gradient(x)
                found = measured(x, measure).t().to(here.dtype)
                found = found if acts is None else torch.where(acts, found, here)
                rates = _replaced(rates, rows, places, here.scatter(1, chosen, found))
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

    def end_epoch(self, epoch: int) -> None:
        """Renew the gates after epoch number `epoch`, as `SelfSimilarityConstraint.step` does."""
        if not self.gated:
            return
        by_layer = self.sums / self.calls
        over_all = (self.sums.sum(1) / self.calls.sum(1))[:, None].expand_as(by_layer)
        for place, constraint in enumerate(self.constraints):
            if constraint is None or constraint.gate is None:
                continue
            means = (by_layer if constraint.gate_by == "layer" else over_all)[place]
            renewed = means.isfinite() if epoch % constraint.gate_every == 0 else self.old[place].isnan()
            self.old[place] = torch.where(renewed, means, self.old[place])
        self.sums.zero_()
        self.calls.zero_()


def _replaced(rates: Tensor, rows: slice | Tensor, places: list[int], values: Tensor) -> Tensor:
    """Return a copy of ``rates`` (networks, layers) with `values` at some rows and columns."""
    columns = list(rates.unbind(1))
    for place, value in zip(places, values.unbind(1), strict=True):
        columns[place] = columns[place].clone()
        columns[place][rows] = value
    return torch.stack(columns, 1)


def _targets(constraint: SelfSimilarityConstraint | None, layers: Sequence[str]) -> list[float]:
    if constraint is None:
        return [0.0] * len(layers)
    if isinstance(constraint.target, dict):
        check_target_names(constraint.target, layers)
    targets = []
    for layer in layers:
        schedule = constraint.target[layer] if isinstance(constraint.target, dict) else constraint.target
        if not isinstance(schedule, Constant):
            raise ValueError(
                f"constraint: got the schedule {schedule!r}, need a number as target to train many at once"
            )
        targets.append(schedule.target)
    return targets


def _places(places: list[int], device: torch.device) -> slice | Tensor:
    """Return places as a slice where they are neighbours, which copies nothing."""
    if places == list(range(places[0], places[-1] + 1)):
        return slice(places[0], places[-1] + 1)
    return torch.tensor(places, device=device)
