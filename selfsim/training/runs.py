"""A run on disk: its directory and lock, its checkpoints, its finished files, and the one way to read them."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import LOCK, files_state, locked_directory, write_atomic
from ..models.architectures import create
from ..models.images import Images
from ..models.seeding import seeded
from .config import TrainConfig, check_same_configuration, stored_config
from .data_record import check_same_data, data_record, record_of
from .evaluation import Row
from .torch_settings import torch_settings

CONFIG, ENVIRONMENT, MODEL = "config.json", "environment.json", "model.json"
HISTORY, WEIGHTS = "history.csv", "weights.pt"
SUMS = "SHA256SUMS"
# Two checkpoints, so that one is left if the other is corrupt.
_KEPT = 2
_REMEDY = "remove the directory and train again"


class DamagedRunError(ValueError):
    """A run whose files are missing, corrupt or of a version that this one cannot read; names file and cause."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    config : TrainConfig
    history : list of Row
        Tidy rows (epoch, split, layer, metric, value); epoch 0 is before training.
    built_as : dict
        The arguments of `selfsim.create` that built the network.
    environment : dict
        Versions, device, date, run time in seconds, and "data": the sizes and fingerprints of the images. Runs of
        earlier versions have no "data".
    weights : mapping of str to Tensor, or Path
        Weights of the epoch that ``config.select`` chose. The rows on "test" are of the same epoch.
    weights_sha256 : str, optional
        The SHA-256 of the file `weights`, which `model` checks.
    """

    config: TrainConfig
    history: list[Row]
    built_as: dict[str, Any]
    environment: dict[str, Any]
    weights: Mapping[str, Tensor] | Path = field(repr=False)
    weights_sha256: str | None = field(default=None, repr=False, compare=False)

    @functools.cached_property
    def model(self) -> nn.Module:
        """The trained network with `weights`, on the CPU, in eval mode. It is built at the first access.

        Raises
        ------
        DamagedRunError
            The file of weights is missing, or changed since the run was loaded.
        """
        stored = self.weights if isinstance(self.weights, Path) else None
        if stored:
            _read_intact(stored, self.weights_sha256)
        with torch_settings(), seeded(0):  # the caller's random state does not change
            model = create(**self.built_as, weights=stored)
        if not isinstance(self.weights, Path):
            model.load_state_dict(self.weights)
        return model.eval()

    def series(self, metric: str, *, split: str = "validation", layer: str = "") -> list[float]:
        """Return the values of one metric over the epochs.

        Raises
        ------
        KeyError
            The history has no such metric; names those that it has.
        """
        values = [r.value for r in self.history if (r.metric, r.split, r.layer) == (metric, split, layer)]
        if not values:
            known = sorted({(r.metric, r.split) for r in self.history})
            raise KeyError(f"no metric {metric!r} of split {split!r} and layer {layer!r}; the history has {known}")
        return values

    @property
    def layers(self) -> list[str]:
        """Names of the layers that were followed, in the order of the network."""
        return list(dict.fromkeys(row.layer for row in self.history if row.layer))

    def save(self, directory: str | os.PathLike) -> Path:
        """Write the run to a new directory: JSON, CSV, a state dict, and their SHA-256 in the format of sha256sum.

        Raises
        ------
        FileExistsError
            The directory exists and is not empty.
        OSError
            The directory cannot be written. Without its ``SHA256SUMS`` it does not count as a finished run.
        """
        target = Path(directory).expanduser()
        if target.exists() and any(target.iterdir()):
            raise FileExistsError(
                f"directory: {str(target)!r} is not empty; need a new one, or load_run({str(target)!r})"
            )
        target.mkdir(parents=True, exist_ok=True)
        write_run(self, target)
        return target


def run_directory(
    config: TrainConfig, *, runs: str | os.PathLike | None = None, directory: str | os.PathLike | None = None
) -> Path | None:
    """Return a run's directory: `directory`, or the one in `runs` that the configuration names; None for neither.

    Raises
    ------
    ValueError
        Both are given.
    """
    if runs is not None and directory is not None:
        raise ValueError(
            f"runs, directory: got both ({os.fspath(runs)!r} and {os.fspath(directory)!r}), need one at most"
        )
    if runs is not None:
        return Path(runs).expanduser() / config.name
    return None if directory is None else Path(directory).expanduser()


def is_finished(directory: str | os.PathLike) -> bool:
    """Whether a directory holds a finished run: its ``SHA256SUMS`` is written last."""
    return (Path(directory) / SUMS).is_file()


def finished_run(directory: Path, config: TrainConfig, images: Images | None) -> Run:
    """Read a finished run if it has the configuration `config` and its data are those of today.

    Raises
    ------
    ValueError
        The run has another configuration, was trained on other images, or is damaged.
    """
    check_same_configuration(_stored_configuration(directory), config, where=str(directory))
    run = load_run(directory)
    check_run_data(run, directory, images)
    return run


def check_run_data(
    run: Run,
    directory: Path,
    images: Images | None = None,
    *,
    state_of: Callable[[Any], str | None] = files_state,
) -> None:
    """Raise ``ValueError`` if a run was trained on other images than those of today.

    Without `images`, they are loaded and compared only if `state_of` says that files of the data have changed.
    """
    record = run.environment.get("data")
    if record is not None and images is not None:
        check_same_data(record, data_record(images), where=str(directory))
    elif record is not None and state_of(run.config.data_dir) not in (None, record.get("files")):
        check_same_data(record, record_of(run.config.images), where=str(directory))


def _stored_configuration(directory: Path) -> dict[str, Any]:
    try:
        stored = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        if not (isinstance(stored, dict) and isinstance(stored.get("epochs"), int)):
            raise ValueError("it holds no configuration")
    except (ValueError, FileNotFoundError) as error:
        raise DamagedRunError(f"directory: {str(directory / CONFIG)!r} is damaged ({error}); {_REMEDY}") from error
    return stored


@contextmanager
def locked_run(directory: Path, config: TrainConfig) -> Iterator[None]:
    """Lock a run's directory against other processes and store its configuration there.

    Raises
    ------
    BlockingIOError
        Another process holds the lock.
    FileExistsError
        The directory has files, but no run.
    ValueError
        The stored run has another configuration.
    OSError
        The directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = {path.name for path in directory.iterdir()} - {LOCK, f"{CONFIG}.partial"}
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"cannot write ({error.strerror})", str(directory)) from error
    if present and CONFIG not in present:
        raise FileExistsError(f"directory: {str(directory)!r} is not empty and holds no run; need a new or empty one")
    with locked_directory(directory):
        if (directory / CONFIG).is_file():
            check_same_configuration(_stored_configuration(directory), config, where=str(directory))
        else:
            write_atomic(directory / CONFIG, config.as_json().encode())
        yield


