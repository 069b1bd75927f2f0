"""The numbers and verdicts that the book's prose takes from the study: ``{study}`confirm.vit_small` `` on a page.

`write_facts` puts them into a file beside the book's extension, which replaces the role by the text. So the pages hold
no number of the study that could differ from its tables.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from selfsim.models.architectures import ARCHITECTURES, architecture
from selfsim.statistics.scaling import scaling
from selfsim.training.runs import Run
from selfsim.uncertainty import mean_interval

from . import convergence_tables, design
from .answer import answer_facts
from .answer_text import NUMBERS, minus, points, signed
from .design import DEFAULT, SCALE_ALONE, SUGGESTED, UNCONSTRAINED
from .findings import Finding, findings, gains_table, power_law_rate
from .first import epoch_sentence, first_study, gain_sentence, pools_sentence, published_sentence
from .layers import read_invariance
from .plots import write_figures
from .statistics import compared, differences, manipulation, measured, minimal_effect, pairs
from .tables import read_stages

FILE = "study.json"
# Name in the facts -> size and candidate of benchmarks/defaults.py.
_CANDIDATES = {
    "default": ("tiny", "default"),
    "former": ("tiny", "cap .15"),
    "small": ("small", "default"),
    "small_former": ("small", "cap .15"),
    "heavy": ("tiny", "weight 10"),
    "ramp": ("tiny", "ramp, trust 1"),
    "cap_1": ("tiny", "ramp, trust 1, median shape"),
    "cap_half": ("tiny", "cap .5, gain 2"),
}


def write_facts(results: Path, book: Path) -> dict[str, str]:
    """Write the facts from the tables in `results` and the chapters of `book`, and return them."""
    tables = convergence_tables.read(results.parent / "convergence")
    written = facts(
        read_stages(results),
        invariance=read_invariance(results),
        chapters=book / "chapters",
        benchmarks=results.parent / "benchmarks",
        convergence=tables,
    )
    write_figures(tables, results.parent / "benchmarks", book / "_static")
    (book / "_ext" / FILE).write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return written


def facts(
    stages: Mapping[str, Sequence[Run]],
    *,
    invariance: pd.DataFrame,
    chapters: Path,
    benchmarks: Path,
    convergence: convergence_tables.Convergence,
) -> dict[str, str]:
    """Return every fact by its name.

    Parameters
    ----------
    stages : mapping of str to sequence of Run
        As `tables.read_stages` gives them, all stages but the large one.
    invariance : DataFrame
        As `layers.read_invariance` gives it.
    chapters : path
        The folder of the published chapters, which count the layers outside null bands.
    benchmarks : path
        The folder of the benchmarks' results.
    convergence : Convergence
        The tables of the second study.
    """
    answers = findings(stages, invariance=invariance)
    first = first_study(stages)
    first |= {"first.pools": pools_sentence(stages), "first.gain": gain_sentence(stages, answers)}
    first |= {"first.epoch": epoch_sentence(stages), "first.published.way": published_sentence(stages)}
    seconds = {
        run.config.name: float(run.environment["seconds"]) for runs in stages.values() for run in runs if run.history
    }
    said = {
        "scale.verdict": answers["scale"].verdict,
        **_gains(stages),
        **first,
        **answer_facts(convergence, findings=answers, first=first, seconds=sum(seconds.values())),
        **_targets_in_time(stages[design.TARGETS]),
        **_doses(stages[design.DOSE]),
        **_confirmation(stages[design.CONFIRM], answers["confirm"]),
        **_scale(stages[design.CONTROL], answers["scale"]),
        **_chapters(chapters),
        **_known_sets(benchmarks),
        **_trained_layers(benchmarks),
        **_defaults(benchmarks),
        **_simulated(benchmarks),
        **{f"scaling.dimensions.{n}": str(_most_dimensions(n)) for n in (64, 128)},
        "power_law": f"{power_law_rate(128):.2f}",
        **{f"power_law.{d}": f"{power_law_rate(128, dimension=d, longest=1.0):.2f}" for d in (1, 2, 5)},
        "power.5": f"{minimal_effect(5):.1f}",
        "power.5.of_8": f"{minimal_effect(5, comparisons=8):.0f}",
        "power.10.of_2": f"{minimal_effect(10, comparisons=2):.1f}",
    }
    return {name: minus(text) for name, text in said.items()}


def _gains(stages: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """State the accuracy under the two constraints, architecture by architecture and together."""
    first, others = (gains_table(stages[name]) for name in (design.FIRST, design.OTHERS))
    every = pd.concat([first, others])
    said = {
        "gain.first": _span(first.interval.xs(DEFAULT, level=1)),
        "gain.others": _span(others.interval.xs(DEFAULT, level=1)),
        "gain.moved": NUMBERS[sum(moved is True for moved in every.moved.xs(DEFAULT, level=1))],
    }
    for (name, arm), row in every.iterrows():
        key = "gain" if arm == DEFAULT else "published"
        said[f"{key}.{name}"] = points(row.interval)
        said[f"{key}.{name}.rate"] = f"{row.ss_rate.estimate:+.2f}"
        said[f"{key}.{name}.factor"] = f"{row.factor:.1f}"
    return said


def _targets_in_time(runs: Sequence[Run]) -> dict[str, str]:
    said = {}
    for key, control in (("fixed", DEFAULT), ("unconstrained", UNCONSTRAINED)):
        table = compared(differences(pairs(runs, control=control), "accuracy"))
        for name, arm in table.index:
            if arm == design.LINEAR:
                said[f"time.{name}.{key}"] = points(table.interval[name, arm])
    return said


def _doses(runs: Sequence[Run]) -> dict[str, str]:
    of_arms = pairs(runs)
    table = compared(differences(of_arms, "accuracy"))
    said = {}
    for (name, arm), both in of_arms.items():
        if arm.endswith("weight 10"):
            said[f"dose.{name}.{arm.split()[1].rstrip(',')}"] = points(table.interval[name, arm])
            said[f"dose.{name}.rate"] = f"{np.mean([measured(control, 'ss_rate') for control, _ in both]):.2f}"
    return said


def _confirmation(runs: Sequence[Run], finding: Finding) -> dict[str, str]:
    """State the second look at a target of 0.2: the accuracy, and what the constraint did to rate and scale."""
    did = manipulation(pairs(runs))
    said = {}
    for (name, arm), row in _table(finding).iterrows():
        said[f"confirm.{name}"] = points(row.interval)
        said[f"confirm.{name}.verdict"] = row.verdict
        said[f"confirm.{name}.factor"] = f"{did.factor[name, arm]:.1f}"
        said[f"confirm.{name}.rate"] = f"{did.ss_rate[name, arm]:+.3f}"
    return said


def _scale(runs: Sequence[Run], finding: Finding) -> dict[str, str]:
    """State the control of scale: the gains of scale alone and beyond it, and how hard the control pulled."""
    table, of_arms = _table(finding), pairs(runs)
    rates = manipulation(of_arms).ss_rate
    norms = {
        arm: np.mean([t.series("constraint_gradient_norm", split="train")[0] for _, t in of_arms["vit_small", arm]])
        for arm in (SCALE_ALONE, SUGGESTED)
    }
    alone, beyond = table.interval
    return {
        "scale.alone": points(alone),
        "scale.beyond": points(beyond),
        "scale.reached": f"{1 / table.factor.iloc[1]:.2f}",
        "scale.rate": f"{rates['vit_small', SCALE_ALONE]:+.2f}",
        "scale.rate.target": f"{rates['vit_small', SUGGESTED]:+.2f}",
        "scale.pull": f"{norms[SUGGESTED] / norms[SCALE_ALONE]:.0f}",
    }


def _chapters(chapters: Path) -> dict[str, str]:
    """Read the layers outside their null bands from the published chapters."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(chapters.glob("*.ipynb"))]
    counted = re.compile(
        r"lies outside every null band in (\d+) of (\d+) cases.*?By chance at most ([\d.]+) would. "
        r"Band by band: (\d+) outside the shuffled band and (\d+) outside the Gaussian band"
    )
    found = [[float(number) for number in match.groups()] for text in texts if (match := counted.search(text))]
    outside, cases, by_chance, shuffled, gauss = map(sum, zip(*found, strict=True))
    return {
        "bands.shuffled": f"{shuffled:.0f} of {cases:.0f}",
        "bands.gauss": f"{gauss:.0f} of {cases:.0f}",
        "bands.outside": f"{outside:.0f} of {cases:.0f}",
        "bands.by_chance": f"{by_chance:.0f}",
    }


