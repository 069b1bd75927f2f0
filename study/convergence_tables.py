"""The three tables of the second study (book/design.md): their columns, and how they are written and read.

They are ``runs.csv``, ``history.csv`` and ``tuning.csv`` in ``results/convergence/``. `write` adds rows and replaces
those with the same key, so a runner can call it after every batch. `read` checks them. Accuracies are shares between 0
and 1, an empty field was not measured, flags are ``true`` and ``false``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from selfsim.files import write_atomic
from selfsim.models.architectures import ARCHITECTURES

FREE, HOLD, LOWER, SCALING, PUBLISHED, CONTROL = ARMS = ("free", "hold", "lower", "scaling", "published", "control")

CPU = "CPU"  # in the column `card`

# Of the design, in the order in which they are run, and the pairs of each.
FAMILIES = ("mlp", "resmlp", "vit_small", "mixer", "resnet34")
PAIRS = 8

# Column -> what it holds. The tables have these columns first, in this order; others may follow.
RUNS = {
    "run": "key: architecture, arm and seed, as in mlp-hold-3",
    "status": "done, or failed: the training ended in NaN or an error",
    "architecture": "name that selfsim.create knows",
    "arm": "one of ARMS",
    "seed": "of weights, order, augmentation; pairs share it",
    "subset": "seed of the draw of training images; pairs share it",
    "learning_rate": "as tuned for this architecture and arm",
    "test_accuracy": "after the last epoch, eval mode, all 10,000 test images, looked at once",
    "train_accuracy": "after the last epoch, eval mode, the run's training images without augmentation",
    "validation_accuracy": "after the last epoch, eval mode",
    "constraint": "options as JSON, with the targets by layer; empty for free and control",
    "epochs": "",
    "train_images": "",
    "validation_images": "",
    "test_images": "",
    "batch_size": "",
    "weight_decay": "",
    "label_smoothing": "",
    "mixup": "",
    "precision": "of the forward pass in training",
    "card": "name of the device, such as NVIDIA H100; CPU without one",
    "seconds": "of the batch of runs, divided by their number; on a CPU core-seconds",
    "together": "runs trained at once in that batch",
    "version": "of selfsim",
    "commit": "of the repository",
    "date": "UTC, ISO 8601",
    "libraries": "versions as JSON",
}
# Looks: at least before training, at nine tenths of the epochs and after the last. After the last one, every arm (free
# and control too) has train rows with all three measures of every layer.
HISTORY = {
    "run": "as in the runs",
    "epoch": "completed epochs",
    "split": "validation: eval mode; train: training mode, as the constraint sees it",
    "layer": "empty for the whole network",
    "accuracy": "whole network, validation",
    "loss": "whole network",
    "ss_rate": "layer: in absolute units, the paper's rate (arm published)",
    "ss_rate_median": "layer: in units of the median distance (arms hold and lower)",
    "scaling_deviation": "layer: selfsim.scaling_deviation (arm scaling)",
    "median_distance": "layer",
}
TUNING = {
    "architecture": "",
    "arm": "one of ARMS",
    "form": "of the positive control: mixup or decay; none for the other arms",
    "learning_rate": "a factor 2 from the next",
    "seed": "none of the study's",
    "validation_accuracy": "after the last epoch, eval mode; empty if the training failed",
    "chosen": "true for the learning rate (and form) of the study, one for each architecture and arm",
    "train_accuracy": "after the last epoch, eval mode, without augmentation",
}
_COLUMNS = {"runs": RUNS, "history": HISTORY, "tuning": TUNING}
_KEYS = {
    "runs": ["run"],
    "history": ["run", "epoch", "split", "layer"],
    "tuning": ["architecture", "arm", "form", "learning_rate", "seed"],
}


@dataclass(frozen=True)
class Convergence:
    """The tables of the second study, empty where nothing was run; columns are RUNS, HISTORY and TUNING."""

    runs: pd.DataFrame
    history: pd.DataFrame
    tuning: pd.DataFrame


def path(results: str | Path, table: str) -> Path:
    """Return the file of a table: "runs", "history" or "tuning"."""
    return Path(results) / f"{table}.csv"


def write(results: str | Path, **given: pd.DataFrame) -> None:
    """Add rows to the tables; rows with the same key are replaced, the history of a run as a whole.

    Parameters
    ----------
    results : path
        The folder of the tables; made if missing.
    **given : DataFrame
        New rows of runs, history or tuning, with the columns of RUNS, HISTORY or TUNING; others may follow.

    Raises
    ------
    ValueError
        A missing column, an unknown architecture or arm, or a key twice; names the table. Nothing is written.
    """
    Path(results).mkdir(parents=True, exist_ok=True)
    contents = {}
    for name, rows in given.items():
        fresh = _checked(name, rows)
        stored = _read(results, name)
        replaced = ["run"] if name == "history" else _KEYS[name]
        kept = stored[~_keys(stored, replaced).isin(_keys(fresh, replaced))]
        table = pd.concat([kept, fresh]) if len(kept) else fresh
        order = ["run", "epoch"] if name == "history" else _KEYS[name]
        contents[name] = table.sort_values(order, kind="stable")
    for name, table in contents.items():
        if name == "tuning":
            table["chosen"] = table.chosen.map({True: "true", False: "false"})
        write_atomic(path(results, name), table.to_csv(index=False, float_format="%.9g").encode())


def read(results: str | Path) -> Convergence:
    """Read the tables in a folder; a table without a file is empty.

    Raises
    ------
    ValueError
        A missing column, an unknown architecture or arm, or a key twice; names the table.
    """
    return Convergence(**{name: _read(results, name) for name in _COLUMNS})


def _read(results: str | Path, name: str) -> pd.DataFrame:
    file = path(results, name)
    if not file.is_file():
        return pd.DataFrame(columns=list(_COLUMNS[name]))
    table = pd.read_csv(file, keep_default_na=False, na_values=[""])
    return _checked(name, table)


def _checked(name: str, table: pd.DataFrame) -> pd.DataFrame:
    columns = _COLUMNS[name]
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{name}: got no column {', '.join(missing)}, need {', '.join(columns)}")
    table = table[[*columns, *(column for column in table if column not in columns)]].copy()
    if name == "history":
        table["layer"] = table.layer.fillna("")
    known = {"architecture": {entry.name for entry in ARCHITECTURES}, "arm": set(ARMS)}
    for column, values in known.items():
        if column in columns and (unknown := set(table[column]) - values):
            raise ValueError(f"{name}: got {column} {', '.join(map(repr, sorted(unknown)))}, need one of {values}")
    twice = _keys(table, _KEYS[name])[_keys(table, _KEYS[name]).duplicated()]
    if len(twice):
        raise ValueError(f"{name}: got {twice.iloc[0]} twice, need each {', '.join(_KEYS[name])} once")
    if name == "runs" and len(table) and (table.groupby(["architecture", "seed"]).subset.nunique() > 1).any():
        raise ValueError("runs: got pairs of several subsets, need one subset for each architecture and seed")
    return table


def _keys(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    return pd.Series(list(zip(*(table[column] for column in columns), strict=True)), index=table.index, dtype=object)