def checkpoint_files(directory: Path) -> dict[tuple[int, int], Path]:
    """Return position (completed epochs, steps after them) -> file, oldest first."""
    files = {}
    for path in directory.glob("checkpoint-*.pt"):
        if match := re.fullmatch(r"checkpoint-(\d+)-(\d+)\.pt", path.name):
            files[int(match[1]), int(match[2])] = path
    return dict(sorted(files.items()))


def save_checkpoint(directory: Path, position: tuple[int, int], state: Mapping[str, Any]) -> None:
    """Save a state of tensors, numbers, strings and containers of them; remove all but the last two checkpoints.

    Raises
    ------
    OSError
        The checkpoint cannot be written; earlier ones are intact.

    Notes
    -----
    A checkpoint is one line with the SHA-256 of the rest, followed by what `torch.save` writes. `torch.load` ignores
    the checksums of its own format: of 2,000 flipped bits it misses 1,934, and 1,854 of these change what is loaded.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    epochs, steps = position
    path = directory / f"checkpoint-{epochs:05d}-{steps:07d}.pt"
    write_atomic(path, hashlib.sha256(payload).hexdigest().encode() + b"\n", payload)
    for old in list(checkpoint_files(directory).values())[:-_KEPT]:
        old.unlink()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint; nothing in the file is executed.

    Raises
    ------
    ValueError
        The content does not match its SHA-256, or holds more than plain data.
    """
    digest, _, payload = path.read_bytes().partition(b"\n")
    if digest != hashlib.sha256(payload).hexdigest().encode():
        raise ValueError(f"checkpoint: {str(path)!r} is damaged, its SHA-256 is not that of its content")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"checkpoint: {str(path)!r} is not one of selfsim's ({error})") from error