def _known_sets(benchmarks: Path) -> dict[str, str]:
    """State what the benchmark of known sets found at 128 neurons, for the rate and for `scaling`."""
    result = json.loads((benchmarks / "known_sets.json").read_text(encoding="utf-8"))
    every, rate = pd.DataFrame(result["sets"]), "SS rate (surrogate)"
    fractals = [row["set"] for row in result["auc of each set against noise"]]
    missed = every[every["set"].isin(fractals)].query("measure == 'scaling: scales' and mean < 1")
    areas = pd.DataFrame(result["auc"]).query("n == 128").set_index(["measure", "against", "unit"])
    sets = every.query("n == 128").set_index(["measure", "set"])
    rates = sets.loc[rate]

    def share(verdict: str, name: str) -> str:
        row = sets.loc[f"scaling: {verdict}", name]
        return f"{100 * row['mean']:.0f} % of {row.draws:.0f} draws"

    return {
        "known_sets.rate.noise.one": _area(areas.loc[rate, "noise", "one"]),
        "known_sets.rate.noise.any": _area(areas.loc[rate, "noise", "any"]),
        "known_sets.boxes.noise.any": _area(areas.loc["rate by real boxes", "noise", "any"]),
        "known_sets.scaling.uneven_noise.any": _area(areas.loc["scaling", "uneven noise", "any"]),
        **{f"known_sets.mean.{name}": f"{mean:.2f}" for name, mean in rates["mean"].items()},
        "known_sets.spread.gauss": f"{rates.spread['gauss']:.2f}",
        "known_sets.missed": ", ".join(
            f"{row['set']} at {row.n} ({100 * row['mean']:.0f} %)" for _, row in missed.iterrows()
        ),
        "known_sets.scales.log-normal scales": share("scales", "log-normal scales"),
        "known_sets.below.gauss": share("below threshold", "gauss"),
    }


