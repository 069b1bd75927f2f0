"""A finished training run: its history as tidy rows, its model, what it was made with; saved and loaded."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from ..files import LOCK, write_atomic
from ..models.architectures import create
from ..models.seeding import seeded
from .config import TrainConfig
from .evaluation import Row
from .run_directory import CONFIG, SUMS, is_finished, progress_of

HISTORY, ENVIRONMENT, MODEL, WEIGHTS = "history.csv", "environment.json", "model.json", "weights.pt"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    config : TrainConfig
        What was asked for.
    history : list of Row
        Tidy rows (epoch, split, layer, metric, value); epoch 0 is before training.
    built_as : dict
        The arguments of `selfsim.create` that built the network.
    environment : dict
        Versions, device, date and run time in seconds.
    weights : mapping of str to Tensor, or Path
        Of the epoch that ``config.select`` chose, which is the epoch of the rows on "test".
    """

    config: TrainConfig
    history: list[Row]
    built_as: dict
    environment: dict
    weights: Mapping[str, Tensor] | Path = field(repr=False)

    @functools.cached_property
    def model(self) -> nn.Module:
        """The trained network with `weights`, on the CPU, in eval mode; built when it is first asked for."""
        stored = isinstance(self.weights, Path)
        with seeded(0):  # the initial weights, which are replaced, take nothing from the caller's random state
            model = create(**self.built_as, weights=self.weights if stored else None)
        if not stored:
            model.load_state_dict(self.weights)
        return model.eval()

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
        """Write to a directory of its own: JSON, CSV, a state dict, and the SHA-256 of them all, as sha256sum has it.

        Raises
        ------
        FileExistsError
            The directory exists and is not empty.
        OSError
            It cannot be written; what lacks its ``SHA256SUMS`` is no finished run.
        """
        target = Path(directory)
        if target.exists() and any(target.iterdir()):
            raise FileExistsError(
                f"directory: {str(target)!r} is not empty; need a new one, or load_run({str(target)!r})"
            )
        target.mkdir(parents=True, exist_ok=True)
        write_run(self, target)
        return target


def write_run(run: Run, directory: Path) -> None:
    """Write the files of a finished run, each whole or not there; their sums come last and make it finished."""
    import torch

    table, weights = io.StringIO(newline=""), io.BytesIO()
    writer = csv.writer(table)
    writer.writerow(Row._fields)
    writer.writerows((*row[:4], repr(row.value)) for row in run.history)
    torch.save(run.model.state_dict() if isinstance(run.weights, Path) else dict(run.weights), weights)
    contents = {
        CONFIG: run.config.as_json().encode(),
        ENVIRONMENT: json.dumps(run.environment, indent=1).encode(),
        MODEL: json.dumps(run.built_as, indent=1).encode(),
        HISTORY: table.getvalue().encode(),
        WEIGHTS: weights.getvalue(),
    }
    for name, content in contents.items():
        write_atomic(directory / name, content)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())
    write_atomic(directory / SUMS, sums.encode())
    for path in directory.iterdir():  # checkpoints, and what a killed process left half-written
        if path.name not in {*contents, SUMS, LOCK} and path.suffix in (".pt", ".partial"):
            path.unlink()


def load_run(path: str | os.PathLike) -> Run:
    """Read a finished run that `train` saved.

    Parameters
    ----------
    path : path
        The run's directory.

    Returns
    -------
    Run
        Its model is built when it is asked for; nothing that is stored is executed.

    Raises
    ------
    FileNotFoundError
        No such directory, or no finished run in it; says how far it is.
    ValueError
        A file that is missing or not as it was written.

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
    if not is_finished(directory):
        state = progress_of(directory) if directory.is_dir() else "there is no such directory"
        raise FileNotFoundError(f"path: {str(directory)!r} is not a finished run; {state}")
    _check_sums(directory)

    def read(name: str):
        return json.loads((directory / name).read_text(encoding="utf-8"))

    with open(directory / HISTORY, newline="", encoding="utf-8") as file:
        rows = [
            Row(int(r["epoch"]), r["split"], r["layer"], r["metric"], float(r["value"])) for r in csv.DictReader(file)
        ]
    return Run(TrainConfig(**read(CONFIG)), rows, read(MODEL), read(ENVIRONMENT), directory / WEIGHTS)


def _check_sums(directory: Path) -> None:
    remedy = "remove the directory and train again"
    lines = (directory / SUMS).read_bytes().decode("utf-8", "replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if sorted(sums) != sorted((CONFIG, ENVIRONMENT, MODEL, HISTORY, WEIGHTS)):
        raise ValueError(f"path: {str(directory / SUMS)!r} is damaged, it does not list the run's files; {remedy}")
    for name, digest in sums.items():
        if not (directory / name).is_file():
            raise ValueError(f"path: {str(directory / name)!r} is missing; {remedy}")
        with open(directory / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise ValueError(
                    f"path: {str(directory / name)!r} is damaged, its SHA-256 is not that in {SUMS}; {remedy}"
                )


def load_runs(folder: str | os.PathLike) -> list[Run]:
    """Read every finished run of a folder that `train` was given as ``runs``.

    Parameters
    ----------
    folder : path
        Empty or missing: no runs. What is not a finished run is passed over.

    Returns
    -------
    list of Run
        By architecture, those without constraint first, then by seed; networks are built when they are asked for.

    Examples
    --------
    >>> load_runs("no/such/folder")
    []
    """
    folder = Path(folder)
    runs = [load_run(place) for place in folder.iterdir() if is_finished(place)] if folder.is_dir() else []

    def place_in_order(run: Run):
        config = run.config
        return config.architecture, config.constraint is not None, str(config.constraint), config.seed

    return sorted(runs, key=place_in_order)
