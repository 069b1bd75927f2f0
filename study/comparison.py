"""The comparison of the architectures: every measure of their layers, tables of them, and what these say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from selfsim.models.architectures import ARCHITECTURES, architecture, create
from selfsim.models.images import Images
from selfsim.models.probe import activations
from selfsim.models.seeding import seeded
from selfsim.rate.rate import ss_rate
from selfsim.statistics.null_models import null_band
from selfsim.training.config import TrainConfig
from selfsim.training.data_record import fingerprints_of
from selfsim.training.pairs import final_value, paired_runs
from selfsim.training.runs import Run, load_runs
from selfsim.uncertainty import Interval, mean_interval, paired_difference

from .statistics import welch

# Name in the book -> options of ss_rate: the three counts, then the robust variants.
MEASURES: dict[str, dict[str, Any]] = {
    "surrogate": {},
    "complete linkage": {"count": "complete-linkage"},
    "greedy colouring": {"count": "greedy-coloring"},
    "without 3 most distant": {"leave_out": 3},
    "between quantiles": {"quantiles": (0.01, 0.99)},
    "in median units": {"unit": "median"},
    "standardised": {"standardize": True},
}
TRAINING = ("untrained", "unconstrained", "constrained")


def comparable_runs(folder: str, *, constraint: Mapping | None = None) -> list[Run]:
    """Read the finished runs of a folder, sorted by family; see `comparable`."""
    runs = load_runs(folder) if folder else []
    if not runs:
        raise ValueError(
            f"runs: got {folder!r}, which holds no finished runs; need the folder of the chapters on architectures, "
            "such as _build/quick/runs after `make book`"
        )
    return comparable(runs, constraint)


def comparable(runs: Sequence[Run], constraint: Mapping | None = None) -> list[Run]:
    """Sort runs by family, and check that they are comparable.

    Parameters
    ----------
    runs : sequence of Run
    constraint : mapping, optional
        Options of a constraint, as in `TrainConfig`. Runs with another one are left out.

    Raises
    ------
    ValueError
        No runs, runs of several data sets, images or sizes, or an architecture and constraint with one seed twice.
    """
    if constraint is not None:
        constraint = TrainConfig("mlp", constraint=constraint).constraint
        runs = [run for run in runs if run.config.constraint in (None, constraint)]
    kinds = {run.config.constraint is None for run in runs}
    if not runs or (constraint is not None and kinds == {True}):
        raise ValueError(f"runs: got {len(runs)} without a constraint and none under {constraint}")
    data = {(run.config.dataset, run.config.size) for run in runs}
    if len(data) > 1:
        raise ValueError(f"runs: got those on {', '.join(map(str, sorted(data)))}, need one data set and size")
    seen: dict[tuple[str, int | None], tuple[Run, str]] = {}
    for run in runs:
        for part, fingerprint in fingerprints_of(run).items():
            # Each seed may have training images of its own, as pairs have.
            of_seed = None if part in ("validation", "test", "classes") else run.config.seed
            other, theirs = seen.setdefault((part, of_seed), (run, fingerprint))
            if theirs != fingerprint:
                names = " and ".join(f"{r.config.architecture}, seed {r.config.seed}" for r in (other, run))
                raise ValueError(f"runs: got different images ({part}) in {names}; need the same")
    paired_runs(runs)  # refuses a seed that is there twice
    order = [entry.name for entry in ARCHITECTURES]  # by family
    return sorted(runs, key=lambda run: order.index(architecture(run.config.architecture).name))


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Tabulate what was trained, and its accuracy on the test images: one row an architecture."""
    rows = []
    for name in dict.fromkeys(run.config.architecture for run in runs):
        of_name = [run for run in runs if run.config.architecture == name]
        accuracy = {
            title: [final_value(r, "accuracy") for r in of_name if (r.config.constraint is not None) == constrained]
            for title, constrained in (("test accuracy", False), ("constrained", True))
        }
        entry = architecture(name)
        about = {
            "family": entry.family,
            "architecture": entry.title,
            "parameters": f"{_parameters(of_name[0]):,}",
            "layers": len(of_name[0].layers),
            "epochs": of_name[0].config.epochs,
        }
        rows.append(about | {title: f"{np.mean(a):.3f}" if a else "none" for title, a in accuracy.items()})
    return pd.DataFrame(rows).set_index(["family", "architecture"])