def _trained_layers(benchmarks: Path) -> dict[str, str]:
    """Count the layers that `scaling` can judge, and those that follow a power law, before and after training."""
    layers = pd.DataFrame(json.loads((benchmarks / "trained_scaling.json").read_text(encoding="utf-8"))["layers"])
    said = {}
    for state, own in layers[layers.octaves.notna()].groupby("state"):
        judged = own[own.octaves >= 1]
        said[f"scaling.{state}.layers"], said[f"scaling.{state}.judged"] = str(len(own)), str(len(judged))
        said[f"scaling.{state}.scale"] = f"{judged.scales.sum():.0f}"
    return said


def _area(row: pd.Series) -> str:
    return f"{row.auc:.2f} [{row.low:.2f}, {row.high:.2f}]"


def _most_dimensions(n: int) -> int:
    """Return the most dimensions in which random points reach an octave for `scaling`, on average."""

    def octaves(dimension: int) -> float:
        generator = torch.Generator().manual_seed(dimension)
        clouds = torch.rand(10, dimension, n, generator=generator, dtype=torch.float64)
        return float(np.mean([scaling(cloud, draws=0).octaves.value for cloud in clouds]))

    return max(itertools.takewhile(lambda dimension: octaves(dimension) >= 1, itertools.count(1)))


