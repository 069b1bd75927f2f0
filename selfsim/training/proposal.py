"""A target and a weight for a constraint, proposed from a short unconstrained training."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_choice, check_integer
from ..models.probe import Probe
from ..models.seeding import seeded
from ..rate.rate import ss_rate
from ..statistics.null_models import NullBand, null_band
from ..validation import resolve_device
from .constraint import SelfSimilarityConstraint

# At so many steps of the short training, evenly spaced, the gradients are measured.
_MEASURED = 8


@dataclass(frozen=True)
class ConstraintProposal:
    """A target and a weight, and what they were chosen by.

    Attributes
    ----------
    target, weight : float
        For `SelfSimilarityConstraint`.
    reasons : tuple of str
        One sentence each: the target's, the weight's, and what to beware of.
    rates : dict of str to float
        SS rate of each layer on the last batch of the short training.
    bands : dict of str to NullBand
        Of independent normal numbers with as many neurons and samples as each layer has in a batch.
    task_gradient, penalty_gradient : float
        Norms of the gradients by all weights, medians over the short training; the penalty's at weight 1.
    """

    target: float
    weight: float
    reasons: tuple[str, ...]
    rates: dict[str, float]
    bands: dict[str, NullBand]
    task_gradient: float
    penalty_gradient: float


def propose_constraint(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    task_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    layers: Sequence[str] | None = None,
    steps: int = 40,
    learning_rate: float = 1e-3,
    share: float = 0.2,
    draws: int = 20,
    seed: int = 0,
    device: str | torch.device = "auto",
    **options,
) -> ConstraintProposal:
    """Propose a target and a weight for this network and these data.

    A copy of the network is trained for some steps without constraint. The target is half the lower end of the layers'
    null bands (their median), and below every band, where a layer does not get by losing its structure. The weight is
    such that, in the middle of these steps, the penalty's gradient is `share` times as long as the task's.

    Parameters
    ----------
    model : nn.Module
        Stays as it is.
    batches : iterable of (inputs, targets)
        Of the size that will be trained with, because rates depend on it. So many as there are steps are kept in
        memory; if there are fewer, they are gone through again.
    task_loss : callable
        From the model's output and the targets to the loss.
    layers : sequence of str, optional
        As for `Probe`.
    steps : int
        Of the short training, by AdamW.
    learning_rate : float
    share : float
        Length of the penalty's gradient in units of the task's.
    draws : int
        Per null band.
    seed : int
        Of dropout and the like in the short training, and of the null bands.
    device : str
        ``"auto"``: CUDA where there is a card, else the CPU.
    **options
        Of `SelfSimilarityConstraint`, such as `count` or `ends`, with which the proposal is to be used; all but
        `target` and `weight`, which are proposed, and `seed`.

    Returns
    -------
    ConstraintProposal

    Raises
    ------
    ValueError
        No batches, options out of their range, or a penalty without gradient: the target is reached already.

    Notes
    -----
    Time: `steps` training steps, of which 8 are done with the constraint, and `draws` rates per layer. The proposal is
    a start, not an optimum: gradients of the task shrink while it is learned, those of the penalty hardly.

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
    check_integer(steps, name="steps")
    for argument, value in (("share", share), ("learning_rate", learning_rate)):
        if not value > 0:
            raise ValueError(f"{argument}: got {value!r}, need a number above 0")
    chosen = {"target", "weight", "seed"}
    known = [name for name in inspect.signature(SelfSimilarityConstraint).parameters if name not in chosen]
    for option in options:
        check_choice(option, known, name="options")
    device = resolve_device(device)
    model = copy.deepcopy(model).to(device).train()
    probe = Probe(model, layers)
    measure = vars(SelfSimilarityConstraint(**options).measure)

    def rate(activations: Tensor) -> float:
        return float(ss_rate(activations.detach(), **measure))

    batches = list(itertools.islice(batches, steps))
    if not batches:
        raise ValueError("batches: got none, need at least one (inputs, targets)")
    with seeded(seed, device):
        with torch.no_grad(), probe:
            model(batches[0][0].to(device))
        bands = {layer: null_band(rate, values, draws=draws, seed=seed) for layer, values in probe.activations.items()}
        low = [band.low for band in bands.values()]
        target = round(min(statistics.median(low) / 2, *low), 3)
        constraint = SelfSimilarityConstraint(target, 1.0, seed=seed, **options)
        lengths = _trained(model, probe, batches, steps, constraint, task_loss, learning_rate)
    task, penalty = (statistics.median(column) for column in zip(*lengths, strict=True))
    if penalty == 0:
        raise ValueError(f"model: the penalty has no gradient at target {target:g}; need layers that can be trained")
    weight = float(f"{share * task / penalty:.2g}")
    worst = max(weight * p / t if t else math.inf for t, p in lengths)
    rates = {layer: rate(values) for layer, values in probe.activations.items()}
    inside = sum(bands[layer].low <= rate <= bands[layer].high for layer, rate in rates.items())
    below = sum(rate < target for rate in rates.values())
    reasons = (
        f"target {target:g}: half the lower end of the layers' null bands, which is {statistics.median(low):.3f} in "
        f"the median and {min(low):.3f} at least. After the short training without constraint {inside} of {len(rates)} "
        f"layers lie inside their bands, and {below} below the target: these would be pulled up.",
        f"weight {weight:g}: the penalty's gradient is then {share:g} times as long as the task's (medians over "
        f"{len(lengths)} steps of the short training: {penalty:.2g} at weight 1, and {task:.2g}). At one of them it is "
        f"{worst:.2g} times as long"
        + (": training may not get under way, let the weight be less or the target fall later." if worst > 1 else "."),
        "Rates depend on the batch size: propose anew when it changes. Beside the rate, watch the accuracy, the rate "
        "without the most distant neurons, and the median distance.",
    )
    return ConstraintProposal(target, weight, reasons, rates, bands, task, penalty)


def _trained(model, probe, batches, steps, constraint, task_loss, learning_rate) -> list[tuple[float, float]]:
    """Train without the constraint; at some steps, the lengths of the gradients of task and penalty."""
    measured = {round(k * (steps - 1) / (_MEASURED - 1)) for k in range(_MEASURED)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
    lengths = []
    for step, (x, y) in zip(range(steps), itertools.cycle(batches)):
        with probe:
            output = model(x.to(next(model.parameters()).device))
        gradients = torch.autograd.grad(
            task_loss(output, y.to(output.device)), parameters, retain_graph=step in measured, allow_unused=True
        )
        if step in measured:
            pull = torch.autograd.grad(constraint(probe), parameters, allow_unused=True)
            lengths.append((_length(gradients), _length(pull)))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return lengths


def _length(gradients: Sequence[Tensor | None]) -> float:
    return math.hypot(*(float(g.norm()) for g in gradients if g is not None))
