"""Tables of the study's layers, measured from weights and images where these are, and read where they are not.

The other tables keep what training followed, and no weights. ``invariance.csv`` has the estimates of claim C5;
``measures.csv`` has every measure of the rate: counts of real boxes, robust variants, and what noise gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from selfsim.models.architectures import ARCHITECTURES, architecture
from selfsim.models.images import Images
from selfsim.models.probe import activations
from selfsim.statistics.dimension import correlation_dimension
from selfsim.statistics.invariance import invariance_across_layers
from selfsim.statistics.spectrum import spectrum_exponent
from selfsim.training.runs import Run
from selfsim.uncertainty import Estimate

from .comparison import comparable, measured_layers, shared_nulls
from .design import FIRST, OTHERS
from .tables import read_stages

INVARIANCE, MEASURES = "invariance.csv", "measures.csv"
MEASURED_STAGES = (FIRST, OTHERS)
# The paper's exponents have the limit that the usual software sets; without it, those of noise scatter far.
KINDS: dict[str, Literal["statistical", "geometric"]] = {
    "exponent at most 3": "statistical",
    "exponent": "statistical",
    "dimension": "geometric",
}
_RUN = ["run", "architecture", "seed"]


def layer_estimates(run: Run, images: Images) -> pd.DataFrame:
    """Estimate the exponent of the spectrum and the correlation dimension of every layer, on all validation images.

    Parameters
    ----------
    run : Run
        With its weights.
    images : Images
        The data that it was trained on.

    Returns
    -------
    DataFrame
        One row a layer; an estimate that does not exist is missing.
    """
    layers = activations(
        run.model, images.batches("validation"), layers=run.config.layers, samples=len(images.validation), device="cpu"
    )
    rows = []
    for layer, x in layers.items():
        x = x.to(torch.float64)
        estimates = (spectrum_exponent(x, largest_exponent=3.0), spectrum_exponent(x), correlation_dimension(x))
        rows.append(
            {"run": run.config.name, "architecture": run.config.architecture, "seed": run.config.seed, "layer": layer}
            | {kind: estimate.value for kind, estimate in zip(KINDS, estimates, strict=True)}
        )
    return pd.DataFrame(rows)


def write_invariance(runs: Iterable[Run], results: str | Path) -> pd.DataFrame:
    """Add the unconstrained runs that the table does not have yet.

    Parameters
    ----------
    runs : iterable of Run
        With their weights; all of one data set.
    results : path
        The folder of the study's tables.

    Returns
    -------
    DataFrame
    """
    stored = read_invariance(results)
    missing = [run for run in runs if run.config.constraint is None and run.config.name not in set(stored.run)]
    tables = [stored]
    if missing:
        images = missing[0].config.load_images()
        tables += [layer_estimates(run, images) for run in missing]
    # An empty table has object columns; without this, numbers would be written with all their digits.
    table = pd.concat(tables).infer_objects()
    table.to_csv(Path(results) / INVARIANCE, index=False, float_format="%.9g")
    return table


def read_invariance(results: str | Path) -> pd.DataFrame:
    """Read the table, or an empty one where there is none."""
    path = Path(results) / INVARIANCE
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=[*_RUN, "layer", *KINDS])


def spreads(table: pd.DataFrame) -> pd.DataFrame:
    """Return how much each estimate differs between the layers of an architecture, as a mean over seeds.

    Parameters
    ----------
    table : DataFrame
        As `read_invariance` gives it.

    Returns
    -------
    DataFrame
        One row an architecture, one column an estimate; by `invariance_across_layers`, so that small is invariant.
    """
    rows = []
    for (_, name, _), layers in table.groupby(_RUN, sort=False):
        row = {"architecture": name}
        for column, kind in KINDS.items():
            estimates = {
                layer: Estimate(value=value, reason="not estimable" if np.isnan(value) else "")
                for layer, value in zip(layers.layer, layers[column], strict=True)
            }
            row[column] = invariance_across_layers(estimates, kind=kind).value
        rows.append(row)
    return pd.DataFrame(rows, columns=["architecture", *KINDS]).groupby("architecture", sort=False).mean()


def write_measures(runs: Iterable[Run], results: str | Path, *, null_draws: int = 10) -> pd.DataFrame:
    """Add the networks that the table of measures does not have yet.

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
        As `comparison.measured_layers` gives it, with the untrained network of every unconstrained run.
    """
    table, images = read_measures(results), None
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
        table.to_csv(Path(results) / MEASURES, index=False, float_format="%.9g")  # after each: one may take minutes
    return table


def read_comparison(results: str | Path, *, constraint: Mapping) -> tuple[list[Run], pd.DataFrame]:
    """Read the runs and measures that compare the architectures.

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
        As `comparison.measured_layers` gives it. The plain rate is there for every run, since its history has
        it; other measures and the nulls are those of the networks that were measured.

    Raises
    ------
    FileNotFoundError
        No tables of a study there, or no measures among them.
    """
    stages, table = read_stages(results), read_measures(results)
    if table.empty:
        raise FileNotFoundError(f"results: got {str(results)!r}, which has no {MEASURES}")
    runs = [run for stage in MEASURED_STAGES for run in stages.get(stage, []) if run.history]
    measured = set(table.architecture)
    compared = comparable([run for run in runs if architecture(run.config.architecture).title in measured], constraint)
    known = set(zip(table.architecture, table.seed, table.training, strict=True))
    rows = [row for run in compared for row in _followed(run, table)]
    rows = [row for row in rows if (row["architecture"], row["seed"], row["training"]) not in known]
    table = pd.concat([table, pd.DataFrame(rows)]) if rows else table
    order = {entry.title: number for number, entry in enumerate(ARCHITECTURES)}  # by family, as figures have it
    table = table.sort_values("architecture", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return compared, shared_nulls(table)


def _followed(run: Run, table: pd.DataFrame) -> list[dict]:
    """Return the plain rates of a run's history, before and after training, as rows of the table."""
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


def read_measures(results: str | Path) -> pd.DataFrame:
    """Read the table, or an empty one where there is none."""
    path = Path(results) / MEASURES
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["architecture", "seed", "training", "null"])
