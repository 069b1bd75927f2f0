"""Everything that changes during a run, so that it can be stored and resumed to the last bit."""

from __future__ import annotations

import dataclasses
import json
import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import optional_package
from ..models.images import Images
from ..models.probe import Probe
from ..models.seeding import random_states, set_random_states
from ..statistics.movement import Arrangement
from .config import TrainConfig, check_same_configuration
from .constraint import SelfSimilarityConstraint
from .data_record import check_same_data, data_record
from .distributed import Ranks
from .evaluation import Row
from .recipe import augmentation, make_optimizer, make_schedule

# Recorded for each step of the current epoch, on the device: reading a number at every step would make a GPU wait.
STEP_FIELDS = ("images", "loss", "correct", "penalty")


class TrainingState:
    """A network in training, with its optimiser, its constraint and its progress.

    Attributes
    ----------
    data : Split
        The training images, on the device.
    data_record : dict
        Sizes and fingerprints of all images.
    model, network : nn.Module
        The network itself, and the module to call with a batch: it averages gradients over several ranks.
    optimizer, schedule, scaler, ema, constraint, probe
        As configured; ``ema`` and ``constraint`` may be None.
    generator : torch.Generator
        Draws the order of images and their shifts, and nothing else, so that both runs of a pair see the same batches.
    history : list of Row
    best : dict
        For ``select="best"``: accuracy, epoch and weights of the best epoch so far.
    epoch, step : int
        Completed epochs, and completed steps of the next one.
    steps : Tensor, shape (steps of an epoch, 4)
        For each step of the current epoch: number of images, and the sums of loss, hits and penalty over them.
    gradients : Tensor, shape (3,)
        At the current epoch's first step: norms of the task's and the constraint's gradient, and their angle.
    hidden : dict of str to Arrangement, or None
        The layers at the last evaluation, for comparison with the next one.
    seconds : float
        Run time until the last checkpoint.
    """

    def __init__(self, config: TrainConfig, images: Images, model: nn.Module, device: torch.device, ranks: Ranks):
        self.config, self.model, self.device, self.ranks = config, model, device, ranks
        self.data, self.data_record = images.train.to(device), data_record(images)
        self.augmentation = augmentation(config, images, device)
        self.network = ranks.wrap(model)
        self.constraint = config.make_constraint()
        draws = (config.constraint or {}).get("seed", config.seed)  # the probe draws the layers for the constraint
        self.probe = Probe(model, config.layers, seed=draws, gather=ranks.size > 1)
        if isinstance(self.constraint, SelfSimilarityConstraint):
            if (self.constraint.layers_per_step or math.inf) < len(self.probe.layers):
                self.probe.draw = self.constraint.layers_per_step  # layers that the probe does not read cost nothing
            if device.type == "cuda":
                # Values are checked once an epoch, because a check at every step would make the GPU wait.
                self.constraint.measure = dataclasses.replace(self.constraint.measure, check=False)
        self.steps_per_epoch = max(len(self.data) // config.batch_size, 1)
        self.optimizer = make_optimizer(config, model.parameters())
        self.schedule = make_schedule(config, self.optimizer, self.steps_per_epoch)
        # A hook, because the scaler skips the optimiser's step where half precision overflows. Its reference is weak,
        # since a cycle would keep a GPU's memory from being freed.
        schedule = weakref.proxy(self.schedule)
        self.optimizer.register_step_post_hook(lambda *_: schedule.step())
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.ema = optional_package("timm.utils", extra="models").ModelEmaV3(model, config.ema) if config.ema else None
        self.generator = torch.Generator().manual_seed(config.seed)
        self.start = [parameter.detach().clone() for parameter in model.parameters()]
        self.history: list[Row] = []
        self.best: dict = {}
        self.epoch = self.step = 0
        self.steps = torch.zeros(self.steps_per_epoch, len(STEP_FIELDS), device=device)
        self.gradients = torch.zeros(3, device=device)
        self.hidden: dict[str, Arrangement] | None = None
        self.seconds = 0.0
        self._epoch_began = self.generator.get_state()

    def batches(self) -> list[Tensor]:
        """Return the indices of this epoch's remaining batches; an incomplete last one is left out."""
        if self.step:  # resumed within an epoch: draw the same order again
            reached = self.generator.get_state()
            self.generator.set_state(self._epoch_began)
        self._epoch_began = self.generator.get_state()
        order = torch.randperm(len(self.data), generator=self.generator).to(self.device)
        if self.step:
            self.generator.set_state(reached)
        return list(order.split(self.config.batch_size)[self.step : self.steps_per_epoch])

    def weight_distance(self) -> float:
        """Return the L2 distance of all weights from their initial values."""
        moved = [(p.detach() - s).norm() for p, s in zip(self.model.parameters(), self.start, strict=True)]
        return float(torch.stack(moved).norm())

    def skipped_steps(self) -> int:
        """Return how many steps of the epoch just completed the scaler skipped because half precision overflowed."""
        before = sum(row.value for row in self.history if row.metric == "skipped_steps")
        skipped = (self.epoch + 1) * self.steps_per_epoch - self.schedule.last_epoch - int(before)
        if skipped == self.steps_per_epoch and self.scaler.get_scale() < 1:  # above 1 it is still lowering its scale
            raise FloatingPointError(
                f"gradients: overflowed in every step of epoch {self.epoch + 1} in precision 'float16', even scaled "
                "down; need 'bfloat16' or 'float32', a lower learning_rate or a lower weight of the constraint"
            )
        return skipped

    def selected(self) -> tuple[int, dict[str, Tensor]]:
        """Return the epoch and the weights that the configuration selects as the result."""
        if self.config.select == "best":
            return self.best["epoch"], self.best["weights"]
        model = self.ema.module if self.ema is not None and self.config.select == "ema" else self.model
        return self.epoch, {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def check_finite(self, *, step: int | None = None, cause: Exception | None = None) -> None:
        """Raise ``FloatingPointError`` if a loss of this epoch (up to `step`) or a weight is NaN or infinite."""
        step = self.step if step is None else step
        bad = (~self.steps[:step].isfinite()).nonzero()  # sorted by step, then by field: loss before penalty
        weights = torch.stack([parameter.detach().isfinite().all() for parameter in self.model.parameters()])
        if len(bad) or not weights.all():
            what = "weights: overflowed"
            if len(bad):
                step, what = int(bad[0, 0]) + 1, f"{STEP_FIELDS[int(bad[0, 1])]}: became NaN or infinite"
            raise FloatingPointError(
                f"{what} in {self.place(step)}; the last checkpoint, if "
                "there is one, is from before. Try a lower learning_rate, a lower weight or clip_gradient"
            ) from cause

    def place(self, step: int) -> str:
        """Name a step of this epoch for a message."""
        return f"epoch {self.epoch + 1}, step {step} of {self.steps_per_epoch}"

    def _parts(self) -> dict[str, Any]:
        names = ("model", "optimizer", "schedule", "scaler", "constraint", "probe", "ema")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors, numbers, strings and containers of them."""
        return {
            "config": self.config.as_json(),
            "data": self.data_record,
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
            "history": [tuple(row) for row in self.history],
            "best": self.best,
            "position": (self.epoch, self.step),
            "steps": self.steps,
            "gradients": self.gradients,
            "hidden": self.hidden and {layer: x.activations for layer, x in self.hidden.items()},
            "seconds": self.seconds,
            "generator": (self._epoch_began, self.generator.get_state()),
            "random": self.ranks.gather(random_states(self.device)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Raises
        ------
        ValueError
            The state belongs to another configuration, or to other images; says what differs.
        """
        check_same_configuration(json.loads(state["config"]), self.config, where="the checkpoint")
        check_same_data(state.get("data"), self.data_record, where="the checkpoint")
        for name, part in self._parts().items():
            part.load_state_dict(state["parts"][name])
        self.history = [Row(*row) for row in state["history"]]
        self.best, (self.epoch, self.step), self.seconds = state["best"], state["position"], state["seconds"]
        self.steps.copy_(state["steps"])
        self.gradients.copy_(state["gradients"])
        hidden = state["hidden"]
        self.hidden = hidden and {layer: Arrangement(x.to(self.device)) for layer, x in hidden.items()}
        self._epoch_began, reached = state["generator"]
        self.generator.set_state(reached)
        set_random_states(state["random"][self.ranks.rank % len(state["random"])], self.device)
