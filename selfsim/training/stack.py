"""K networks of one architecture as one: their weights, batches, steps and measurements."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.architectures import create
from ..models.branch import Branch
from ..models.images import Images
from ..models.probe import Probe
from ..models.seeding import seeded
from ..rate.distances import edge_lengths
from .config import TrainConfig
from .evaluation import RATES, Row, or_nan
from .loop import HALF
from .recipe import Shifts, make_optimizer, make_schedule, mirrors, mixed, mixup_shares, shifted
from .stacked_penalty import StackedPenalty

_BETA2, _EPSILON = 0.999, 1e-8
_ALIGNED = 8  # parameters begin at multiples of so many numbers, which matrix products read faster
_WARM_UP = 3


class _Inputs(NamedTuple):
    """What one step takes; for the steps of an epoch, each has the steps as its first axis."""

    images: Tensor  # (sets, batch): places among the training images
    rows: Tensor  # (sets, batch), as `columns` and `mirrored`: how the images are moved, see `Shifts`
    columns: Tensor
    mirrored: Tensor
    rate: Tensor  # (networks,): learning rate
    mixup: Tensor  # (networks,): share of the first image
    share: Tensor  # (networks,): of the constraint's weight
    layers: Tensor  # (networks, layers): 1 for those that the constraint acts on
    momentum: Tensor  # (3,): first momentum, and the corrections of both


class Stack:
    """K networks as one: their weights are one tensor (networks, parameters)."""

    def __init__(self, configs: Sequence[TrainConfig], images: Sequence[Images], device: torch.device) -> None:
        self.configs, self.images, self.device, self.config = configs, images, device, configs[0]
        first = images[0]
        self.built_as = self.config.model_options(first)
        networks: list[nn.Module] = []
        for config in configs:
            with seeded(config.seed):
                networks.append(create(**self.built_as))
        weights, buffers = torch.func.stack_module_state(networks)
        self.template = networks[0].to(device)
        if HALF.get(self.config.precision):
            for module in self.template.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.register_forward_pre_hook(_in_float32)
        self.probe = Probe(self.template, self.config.layers)
        self.shapes = {name: stacked.shape[1:] for name, stacked in weights.items()}
        self.padded = [-(-shape.numel() // _ALIGNED) * _ALIGNED for shape in self.shapes.values()]
        flat = [stacked.detach().flatten(1) for stacked in weights.values()]
        padded = [F.pad(x, (0, size - x.shape[1])) for x, size in zip(flat, self.padded, strict=True)]
        self.weight = torch.cat(padded, 1).to(device).requires_grad_()
        self.buffers = {name: stacked.to(device) for name, stacked in buffers.items()}
        self.start = self.weight.detach().clone()
        self.moments = torch.zeros_like(self.start), torch.zeros_like(self.start)
        column = partial(torch.tensor, dtype=torch.float32, device=device)
        self.decay = column([config.weight_decay for config in configs])
        self.smoothing = column([config.label_smoothing for config in configs])
        self.mixes = any(config.mixup for config in configs)

        # Networks of one seed and the same images see the same batches.
        keys = [(config.seed, id(one)) for config, one in zip(configs, images, strict=True)]
        sets = list(dict.fromkeys(keys))
        self.set_of = torch.tensor([sets.index(key) for key in keys], device=device)
        members = [keys.index(key) for key in sets]  # one network of each set
        train = [images[k].train for k in members]
        self.pictures = torch.stack([split.images for split in train]).to(device)
        self.labels = F.one_hot(torch.stack([split.labels for split in train]), len(first.classes)).float().to(device)
        mean, std = (column([getattr(images[k], name) for k in members]) * 255 for name in ("mean", "std"))
        self.mean, self.std = mean[:, None, :, None, None], std[:, None, :, None, None]
        self.generators = [torch.Generator().manual_seed(configs[k].seed) for k in members]
        self.classes = len(first.classes)
        self.batch = min(self.config.batch_size, self.pictures.shape[1])
        self.steps_per_epoch = max(self.pictures.shape[1] // self.config.batch_size, 1)
        self.steps = self.config.epochs * self.steps_per_epoch
        self.rates, self.betas = _schedules(configs, self.steps_per_epoch)
        self.mixup = mixup_shares(configs, self.steps)

        constraints = [config.make_constraint() for config in configs]
        self.penalty = StackedPenalty(constraints, self.probe.layers, device)  # type: ignore[arg-type]
        self.record = torch.zeros(len(configs), 4, device=device)
        self.graphs: dict[frozenset[int], Callable[[], None]] = {}
        self.failed: set[int] = set()
        self.history: list[list[Row]] = [[] for _ in configs]

    # The network.

    def _parameters(self) -> dict[str, Tensor]:
        parts = self.weight.split(self.padded, dim=1)
        return {
            name: (part if part.shape[1] == shape.numel() else part[:, : shape.numel()]).unflatten(1, shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def logits(self, x: Tensor) -> Tensor:
        """Return ``(networks, batch, classes)`` for images (networks, batch, channels, height, width)."""

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(self.template, (parameters, buffers), (x,))

        return torch.vmap(one, randomness="different")(self._parameters(), self.buffers, x)

    @contextmanager
    def reading(self, values: dict[str, Tensor]) -> Iterator[None]:
        """Read the activations (networks, samples, neurons) of all layers into `values`, each on its branch."""
        modules = dict(self.template.named_modules())

        def reader(layer: str) -> Callable[[nn.Module, Any, Any], Any]:
            def read(output: Tensor) -> None:
                branch = Branch()
                known = self.probe.known(layer)
                pooled = self.probe.pooled(output, known=known, branch=branch, layer=layer)
                values[layer] = pooled.unflatten(0, (len(self.configs), -1))
                self.penalty.read(layer, branch)

            return lambda module, args, output: _Read.apply(output, read)

        with ExitStack() as hooks:
            for layer in self.probe.layers:
                hooks.callback(modules[layer].register_forward_hook(reader(layer)).remove)
            yield
        if missing := [layer for layer in self.probe.layers if layer not in values]:
            raise ValueError(f"layers: the forward pass does not reach {', '.join(map(repr, missing))}")

    # Training.

    def train_epoch(self, epoch: int) -> None:
        """Train all networks for one epoch, and write what belongs to it into the histories."""
        self.template.train()
        self.record.zero_()
        first = (epoch - 1) * self.steps_per_epoch
        part = slice(first, first + self.steps_per_epoch)
        share, layers = self.penalty.controls([(step, self.steps) for step in range(part.start, part.stop)])
        drawn = *self._draws(), self.rates[part], self.mixup[part], share, layers, self.betas[part]
        on_device = [values.to(self.device) for values in drawn]
        for step in range(self.steps_per_epoch):
            self._step(_Inputs(*(values[step] for values in on_device)), self.penalty.acting(share[step]))
        images, *sums = self.record.double().unbind(1)
        loss, accuracy, penalty = (total / images for total in sums)
        distance = (self.weight.detach() - self.start).norm(dim=1)
        self._write(epoch, "train", {"loss": loss, "accuracy": accuracy, "weight_distance": distance})
        for history, constraint, mean in zip(self.history, self.penalty.constraints, penalty.tolist(), strict=True):
            if constraint is not None:
                targets = constraint.targets.items()
                history += [Row(epoch, "train", layer, "target", target) for layer, target in targets]
                history.append(Row(epoch, "train", "", "penalty", mean))
        losses = torch.where((loss + penalty + distance).isfinite(), loss, math.nan).tolist()
        self.failed |= {place for place, mean in enumerate(losses) if math.isnan(mean)}
        for message, places in self.penalty.end_epoch(epoch, self.config.epochs, losses).items():
            warnings.warn(f"{message}; in the networks {places}", stacklevel=3)

    def _draws(self) -> tuple[Tensor, ...]:
        """Draw the images of an epoch and their shifts, with the generators and in the order of a single run."""
        chosen, moves = [], []
        n, pixels = self.pictures.shape[1], self.pictures.shape[-1]
        for generator in self.generators:
            order = torch.randperm(n, generator=generator)[: self.steps_per_epoch * self.batch]
            chosen.append(order.view(self.steps_per_epoch, self.batch))
            none = torch.zeros(self.batch, dtype=torch.long)
            moves.append([
                Shifts.draw(self.batch, pixels, generator, mirror=mirrors(self.config))
                if self.config.augment
                else Shifts(none, none, none > 0)
                for _ in range(self.steps_per_epoch)
            ])  # fmt: skip
        shifts = (torch.stack([torch.stack([m[i] for m in by_step]) for by_step in moves], 1) for i in range(3))
        return torch.stack(chosen, 1), *shifts

    def _step(self, inputs: _Inputs, groups: frozenset[int]) -> None:
        if self.device.type != "cuda":
            self._compute(inputs, groups)
            return
        if groups not in self.graphs:
            self.graphs[groups] = self._recorded(inputs, groups)
        for there, here in zip(self.static, inputs, strict=True):
            there.copy_(here)
        self.graphs[groups]()

    def _recorded(self, inputs: _Inputs, groups: frozenset[int]) -> Callable[[], None]:
        """Record one step as a CUDA graph, which reads its inputs from ``self.static``; nothing is trained by it."""
        if not self.graphs:
            self.static = _Inputs(*(part.clone() for part in inputs))
            self.memory = torch.cuda.graph_pool_handle()
        state = [self.weight.detach(), *self.moments, *self.buffers.values(), self.record]
        state += [self.penalty.sums, self.penalty.calls]
        before = [tensor.clone() for tensor in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._compute(self.static, groups)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.empty_cache()  # what the warm-up took; the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.memory):
            self._compute(self.static, groups)
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        return graph.replay

    def _compute(self, inputs: _Inputs, groups: frozenset[int]) -> None:
        """Do one step of all networks, without a synchronisation."""
        x, targets = self._batch(inputs)
        self.penalty.share.copy_(inputs.share)
        self.penalty.chosen.copy_(inputs.layers)
        values: dict[str, Tensor] = {}
        half = HALF.get(self.config.precision)
        with ExitStack() as stack:
            stack.enter_context(
                torch.autocast(x.device.type, dtype=half, enabled=half is not None, cache_enabled=False)
            )
            if self.penalty.groups:
                stack.enter_context(self.reading(values))
            logits = self.logits(x)
        logs = logits.float().log_softmax(-1)
        smoothing = self.smoothing[:, None, None]
        loss = -((targets * (1 - smoothing) + smoothing / self.classes) * logs).sum(-1).mean(1)
        penalty = self.penalty(values, groups) if self.penalty.groups else torch.zeros_like(loss)
        (gradient,) = torch.autograd.grad((loss + penalty).sum(), self.weight)
        with torch.no_grad():
            correct = (logits.argmax(-1) == targets.argmax(-1)).sum(1).to(loss.dtype)
            images = torch.full_like(loss, x.shape[1])
            self.record += torch.stack([images, loss * images, correct, penalty * images], 1)
            self._adamw(gradient, inputs.rate, inputs.momentum)

    def _batch(self, inputs: _Inputs) -> tuple[Tensor, Tensor]:
        """Return input (networks, batch, …) and shares of the classes (networks, batch, classes)."""
        chosen = inputs.images
        sets = torch.arange(len(chosen), device=chosen.device)[:, None]
        x = (self.pictures[sets, chosen].float() - self.mean) / self.std
        if self.config.augment:
            shifts = Shifts(inputs.rows.flatten(), inputs.columns.flatten(), inputs.mirrored.flatten())
            x = shifted(x.flatten(0, 1), shifts).view_as(x)
        x, targets = x[self.set_of], self.labels[sets, chosen][self.set_of]
        if self.mixes:
            x, targets = mixed(x, inputs.mixup), mixed(targets, inputs.mixup)
        return x, targets

    def _adamw(self, gradient: Tensor, rate: Tensor, momentum: Tensor) -> None:
        """Move the weights as ``torch.optim.AdamW`` does, each network at its own learning rate."""
        beta, first_correction, second_correction = momentum.unbind()
        first, second = self.moments
        self.weight.mul_((1 - rate * self.decay)[:, None])
        first.add_((gradient - first) * (1 - beta))
        second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        size = (rate / first_correction)[:, None]
        self.weight.sub_(size * first / (second.sqrt() / second_correction.sqrt() + _EPSILON))

    # Evaluation, in float32.

    @torch.no_grad()
    def scores(self, split: str) -> tuple[Tensor, Tensor]:
        """Return loss and accuracy of every network on a split, ``(networks,)``, in eval mode."""
        self.template.eval()
        (loss, correct), count = torch.zeros(2, len(self.configs), dtype=torch.float64, device=self.device), 0
        for x, y in self._batches(split):
            logits = self.logits(x)
            loss += F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y).sum(1)
            correct += (logits.argmax(-1) == y).sum(1)
            count += y.shape[1]
        return loss / count, correct / count

    def _batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield input and labels of a split, each network's own images."""
        distinct = list({id(images): images for images in self.images}.values())
        of_images = {id(images): place for place, images in enumerate(distinct)}
        place = torch.tensor([of_images[id(images)] for images in self.images], device=self.device)
        for parts in zip(*(images.batches(split) for images in distinct), strict=True):
            x, y = (torch.stack(list(values)).to(self.device)[place] for values in zip(*parts, strict=True))
            yield x, y

    @torch.no_grad()
    def evaluate(self, epoch: int) -> None:
        """Write accuracy, loss and rates on validation images into the histories."""
        loss, accuracy = self.scores("validation")
        self._write(epoch, "validation", {"loss": loss, "accuracy": accuracy})
        hidden: dict[str, list[Tensor]] = {layer: [] for layer in self.probe.layers}
        for x, _ in self._batches("validation"):
            values: dict[str, Tensor] = {}
            with self.reading(values):
                self.logits(x)
            for layer, value in values.items():
                hidden[layer].append(value)
            if sum(value.shape[1] for value in hidden[self.probe.layers[0]]) >= self.config.samples:
                break
        for layer, parts in hidden.items():
            value = torch.cat(parts, 1)[:, : self.config.samples]
            measures: dict[str, Callable[..., Tensor]] = {k: partial(rate, check=False) for k, rate in RATES.items()}
            measures["median_distance"] = lambda value: torch.stack([edge_lengths(x).median() for x in value])
            found = {name: torch.as_tensor(or_nan(measure, value)) for name, measure in measures.items()}
            measured = {name: values.expand(len(value)) for name, values in found.items()}
            self._write(epoch, "validation", measured, layer=layer)

    def finish(self) -> None:
        """Write the scores of the final networks on training and test images."""
        epoch = self.config.epochs
        self._write(epoch, "train", {"clean_accuracy": self.scores("train")[1]})
        loss, accuracy = self.scores("test")
        self._write(epoch, "test", {"loss": loss, "accuracy": accuracy})

    def _write(self, epoch: int, split: str, measured: Mapping[str, Tensor], *, layer: str = "") -> None:
        for metric, values in measured.items():
            for history, value in zip(self.history, values.tolist(), strict=True):
                history.append(Row(epoch, split, layer, metric, value))

    def weights(self) -> list[dict[str, Tensor]]:
        """Return the state dict of every network, on the CPU."""
        tensors = {name: value.detach().cpu() for name, value in (self._parameters() | self.buffers).items()}
        names = list(self.template.state_dict())
        return [{name: tensors[name][k].clone() for name in names} for k in range(len(self.configs))]


