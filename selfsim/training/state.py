"""Everything that changes during a run, so that it can be put aside and taken up again to the last bit."""

from __future__ import annotations

import dataclasses
import json
import math
import weakref

import torch
from torch import Tensor, nn

from ..checks import optional_package
from ..models.images import Images
from ..models.probe import Probe
from ..models.seeding import random_states, set_random_states
from .augmentation import augmentation
from .config import TrainConfig
from .constraint import SelfSimilarityConstraint
from .distributed import Ranks
from .evaluation import Row
from .optimization import make_optimizer, make_schedule
from .run_directory import check_same

# What is kept of each step of the current epoch, on the device: reading a number at every step would make a GPU wait.
STEP_FIELDS = ("images", "loss", "correct", "penalty")


class TrainingState:
    """A network in training, and all that belongs to its training.

    Attributes
    ----------
    model, network : nn.Module
        The network; and what is called with a batch, which averages gradients over ranks where there are several.
    optimizer, schedule, scaler, ema, constraint, probe
        As configured; ``ema`` and ``constraint`` may be None.
    generator : torch.Generator
        Of the order of images and their shifts. It is their own, so that both runs of a pair see the same batches,
        whatever else draws random numbers.
    history : list of Row
    best : dict
        For ``select="best"``: accuracy, epoch and weights of the best epoch so far.
    epoch, step : int
        Whole epochs that are over, and steps of the next one.
    steps : Tensor, shape (steps of an epoch, 4)
        Of the current epoch: images, and over the images of each step the sums of loss, hits and penalty.
    gradients : Tensor, shape (3,)
        Of the current epoch's first step: norms of the task's and the constraint's gradient, and their angle.
    hidden : dict of str to Tensor, shape (samples, neurons), or None
        Activations that were followed at the last evaluation, to compare the next ones with.
    seconds : float
        Spent until the last checkpoint.
    """

    def __init__(self, config: TrainConfig, images: Images, model: nn.Module, device: torch.device, ranks: Ranks):
        self.config, self.model, self.device, self.ranks = config, model, device, ranks
        self.data = images.train.to(device)
        self.augmentation = augmentation(config, images, device)
        self.network = ranks.wrapped(model)
        self.constraint = config.make_constraint()
        self.probe = Probe(model, config.layers, seed=config.seed, gather=ranks.size > 1)
        if isinstance(self.constraint, SelfSimilarityConstraint):
            if (self.constraint.layers_per_step or math.inf) < len(self.probe.layers):
                self.probe.draw = self.constraint.layers_per_step  # what the probe does not read costs nothing
            if device.type == "cuda":
                # Whether all is finite is looked at once an epoch; at every step the look would make the card wait.
                self.constraint.measure = dataclasses.replace(self.constraint.measure, check=False)
        self.steps_per_epoch = max(len(self.data) // config.batch_size, 1)
        self.optimizer = make_optimizer(config, model.parameters())
        self.schedule = make_schedule(config, self.optimizer, self.steps_per_epoch)
        # Not where half precision overflows and the scaler skips the step. A weak reference: no cycle keeps a card's
        # memory from being freed.
        schedule = weakref.ref(self.schedule)
        self.optimizer.register_step_post_hook(lambda *_: schedule().step())
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.ema = optional_package("timm.utils", extra="models").ModelEmaV3(model, config.ema) if config.ema else None
        self.generator = torch.Generator().manual_seed(config.seed)
        self.start = [parameter.detach().clone() for parameter in model.parameters()]
        self.history: list[Row] = []
        self.best: dict = {}
        self.epoch = self.step = 0
        self.steps = torch.zeros(self.steps_per_epoch, len(STEP_FIELDS), device=device)
        self.gradients = torch.zeros(3, device=device)
        self.hidden: dict[str, Tensor] | None = None
        self.seconds = 0.0
        self._epoch_began = self.generator.get_state()

    def batches(self) -> list[Tensor]:
        """Indices of the batches of this epoch that are still to come; an incomplete last one is left out."""
        if self.step:  # taken up in the middle of an epoch: the same order once more
            reached = self.generator.get_state()
            self.generator.set_state(self._epoch_began)
        self._epoch_began = self.generator.get_state()
        order = torch.randperm(len(self.data), generator=self.generator).to(self.device)
        if self.step:
            self.generator.set_state(reached)
        return list(order.split(self.config.batch_size)[self.step : self.steps_per_epoch])

    def weight_distance(self) -> float:
        """L2 distance of all weights from where they started."""
        moved = [(p.detach() - s).norm() for p, s in zip(self.model.parameters(), self.start, strict=True)]
        return float(torch.stack(moved).norm())

    def skipped_steps(self) -> int:
        """How many steps of this epoch, which is over, the scaler skipped because half precision overflowed."""
        before = sum(row.value for row in self.history if row.metric == "skipped_steps")
        skipped = (self.epoch + 1) * self.steps_per_epoch - self.schedule.last_epoch - int(before)
        if skipped == self.steps_per_epoch and self.scaler.get_scale() < 1:  # above 1 it is still finding its scale
            raise FloatingPointError(
                f"gradients: overflowed in every step of epoch {self.epoch + 1} in precision 'float16', even scaled "
                "down; need 'bfloat16' or 'float32', a lower learning_rate or a lower weight of the constraint"
            )
        return skipped

    def selected(self) -> tuple[int, dict[str, Tensor]]:
        """The epoch and the weights that the configuration asks for as the result."""
        if self.config.select == "best":
            return self.best["epoch"], self.best["weights"]
        model = self.ema.module if self.config.select == "ema" else self.model
        return self.epoch, {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def check_finite(self, *, step: int | None = None, cause: Exception | None = None) -> None:
        """Raise ``FloatingPointError`` if a loss of this epoch (up to `step`) or a weight is NaN or infinite."""
        step = self.step if step is None else step
        bad = (~self.steps[:step].isfinite()).nonzero()  # by step, and in a step by field: the loss before the penalty
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
        """A step of this epoch, in words."""
        return f"epoch {self.epoch + 1}, step {step} of {self.steps_per_epoch}"

    def _parts(self) -> dict:
        names = ("model", "optimizer", "schedule", "scaler", "constraint", "probe", "ema")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def state_dict(self) -> dict:
        """Tensors, numbers, strings and containers of them."""
        return {
            "config": self.config.as_json(),
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
            "history": [tuple(row) for row in self.history],
            "best": self.best,
            "position": (self.epoch, self.step),
            "steps": self.steps,
            "gradients": self.gradients,
            "hidden": self.hidden,
            "seconds": self.seconds,
            "generator": (self._epoch_began, self.generator.get_state()),
            "random": self.ranks.gathered(random_states(self.device)),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave.

        Raises
        ------
        ValueError
            It is the state of another configuration.
        """
        check_same(json.loads(state["config"]), self.config, where="the checkpoint's")
        for name, part in self._parts().items():
            part.load_state_dict(state["parts"][name])
        self.history = [Row(*row) for row in state["history"]]
        self.best, (self.epoch, self.step), self.seconds = state["best"], state["position"], state["seconds"]
        self.steps.copy_(state["steps"])
        self.gradients.copy_(state["gradients"])
        self.hidden = state["hidden"] and {layer: x.to(self.device) for layer, x in state["hidden"].items()}
        self._epoch_began, reached = state["generator"]
        self.generator.set_state(reached)
        set_random_states(state["random"][self.ranks.rank % len(state["random"])], self.device)