def _parameters(run: Run) -> int:
    with seeded(0):  # not `run.model`: its weights need not be there
        return sum(p.numel() for p in create(**run.built_as).parameters())


def measured_layers(runs: Sequence[Run], images: Images, *, samples: int = 128, null_draws: int = 10) -> pd.DataFrame:
    """Measure every layer of every run, before and after training, beside its null.

    Parameters
    ----------
    runs : sequence of Run
        Of any architectures, on the same images. Untrained networks are built anew from the seeds of the
        unconstrained runs.
    images : Images
        What they were trained on; the first validation images are measured.
    samples, null_draws : int
        Images per rate; Gaussian draws per null, for the first seed of each architecture.

    Returns
    -------
    pandas.DataFrame
        Tidy: architecture, family, seed, training, layer, depth (0 for the first layer read, 1 for the last), neurons,
        measure, value, null, null_spread (mean and standard deviation of the draws; those of the surrogate always,
        of the other measures after unconstrained training). A value that does not exist, such as the standardised
        rate of a layer with constant neurons, is missing.
    """
    first: dict[str, int] = {}
    for run in runs:
        first.setdefault(run.config.architecture, run.config.seed)
    rows = []
    for run in runs:
        after = "unconstrained" if run.config.constraint is None else "constrained"
        states = [(after, run.model)]
        if run.config.constraint is None:
            with seeded(run.config.seed):
                states.insert(0, ("untrained", create(**run.built_as)))
        for training, model in states:
            batches = images.batches("validation", batch_size=samples)
            hidden = activations(model, batches, layers=run.layers, samples=samples, device="cpu")
            entry = architecture(run.config.architecture)
            for number, (layer, x) in enumerate(hidden.items()):
                about = {
                    "architecture": entry.title,
                    "family": entry.family,
                    "seed": run.config.seed,
                    "training": training,
                    "layer": layer,
                    "depth": number / max(len(hidden) - 1, 1),
                    "neurons": x.shape[1],
                }
                draws = null_draws if run.config.seed == first[run.config.architecture] else 0
                # The other measures are compared with noise after unconstrained training only.
                compared = MEASURES if training == "unconstrained" else ["surrogate"]
                rows += [about | row for row in _measured(x, dict.fromkeys(compared, draws))]
    return shared_nulls(pd.DataFrame(rows))


def shared_nulls(table: pd.DataFrame) -> pd.DataFrame:
    """Give all seeds of an architecture the nulls of its first one."""
    table = table.copy()
    keys = ["architecture", "training", "layer", "measure"]
    for column in ("null", "null_spread"):
        table[column] = table.groupby(keys)[column].transform("first")
    return table


def _measured(x: torch.Tensor, draws: dict[str, int]) -> list[dict]:
    rows = []
    for measure, options in MEASURES.items():

        def rate(values: torch.Tensor, options: dict[str, Any] = options) -> float:
            try:
                return float(ss_rate(values, **options))
            except ValueError:  # constant neurons, or all distances equal
                return float("nan")

        row: dict[str, Any] = {"measure": measure, "value": rate(x), "null": np.nan, "null_spread": np.nan}
        if draws.get(measure) and np.isfinite(row["value"]):
            values = null_band(rate, x, null="gauss", draws=draws[measure]).values
            row |= {"null": values.mean(), "null_spread": values.std(ddof=1)}
        rows.append(row)
    return rows


def excess(table: pd.DataFrame, measure: str = "surrogate") -> pd.DataFrame:
    """Return the mean over layers of rate minus null, one row a run and state."""
    chosen = table[table.measure == measure]
    chosen = chosen.assign(excess=chosen.value - chosen.null)
    keys = ["architecture", "family", "training", "seed"]
    return chosen.groupby(keys, sort=False)[["value", "null", "excess"]].mean().reset_index()


def family_table(table: pd.DataFrame, measure: str = "surrogate") -> pd.DataFrame:
    """Tabulate each architecture's mean rate before and after training, its null, and what training changed."""
    means = excess(table, measure)
    rows = []
    for (family, name), group in means.groupby(["family", "architecture"], sort=False):
        by = {training: part.set_index("seed") for training, part in group.groupby("training")}
        row = {"family": family, "architecture": name}
        for training in TRAINING:
            row[training] = f"{by[training].value.mean():.3f}" if training in by else "none"
        row["null (Gauss)"] = f"{by['unconstrained'].null.mean():.3f}"
        row["change by training"] = _difference(by, "unconstrained", "untrained")
        row["change by the constraint"] = _difference(by, "constrained", "unconstrained")
        rows.append(row)
    return pd.DataFrame(rows).set_index(["family", "architecture"])


