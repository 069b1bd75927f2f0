"""Check the default target and weight of the constraint on every architecture.

    .venv/bin/python -m benchmarks.defaults                    # prints a table, writes results/benchmarks/defaults.json
    .venv/bin/python -m benchmarks.defaults --only mlp pvt   # runs these, keeps the results of the others

Every architecture at its tiny size is trained on the digits, without constraint and with several weights, from the
same seeds. The file is written after each run, and finished runs in it are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path

import torch

from selfsim import TrainConfig, activations, load_images, pair_distances, ss_rate, train
from selfsim.files import write_atomic
from selfsim.training.provenance import environment_facts
from selfsim.uncertainty import paired_difference

TARGET = 0.1
WEIGHTS = (0.0, 10.0, 30.0, 3.0, 1.0)  # in the order of the runs; 0 is the unconstrained run
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
MEASURES = {
    "rate": ss_rate,
    "rate without 3": lambda x: ss_rate(x, leave_out=3),
    "rate of quantiles": lambda x: ss_rate(x, quantiles=(0.01, 0.99)),
    "median distance": lambda x: pair_distances(x).median(),
}


def one_run(name: str, weight: float, seed: int, images) -> dict:
    constraint = {"target": TARGET, "weight": weight} if weight else None
    run = train(TrainConfig(name, constraint=constraint, seed=seed, **SETTINGS[name]), images=images, device="cpu")
    layers = activations(run.model, images.batches("validation"), samples=128, device="cpu").values()
    means = {key: statistics.fmean(float(measure(x)) for x in layers) for key, measure in MEASURES.items()}
    accuracy = run.series("accuracy", split="test")[-1]
    return {"architecture": name, "weight": weight, "seed": seed, **means, "accuracy": accuracy}


def table(rows: list[dict]) -> list[dict]:
    """Means over seeds, with the factor of the median distance and the paired difference of the accuracy."""
    lines = []
    for name in dict.fromkeys(row["architecture"] for row in rows):
        for weight in sorted({row["weight"] for row in rows if row["architecture"] == name}):
            constrained, unconstrained = (
                {row["seed"]: row for row in rows if (row["architecture"], row["weight"]) == (name, w)}
                for w in (weight, 0.0)
            )
            seeds = sorted(constrained.keys() & unconstrained.keys())
            if not seeds:
                continue
            line = {"architecture": name, "weight": weight, "seeds": len(seeds)}
            line |= {
                key: statistics.fmean(constrained[s][key] for s in seeds)
                for key in ("rate", "rate without 3", "rate of quantiles", "accuracy")
            }
            line["distance factor"] = statistics.geometric_mean(
                constrained[s]["median distance"] / unconstrained[s]["median distance"] for s in seeds
            )
            accuracies = ([runs[s]["accuracy"] for s in seeds] for runs in (constrained, unconstrained))
            change = paired_difference(*accuracies)
            line |= {"accuracy change": change.estimate}
            line["interval"] = [change.low, change.high] if len(seeds) > 1 else None
            lines.append(line)
    return lines


def write(rows: list[dict], path: Path) -> None:
    result = {"target": TARGET, "settings": SETTINGS, "table": table(rows), "runs": rows}
    result["environment"] = environment_facts("cpu")
    write_atomic(path, (json.dumps(result, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/defaults.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(arguments.output.read_text(encoding="utf-8"))["runs"] if arguments.output.exists() else []
    write(rows, arguments.output)
    done = {(row["architecture"], row["weight"], row["seed"]) for row in rows}
    images = load_images("digits")
    order = list(SETTINGS)
    for seed, weight, name in itertools.product(range(arguments.seeds), WEIGHTS, arguments.only):
        if (name, weight, seed) not in done:
            rows.append(one_run(name, weight, seed, images))
            rows.sort(key=lambda row: (order.index(row["architecture"]), row["weight"], row["seed"]))
            write(rows, arguments.output)
    for line in table(rows):
        interval = "one seed" if line["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*line["interval"])
        rates = "  ".join(f"{key} {line[key]:.3f}" for key in ("rate", "rate without 3", "rate of quantiles"))
        accuracy = f"accuracy {line['accuracy']:.3f}, {line['accuracy change']:+.3f} ({interval})"
        name = f"{line['architecture']:12s} weight {line['weight']:4g}"
        print(f"{name}  {rates}  distance x {line['distance factor']:.2f}  {accuracy}")


if __name__ == "__main__":
    main()
