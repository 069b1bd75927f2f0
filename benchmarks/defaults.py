"""Choose the defaults of the constraint: every candidate on every architecture, from the same seeds.

    .venv/bin/python -m benchmarks.defaults                      # writes results/benchmarks/defaults.json
    .venv/bin/python -m benchmarks.defaults --only mlp pvt --candidates default --seeds 3
    .venv/bin/python -m benchmarks.defaults --size small --data-dir ~/data   # 10,000 images of CIFAR-10

Every architecture is trained at its tiny size on the digits, or at its small size on CIFAR-10, without constraint and
with each candidate. Accuracy and rates are those of the validation images; the test images play no part. The file is
written after each run, and finished runs in it are not repeated. At the small size only the default is tried unless
``--candidates`` names others; the file has runs with other caps there. A graphics card trains the small networks of
one architecture together (`train_many`). A CPU trains them one after another, 5 to 25 minutes each.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.output import output_parser, stored
from selfsim import (
    SelfSimilarityConstraint,
    TrainConfig,
    activations,
    create,
    load_images,
    pair_distances,
    ss_rate,
    train_many,
)
from selfsim.files import write_atomic
from selfsim.models.architectures import architecture
from selfsim.models.images import Images
from selfsim.models.seeding import seeded
from selfsim.training.distributed import Ranks
from selfsim.training.evaluation import scores
from selfsim.training.loop import training_step
from selfsim.training.measure import with_shape_gradient
from selfsim.training.provenance import environment_facts
from selfsim.training.state import TrainingState
from selfsim.training.torch_settings import torch_settings
from selfsim.uncertainty import Interval, paired_difference
from selfsim.validation import resolve_device
from study.answer_text import change, ends, markdown

TARGET = 0.1
LATE, EARLY = (0.3, 0.6), (0.1, 0.3)
# Options of the constraint, and the rule by which the gradients meet where it is not the constraint's own. The default
# has the options of the class; the others have those of the first version where they name none.
_FIRST_VERSION = {"cap": None, "ramp": None, "unit": "absolute", "ends": "detached"}
CANDIDATES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "default": {},
    "weight 10": {"weight": 10.0},
    "ramp": {"weight": 10.0, "ramp": LATE},
    "ramp, cap .1": {"weight": 10.0, "ramp": LATE, "cap": 0.1},
    "ramp, cap .3": {"weight": 10.0, "ramp": LATE, "cap": 0.3},
    "ramp, cap 1": {"weight": 10.0, "ramp": LATE, "cap": 1.0},
    "ramp, trust .3": {"weight": 10.0, "ramp": LATE, "cap": 0.3, "rule": "trust"},
    "ramp, trust 1": {"weight": 10.0, "ramp": LATE, "cap": 1.0, "rule": "trust"},
    "early ramp, trust 1": {"weight": 10.0, "ramp": EARLY, "cap": 1.0, "rule": "trust"},
    "ramp, trust 1, projected": {"weight": 10.0, "ramp": LATE, "cap": 1.0, "rule": "projected trust"},
    "ramp, trust 1, median": {"weight": 10.0, "ramp": LATE, "cap": 1.0, "rule": "trust", "unit": "median"},
    "ramp, trust 1, shape": {"weight": 10.0, "ramp": LATE, "cap": 1.0, "rule": "trust shape"},
    "ramp, trust 1, median shape": {"weight": 10.0, "ramp": LATE, "cap": 1.0, "rule": "trust shape", "unit": "median"},
    "cap .3": {"weight": None, "ramp": LATE, "cap": 0.3, "unit": "median"},
    "cap .15": {"weight": None, "ramp": LATE, "cap": 0.15, "unit": "median"},
    "cap .075": {"weight": None, "ramp": LATE, "cap": 0.075, "unit": "median"},
    "cap .5, gain 2": {"weight": 10.0, "ramp": LATE, "cap": 0.5, "rule": "trust shape", "unit": "median", "gain": 2.0},
}
# Chosen without a constraint, so that each architecture learns the digits within seconds.
SETTINGS = {
    "mlp": {"epochs": 12},
    "vit_small": {"epochs": 12, "batch_size": 64, "learning_rate": 3e-3},
    "vit_base": {"epochs": 12, "batch_size": 64, "learning_rate": 3e-3},
    "resmlp": {"epochs": 12, "batch_size": 64, "learning_rate": 3e-3},
    "mixer": {"epochs": 12, "batch_size": 64, "learning_rate": 3e-3},
    "vgg11": {"epochs": 8},
    "resnet34": {"epochs": 8},
    "resnet50": {"epochs": 8},
    "pvt": {"epochs": 10},
    "poolformer": {"epochs": 12},
}
SMALL = {"dataset": "cifar10", "train_images": 10_000, "batch_size": 64, "augment": True}
# Learning rates of the first study, chosen without a constraint, and as many epochs as a CPU has time for.
SMALL_SETTINGS = {
    "mlp": {"epochs": 10, "learning_rate": 1e-3},
    "vit_small": {"epochs": 5, "learning_rate": 1e-3},
    "vit_base": {"epochs": 3, "learning_rate": 1e-3},
    "resmlp": {"epochs": 5, "learning_rate": 3e-3},
    "mixer": {"epochs": 5, "learning_rate": 1e-3},
    "vgg11": {"epochs": 5, "learning_rate": 1e-3},
    "resnet34": {"epochs": 3, "learning_rate": 3e-3},
    "resnet50": {"epochs": 3, "learning_rate": 3e-3},
    "pvt": {"epochs": 5, "learning_rate": 1e-3},
    "poolformer": {"epochs": 5, "learning_rate": 1e-3},
}
MEASURES = {
    "rate": ss_rate,
    "rate without 3": lambda x: ss_rate(x, leave_out=3),
    "rate of quantiles": lambda x: ss_rate(x, quantiles=(0.01, 0.99)),
    "rate in medians": lambda x: ss_rate(x, unit="median"),
    "median distance": lambda x: pair_distances(x).median(),
}


class Candidate(SelfSimilarityConstraint):
    """The constraint with another rule by which its gradient meets the task's at a layer.

    "trust" scales the penalty's gradient to ``cap * |S - target| / target`` times the task's, at most `cap` times, as
    trust ratios scale the steps of layers. "projected" first takes out of each sample's gradient what opposes the
    task's, as gradient surgery does.
    """

    def __init__(self, *, rule: str = "", gain: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.gain = gain
        self.rule = rule
        self._distance: dict[str, torch.Tensor] = {}

    def _squares_and_pulls(self, layers):
        if "shape" in self.rule:
            layers = {layer: with_shape_gradient(x) for layer, x in layers.items()}
        squares, pulls = super()._squares_and_pulls(layers)
        if self.rule:
            distances = (self.gain * squares.detach().sqrt() / TARGET).clamp(max=1) * self.ramp_share()
            self._distance = dict(zip(layers, distances.unbind(), strict=True))
        return squares, pulls

    def _meeting(self, layer, pull, task, penalty):
        if "projected" in self.rule:
            inner, square = ((a * task).flatten(1).sum(1) for a in (penalty, task))
            along = (inner / square.clamp_min(1e-30)).clamp(max=0)
            penalty = penalty - along.view(-1, *[1] * (task.ndim - 1)) * task
        if "trust" not in self.rule:
            return super()._meeting(layer, pull, task, penalty)
        return task + self.cap * self._distance[layer] * task.norm() / penalty.norm().clamp_min(1e-30) * penalty


def one_run(name: str, candidate: str, seed: int, images: Images, *, size: str = "tiny", **settings: Any) -> dict:
    """Train on the CPU as `train` does, but without its measurements after every epoch."""
    began = time.process_time()
    config = TrainConfig(name, size=size, seed=seed, **(settings or SETTINGS[name]))
    with torch_settings(), seeded(seed, "cpu"):
        model = create(name, size=size, num_classes=len(images.classes), in_chans=images.channels)
        if size == "small" and name.startswith("resnet"):  # 1.2 to 1.4 times faster on a CPU
            model = model.to(memory_format=torch.channels_last)
        state = TrainingState(config, images, model, torch.device("cpu"), Ranks())
        options = CANDIDATES[candidate]
        if options is not None:
            unnamed = _FIRST_VERSION if options else {}
            state.constraint = Candidate(target=TARGET, seed=seed, **(unnamed | options))
        for epoch in range(config.epochs):
            state.model.train()
            for step, batch in enumerate(state.batches()):
                state.step = step
                x, y = state.augmentation(state.data.images[batch], state.data.labels[batch], state.generator)
                training_step(state, x, y)
            if state.constraint:
                state.constraint.step(epoch=epoch + 1, epochs=config.epochs)
            state.epoch, state.step = epoch + 1, 0
        rows = {row.metric: row.value for row in scores(model, images, "validation", epoch=1, device=state.device)}
    found = {"architecture": name, "candidate": candidate, "seed": seed, "size": size} | measured(model, images)
    return found | {"accuracy": rows["accuracy"], "seconds": round(time.process_time() - began, 1)}


def measured(model: torch.nn.Module, images: Images) -> dict[str, float]:
    """The mean of each measure over the layers of a trained network."""
    layers = activations(model, images.batches("validation"), samples=128, device="cpu").values()
    return {key: statistics.fmean(float(measure(x)) for x in layers) for key, measure in MEASURES.items()}


def small_runs(
    name: str, wanted: list[tuple[str, int]], images: Images, *, device: torch.device, **settings: Any
) -> list[dict]:
    """Train the small networks of one architecture together: each candidate and seed that is wanted."""
    parameters = inspect.signature(SelfSimilarityConstraint).parameters
    named = {option: parameters[option].default for option in ("weight", "cap", "ramp", "unit", "ends")}
    constraints = {
        candidate: None if options is None else {"target": TARGET} | (_FIRST_VERSION | options if options else named)
        for candidate, options in CANDIDATES.items()
    }
    epochs = settings["epochs"]  # rates are measured on the final network alone
    configs = [
        TrainConfig(name, size="small", seed=seed, constraint=constraints[candidate], evaluate_every=epochs, **settings)
        for candidate, seed in wanted
    ]
    rows = []
    runs = train_many(configs, images=[images] * len(configs), device=device)
    for (candidate, seed), run in zip(wanted, runs, strict=True):
        found = {"architecture": name, "candidate": candidate, "seed": seed, "size": "small"}
        found |= measured(run.model, images) | {"accuracy": run.series("accuracy")[-1]}
        rows.append(found | {"seconds": run.environment["seconds"], "device": run.environment["device"]})
    return rows


def table(rows: list[dict]) -> list[dict]:
    """Means over seeds, with the factor of the median distance and the paired difference of the accuracy."""
    runs: dict[tuple, dict[int, dict]] = {}
    for row in rows:
        runs.setdefault((row["size"], row["architecture"], row["candidate"]), {})[row["seed"]] = row
    lines = []
    for (size, name, candidate), constrained in runs.items():
        unconstrained = runs.get((size, name, "none"), {})
        seeds = sorted(constrained.keys() & unconstrained.keys())
        if not seeds:
            continue
        line = {"size": size, "architecture": name, "candidate": candidate, "seeds": len(seeds)}
        keys = [key for key in MEASURES if key != "median distance"]
        line |= {key: statistics.fmean(constrained[s][key] for s in seeds) for key in (*keys, "accuracy")}
        line["rate in medians without"] = statistics.fmean(unconstrained[s]["rate in medians"] for s in seeds)
        line["distance factor"] = statistics.geometric_mean(
            constrained[s]["median distance"] / unconstrained[s]["median distance"] for s in seeds
        )
        change = paired_difference(*([arm[s]["accuracy"] for s in seeds] for arm in (constrained, unconstrained)))
        line |= {"accuracy change": change.estimate}
        line["interval"] = [change.low, change.high] if len(seeds) > 1 else None
        lines.append(line)
    return lines


def page_table(result: dict, size: str = "tiny") -> str:
    """The page's table, in Markdown: changes with the default, and with detached ends and a cap of 0.15."""
    lines = {(line["architecture"], line["candidate"]): line for line in result["table"] if line["size"] == size}
    most = max(line["seeds"] for (_, candidate), line in lines.items() if candidate == "default")
    rows = []
    for name in result["settings"]:
        if (default := lines.get((name, "default"))) is None:
            continue
        fewer = f" ({default['seeds']} of {most} pairs)" if default["seeds"] < most else ""
        cells = [architecture(name).title + fewer]
        cells += [f"{100 * (default['accuracy'] - default['accuracy change']):.1f}", _change(default)]
        cells += [_change(lines.get((name, "cap .15")))]
        cells += [f"{default['rate in medians without']:.2f}\u00a0→\u00a0{default['rate in medians']:.2f}"]
        cells += [f"×\u00a0{default['distance factor']:.2f}"]
        rows.append(cells)
    return markdown(("architecture", "without, %", "change, points", "detached", "rate", "distance"), rows)