def last_checkpoint(directory: Path) -> dict[str, Any] | None:
    """Return the newest intact checkpoint, or None; corrupt ones are renamed to ``damaged-*`` with a warning."""
    for path in reversed(checkpoint_files(directory).values()):
        try:
            return read_checkpoint(path)
        except ValueError as error:
            # Renamed, so that it does not count as one of the last two.
            os.replace(path, path.with_name("damaged-" + path.name))
            warnings.warn(f"{error}; training resumes from the checkpoint before it, or from the start", stacklevel=2)
    return None


def write_run(run: Run, directory: Path) -> None:
    """Write the files of a finished run, each atomically and ``SHA256SUMS`` last; then remove its checkpoints."""
    table, weights = io.StringIO(newline=""), io.BytesIO()
    writer = csv.writer(table)
    writer.writerow(Row._fields)
    writer.writerows((*row[:4], repr(row.value)) for row in run.history)
    if isinstance(run.weights, Path):  # of a loaded run, whose model its user may have changed
        weights.write(_read_intact(run.weights, run.weights_sha256))
    else:
        torch.save(dict(run.weights), weights)
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
    # Checkpoints, and what a killed process left half-written; other files are not ours.
    ours = [r"(damaged-)?checkpoint-\d+-\d+\.pt", r"checkpoint-\d+-\d+\.pt\.partial"]
    left = re.compile("|".join([*ours, *(re.escape(f"{name}.partial") for name in contents)]))
    for path in directory.iterdir():
        if left.fullmatch(path.name):
            path.unlink()