def _difference(by: dict[str, pd.DataFrame], after: str, before: str) -> str:
    if not {after, before} <= set(by):
        return "none"
    seeds = by[after].index.intersection(by[before].index)
    if len(seeds) < 2:
        return f"{(by[after].value - by[before].value).mean():+.3f} (one seed)"
    return f"{paired_difference(by[after].value[seeds].tolist(), by[before].value[seeds].tolist()):+.3f}"


def agreement_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return Kendall's tau between the rankings of the architectures by each two measures, after training."""
    after = {name: excess(table, name).query("training == 'unconstrained'") for name in MEASURES}
    means = pd.DataFrame({name: part.groupby("architecture").value.mean() for name, part in after.items()})
    return means.corr(method="kendall").rename_axis("Kendall's tau")


def group_difference(table: pd.DataFrame, measure: str = "surrogate") -> Interval:
    """Compare the convolutional architectures with all others, after training, with Welch's 95 % interval.

    An architecture counts once, with its mean over seeds: seeds of one architecture say nothing about others.

    Raises
    ------
    ValueError
        Fewer than two architectures on one side.
    """
    means = excess(table, measure).query("training == 'unconstrained'")
    each = means.groupby(["family", "architecture"]).excess.mean().dropna()
    convolution = each.index.get_level_values("family") == "convolution"
    interval, _ = welch(each[convolution], each[~convolution], "difference of the means of such architectures")
    if interval is None:
        raise ValueError("table: got too few architectures, need two with convolutions and two without")
    return interval


def answers(table: pd.DataFrame) -> dict[str, str]:
    """Answer the claims C3 and C10 from these runs: question -> one sentence."""
    means = excess(table)
    trained = means.query("training == 'unconstrained'")
    per = trained.groupby("architecture").excess.mean()
    seeds = [group.excess.to_numpy() for _, group in trained.groupby("architecture")]
    several = len(seeds) > 1 and min(map(len, seeds)) > 1
    rank_test = _rank_test(stats.kruskal(*seeds).pvalue) if several else ""
    before = means.query("training == 'untrained'").set_index(["architecture", "seed"]).value
    change = (trained.set_index(["architecture", "seed"]).value - before).dropna().groupby("architecture").mean()
    interval = mean_interval(change.tolist())
    degradation = _by_sign(interval, "not shown", "shown", "reversed")
    sentences = {
        "C3, do architectures differ?": "Beyond the rate of noise of the same shape, the mean SS rate after training "
        f"lies between {per.min():+.3f} ({per.idxmin()}) and {per.max():+.3f} ({per.idxmax()}){rank_test}.",
        "C3, does self-similarity degrade in training?": f"The rate rose in {(change > 0).sum()} and fell in "
        f"{(change < 0).sum()} of {len(change)} architectures; the mean change is {interval:+.3f}, and by the paper's "
        f"reading of a higher rate, degradation is {degradation} here.",
    }
    for measure in ("surrogate", "complete linkage", "greedy colouring"):
        sentences[f"C10, do convolutions have higher rates, by {measure}?"] = group_sentence(table, measure)
    return sentences


def group_sentence(table: pd.DataFrame, measure: str) -> str:
    """Say in a sentence what `group_difference` gives."""
    try:
        interval = group_difference(table, measure)
    except ValueError:
        return f"There are too few architectures to compare convolutions with the rest (measure: {measure})."
    above, below = (f"convolutions have {side} rates" for side in ("higher", "lower"))
    groups = _by_sign(interval, "two groups are not shown", above, below)
    return (
        "What convolutional architectures have beyond the rate of noise, minus what the others have, is "
        f"{interval:+.3f} over {interval.n} architectures (measure: {measure}), so {groups}."
    )


def _rank_test(p: float) -> str:
    """End a sentence with what the p-value of a Kruskal–Wallis test over the seeds says."""
    answer = "they differ here" if p < 0.05 else "a difference is not shown"
    test = "a rank test of whether the architectures share one distribution"
    return f"; Kruskal–Wallis over the seeds, {test}, gives p = {p:.2g}, so {answer}"


def _by_sign(interval: Interval, none: str, above: str, below: str) -> str:
    return none if interval.low <= 0 <= interval.high else (above if interval.estimate > 0 else below)