def _change(line: dict | None) -> str:
    """The change of the accuracy in points, with its interval, unbroken, where there is one."""
    if line is None:
        return "–"
    if line["interval"] is None:
        return ends([line["accuracy change"]])
    interval = Interval(line["accuracy change"], *line["interval"], level=0.95, n=line["seeds"])
    if interval.low == interval.high:
        return ends([interval.estimate]) + " in each pair"
    return change(interval).replace(", ", ",\u00a0")


def write(rows: list[dict], path: Path, **environments: dict) -> None:
    """Write all runs and their table; `environments` are those of the machines that made the runs of each size."""
    names, candidates = list(SETTINGS), list(CANDIDATES)
    rows.sort(
        key=lambda row: (
            row["size"] == "small",
            names.index(row["architecture"]),
            candidates.index(row["candidate"]),
            row["seed"],
        )
    )
    result = {"target": TARGET, "settings": SETTINGS, "small": SMALL | {"settings": SMALL_SETTINGS}}
    result |= {"candidates": CANDIDATES, "table": table(rows), "runs": rows}
    result["environment"] = stored(path).get("environment", {}) | environments
    write_atomic(path, (json.dumps(result, indent=1) + "\n").encode())


def main(given: list[str] | None = None) -> None:
    parser = output_parser(__doc__, "defaults.json")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, help="all, but for --size small: none, default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", choices=("tiny", "small"), default="tiny")
    parser.add_argument("--data-dir", help="the folder with CIFAR-10, for --size small")
    parser.add_argument("--device", default="auto", help="for --size small; the tiny networks train on the CPU")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for --size small: begin nothing after these")
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows = stored(arguments.output).get("runs", [])
    done = {(row["size"], row["architecture"], row["candidate"], row["seed"]) for row in rows}
    if arguments.size == "small":
        train_small(rows, done, arguments)
    else:
        images = load_images("digits")
        candidates = arguments.candidates or CANDIDATES
        for seed, candidate, name in itertools.product(range(arguments.seeds), candidates, arguments.only):
            if ("tiny", name, candidate, seed) not in done:
                rows.append(one_run(name, candidate, seed, images))
                write(rows, arguments.output, tiny=environment_facts())
    for line in table(rows):
        interval = "one seed" if line["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*line["interval"])
        rates = "  ".join(f"{key} {line[key]:.3f}" for key in ("rate", "rate without 3", "rate in medians"))
        accuracy = f"accuracy {line['accuracy']:.3f}, {line['accuracy change']:+.3f} ({interval})"
        name = f"{line['size']:5s} {line['architecture']:10s} {line['candidate']:28s}"
        print(f"{name}  {rates}  distance x {line['distance factor']:.2f}  {accuracy}")


def train_small(rows: list[dict], done: set[tuple], arguments: argparse.Namespace) -> None:
    """Add the runs of the small networks that are not done, architecture by architecture."""
    if arguments.data_dir is None:
        raise SystemExit("--data-dir: need the folder with CIFAR-10 for --size small")
    device = resolve_device(arguments.device)
    images = TrainConfig("mlp", size="small", data_dir=arguments.data_dir, **SMALL).load_images()
    end = time.monotonic() + 60 * arguments.minutes
    for name in arguments.only:
        candidates = arguments.candidates or ("none", "default")
        pairs = [(candidate, seed) for seed in range(arguments.seeds) for candidate in candidates]
        wanted = [pair for pair in pairs if ("small", name, *pair) not in done]
        settings = SMALL | SMALL_SETTINGS[name] | {"data_dir": arguments.data_dir}
        while wanted and time.monotonic() < end:
            if device.type == "cpu":
                one, *wanted = wanted
                rows.append(one_run(name, *one, images, size="small", **settings) | {"device": "cpu"})
            else:
                rows += small_runs(name, wanted, images, device=device, **settings)
                wanted = []
            write(rows, arguments.output, small=environment_facts(device))


if __name__ == "__main__":
    main()
