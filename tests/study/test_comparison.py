"""The comparison of architectures: numbers against plain ones, verdicts on tables with and without an effect."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from selfsim import TrainConfig, activations, load_images, load_runs, ss_rate, train
from selfsim.models.architectures import create
from selfsim.models.seeding import seeded
from selfsim.training.data_record import fingerprints_of
from study import comparison, plots

NAMES = {"MLP": 3, "attention": 3, "convolution": 3, "pooling": 1}


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", train_images=256)  # what the runs below are trained on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for name in ("mlp", "vgg11"):
        for seed in (0, 1):
            for constraint in (None, {"target": 0.1}):
                config = TrainConfig(name, epochs=1, train_images=256, samples=32, seed=seed, constraint=constraint)
                train(config, runs=place, device="cpu")
    return place


@pytest.fixture(scope="module")
def measured(folder, digits):
    return comparison.measured_layers(load_runs(folder), digits, samples=32, null_draws=4)


def made_up(shift=0.0, change=0.0, noise=0.01, seeds=4) -> pd.DataFrame:
    """A table of `measured_layers` in which convolutions are `shift` above the rest, and training adds `change`."""
    random = np.random.default_rng(0)
    rows = []
    for family, number in NAMES.items():
        for k in range(number):
            for seed in range(seeds):
                for training in comparison.TRAINING:
                    value = 0.25 + shift * (family == "convolution") + change * (training != "untrained")
                    about = {"architecture": f"{family} {k}", "family": family, "training": training, "layer": "a"}
                    for measure in comparison.MEASURES:
                        numbers = {"seed": seed, "depth": 0.0, "neurons": 64, "null": 0.25, "null_spread": 0.02}
                        value_here = value + noise * random.standard_normal()
                        rows.append(about | numbers | {"measure": measure, "value": value_here})
    return pd.DataFrame(rows)


@pytest.mark.long
def test_every_state_of_every_layer_is_measured(measured, folder, digits):
    runs = load_runs(folder)
    layers = {run.config.architecture: len(run.layers) for run in runs}
    assert len(measured) == 2 * 3 * sum(layers.values()) * len(comparison.MEASURES)
    chosen = measured[
        (measured.training == "untrained") & (measured.seed == 1) & (measured.architecture == "Plain MLP")
    ]
    run = next(r for r in runs if (r.config.architecture, r.config.seed, r.config.constraint) == ("mlp", 1, None))
    with seeded(1):
        untrained = create(**run.built_as)
    hidden = activations(untrained, digits.batches("validation"), samples=32, device="cpu")
    for layer, values in hidden.items():
        row = chosen[(chosen.layer == layer) & (chosen.measure == "without 3 most distant")]
        assert row.value.item() == pytest.approx(float(ss_rate(values, leave_out=3)))
    # Before training, the history of the run and what is built anew from its seed are the same network.
    row = chosen[(chosen.layer == "blocks.0") & (chosen.measure == "surrogate")]
    assert row.value.item() == pytest.approx(run.series("ss_rate", layer="blocks.0")[0], rel=1e-5)


@pytest.mark.long
def test_nulls_are_those_of_the_first_seed(measured):
    """All seeds share them, so a later seed's layer without a rate has a null beside it, too."""
    has_null = (measured.measure == "surrogate") | (measured.training == "unconstrained")
    first = measured.groupby(["architecture", "training", "layer", "measure"]).value.transform(
        lambda v: v.notna().iloc[0]
    )
    assert (measured.null.notna() == (has_null & first)).all()


