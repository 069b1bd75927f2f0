"""A finished training run: its history as tidy rows, its model, what it was made with; saved and loaded."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..models.architectures import create
from .config import TrainConfig

_FILES = ("config.json", "history.csv", "environment.json", "model.json", "weights.pt")


class Row(NamedTuple):
    """One number of a history: `metric` of `layer` ("" for the whole network) on `split` after `epoch`."""

    epoch: int
    split: str
    layer: str
    metric: str
    value: float


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    config : TrainConfig
        What was asked for.
    history : list of Row
        Tidy rows (epoch, split, layer, metric, value); epoch 0 is before training.
    model : nn.Module
        The trained network, on the CPU, in eval mode.
    built_as : dict
        The arguments of `selfsim.create` that built it.
    environment : dict
        Versions, device, date and run time.
    """

    config: TrainConfig
    history: list[Row]
    model: nn.Module = field(repr=False)
    built_as: dict
    environment: dict

    def series(self, metric: str, *, split: str = "validation", layer: str = "") -> list[float]:
        """Values of one metric over the epochs.

        Raises
        ------
        KeyError
            Nothing of the kind in the history.
        """
        values = [r.value for r in self.history if (r.metric, r.split, r.layer) == (metric, split, layer)]
        if not values:
            known = sorted({(r.metric, r.split) for r in self.history})
            raise KeyError(f"no metric {metric!r} of split {split!r} and layer {layer!r}; the history has {known}")
        return values

    @property
    def layers(self) -> list[str]:
        """Layers whose rates were followed, in the order of the network."""
        return list(dict.fromkeys(row.layer for row in self.history if row.layer))

    def save(self, directory: str | os.PathLike) -> Path:
        """Write to a directory of its own: JSON, CSV, and a state dict that is loaded without executing anything.

        Raises
        ------
        FileExistsError
            The directory exists and is not empty.
        """
        target = Path(directory)
        if target.exists() and any(target.iterdir()):
            raise FileExistsError(
                f"directory: {str(target)!r} is not empty; need a new one, or load_run({str(target)!r})"
            )
        # Complete or not there: written beside the target and renamed.
        partial = target.with_name(target.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        for name, content in (
            ("config.json", asdict(self.config)),
            ("environment.json", self.environment),
            ("model.json", self.built_as),
        ):
            (partial / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        with open(partial / "history.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows((*row[:4], repr(row.value)) for row in self.history)
        torch.save(self.model.state_dict(), partial / "weights.pt")
        if target.exists():
            target.rmdir()
        os.replace(partial, target)
        return target


def load_run(path: str | os.PathLike) -> Run:
    """Read a finished run that `train` saved.

    Parameters
    ----------
    path : path
        The run's directory.

    Returns
    -------
    Run
        Its model is rebuilt and in eval mode; nothing that is stored is executed.

    Raises
    ------
    FileNotFoundError
        No such directory, or no whole run in it.

    Examples
    --------
    >>> import tempfile
    >>> from selfsim import TrainConfig, train
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = train(TrainConfig("mlp", epochs=1), directory=folder, device="cpu")
    ...     load_run(folder).history == run.history
    True
    """
    directory = Path(path)
    missing = [name for name in _FILES if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(f"path: {str(directory)!r} is not a finished run, it has no {', '.join(missing)}")

    def read(name: str):
        return json.loads((directory / name).read_text(encoding="utf-8"))

    with open(directory / "history.csv", newline="", encoding="utf-8") as file:
        rows = [
            Row(int(r["epoch"]), r["split"], r["layer"], r["metric"], float(r["value"])) for r in csv.DictReader(file)
        ]
    built_as = read("model.json")
    model = create(**built_as, weights=directory / "weights.pt").eval()
    return Run(TrainConfig(**read("config.json")), rows, model, built_as, read("environment.json"))
