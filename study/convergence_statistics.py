"""The statistics of the second study: the rules of book/design.md, from the tables to verdicts.

Differences of accuracy are shares (0.01 is a point).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from selfsim.models.architectures import ARCHITECTURES
from selfsim.uncertainty import Interval, mean_interval

from .convergence_tables import ARMS, CONTROL, FREE, HOLD, LOWER, PUBLISHED, SCALING, Convergence
from .statistics import holm

ALPHA = 0.05
SMALLEST_EFFECT = 0.01  # of the accuracy
LEAST_PAIRS = 8  # of a family in a pool
SETTLED = 0.005  # largest change of the validation accuracy over the last tenth of the epochs
LEAST_GAP = 0.10  # between the accuracies on training and on test images
LEAST_WAY = 0.25  # of the free arm's distance from the target
LEAST_RETREAT = 0.001  # of the measure, for a mean distance that has grown
PRIMARY = (HOLD, LOWER)
GUESS = 0.1  # accuracy of a run that failed: ten classes
# Arm with targets -> the column of the history that it pulls.
MEASURES = {HOLD: "ss_rate_median", LOWER: "ss_rate_median", SCALING: "scaling_deviation", PUBLISHED: "ss_rate"}

NOT_RUN, INCONCLUSIVE, NULL, NULL_DOES_NOT_COUNT = (
    "not run",
    "inconclusive",
    "no change of one point",
    "null does not count",
)


@dataclass(frozen=True)
class Pooled:
    """A random-effects estimate over families.

    Attributes
    ----------
    interval : Interval
        95 %, by Hartung and Knapp; `n` is the number of families.
    p, equivalence : float
        Of the t-test against 0, and of the two one-sided tests against ±1 point.
    tau : float
        Standard deviation between families, by Paule and Mandel.
    """

    interval: Interval
    p: float
    equivalence: float
    tau: float


def sign_flip(differences: ArrayLike) -> float:
    """Return the exact two-sided p-value of the mean under all assignments of signs.

    Examples
    --------
    All five pairs up: 2 of 32 assignments are as extreme.

    >>> round(sign_flip([0.01, 0.02, 0.03, 0.01, 0.02]), 4)
    0.0625
    """
    values = np.asarray(differences, float)

    def mean(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return x.mean(axis).round(12)  # assignments with equal means differ by rounding

    result = stats.permutation_test((values,), mean, permutation_type="samples", n_resamples=np.inf, vectorized=True)
    return float(result.pvalue)


def t_tests(estimate: float, error: float, df: int, *, bound: float = SMALLEST_EFFECT) -> tuple[float, float]:
    """Return the p-values of the t-test against 0 and of the two one-sided tests against ±`bound`."""
    if error == 0:
        return float(estimate == 0), float(abs(estimate) >= bound)
    p = 2 * stats.t.sf(abs(estimate) / error, df)
    return float(p), float(stats.t.sf((bound - abs(estimate)) / error, df))


def pooled(effects: ArrayLike, variances: ArrayLike) -> Pooled:
    """Combine the effects of families by a random-effects estimate.

    Parameters
    ----------
    effects, variances : array_like, shape (families,)
        Mean differences and the squares of their standard errors, of at least two families.

    Returns
    -------
    Pooled

    Notes
    -----
    Paule and Mandel choose the variance between families so that the weighted sum of squares Q equals families − 1,
    or 0 where Q is below that. With their variance, the factor Q / (families − 1) of Hartung and Knapp is 1, or below 1
    and then not allowed. So only the t distribution remains of it.

    References
    ----------
    .. [1] R. C. Paule, J. Mandel, Consensus values and weighting factors, J. Res. NBS 87 (1982).
    .. [2] J. Hartung, G. Knapp, A refined method for the meta-analysis of controlled clinical trials with binary
       outcome, Statistics in Medicine 20 (2001).
    """
    y, v = np.asarray(effects, float), np.asarray(variances, float)
    df = len(y) - 1
    if df < 1:
        raise ValueError(f"effects: got {len(y)}, need at least two families")

    def excess(tau2: float) -> float:
        w = 1 / (v + tau2)
        return float(w @ (y - w @ y / w.sum()) ** 2) - df

    if (v <= 0).any():  # families whose differences are all equal carry no error of their own
        v = np.maximum(v, 1e-12)
    # The largest possible variance has Q below its goal: Q is at most sum((y - mean)^2) / tau2.
    top = float(((y - y.mean()) ** 2).sum()) / df * (1 + 1e-9)
    tau2 = float(optimize.brentq(excess, 0, top, xtol=1e-16)) if excess(0) > 0 else 0.0
    w = 1 / (v + tau2)
    estimate, error = float(w @ y / w.sum()), float(w.sum() ** -0.5)
    reach = float(stats.t.ppf(0.975, df)) * error
    p, equivalence = t_tests(estimate, error, df)
    interval = Interval(estimate, estimate - reach, estimate + reach, 0.95, len(y), "mean over such families")
    return Pooled(interval, p, equivalence, math.sqrt(tau2))


def accuracies(tables: Convergence) -> pd.DataFrame:
    """Return the test accuracy by (architecture, seed) and arm; a run that failed has that of a guess."""
    runs = tables.runs.assign(accuracy=tables.runs.test_accuracy.where(tables.runs.status == "done", GUESS))
    wide = runs.pivot(index=["architecture", "seed"], columns="arm", values="accuracy").astype(float)
    order = {entry.name: k for k, entry in enumerate(ARCHITECTURES)}
    return wide.sort_index(key=lambda level: level.map(order) if level.name == "architecture" else level)


def families(tables: Convergence) -> list[str]:
    """Return the architectures with runs, in the order of the book."""
    return list(dict.fromkeys(accuracies(tables).index.get_level_values(0)))


def differences(tables: Convergence) -> dict[tuple[str, str], list[float]]:
    """Return arm minus free by seed, for each (architecture, arm) that has pairs."""
    wide = accuracies(tables)
    found = {}
    for name in families(tables):
        for arm in (arm for arm in ARMS if arm != FREE and {arm, FREE} <= set(wide)):
            values = (wide.loc[name, arm] - wide.loc[name, FREE]).dropna().tolist()
            if values:
                found[name, arm] = values
    return found


def regime(tables: Convergence) -> pd.DataFrame:
    """Check the regime of each family in its free arm.

    Returns
    -------
    DataFrame
        One row an architecture: ``settling`` (validation accuracy at the end minus that at nine tenths), ``gap``
        (training minus test accuracy), means over seeds, and ``met``.
    """
    runs = tables.runs[(tables.runs.arm == FREE) & (tables.runs.status == "done")].set_index("run")
    looks = tables.history[(tables.history.split == "validation") & (tables.history.layer == "")]
    rows = {}
    for name in families(tables):
        own = runs[runs.architecture == name]
        settling = []
        for run, look in looks[looks.run.isin(own.index)].groupby("run"):
            by_epoch = look.set_index("epoch").accuracy.astype(float)
            last = own.epochs[run]
            before = by_epoch[by_epoch.index <= round(0.9 * last)]
            if last in by_epoch.index and len(before):
                settling.append(by_epoch[last] - before.iloc[before.index.argmax()])
        gap = (own.train_accuracy.astype(float) - own.test_accuracy.astype(float)).mean()
        change = float(np.mean(settling)) if settling else math.nan
        rows[name] = {"settling": change, "gap": gap, "met": bool(abs(change) < SETTLED and gap >= LEAST_GAP)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["settling", "gap", "met"])


def noise_floor(tables: Convergence) -> pd.DataFrame:
    """Return the spread of the free arm over seeds: ``seeds``, ``accuracy``, ``sd``, ``low``, ``high``.

    The 95 % interval of the standard deviation is that of normal values.
    """
    wide = accuracies(tables)
    rows = {}
    for name in families(tables):
        values = wide.loc[name, FREE].dropna() if FREE in wide else pd.Series(dtype=float)
        if len(values) < 2:
            continue
        sd, df = float(values.std()), len(values) - 1
        low, high = (sd * math.sqrt(df / stats.chi2.ppf(q, df)) for q in (0.975, 0.025))
        rows[name] = {"seeds": len(values), "accuracy": float(values.mean()), "sd": sd, "low": low, "high": high}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["seeds", "accuracy", "sd", "low", "high"])


def reached(tables: Convergence) -> pd.DataFrame:
    """Say how far each arm with targets moved its layers, in the measure and the units that it pulls.

    Returns
    -------
    DataFrame
        One row an (architecture, arm): ``target``, ``free`` and ``reached``, the means over layers and seeds of the
        targets and of the measure in the free arm and in this one, and ``lowest`` and ``highest``, those of the free
        arm over seeds. ``closer`` is the paired difference of the distance from the targets, arm minus free
        (`Interval`, or None for fewer than two pairs or where a layer has no rate), ``way`` the share of the free
        arm's distance that was closed. ``moved`` says whether the layers came nearer by the rule of the design, and
        ``away`` whether they went further away.
    """
    read = tables.history[(tables.history.split == "train") & (tables.history.layer != "")]
    last = read[read.epoch == read.groupby("run").epoch.transform("max")]
    by_run = {run: rows.set_index("layer") for run, rows in last.groupby("run")}
    runs = tables.runs[tables.runs.status == "done"]
    free = runs[runs.arm == FREE].set_index(["architecture", "seed"]).run
    rows = {}
    for (name, arm), own in runs[runs.arm.isin(MEASURES)].groupby(["architecture", "arm"], sort=False):
        means, off = [], []
        for row in own.itertuples():
            control, treated = by_run.get(free.get((name, row.seed))), by_run.get(row.run)
            if control is None or treated is None:
                continue
            target = json.loads(row.constraint).get("target", 0.03)
            targets = pd.Series(target, index=treated.index, dtype=float)
            both = [side[MEASURES[arm]] for side in (control, treated)]
            means.append([float(values.mean()) for values in (targets, *both)])
            off.append([float((values - targets).abs().mean(skipna=False)) for values in both])
        if not off:
            continue
        before, after = np.array(off).T
        whole = bool(np.isfinite(off).all())  # a layer without a rate is neither nearer nor further away
        closer = mean_interval((after - before).tolist()) if whole and len(off) > 1 else None
        way = float(1 - after.mean() / before.mean())
        far_enough = arm in (HOLD, PUBLISHED) or way >= LEAST_WAY
        of_target, of_free, of_arm = np.transpose(means)
        rows[name, arm] = {
            "target": float(of_target.mean()),
            "free": float(of_free.mean()),
            "lowest": float(of_free.min()),
            "highest": float(of_free.max()),
            "reached": float(of_arm.mean()),
            "closer": closer,
            "way": way,
            "moved": bool(closer and closer.high < 0 and far_enough),
            "away": bool(closer and closer.low > 0 and closer.estimate >= LEAST_RETREAT),
        }
    columns = ["target", "free", "lowest", "highest", "reached", "closer", "way", "moved", "away"]
    ordered = {key: rows[key] for key in itertools.product(families(tables), ARMS) if key in rows}
    return pd.DataFrame.from_dict(ordered, orient="index", columns=columns)


def by_family(tables: Convergence) -> pd.DataFrame:
    """Compare every arm with the free arm, family by family.

    Returns
    -------
    DataFrame
        One row an (architecture, arm): ``pairs``, ``interval``, ``error`` (standard error), ``p``, ``exact`` (sign
        flips), ``equivalence``, ``corrected`` (`p` over the families of the arm) and ``verdict``. One pair has no
        interval.
    """
    rows = {}
    for key, values in differences(tables).items():
        row: dict[str, object] = {"pairs": len(values), "interval": None}
        if len(values) > 1:
            error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
            interval = mean_interval(values, of="mean difference over such pairs")
            p, equivalence = t_tests(interval.estimate, error, len(values) - 1)
            row |= {"interval": interval, "error": error, "p": p, "equivalence": equivalence}
            row["exact"] = sign_flip(values)
        rows[key] = row
    index = pd.MultiIndex.from_tuples(list(rows), names=["architecture", "arm"])
    columns = ["pairs", "interval", "error", "p", "exact", "equivalence"]
    table = pd.DataFrame(list(rows.values()), index=index, columns=columns)
    table["corrected"] = table.groupby("arm").p.transform(lambda p: holm(p.tolist())) if len(table) else []
    met = regime(tables).met
    counts = {
        name: bool(met.get(name, False)) and control_gains(interval)
        for (name, arm), interval in table.interval.items()
        if arm == CONTROL
    }
    table["verdict"] = [
        verdict(row.interval, row.corrected, row.equivalence, null_counts=counts.get(name, False))
        for (name, _), row in table.iterrows()
    ]
    return table


def same_rate(tables: Convergence) -> pd.DataFrame:
    """Compare arms with the published form, seed by seed, where the two share a learning rate that free has not.

    Not part of the design: there, every arm is compared with the free arm, each at its own learning rate. The published
    form hardly pulls, so it stands for training without constraint at that rate.

    Returns
    -------
    DataFrame
        One row an architecture and arm: ``architecture``, ``arm``, ``learning_rate``, ``pairs``, ``interval``, ``p``
        and ``exact``.
    """
    wide, rate = accuracies(tables), tables.runs.groupby(["architecture", "arm"]).learning_rate.first()
    rows = []
    for name, arm in itertools.product(families(tables), (HOLD, LOWER, SCALING)):
        if not {arm, PUBLISHED, FREE} <= set(wide.columns[wide.loc[name].notna().any()]):
            continue
        values = (wide.loc[name, arm] - wide.loc[name, PUBLISHED]).dropna()
        if len(values) < 2 or rate[name, arm] != rate[name, PUBLISHED] or rate[name, arm] == rate[name, FREE]:
            continue
        interval = mean_interval(values.tolist(), of="mean difference over such pairs")
        p, _ = t_tests(interval.estimate, float(values.sem()), len(values) - 1)
        about = {"architecture": name, "arm": arm, "learning_rate": rate[name, arm], "pairs": len(values)}
        rows.append(about | {"interval": interval, "p": p, "exact": sign_flip(values)})
    return pd.DataFrame(rows, columns=["architecture", "arm", "learning_rate", "pairs", "interval", "p", "exact"])


def over_families(tables: Convergence, comparisons: pd.DataFrame | None = None) -> pd.DataFrame:
    """Pool every arm over the families that meet the regime and have pairs enough.

    Parameters
    ----------
    tables : Convergence
    comparisons : DataFrame, optional
        As `by_family` gives it.

    Returns
    -------
    DataFrame
        One row an arm that can be pooled: ``families``, ``pairs`` (the fewest), ``interval``, ``p``, ``equivalence``,
        ``tau``, ``corrected`` (over the primary arms; `p` for the others) and ``verdict``.
    """
    table = by_family(tables) if comparisons is None else comparisons
    met = regime(tables).met
    rows = {}
    for arm in (arm for arm in ARMS if arm != FREE):
        own = table[(table.index.get_level_values("arm") == arm) & (table.pairs >= LEAST_PAIRS)]
        own = own[[bool(met.get(name, False)) for name, _ in own.index]]
        if len(own) < 2:
            continue
        result = pooled([interval.estimate for interval in own.interval], own.error**2)
        names = [name for name, _ in own.index]
        rows[arm] = {"families": names, "pairs": int(own.pairs.min()), **vars(result)}
    pools = pd.DataFrame.from_dict(
        rows, orient="index", columns=["families", "pairs", "interval", "p", "equivalence", "tau"]
    )
    pools["corrected"] = pools.p.astype(float)
    primary = pools.index.isin(PRIMARY)
    pools.loc[primary, "corrected"] = holm(pools.p[primary].tolist())
    null_counts = CONTROL in pools.index and control_gains(pools.interval[CONTROL])
    pools["verdict"] = [
        verdict(row.interval, row.corrected, row.equivalence, null_counts=null_counts) for row in pools.itertuples()
    ]
    return pools


def control_gains(interval: Interval | None) -> bool:
    """Whether the positive control gained enough for a null to count."""
    return interval is not None and interval.estimate >= SMALLEST_EFFECT and interval.low > 0


def verdict(interval: Interval | None, corrected: float, equivalence: float, *, null_counts: bool) -> str:
    """Decide on a comparison by the table "What counts as what" of the design."""
    if interval is None:
        return NOT_RUN
    small = equivalence < ALPHA
    if corrected < ALPHA:
        return ("gain" if interval.estimate > 0 else "loss") + (" of less than one point" if small else "")
    if small:
        return NULL if null_counts else NULL_DOES_NOT_COUNT
    return INCONCLUSIVE


def spread_of_pairs(comparisons: pd.DataFrame, arms: Sequence[str] = PRIMARY) -> float:
    """Return the standard deviation of paired differences, pooled over the families of these arms; NaN for none."""
    own = comparisons[comparisons.index.get_level_values("arm").isin(arms) & (comparisons.pairs > 1)]
    squares = (own.error**2 * own.pairs * (own.pairs - 1)).sum()
    return math.sqrt(squares / (own.pairs - 1).sum()) if len(own) else math.nan
