"""Propose targets and a weight for a constraint, from a short unconstrained training."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_choice, check_integer, check_number
from ..models.batches import batch_samples, batch_targets, call_with_batch, to_device
from ..models.layers import unwrapped
from ..models.pooling import first_tensor
from ..models.probe import Probe
from ..models.seeding import seeded
from ..statistics.null_models import NullBand, null_band
from ..validation import resolve_device
from .constraint import SelfSimilarityConstraint
from .measure import mean_rates, measured

# The gradients are measured at this many steps of the short training, evenly spaced.
_MEASURED = 8


@dataclass(frozen=True)
class ConstraintProposal:
    """A target and a weight for `SelfSimilarityConstraint`, with the measurements behind them.

    Attributes
    ----------
    target, weight : float
        A target below noise for all layers, and a weight for the penalty without cap and ramp.
    targets : dict of str to float
        The paper's rule instead: the rate of each layer at the end of the short training, mean over up to 8 batches.
        ``SelfSimilarityConstraint(proposal.targets)`` holds the layers there. The more steps, the nearer to where the
        unconstrained network converges.
    reasons : tuple of str
        Why this target, why this weight, and what to watch.
    rates : dict of str to float
        SS rate of each layer on the last batch of the short training.
    bands : dict of str to NullBand
        Rates of standard normal noise with each layer's shape in a batch.
    task_gradient, penalty_gradient : float
        Medians over the short training of the norms of both gradients with respect to all weights. The penalty's is at
        weight 1.
    """

    target: float
    weight: float
    reasons: tuple[str, ...]
    rates: dict[str, float]
    bands: dict[str, NullBand]
    task_gradient: float
    penalty_gradient: float
    targets: dict[str, float]


def propose_constraint(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    task_loss: Callable[[Any, Any], Tensor] | None = None,
    layers: int | Sequence[str] | None = None,
    steps: int = 40,
    learning_rate: float = 1e-3,
    share: float = 0.2,
    draws: int = 20,
    seed: int = 0,
    device: str | torch.device = "auto",
    **options: Any,
) -> ConstraintProposal:
    """Propose a target and a weight for this network and these data.

    A copy of the network is trained for some steps without constraint. The target is half the lower end of the layers'
    null bands (their median), and below every band, where a layer does not get by losing its structure. With the
    weight, the penalty's gradient is `share` times as long as the task's (medians over the steps).

    Parameters
    ----------
    model : nn.Module
        Not changed.
    batches : iterable
        Batches ``(inputs, targets)``, or dicts with "labels" or "targets", in any form that `activations` takes. Their
        size is that of the training to come, because rates depend on it; those of another size than the first are left
        out. At most `steps` batches are kept in memory; if there are fewer, they are repeated.
    task_loss : callable, optional
        From the model's output and the targets to the loss. The targets are the last entry of a tuple, or the labels of
        a dict; without labels, the dict. By default the loss that the output holds as ``loss``, as in models of Hugging
        Face, else the cross-entropy of the output's first tensor.
    layers : int or sequence of str, optional
        As in `Probe`.
    steps : int
        Number of training steps, by AdamW.
    learning_rate : float
    share : float
        Length of the penalty's gradient relative to the task's.
    draws : int
        Number of draws for each null band.
    seed : int
        Seed of dropout and the like in the short training, and of the null bands.
    device : str
        ``"auto"``: CUDA if there is a card, else the CPU.
    **options
        Options of `SelfSimilarityConstraint` with which the proposal will be used, except `target`, `weight` and
        `seed`.

    Returns
    -------
    ConstraintProposal

    Raises
    ------
    ValueError
        No batches or no targets, options out of range, or a penalty without gradient, for example of frozen layers.

    Notes
    -----
    Time: `steps` training steps, 8 of them with the constraint, and `draws` rates per layer. The proposal is a start,
    not an optimum: the task's gradient shrinks during training, and the penalty's hardly does.

    References
    ----------
    .. [1] Self-similarity Analysis in Deep Neural Networks, arXiv 2507.17785, whose targets lie in the null band.

    Examples
    --------
    >>> from selfsim import create, load_images
    >>> images = load_images("digits")
    >>> model = create("mlp", size="tiny", num_classes=10, in_chans=1)
    >>> batches = list(images.batches("train", batch_size=128))
    >>> proposal = propose_constraint(model, batches, steps=2, draws=5, device="cpu")
    >>> round(proposal.target, 1)
    0.1
    """
    steps = check_integer(steps, name="steps")
    share = check_number(share, name="share", within="(0, inf)")
    learning_rate = check_number(learning_rate, name="learning_rate", within="(0, inf)")
    proposed = {"target", "weight", "seed"}
    known = [name for name in inspect.signature(SelfSimilarityConstraint).parameters if name not in proposed]
    for option in options:
        check_choice(option, known, name="options")
    measure = SelfSimilarityConstraint(weight=1.0, **options).measure
    options |= {"cap": None, "ramp": None, "gate": None}  # the gradient is measured as it is

    def rate(activations: Tensor) -> float:
        return float(measured(activations.detach(), measure))

    device = resolve_device(device)
    batches = list(itertools.islice(batches, steps))
    if not batches:
        raise ValueError("batches: got none, need at least one (inputs, targets)")
    size = batch_samples(model, batches[0])
    batches = [batch for batch in batches if batch_samples(model, batch) == size]
    if not any(True for _ in model.parameters()):
        raise ValueError("model: got one without parameters, need layers that can be trained")
    with torch.inference_mode(False), torch.enable_grad(), seeded(seed, device):
        model = copy.deepcopy(unwrapped(model)).to(device).train()
        probe = Probe(model, layers)
        with torch.no_grad(), probe:
            call_with_batch(model, batches[0], device)
        bands = {layer: null_band(rate, x, draws=draws, seed=seed) for layer, x in probe.activations.items()}
        lows = [band.low for band in bands.values()]
        target = round(min(statistics.median(lows) / 2, *lows), 3)
        constraint = SelfSimilarityConstraint(target, 1.0, seed=seed, **options)
        lengths = _gradient_lengths(
            model, probe, constraint, list(itertools.islice(itertools.cycle(batches), steps)), learning_rate, task_loss
        )
        rates = {layer: rate(x) for layer, x in probe.activations.items()}
        targets = mean_rates(probe, model, batches[:_MEASURED], measure)
    task, penalty = (statistics.median(column) for column in zip(*lengths, strict=True))
    if penalty == 0:
        raise ValueError(f"model: the penalty has no gradient at target {target:g}; need layers that can be trained")
    weight = float(f"{share * task / penalty:.2g}")
    inside = sum(bands[layer].low <= rate <= bands[layer].high for layer, rate in rates.items())
    below = sum(rate < target for rate in rates.values())
    worst = max(weight * p / t if t else math.inf for t, p in lengths)
    reasons = (
        f"target {target:g}: half the lower end of the layers' null bands (median {statistics.median(lows):.3f}, "
        f"minimum {min(lows):.3f}). After the short training without constraint {inside} of {len(rates)} layers are "
        f"inside their bands, and {below} below the target: those would be pulled up.",
        f"weight {weight:g}: with it the penalty's gradient is {share:g} times as long as the task's (medians over "
        f"{len(lengths)} steps of the short training: {penalty:.2g} at weight 1, and {task:.2g}). At the worst step it "
        f"is {worst:.2g} times as long"
        + (": training may not get under way; use a lower weight, or let the target fall later." if worst > 1 else "."),
        "Rates depend on the batch size: propose anew when it changes. Besides the rate, watch the accuracy, the rate "
        "without the most distant neurons, and the median distance.",
    )
    return ConstraintProposal(target, weight, reasons, rates, bands, task, penalty, targets)


def _gradient_lengths(
    model: nn.Module,
    probe: Probe,
    constraint: SelfSimilarityConstraint,
    batches: Sequence[Any],
    learning_rate: float,
    task_loss: Callable[[Any, Any], Tensor] | None,
) -> list[tuple[float, float]]:
    """Train one step per batch without the constraint; return the lengths of both gradients at some of the steps."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    measured = {round(k * (len(batches) - 1) / (_MEASURED - 1)) for k in range(_MEASURED)}
    lengths = []
    for step, batch in enumerate(batches):
        with probe:
            output = call_with_batch(model, batch, device)
        loss = (task_loss or _default_loss)(output, to_device(batch_targets(batch), device))
        if not loss.requires_grad and any(p.requires_grad for p in model.parameters()):
            raise ValueError("task_loss: got a loss without gradient, need one that depends on the model's parameters")
        penalty = _gradient_length(constraint(probe), model, keep_graph=True) if step in measured else None
        task = _gradient_length(loss, model)
        if penalty is not None:
            lengths.append((task, penalty))
        optimizer.step()
    return lengths


def _default_loss(output: Any, targets: Any) -> Tensor:
    """Return the loss that a model's output holds, or the cross-entropy of its first tensor."""
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    scores = first_tensor(output)
    if not isinstance(scores, Tensor) or not isinstance(targets, Tensor):
        got = f"an output of {type(output).__name__} and targets of {type(targets).__name__}"
        raise ValueError(f"task_loss: got none for {got}, need a function of both that returns the loss")
    return F.cross_entropy(scores, targets)


def _gradient_length(loss: Tensor, model: nn.Module, keep_graph: bool = False) -> float:
    """Put the gradient of a loss into the model's parameters and return its norm."""
    model.zero_grad()
    if loss.requires_grad:
        loss.backward(retain_graph=keep_graph)
    return math.hypot(*(float(p.grad.norm()) for p in model.parameters() if p.grad is not None))