# Under vmap, batch normalisation takes no half precision beside running statistics in float32.
def _in_float32(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].float(),)


class _Read(torch.autograd.Function):
    """A layer's output again. Under `vmap`, ``read`` gets that of all networks, as (networks * batch, …)."""

    @staticmethod
    def forward(output: Tensor, read: Callable[[Tensor], None]) -> Tensor:
        return output.view_as(output)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None], output: Tensor, read: Callable[[Tensor], None]) -> Any:
        flat = output.movedim(in_dims[0], 0).flatten(0, 1)  # type: ignore[arg-type]
        if flat._is_view():  # a change in place, as by the next ReLU, would lead the gradient past it and its branch
            flat = flat.clone()
        read(flat)
        return flat.unflatten(0, (info.batch_size, -1)), 0


def _schedules(configs: Sequence[TrainConfig], steps_per_epoch: int) -> tuple[Tensor, Tensor]:
    """Return the learning rates ``(steps, networks)``, and Adam's momentum and corrections ``(steps, 3)``."""
    config = dataclasses.replace(configs[0], learning_rate=1.0)  # every schedule is proportional to it
    optimizer = make_optimizer(config, [nn.Parameter(torch.zeros(1))])
    schedule, (group,) = make_schedule(config, optimizer, steps_per_epoch), optimizer.param_groups
    steps, factors, rows = config.epochs * steps_per_epoch, [], []
    for step in range(1, steps + 1):
        factors.append(float(group["lr"]))
        rows.append((group["betas"][0], 1 - group["betas"][0] ** step, 1 - _BETA2**step))
        optimizer.step()
        if step < steps:
            schedule.step()
    double = partial(torch.tensor, dtype=torch.float64)
    rates = torch.outer(double(factors), double([config.learning_rate for config in configs]))
    return rates.float(), double(rows).float()