def _defaults(benchmarks: Path) -> dict[str, str]:
    """State what the candidates for the constraint's default did, each against its own seeds without constraint."""
    result = json.loads((benchmarks / "defaults.json").read_text(encoding="utf-8"))
    runs = pd.DataFrame(result["runs"]).set_index(["size", "candidate", "architecture", "seed"]).sort_index()
    said: dict[str, str] = {}
    for key, (size, candidate) in _CANDIDATES.items():
        arm, control = runs.loc[size, candidate], runs.loc[size, "none"]
        both = arm.index.intersection(control.index)
        arm, control = arm.loc[both], control.loc[both]
        change = (100 * (arm.accuracy - control.accuracy)).round(6)
        factor = np.exp(np.log(arm["median distance"] / control["median distance"]).groupby(level=0).mean())
        before, after = (rates["rate in medians"].groupby(level=0).mean() for rates in (control, arm))
        way = (before - after) / (before - result["target"])
        by_family = change.groupby(level=0).mean()
        for name in by_family.index:
            said[f"defaults.{key}.{name}"] = _points(by_family[name])
            said[f"defaults.{key}.{name}.factor"] = f"{factor[name]:.1f}"
            said[f"defaults.{key}.{name}.way"] = f"{100 * way[name]:.0f} %"
        worst = by_family.idxmin()
        said[f"defaults.{key}.worst"] = f"{architecture(worst).title}, {_points(by_family[worst])}"
        said[f"defaults.{key}.tried"] = NUMBERS[len(by_family)]
        said[f"defaults.{key}.broken"] = NUMBERS[(by_family < -10).sum()].replace("no", "none")
        for kin, measure in (("without_3", "rate without 3"), ("quantiles", "rate of quantiles")):
            low, high = (rates[measure].groupby(level=0).mean() for rates in (arm, control))
            said[f"defaults.{key}.{kin}"] = f"{high.mean():.3f} to {low.mean():.3f}"
            said[f"defaults.{key}.{kin}.fell"] = NUMBERS[(low < high).sum()]
        said[f"defaults.{key}.moved"] = NUMBERS[(way >= 0.5).sum()]
        said[f"defaults.{key}.mean"] = _points(by_family.mean())
        if len(by_family) == len(ARCHITECTURES):
            said[f"defaults.{key}.interval"] = points(mean_interval((by_family / 100).tolist()), 2)
        said[f"defaults.{key}.pairs"] = str(len(change))
        own = [line for line in result["table"] if (line["size"], line["candidate"]) == (size, candidate)]
        if intervals := [line["interval"] for line in own if line["interval"]]:
            said[f"defaults.{key}.open"] = NUMBERS[sum(low <= 0 <= high for low, high in intervals)]
        said[f"defaults.{key}.fall"] = str((change < 0).sum())
        said[f"defaults.{key}.rise"] = str((change > 0).sum())
    return said


def _points(change: float) -> str:
    """Return a change that is given in points, with a minus sign and without one at 0."""
    return f"{signed(change)} points"


def _simulated(benchmarks: Path) -> dict[str, str]:
    """State what the rules of the second study's design decide in simulated studies."""
    cases = pd.DataFrame(json.loads((benchmarks / "study_power.json").read_text(encoding="utf-8"))["cases"])
    said = {
        "simulated.studies": f"{cases.studies.min():,}",
        "simulated.covered": f"{100 * cases.covered.min():.0f} to {100 * cases.covered.max():.0f} %",
    }
    for case in cases.query("sd == 1 and between == 0.3").to_dict("records"):
        key = "simulated" if case["pairs"] == cases.pairs.max() else "simulated.found"  # as planned, and as found
        outcomes = {"claimed": case["gain"] + case["loss"], "uncounted": case["null does not count"]}
        outcomes |= {key: case[key] for key in ("small", "null", "inconclusive")}
        said |= {f"{key}.{case['effect']:g}.{name}": f"{100 * share:.0f} %" for name, share in outcomes.items()}
    return said


def _table(finding: Finding) -> pd.DataFrame:
    if finding.table is None:
        raise ValueError(f"stages: got no comparisons for {finding.question!r}")
    return finding.table


def _span(intervals: pd.Series) -> str:
    """Return the lowest and the highest estimate, in points."""
    estimates = sorted(100 * interval.estimate for interval in intervals)
    return f"{estimates[0]:+.0f} to {estimates[-1]:+.0f} points"
