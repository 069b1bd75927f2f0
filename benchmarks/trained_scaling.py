"""Do the layers of networks have a range of scales, and does training change it?

    .venv/bin/python -m benchmarks.trained_scaling    # 30 minutes, into results/benchmarks/trained_scaling.json

The ten architectures at their tiny size, on the digits, as the quick preset trains them. `selfsim.scaling` measures
each layer before and after training, on 128 validation images. Beside each stand the null bands of its octaves and
deviation: normal numbers of as many samples and neurons, and its own activations shuffled over the samples. Finished
runs are kept in ``runs/digits``, and finished networks in the file.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

import selfsim
from benchmarks.defaults import SETTINGS
from benchmarks.output import output_parser, stored, write
from selfsim.models.architectures import architecture
from selfsim.models.seeding import seeded

NULLS = ("gauss", "shuffled")


def layer_row(x: torch.Tensor, *, draws: int) -> dict:
    """What `scaling` says of a layer, and the ends of its null bands; a reason where there are no numbers."""
    found = selfsim.scaling(x, draws=0)
    row = {"neurons": x.shape[1], "reason": found.deviation.reason}
    if row["reason"]:
        return row
    row |= {"octaves": found.octaves.value, "deviation": found.deviation.value, "scales": found.scales}
    row["dimension"] = found.dimension.value if found.dimension.estimable else None
    row["threshold"] = found.threshold

    statistics = {
        "octaves": lambda draw: selfsim.scaling(draw, draws=0).octaves,
        "deviation": lambda draw: selfsim.scaling(draw, draws=0).deviation,
        "scales": lambda draw: float(selfsim.scaling(draw, draws=0).scales),
    }
    for null in NULLS:
        try:
            bands = selfsim.null_band(statistics, x, null=null, draws=draws)
        except ValueError as error:  # a draw may have coincident neurons, such as those that never fire
            row[null] = {"reason": str(error)}
        else:
            row[null] = {name: [bands[name].low, bands[name].high] for name in ("octaves", "deviation")}
            row[null]["scales"] = float(bands["scales"].values.mean())
    return row


def network_rows(name: str, seed: int, images, *, runs: Path, draws: int) -> list[dict]:
    config = selfsim.TrainConfig(name, seed=seed, **SETTINGS[name])
    run = selfsim.train(config, images=images, device="cpu", runs=runs)
    with seeded(seed):
        untrained = selfsim.create(**run.built_as)
    rows = []
    for state, model in (("untrained", untrained), ("trained", run.model)):
        hidden = selfsim.activations(model, images.batches("validation"), layers=run.layers, samples=128, device="cpu")
        about = {"architecture": name, "family": architecture(name).family, "seed": seed, "state": state}
        rows += [about | {"layer": layer} | layer_row(x, draws=draws) for layer, x in hidden.items()]
    return rows


def main() -> None:
    parser = output_parser(__doc__, "trained_scaling.json")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=40, help="of each null model")
    parser.add_argument("--runs", type=Path, default=Path("runs/digits"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {"layers": []} | stored(arguments.output)
    images = selfsim.load_images("digits")
    for seed, name in itertools.product(range(arguments.seeds), arguments.only):
        if any((row["architecture"], row["seed"]) == (name, seed) for row in result["layers"]):
            continue
        rows = network_rows(name, seed, images, runs=arguments.runs, draws=arguments.draws)
        result["layers"] += rows
        write(arguments.output, result | {"draws": arguments.draws, "settings": SETTINGS})
        scales = {s: [row.get("scales", False) for row in rows if row["state"] == s] for s in ("untrained", "trained")}
        counts = ", ".join(f"{sum(found)} of {len(found)} layers scale {state}" for state, found in scales.items())
        print(f"{name} {seed}: {counts}", flush=True)


if __name__ == "__main__":
    main()
