"""Run the second study (study/design.md) on one machine: ``python -m study.convergence --help``.

All runs of one architecture are trained together, as one stacked network. Tables are written after each batch, and
what they have is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import selfsim
from selfsim import TrainConfig, null_band, scaling_deviation, ss_rate
from selfsim.files import write_atomic
from selfsim.models.images import Images
from selfsim.training.provenance import environment_facts
from selfsim.training.stack import Stack
from selfsim.training.torch_settings import torch_settings

from . import convergence_tables as tables
from .convergence_tables import ARMS, CONTROL, FAMILIES, FREE, HOLD, LOWER, PAIRS, PUBLISHED, SCALING

# Set by the pilot (study/design.md): images and epochs, and the smallest of five learning rates, each twice the last.
REGIMES: dict[str, dict[str, Any]] = {
    "mlp": {"train_images": 2000, "epochs": 60},
    "vit_small": {"train_images": 1000, "epochs": 60},
    "resmlp": {"train_images": 1000, "epochs": 60},
    "mixer": {"train_images": 1000, "epochs": 60},
    "resnet34": {"train_images": 1000, "epochs": 60},
}
SMALLEST_RATES = {"mlp": 6.25e-5, "vit_small": 2.5e-4, "resmlp": 1e-3, "mixer": 5e-4, "resnet34": 1e-3}
RATES = 5
# The positive control is the better of these on validation images.
CONTROLS: dict[str, dict[str, float]] = {
    "mixup": {"label_smoothing": 0.1, "mixup": 0.8},
    "decay": {"label_smoothing": 0.1, "weight_decay": 0.5},
}
TUNING_SEED = 1000
SEEDS = tuple(range(PAIRS))
NOISE_SEEDS = (8, 9)  # of the free arm alone, for its noise floor
_READ_BATCHES = 8
_MEASURES = {
    "ss_rate": partial(ss_rate, check=False),
    "ss_rate_median": partial(ss_rate, unit="median", check=False),
    "scaling_deviation": partial(scaling_deviation, check=False),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study by command-line arguments, as far as the minutes go."""
    parser = argparse.ArgumentParser(prog="python -m study.convergence", description=__doc__)
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--results", default="results/convergence", help="folder of the tables")
    parser.add_argument(
        "--stages", nargs="+", choices=("tune-free", "tune", "runs"), default=("tune-free", "tune", "runs")
    )
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(*SEEDS, *NOISE_SEEDS))
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates to tune over; by default the design's")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no batch that would end later")
    parser.add_argument("--together", type=int, default=60, help="most networks trained at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--commit", help="of this code, where git cannot tell")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("NAME", "JSON"), help="of every run")
    chosen = parser.parse_args(arguments)
    study = Study(
        results=Path(chosen.results),
        data=chosen.data,
        device=selfsim.validation.resolve_device(chosen.device),
        rates=chosen.rates and tuple(chosen.rates),
        seeds=tuple(chosen.seeds),
        together=chosen.together,
        changed={name: json.loads(value) for name, value in chosen.option},
        commit=chosen.commit,
        ends=time.monotonic() + 60 * chosen.minutes,
    )
    for family in chosen.families:
        for stage in ("tune-free", "tune", "runs"):
            if stage in chosen.stages:
                getattr(study, stage.replace("-", "_"))(family)