def test_groups_are_compared_by_architecture_not_by_seed():
    table = made_up(shift=0.1)
    found = comparison.group_difference(table)
    each = table.query("measure == 'surrogate' and training == 'unconstrained'").groupby(["family", "architecture"])
    each = (each.value.mean() - 0.25).reset_index()
    a, b = (each.value[(each.family == "convolution") == side] for side in (True, False))
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found.estimate, found.low, found.high) == pytest.approx((a.mean() - b.mean(), *interval))
    assert found.n == 10
    with pytest.raises(ValueError, match="too few architectures"):
        comparison.group_difference(table[table.family != "convolution"])


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        ({}, ("degradation is not shown", "two groups are not shown")),
        ({"change": 0.1}, ("rose in 10 and fell in 0 of 10", "degradation is shown", "two groups are not shown")),
        ({"change": -0.1}, ("rose in 0 and fell in 10 of 10", "degradation is reversed")),
        ({"shift": 0.2}, ("convolutions have higher rates", "degradation is not shown")),
        ({"shift": -0.2}, ("convolutions have lower rates",)),
    ],
)
def test_verdicts_say_what_is_there_and_no_more(effect, said):
    found = comparison.answers(made_up(**effect))
    for part in said:
        assert part in " ".join(found.values())
    assert all(len(re.findall(r"\.(?!\S)", sentence)) == 1 for sentence in found.values())


@pytest.mark.parametrize(
    ("effect", "said"), [({"seeds": 5}, "a difference is not shown"), ({"shift": 0.2}, "they differ here")]
)
def test_whether_architectures_differ_is_answered_by_a_rank_test(effect, said):
    table = made_up(**effect)
    trained = table.query("measure == 'surrogate' and training == 'unconstrained'")
    p = stats.kruskal(*(group.value for _, group in trained.groupby("architecture"))).pvalue
    assert f"p = {p:.2g}, so {said}." in comparison.answers(table)["C3, do architectures differ?"]


def test_few_architectures_are_said_to_be_few():
    found = comparison.answers(made_up().query("architecture == 'MLP 0'"))
    assert "degradation is not shown" in " ".join(found.values())
    assert "Kruskal" not in " ".join(found.values())
    assert sum("too few architectures" in sentence for sentence in found.values()) == 3


def test_runs_that_cannot_be_compared(folder, tmp_path):
    assert len(comparison.comparable_runs(str(folder))) == 8
    assert len(comparison.comparable_runs(str(folder), constraint={"target": 0.1})) == 8
    with pytest.raises(ValueError, match=r"runs: got 4 without a constraint and none under .*'target': 0.2"):
        comparison.comparable_runs(str(folder), constraint={"target": 0.2})
    runs = comparison.comparable_runs(str(folder))
    for part, refused in (("train", False), ("test", True)):
        data = {"fingerprints": fingerprints_of(runs[0]) | {part: "another"}}
        other = replace(runs[0], config=replace(runs[0].config, seed=9), environment={"data": data})
        raised = pytest.raises(ValueError, match=r"different images \(test\) in .*, seed 9; need the same")
        with raised if refused else nullcontext():
            assert len(comparison.comparable([*runs, other])) == 9
    for nothing in ("", str(tmp_path)):
        with pytest.raises(ValueError, match="runs: got .* no finished runs; need the folder"):
            comparison.comparable_runs(nothing)


def test_figures_show_every_architecture(measured, folder):
    runs = load_runs(folder)
    at_a_glance = plots.plot_families(measured)
    assert [label.get_text() for label in at_a_glance.axes[0].get_yticklabels()] == ["Plain MLP", "VGG-11"]
    # A bar is four standard deviations of the mean over layers.
    layers = measured.query("measure == 'surrogate' and seed == 0 and architecture == 'VGG-11'")
    layers = layers[layers.training == "untrained"]
    bar = next(bar for bar in at_a_glance.axes[0].patches if bar.get_y() == pytest.approx(1 - 0.24 - 0.1))
    assert bar.get_width() == pytest.approx(4 * np.sqrt((layers.null_spread**2).sum()) / len(layers))
    epochs = plots.plot_epochs(runs)
    assert [axes.get_title("left") for axes in epochs.axes if axes.get_visible()] == ["Plain MLP", "VGG-11"]
    assert len(plots.plot_depth(measured).axes) == 3
    measures = plots.plot_measures(measured).axes[0]
    assert len(measures.texts) == 2 * len(comparison.MEASURES)
    named = [label.get_text().replace("\n", " ") for label in measures.get_xticklabels()]
    assert named == list(comparison.MEASURES)
    with pytest.raises(KeyError, match="no metric 'nonsense'"):
        plots.plot_epochs(runs, "nonsense")
