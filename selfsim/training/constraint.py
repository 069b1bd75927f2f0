"""The self-similarity constraint: a penalty that pulls the SS rate of hidden layers to a target."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..measure.options import RateOptions
from ..measure.rate import ss_rate
from ..models.probe import Probe


class SelfSimilarityConstraint:
    """``weight / 2 * (S - target)²``, to add to any loss; S is the SS rate of the probed layers.

    Parameters
    ----------
    target : float
        The SS rate to be reached, in [0, 1]. Rates of unstructured noise lie at about .2 to .25 for hundreds of
        neurons and samples.
    weight : float
        At least 0.
    ends : {"detached", "attached"}
        Detached, the shortest and the longest distance are constants to the gradient, which then spreads over all
        neurons. Attached, almost all of it sits on the two pairs that realise them, and training moves single
        neurons instead of the layer.
    layers_per_step : int, optional
        How many layers, drawn anew each time, the penalty is averaged over; by default all.
    scales, gradient, count, leave_out
        As for `ss_rate`.
    gate : float, optional
        The paper's gate A: the penalty is multiplied by ``1 - min(|S - S_old| / S_old, A) / A``, where S_old is an
        epoch's mean of S; it is 0 until the first epoch is over. None for no gate.
    gate_every : int
        S_old is taken anew each time so many epochs are over.
    seed : int
        Of the draw of layers; no other random state is touched.

    Raises
    ------
    ValueError
        A target outside [0, 1], a negative weight, or another option out of its range.

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
    """

    def __init__(
        self,
        target: float = 0.1,
        weight: float = 10.0,
        ends: str = "detached",
        *,
        layers_per_step: int | None = None,
        scales: int | None = None,
        gradient: str = "exact",
        count: str = "surrogate",
        leave_out: int = 0,
        gate: float | None = None,
        gate_every: int = 5,
        seed: int = 0,
    ):
        for argument, value in (("target", target), ("weight", weight)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{argument}: got {value!r}, need a number")
        if not 0 <= target <= 1:
            raise ValueError(f"target: got {target!r}, need an SS rate in [0, 1]")
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight: got {weight!r}, need a finite number of at least 0")
        if gate is not None and not gate > 0:
            raise ValueError(f"gate: got {gate!r}, need None or a number above 0")
        for argument, value in (("layers_per_step", layers_per_step), ("gate_every", gate_every)):
            if value is not None and value < 1:
                raise ValueError(f"{argument}: got {value!r}, need at least 1")
        if count == "greedy-coloring":
            raise ValueError(
                "count: got 'greedy-coloring', which has no gradient; need 'surrogate' or 'complete-linkage'"
            )
        self.target = target
        self.weight = weight
        self.layers_per_step = layers_per_step
        self.gate = gate
        self.gate_every = gate_every
        self._rate = dict(scales=scales, gradient=gradient, ends=ends, count=count, leave_out=leave_out)
        self._draw = torch.Generator().manual_seed(seed)
        self._baseline: Tensor | None = None  # S_old
        self._sum: Tensor | None = None
        self._calls = 0
        RateOptions(**self._rate)  # wrong options fail here, not in the middle of a training

    @classmethod
    def paper(
        cls, target: float = 0.3, weight: float = 0.05, *, gate: float = 0.05, gate_every: int = 5, seed: int = 0
    ) -> SelfSimilarityConstraint:
        """The constraint as published: 256 scales, straight-through gradient, one drawn layer per batch, the gate."""
        return cls(
            target,
            weight,
            scales=256,
            gradient="straight-through",
            layers_per_step=1,
            gate=gate,
            gate_every=gate_every,
            seed=seed,
        )

    def __call__(self, activations: Probe | Mapping[str, Tensor] | Tensor) -> Tensor:
        """The penalty, 0-dim, to add to the loss of this batch.

        Parameters
        ----------
        activations : Probe, mapping of layers to Tensor, or Tensor, shape (samples, neurons)
            A probe after its ``with`` block around the forward pass, or its activations.

        Raises
        ------
        ValueError
            A probe that has read nothing, or activations that have no rate.
        """
        if isinstance(activations, Probe):
            activations = activations.activations
        if not isinstance(activations, Mapping):
            activations = {"activations": activations}
        if not activations:
            raise ValueError("activations: got no layers; run the forward pass inside `with probe:` first")
        rates = torch.stack([ss_rate(activations[layer], **self._rate) for layer in self._drawn(list(activations))])
        penalty = self.weight * 0.5 * (rates - self.target) ** 2
        if self.gate is not None:
            penalty = self._openness(rates.detach()) * penalty
        self._remember(rates.detach().mean())
        return penalty.mean()

    def _drawn(self, layers: list[str]) -> list[str]:
        if self.layers_per_step is None or self.layers_per_step >= len(layers):
            return layers
        chosen = torch.randperm(len(layers), generator=self._draw)[: self.layers_per_step]
        return [layers[i] for i in sorted(chosen.tolist())]

    def _openness(self, rates: Tensor) -> Tensor:
        if self._baseline is None:
            return torch.zeros_like(rates)
        change = (rates - self._baseline.to(rates)).abs() / self._baseline.to(rates)
        return 1 - change.clamp(max=self.gate) / self.gate

    def _remember(self, rate: Tensor) -> None:
        # Summed on the device: reading the number at every step would make a GPU wait.
        self._sum = rate if self._sum is None else self._sum + rate
        self._calls += 1

    def step(self, *, epoch: int, epochs: int, task_loss: float | None = None) -> None:
        """Tell the constraint that epoch number `epoch` (from 1) of `epochs` is over.

        Parameters
        ----------
        epoch, epochs : int
        task_loss : float, optional
            The epoch's mean loss without the penalty. Not used by a fixed target.
        """
        if not 1 <= epoch <= epochs:
            raise ValueError(f"epoch: got {epoch!r}, need 1 to epochs={epochs!r}")
        if self.gate is not None and self._calls and (self._baseline is None or epoch % self.gate_every == 0):
            self._baseline = self._sum / self._calls
        self._sum, self._calls = None, 0

    def state_dict(self) -> dict:
        """All that changes during training, for a checkpoint."""
        return {"draw": self._draw.get_state(), "baseline": self._baseline, "sum": self._sum, "calls": self._calls}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from what `state_dict` gave."""
        self._draw.set_state(state["draw"].cpu())
        self._baseline, self._sum, self._calls = state["baseline"], state["sum"], state["calls"]