@dataclasses.dataclass(kw_only=True, eq=False)
class Study:
    """The batches of runs of the study, each trained at once, and the tables that they fill."""

    results: Path
    data: str
    device: torch.device
    rates: tuple[float, ...] | None
    seeds: tuple[int, ...]
    together: int
    changed: dict[str, Any]
    commit: str | None
    ends: float

    def __post_init__(self) -> None:
        self.fixed: dict[str, Any] = dict(
            size="small", dataset="cifar10", validation_images=1000, test_images=10000, batch_size=64, augment=True,
            precision="bfloat16",
        )  # fmt: skip
        self.images = cache(self._images)
        self.converged_file = self.results / "converged.json"
        self.seconds_a_run: dict[str, float] = {}

    def config(self, family: str, arm: str, *, rate: float, seed: int, form: str = "none") -> TrainConfig:
        """Return the configuration of one run; constrained arms need the converged rates of the tuned free run."""
        options = self.fixed | REGIMES[family] | self.changed | {"seed": seed, "subset": seed, "learning_rate": rate}
        if arm == CONTROL:
            options |= CONTROLS[form]
        elif arm != FREE:
            options["constraint"] = self.constraint(family, arm)
        return TrainConfig(family, evaluate_every=max(options["epochs"] // 5, 1), data_dir=self.data, **options)

    def constraint(self, family: str, arm: str) -> dict[str, Any]:
        """Return the options of an arm's constraint, with its targets by layer."""
        converged = self._converged()[family]
        if arm == PUBLISHED:
            return {"paper": True, "target": converged["ss_rate"], "weight": 0.05, "gate": 0.05, "gate_every": 5}
        default = {"weight": None, "cap": 0.3, "ramp": [0.3, 0.6], "unit": "median", "ends": "detached"}
        if arm == SCALING:
            return default | {"measure": "scaling", "target": 0.03}
        target = {HOLD: converged["ss_rate_median"], LOWER: converged["half_of_noise"]}[arm]
        return default | {"target": target}

    def _images(self, train_images: int, seed: int) -> Images:
        """Load the training images of a seed; validation and test images, ten times as many, are read once."""
        options = self.fixed | self.changed | {"train_images": train_images, "subset": seed}
        if seed == TUNING_SEED:
            return TrainConfig("mlp", data_dir=self.data, **options).load_images()
        few = {"validation_images": 128, "test_images": 128}
        images = TrainConfig("mlp", data_dir=self.data, **(options | few)).load_images()
        shared = self.images(train_images, TUNING_SEED)
        return dataclasses.replace(images, validation=shared.validation, test=shared.test)

    # The stages.

    def tune_free(self, family: str) -> None:
        """Tune free and control, and keep the rates at which the tuned free run converged."""
        if self._tune(family, (FREE, CONTROL)) and "half_of_noise" not in self._converged()[family]:
            self._keep_converged(family, half_of_noise=self._half_of_noise(family))

    def tune(self, family: str) -> None:
        """Tune the constrained arms, whose targets come from the tuned free run."""
        if "half_of_noise" in self._converged().get(family, {}):  # written last
            self._tune(family, (HOLD, LOWER, SCALING, PUBLISHED))

    def _tune(self, family: str, arms: Sequence[str]) -> bool:
        """Tune arms as far as the minutes go, and return whether they are tuned."""
        tried = self.rates or tuple(SMALLEST_RATES[family] * 2**step for step in range(RATES))
        plan = [
            (arm, form, rate) for arm in arms for form in (CONTROLS if arm == CONTROL else ("none",)) for rate in tried
        ]
        done = {_in_table(row.arm, row.form, row.learning_rate) for row in self._tuning(family).itertuples()}
        left = [cell for cell in plan if _in_table(*cell) not in done]

        def config(arm: str, form: str, rate: float) -> TrainConfig:
            return self.config(family, arm, rate=rate, seed=TUNING_SEED, form=form)

        for part, _, batch in self._batches(family, left, config):
            self._write_tuning(family, part, batch)
            left = left[len(part) :]
        if left:
            return False
        found = self._tuning(family)
        for arm in arms:
            of_arm = found.index[found.arm == arm]
            found.loc[of_arm, "chosen"] = of_arm == max(of_arm, key=lambda place: _order(found.loc[place]))
        tables.write(self.results, tuning=found)
        return True

    def _write_tuning(self, family: str, cells: Sequence[tuple[str, str, float]], batch: dict[str, Any]) -> None:
        """Keep the accuracies of some tuning runs, and the converged rates of the best free run so far."""
        scores = zip(batch["validation"], batch["clean"], strict=True)
        rows = [
            {
                "architecture": family, "arm": arm, "form": form, "learning_rate": rate, "seed": TUNING_SEED,
                "validation_accuracy": score, "chosen": False, "train_accuracy": of_train,
            }
            for (arm, form, rate), (score, of_train) in zip(cells, scores, strict=True)
        ]  # fmt: skip
        fresh, known = pd.DataFrame(rows), self._tuning(family)
        best = max((_order(row) for row in known[known.arm == FREE].itertuples()), default=(-math.inf, -math.inf))
        for place in fresh.index[fresh.arm == FREE]:
            if _order(fresh.loc[place]) > best:
                best = _order(fresh.loc[place])
                rates = batch["rates"].items()
                converged = {name: {layer: of[place] for layer, of in by_layer.items()} for name, by_layer in rates}
                self._keep_converged(family, **converged)
        self._write_curves(family, cells, batch["history"])
        tables.write(self.results, tuning=fresh)  # last: what it has is not run again

    def _tuning(self, family: str) -> pd.DataFrame:
        known = tables.read(self.results).tuning
        return known[(known.architecture == family) & (known.seed == TUNING_SEED)]

    def _converged(self) -> dict[str, Any]:
        return json.loads(self.converged_file.read_text()) if self.converged_file.is_file() else {}

    def _keep_converged(self, family: str, **values: dict[str, Any]) -> None:
        known = self._converged()
        self.results.mkdir(parents=True, exist_ok=True)
        text = json.dumps(known | {family: known.get(family, {}) | values}, indent=1) + "\n"
        write_atomic(self.converged_file, text.encode())

    def _write_curves(
        self, family: str, cells: Sequence[tuple[str, str, float]], histories: Sequence[Sequence[Any]]
    ) -> None:
        """Keep the validation accuracy of tuning runs at every look, for the regime."""
        rows = [
            (family, arm, form, rate, row.epoch, row.value)
            for (arm, form, rate), history in zip(cells, histories, strict=True)
            for row in history
            if (row.split, row.metric) == ("validation", "accuracy")
        ]
        columns = ["architecture", "arm", "form", "learning_rate", "epoch", "accuracy"]
        file = self.results / "tuning-curves.csv"
        stored = [pd.read_csv(file)] if file.is_file() else []
        table = pd.concat([*stored, pd.DataFrame(rows, columns=columns)])
        table = table.drop_duplicates([*columns[:4], "epoch"], keep="last")
        self.results.mkdir(parents=True, exist_ok=True)
        write_atomic(file, table.to_csv(index=False, float_format="%.6g").encode())

    def runs(self, family: str) -> None:
        """Train all arms of one architecture with every seed."""
        known = tables.read(self.results)
        tuned = known.tuning[known.tuning.architecture == family]
        best = tuned[tuned.chosen.astype(bool)]
        rate_of = dict(zip(best.arm, best.learning_rate, strict=True))
        form_of = dict(zip(best.arm, best.form, strict=True))
        done = set(known.runs.run)
        # Seed by seed, so that a study which is stopped early has whole pairs.
        cells = [(arm, seed) for seed in self.seeds for arm in ((FREE,) if seed in NOISE_SEEDS else ARMS)]
        plan = [(arm, seed) for arm, seed in cells if arm in rate_of and f"{family}-{arm}-{seed}" not in done]
        self._check_same_machine(known.runs[known.runs.architecture == family], {seed for _, seed in plan})

        def config(arm: str, seed: int) -> TrainConfig:
            return self.config(family, arm, rate=rate_of[arm], seed=seed, form=form_of[arm])

        for part, configs, batch in self._batches(family, plan, config):
            self._write_batch([f"{family}-{arm}-{seed}" for arm, seed in part], part, configs, batch)

    def _check_same_machine(self, done: pd.DataFrame, seeds: set[int]) -> None:
        """Raise ``ValueError`` where the rest of a seed would be run on another card, or in another precision."""
        here = _card(self.device), (self.fixed | self.changed)["precision"]
        of_seeds = done[done.seed.isin(seeds)]
        for seed, there in zip(of_seeds.seed, zip(of_seeds.card, of_seeds.precision, strict=True), strict=True):
            if there != here:
                raise ValueError(f"seeds: got {seed}, whose other runs were made on {there}, and this is {here}")

    def _write_batch(
        self,
        names: Sequence[str],
        cells: Sequence[tuple[str, int]],
        configs: Sequence[TrainConfig],
        batch: dict[str, Any],
    ) -> None:
        environment = environment_facts(self.device)
        libraries = environment["libraries"] | {"python": environment["python"]}
        rows, history = [], []
        for k, (name, (arm, seed), config) in enumerate(zip(names, cells, configs, strict=True)):
            constraint = "" if config.constraint is None else json.dumps(dict(config.constraint))
            rows.append({
                "run": name, "status": "failed" if k in batch["failed"] else "done",
                "architecture": config.architecture, "arm": arm, "seed": seed, "subset": config.subset,
                "learning_rate": config.learning_rate, "test_accuracy": batch["test"][k],
                "train_accuracy": batch["clean"][k], "validation_accuracy": batch["validation"][k],
                "constraint": constraint, "epochs": config.epochs, "train_images": config.train_images,
                "validation_images": config.validation_images, "test_images": config.test_images,
                "batch_size": config.batch_size, "weight_decay": config.weight_decay,
                "label_smoothing": config.label_smoothing, "mixup": config.mixup, "precision": config.precision,
                "card": _card(self.device), "seconds": round(batch["seconds"] / len(names), 3), "together": len(names),
                "version": selfsim.__version__, "commit": self.commit or environment["commit"],
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "libraries": json.dumps(libraries),
            })  # fmt: skip
            history += _history_rows(name, batch["history"][k])
            for epoch, rates in batch["looks"].items():
                for layer in rates["ss_rate"]:
                    history.append({"run": name, "epoch": epoch, "split": "train", "layer": layer} | {
                        measure: by_layer[layer][k] for measure, by_layer in rates.items()
                    })  # fmt: skip
        tables.write(self.results, runs=pd.DataFrame(rows), history=pd.DataFrame(history, columns=list(tables.HISTORY)))

    # One batch on the device.

    def _batches(
        self, family: str, cells: Sequence[Any], config: Callable[..., TrainConfig]
    ) -> Iterator[tuple[list[Any], list[TrainConfig], dict[str, Any]]]:
        """Train cells together, as many as memory and the minutes allow; yield those of each batch and what it gave."""
        left = list(cells)
        while fitting := self._fitting(family, min(len(left), self.together)):
            part = sorted(left[:fitting], key=lambda cell: ARMS.index(cell[0]))  # neighbours share a measure
            configs = [config(*cell) for cell in part]
            images_of = partial(self.images, configs[0].train_images)
            images_of(TUNING_SEED)  # before the threads, which share its test images
            seeds = sorted({config.seed for config in configs})
            with ThreadPoolExecutor(8) as pool:
                images = dict(zip(seeds, pool.map(images_of, seeds), strict=True))
            try:
                done = self._batch(family, configs, [images[config.seed] for config in configs])
            except torch.OutOfMemoryError:
                if fitting == 1:
                    raise
                torch.cuda.empty_cache()
                self.together = -(-fitting // 2)
                continue
            yield part, configs, done
            left = left[fitting:]

    def _batch(self, family: str, configs: Sequence[TrainConfig], images: Sequence[Images]) -> dict[str, Any]:
        clock = time.monotonic if self.device.type == "cuda" else time.process_time  # a CPU has other work
        began, started = clock(), time.monotonic()
        config = configs[0]
        looks = {0, round(0.9 * config.epochs), config.epochs}
        with torch_settings():
            stack = Stack(configs, images, self.device)
            seen: dict[int, Any] = {}
            for epoch in range(config.epochs + 1):
                if epoch:
                    stack.train_epoch(epoch)
                if epoch % config.evaluate_every == 0 or epoch in looks:
                    stack.evaluate(epoch)
                if epoch in looks:
                    seen[epoch] = training_rates(stack)
            stack.finish()
            seconds = clock() - began
            self.seconds_a_run[family] = (time.monotonic() - started) / len(configs)
            last = {
                (split, metric): [_last(history, split, metric) for history in stack.history]
                for split, metric in (("validation", "accuracy"), ("train", "clean_accuracy"), ("test", "accuracy"))
            }
        print(f"{family}: {len(configs)} runs in {seconds:.1f} s", flush=True)
        return {
            "validation": last["validation", "accuracy"], "clean": last["train", "clean_accuracy"],
            "test": last["test", "accuracy"], "history": stack.history, "looks": seen, "rates": seen[config.epochs],
            "failed": stack.failed, "seconds": seconds,
        }  # fmt: skip

    def _fitting(self, family: str, runs: int) -> int:
        """Return how many of `runs` will be done in time: all, or whole seeds of several, or none."""
        seconds = self.seconds_a_run.get(family, 0.0)
        left = self.ends - time.monotonic()
        if left <= 0:
            return 0
        if runs * seconds <= left:
            return runs
        arms = min(len(ARMS), runs)
        return int(left / (arms * seconds)) * arms

    def _half_of_noise(self, family: str) -> dict[str, float]:
        """Return half the lower end of each layer's null band, in units of the median."""
        config = self.config(family, FREE, rate=0.001, seed=TUNING_SEED)
        images = self.images(config.train_images, TUNING_SEED)
        stack = Stack([config], [images], torch.device("cpu"))
        values: dict[str, torch.Tensor] = {}
        x = images.prepared(images.train.images[: config.batch_size])
        with torch.no_grad(), stack.reading(values):
            stack.logits(x[None])
        return {layer: self._lower_end(*value.shape[1:]) / 2 for layer, value in values.items()}

    def _lower_end(self, samples: int, neurons: int) -> float:
        """Return the lower end of the null band in units of the median; kept in a file, for it takes seconds."""
        file, key = self.results / "noise.json", f"{samples} samples, {neurons} neurons"
        known = json.loads(file.read_text()) if file.is_file() else {}
        if key not in known:
            like = torch.randn(samples, neurons, generator=torch.Generator().manual_seed(0))
            known[key] = float(null_band(partial(ss_rate, unit="median"), like, null="gauss", draws=1000).low)
            self.results.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known, indent=1) + "\n")
        return known[key]


@torch.no_grad()
def training_rates(stack: Stack) -> dict[str, dict[str, list[float]]]:
    """Return the mean rates of every layer and network over training batches, as a constraint reads them.

    In training mode, on eight batches without augmentation; running statistics are put back.
    """
    kept = {name: buffer.clone() for name, buffer in stack.buffers.items()}
    stack.template.train()
    order = torch.randperm(stack.pictures.shape[1], generator=torch.Generator().manual_seed(0))
    sums: dict[str, dict[str, torch.Tensor]] = {name: {} for name in _MEASURES}
    batches = order.split(stack.batch)[: min(_READ_BATCHES, stack.steps_per_epoch)]
    for places in batches:
        x = (stack.pictures[:, places.to(stack.device)].float() - stack.mean) / stack.std
        values: dict[str, torch.Tensor] = {}
        with stack.reading(values):
            stack.logits(x[stack.set_of])
        for layer, value in values.items():
            for name, measure in _MEASURES.items():
                sums[name][layer] = sums[name].get(layer, 0) + measure(value)
    for name, buffer in stack.buffers.items():
        buffer.copy_(kept[name])
    return {
        name: {layer: (total / len(batches)).tolist() for layer, total in by_layer.items()}
        for name, by_layer in sums.items()
    }


def _in_table(arm: str, form: str, learning_rate: float) -> tuple[str, str, str]:
    """Return the key of a tuning run, its learning rate with the digits of the table."""
    return arm, form, f"{learning_rate:.6g}"


def _order(row: Any) -> tuple[float, float]:
    """Return what is largest in the best tuning run: of equal ones that with the lowest learning rate."""
    score = row.validation_accuracy
    return (-math.inf if math.isnan(score) else score), -row.learning_rate


def _last(history: Sequence[Any], split: str, metric: str) -> float:
    return next(row.value for row in reversed(history) if (row.split, row.metric, row.layer) == (split, metric, ""))


def _history_rows(name: str, history: Sequence[Any]) -> list[dict[str, Any]]:
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for row in history:
        if row.split == "validation" and row.metric in tables.HISTORY:
            key = row.epoch, row.layer
            place = {"run": name, "epoch": row.epoch, "split": row.split, "layer": row.layer}
            rows.setdefault(key, place)[row.metric] = row.value
    return list(rows.values())


def _card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else tables.CPU


if __name__ == "__main__":
    main()
