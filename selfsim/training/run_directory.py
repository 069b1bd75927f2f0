"""The directory that a run lives in: named by its configuration, held by one process, finished or on its way."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path

from ..files import LOCK, locked_directory, write_atomic
from .checkpoints import checkpoint_files
from .config import TrainConfig

CONFIG, SUMS = "config.json", "SHA256SUMS"


def run_directory(
    config: TrainConfig, *, runs: str | os.PathLike | None = None, directory: str | os.PathLike | None = None
) -> Path | None:
    """Where a run lives: in `runs` under the name of its configuration, or in `directory` itself; None for nowhere.

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
        return Path(runs) / config.name
    return None if directory is None else Path(directory)


def is_finished(directory: str | os.PathLike) -> bool:
    """Whether a directory holds a finished run: the list of its files' SHA-256 is written last."""
    return (Path(directory) / SUMS).is_file()


def progress_of(directory: Path) -> str:
    """How far the run in a directory is, in words."""
    if not (directory / CONFIG).is_file():
        return "it has no config.json"
    epochs = _stored(directory)["epochs"]
    done, steps = max(checkpoint_files(directory), default=(0, 0))
    return f"{done} of {epochs} epochs and {steps} steps are saved; `train` with its configuration goes on from there"


def check_configuration(directory: Path, config: TrainConfig) -> None:
    """Raise ``ValueError`` with the fields in which the run in `directory` was configured otherwise."""
    check_same(_stored(directory), config, where=str(directory))


def _stored(directory: Path) -> dict:
    try:
        stored = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        if not (isinstance(stored, dict) and isinstance(stored.get("epochs"), int)):
            raise ValueError("it holds no configuration")
    except ValueError as error:
        raise ValueError(
            f"directory: {str(directory / CONFIG)!r} is damaged ({error}); remove the directory and train again"
        ) from error
    return stored


def check_same(there: dict, config: TrainConfig, *, where: str) -> None:
    """The same for a configuration that was read from somewhere."""
    here = json.loads(config.as_json())
    different = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in here | there
        if there.get(name) != here.get(name)
    ]
    if different:
        raise ValueError(
            f"directory: {where!r} holds a run with another configuration ({'; '.join(different)}); need another "
            "directory, or runs=..., which names one for each configuration"
        )


@contextmanager
def held(directory: Path, config: TrainConfig):
    """Hold a run's directory against other processes, with its configuration in it.

    The kernel lets the lock go when the process ends, however it ends.

    Raises
    ------
    BlockingIOError
        Another process holds it.
    FileExistsError
        It has files, but no run.
    ValueError
        Its run has another configuration.
    OSError
        It cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        foreign = {path.name for path in directory.iterdir()} - {LOCK, f"{CONFIG}.partial"}
        if foreign and CONFIG not in foreign:
            raise FileExistsError(
                f"directory: {str(directory)!r} is not empty and holds no run; need a new or empty one"
            )
    except OSError as error:
        if error.errno is None or isinstance(error, FileExistsError):
            raise
        raise OSError(error.errno, f"cannot write ({error.strerror})", str(directory)) from error
    with locked_directory(directory):
        if (directory / CONFIG).is_file():
            check_configuration(directory, config)
        else:
            write_atomic(directory / CONFIG, config.as_json().encode())
        yield
