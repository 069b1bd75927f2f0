"""The invariance of the study's unconstrained networks, layer by layer: a table made from their weights, for C5.

The other tables of a study keep no weights. So this one is written where the runs are, and read where they are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from selfsim.models.data import Images
from selfsim.models.probe import activations
from selfsim.statistics.dimension import correlation_dimension
from selfsim.statistics.invariance import invariance_across_layers
from selfsim.statistics.spectrum import spectrum_exponent
from selfsim.training.runs import Run
from selfsim.uncertainty import Estimate

FILE = "invariance.csv"
# The paper's exponents have the limit that the usual software sets; without it, those of noise scatter far.
KINDS = {"exponent at most 3": "statistical", "exponent": "statistical", "dimension": "geometric"}
_RUN = ["run", "architecture", "seed"]


def layer_estimates(run: Run, images: Images) -> pd.DataFrame:
    """Exponent of the spectrum and correlation dimension of every layer, on all validation images.

    Parameters
    ----------
    run : Run
        With its weights.
    images : Images
        The data that it was trained on.

    Returns
    -------
    DataFrame
        One row a layer; NaN is an estimate that does not exist.
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
    """Write the table for the unconstrained ones of these runs; rows that it has already are kept as they are.

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
    known = read_invariance(results)
    missing = [run for run in runs if run.config.constraint is None and run.config.name not in set(known.run)]
    images = missing[0].config.load_images() if missing else None
    # A table without rows has no types of its own, and would leave numbers as they are, with all their digits.
    table = pd.concat([known, *(layer_estimates(run, images) for run in missing)]).infer_objects()
    table.to_csv(Path(results) / FILE, index=False, float_format="%.9g")
    return table


def read_invariance(results: str | Path) -> pd.DataFrame:
    """Read the table; one without rows where there is none."""
    path = Path(results) / FILE
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=[*_RUN, "layer", *KINDS])


def spreads(table: pd.DataFrame) -> pd.DataFrame:
    """Of each architecture, the mean over seeds of how much each estimate differs between layers.

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