def load_run(path: str | os.PathLike) -> Run:
    """Read a finished run that `train` or `Run.save` wrote, and check the SHA-256 of every file.

    Parameters
    ----------
    path : path
        The run's directory.

    Returns
    -------
    Run
        Its model is built at the first access. Nothing in the files is executed.

    Raises
    ------
    FileNotFoundError
        No such directory, or no finished run in it; says how many epochs are saved.
    DamagedRunError
        A file is missing or corrupt, or a newer version wrote the run; a ``ValueError`` that names directory or file.

    Examples
    --------
    >>> import tempfile
    >>> from selfsim import TrainConfig, train
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = train(TrainConfig("mlp", epochs=1), directory=folder, device="cpu")
    ...     load_run(folder).history == run.history
    True
    """
    directory = Path(path).expanduser()
    if not is_finished(directory):
        state = _progress(directory) if directory.is_dir() else "there is no such directory"
        raise FileNotFoundError(f"path: {str(directory)!r} is not a finished run; {state}")
    sums = _read_sums(directory)
    contents = {name: _read_intact(directory / name, digest) for name, digest in sums.items()}
    try:
        stored, built_as, environment = (json.loads(contents[name]) for name in (CONFIG, MODEL, ENVIRONMENT))
        rows = csv.DictReader(io.StringIO(contents[HISTORY].decode("utf-8"), newline=""))
        history = [Row(int(r["epoch"]), r["split"], r["layer"], r["metric"], float(r["value"])) for r in rows]
        version = environment.get("version", "unknown")
        known = {option.name for option in fields(TrainConfig)}, {"name", "size", "num_classes", "in_chans"}
        unknown = sorted((stored.keys() - known[0]) | (built_as.keys() - known[1]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedRunError(f"path: {str(directory)!r} is damaged ({error!r}); {_REMEDY}") from error
    try:
        if unknown:
            raise ValueError(f"unknown fields {', '.join(unknown)}")
        config = stored_config(stored)
    except (ValueError, TypeError) as error:
        raise DamagedRunError(
            f"path: {str(directory)!r} cannot be read by this version ({error}); selfsim {version} wrote it"
        ) from error
    _check_name(directory, config.architecture, contents[CONFIG])
    return Run(config, history, built_as, environment, directory / WEIGHTS, sums[WEIGHTS])


def _progress(directory: Path) -> str:
    """How far an unfinished run is, in words."""
    if not (directory / CONFIG).is_file():
        return "it has no config.json"
    epochs = _stored_configuration(directory)["epochs"]
    done, steps = max(checkpoint_files(directory), default=(0, 0))
    return f"{done} of {epochs} epochs and {steps} steps are saved; `train` with its configuration resumes there"


def _read_sums(directory: Path) -> dict[str, str]:
    """Return file name -> SHA-256 of a finished run."""
    lines = (directory / SUMS).read_bytes().decode("utf-8", "replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if sorted(sums) != sorted((CONFIG, ENVIRONMENT, MODEL, HISTORY, WEIGHTS)):
        raise DamagedRunError(
            f"path: {str(directory / SUMS)!r} is damaged, it does not list the run's files; {_REMEDY}"
        )
    return sums


def _read_intact(path: Path, digest: str | None) -> bytes:
    """Return a file's content if its SHA-256 is `digest` (None: not known); else raise `DamagedRunError`."""
    if not path.is_file():
        raise DamagedRunError(f"path: {str(path)!r} is missing; {_REMEDY}")
    content = path.read_bytes()
    if digest not in (None, hashlib.sha256(content).hexdigest()):
        raise DamagedRunError(f"path: {str(path)!r} is damaged, its SHA-256 is not that in {SUMS}; {_REMEDY}")
    return content


def _check_name(directory: Path, architecture: str, configuration: bytes) -> None:
    """Raise `DamagedRunError` if a directory has the name of one run and holds another."""
    name = f"{architecture}-{hashlib.sha256(configuration).hexdigest()[:12]}"
    if re.fullmatch(r"\w+-[0-9a-f]{12}", directory.name) and directory.name != name:
        raise DamagedRunError(f"path: {str(directory)!r} is damaged, it holds the run {name}; {_REMEDY}")


def load_runs(folder: str | os.PathLike) -> list[Run]:
    """Read every finished run in a folder that `train` was given as ``runs``.

    Parameters
    ----------
    folder : path
        An empty or missing folder has no runs. Anything else than finished runs is ignored.

    Returns
    -------
    list of Run
        Sorted by architecture, unconstrained runs first, then by seed. Models are built at the first access.

    Warns
    -----
    UserWarning
        For each run that is left out because it is damaged, of a newer version, or a copy of another one.

    Examples
    --------
    >>> load_runs("no/such/folder")
    []
    """
    folder = Path(folder).expanduser()
    runs: dict[str, Run] = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            if not is_finished(place):
                continue
            run = load_run(place)
        except (DamagedRunError, OSError) as error:
            warnings.warn(f"{error}; this run is left out", stacklevel=2)
            continue
        if run.config.name in runs:
            warnings.warn(f"{place}: is a copy of the run {run.config.name}; one of them is left out", stacklevel=2)
        runs.setdefault(run.config.name, run)

    def in_order(run: Run) -> tuple[str, bool, str, int]:
        config = run.config
        return config.architecture, config.constraint is not None, str(config.constraint), config.seed

    return sorted(runs.values(), key=in_order)
