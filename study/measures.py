"""Every measure of the rate in the study's networks, layer by layer: a table made from their weights.

The other tables of a study keep the rates that training followed, and no weights. Counts of real boxes, robust variants
and what noise gives need the activations: they are measured where the runs are, and read where they are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from selfsim.models.architectures import ARCHITECTURES, architecture
from selfsim.training.runs import Run

from .comparison_tables import comparable, measured_layers, shared_nulls
from .findings import FIRST, OTHERS
from .tables import read_stages

FILE = "measures.csv"
STAGES = (FIRST, OTHERS)


def write_measures(runs: Iterable[Run], results: str | Path, *, null_draws: int = 10) -> pd.DataFrame:
    """Add the networks that the table does not have yet.

    Parameters
    ----------
    runs : iterable of Run
        With their weights; all of one data set, and of one constraint or without any.
    results : path
        The folder of the study's tables.
    null_draws : int
        For the first run of each architecture and state, which serve the others.

    Returns
    -------
    DataFrame
        As `comparison_tables.measured_layers` gives it: of an unconstrained run the untrained network, too.
    """
    table, images = _stored(results), None
    for run in sorted(runs, key=lambda run: run.config.seed):
        title = architecture(run.config.architecture).title
        state = "unconstrained" if run.config.constraint is None else "constrained"
        known = table[(table.architecture == title) & (table.training == state)]
        if run.config.seed in set(known.seed):
            continue
        images = images or run.config.load_images()
        draws = 0 if known.null.notna().any() else null_draws
        fresh = measured_layers([run], images, samples=run.config.samples, null_draws=draws)
        table = pd.concat([table, fresh]) if len(table) else fresh
        table.to_csv(Path(results) / FILE, index=False, float_format="%.9g")  # after each: one may take minutes
    return table


def read_comparison(results: str | Path, *, constraint: Mapping) -> tuple[list[Run], pd.DataFrame]:
    """Runs and measures for the comparison of architectures, from the tables of a study.

    Parameters
    ----------
    results : path
        The folder of the study's tables.
    constraint : mapping
        Which constrained runs: its options, as in `TrainConfig`.

    Returns
    -------
    runs : list of Run
        Of the stages "families" and "others", by family, without weights. Architectures that were not measured are left
        out.
    measured : DataFrame
        As `comparison_tables.measured_layers` gives it. The plain rate is there for every run, since its history has
        it; other measures and the nulls are those of the networks that were measured.

    Raises
    ------
    FileNotFoundError
        No tables of a study there, or no measures among them.
    """
    stages, table = read_stages(results), _stored(results)
    if table.empty:
        raise FileNotFoundError(f"results: got {str(results)!r}, which has no {FILE}")
    runs = [run for stage in STAGES for run in stages.get(stage, []) if run.history]
    measured = set(table.architecture)
    found = comparable([run for run in runs if architecture(run.config.architecture).title in measured], constraint)
    known = set(zip(table.architecture, table.seed, table.training, strict=True))
    rows = [row for run in found for row in _followed(run, table)]
    rows = [row for row in rows if (row["architecture"], row["seed"], row["training"]) not in known]
    table = pd.concat([table, pd.DataFrame(rows)]) if rows else table
    order = {entry.title: number for number, entry in enumerate(ARCHITECTURES)}  # by family, as figures have it
    table = table.sort_values("architecture", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return found, shared_nulls(table)


def _followed(run: Run, table: pd.DataFrame) -> list[dict]:
    """The plain rates in a run's history, before and after training, as rows of the table."""
    title = architecture(run.config.architecture).title
    places = table[table.architecture == title].drop_duplicates("layer").set_index("layer")
    states = {"constrained": -1} if run.config.constraint else {"untrained": 0, "unconstrained": -1}
    return [
        {"architecture": title, "seed": run.config.seed, "training": state, "layer": layer, "measure": "surrogate"}
        | {"value": run.series("ss_rate", layer=layer)[when]}
        | places.loc[layer, ["family", "depth", "neurons"]].to_dict()
        for state, when in states.items()
        for layer in run.layers
    ]


def _stored(results: str | Path) -> pd.DataFrame:
    path = Path(results) / FILE
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["architecture", "seed", "training", "null"])
