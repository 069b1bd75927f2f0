"""The analysis of a model: its rows against the functions that they come from, on models and loaders of many kinds."""

from __future__ import annotations

import json
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn

import selfsim
from selfsim.analysis.analyze import Analysis, analyze
from selfsim.analysis.statistics import STATISTICS
from selfsim.figures.analysis import plot_analysis


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def perceptron(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(20, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU())


LOADER = [(some(32, 20, seed=k), torch.zeros(32)) for k in range(3)]
QUICK = {"samples": 64, "draws": 4, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(perceptron(), LOADER, **QUICK)


def test_a_row_has_what_the_functions_return(analysis):
    hidden = selfsim.activations(perceptron(), LOADER, samples=64, device="cpu")
    table = analysis.to_pandas()
    assert analysis.layers == list(hidden) == list(table.index)
    for layer, x in hidden.items():
        row = table.loc[layer]
        assert (row.samples, row.neurons) == x.shape
        assert row.rate == selfsim.ss_rate(x).item()
        found = selfsim.scaling(x, draws=0)
        assert (row.deviation, row.octaves) == (found.deviation.value, found.octaves.value)
        assert row.scales == found.scales
        assert row.note == (f"dimension: {found.reason}" if found.reason else "")
        assert row.sample_dimension == float(selfsim.correlation_dimension(x))
        assert row.exponent == selfsim.spectrum_exponent(x).value
        assert row.spectrum == selfsim.spectrum_exponent(x).verdict
        for null, low, high, z in (
            ("shuffled", "null_low", "null_high", "z"),
            ("gauss", "gauss_low", "gauss_high", "gauss_z"),
        ):
            band = selfsim.null_band(selfsim.ss_rate, x, null=null, draws=4)
            assert (row[low], row[high]) == (band.low, band.high)
            assert row[z] == band.z_score(row.rate)
        band = selfsim.null_band(selfsim.scaling_deviation, x, null="shuffled", draws=4)
        assert (row.deviation_null_low, row.deviation_null_high) == (band.low, band.high)
        assert analysis.network(layer).distances == pytest.approx(selfsim.pair_distances(x).numpy())


def test_a_layer_without_a_rate_is_a_row_with_its_reason():
    model = perceptron()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    table = analyze(model, LOADER, **QUICK).to_pandas()
    assert math.isnan(table.rate["3"])
    assert "rate: activations: all 1770 distances between neurons are equal" in table.note["3"]
    assert "rate: " not in table.note["1"]
    assert table.rate["1"] > 0


def test_statistics_by_name_and_of_the_callers_own():
    def largest(activations):
        return activations.max()

    table = analyze(
        perceptron(), LOADER, statistics=["rate", "median_distance", largest], nulls=[], **QUICK
    ).to_pandas()
    assert list(table.columns) == ["neurons", "samples", "rate", "median_distance", "largest", "note"]
    hidden = selfsim.activations(perceptron(), LOADER, samples=64, device="cpu")
    assert table.largest["1"] == hidden["1"].max().item()
    # Of an even number of pairs the lower middle one, as in the unit of the rate and in histories.
    distances = np.sort(selfsim.pair_distances(hidden["1"]).numpy())
    assert table.median_distance["1"] == distances[(len(distances) - 1) // 2]


def test_columns_never_collide_and_never_hide():
    def rate(activations):
        return 1.0

    def mean_low(activations):
        return activations.mean()

    for statistics in ([rate], ["rate", "rate"], [mean_low, mean_low], [lambda x: 1.0, lambda x: 2.0]):
        with pytest.raises(ValueError, match="statistics: got a second '.*', need functions with names"):
            analyze(perceptron(), LOADER, statistics=statistics, **QUICK)
    found = analyze(perceptron(), LOADER, statistics=["rate", mean_low], **QUICK)
    assert found.measures == ["neurons", "samples", "rate", "mean_low"]
    assert "<th scope='col'>mean_<wbr>low</th>" in found._repr_html_()
    assert "null_low" not in repr(found) and "mean_low" in repr(found)


def test_bands_of_a_second_null_model_alone_are_no_measures():
    x = torch.zeros(40, 3)
    x[0, :2] = x[1, 2] = 1  # shuffled, nearly always three neurons at equal distances, which have no rate
    found = analyze(nn.Sequential(nn.Identity()), [x], layers=["0"], statistics=["rate"], **QUICK | {"samples": 40})
    assert "gauss_low" in found.columns and "null_low" not in found.columns and "shuffled" in found.rows["0"]["note"]
    assert found.measures == ["neurons", "samples", "rate"]


def test_every_statistic_has_a_number_or_a_reason():
    found = analyze(perceptron(), LOADER, layers=["1"], statistics=list(STATISTICS), nulls=[], **QUICK)
    row = found.rows["1"]
    assert {"clustering", "two_nn", "rate_linkage", "rate_median_unit", "rate_left_out", "rate_quantiles"} <= set(row)
    for column, value in row.items():
        assert not (isinstance(value, float) and math.isnan(value)) or f"{column}: " in row["note"]


def test_tokens_with_a_mask():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.block = nn.Embedding(30, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

        def forward(self, input_ids, attention_mask=None):
            return self.block(self.embed(input_ids), src_key_padding_mask=~attention_mask.bool())

    ids = torch.randint(30, (24, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.arange(24)[:, None] % 6 + 2
    batches = [{"input_ids": ids, "attention_mask": mask.long()}]
    found = analyze(Tokens(), batches, layers=["block"], mask="attention_mask", **QUICK | {"samples": 24})
    assert found.activations["block"].shape == (24, 16)
    assert found.rows["block"]["rate"] > 0


def test_a_model_of_timm():
    timm = pytest.importorskip("timm", reason="needs timm, in the extra models")
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    found = analyze(model, [some(40, 3, 16, 16)], **QUICK | {"samples": 40})
    assert found.layers == ["blocks.0", "blocks.1"]
    assert [values.shape for values in found.activations.values()] == [(40, 24)] * 2


def test_it_leaves_the_model_and_the_random_state_alone():
    model = perceptron().train()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    analyze(model, LOADER, **QUICK)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_saved_and_loaded(analysis, tmp_path):
    analysis.save(tmp_path / "model.npz")
    loaded = Analysis.load(tmp_path / "model.npz")
    pd.testing.assert_frame_equal(loaded.to_pandas(), analysis.to_pandas())
    assert repr(loaded) == repr(analysis)
    assert loaded.outside() == analysis.outside()
    for layer, values in analysis.activations.items():
        assert torch.equal(loaded.activations[layer], values)
        for null, bands in analysis.bands[layer].items():
            for column, band in bands.items():
                again = loaded.bands[layer][null][column]
                assert (again.low, again.high, again.level) == (band.low, band.high, band.level)


@pytest.mark.parametrize("kind", ["cut off", "another file", "missing part"])
def test_a_file_that_save_did_not_write(analysis, tmp_path, kind):
    path = tmp_path / "model.npz"
    if kind == "missing part":
        np.savez(path, analysis=np.array(json.dumps({"rows": {"0": {}}})))
    else:
        analysis.save(path)
        path.write_bytes(path.read_bytes()[:500] if kind == "cut off" else b"PK text")
    with pytest.raises(ValueError, match="is not an analysis that save"):
        Analysis.load(path)


def test_comparison(analysis):
    other = analyze(perceptron(seed=1), LOADER, **QUICK)
    table = analysis.compare(other)
    assert table["rate", "difference"]["1"] == analysis.rows["1"]["rate"] - other.rows["1"]["rate"]
    assert 0 <= table["neighbours", "kept"]["1"] < 0.6
    same = analysis.compare(analysis)
    difference = same.xs("difference", axis=1, level=1)
    assert ((difference == 0) | (difference.isna() & same.xs("here", axis=1, level=1).isna())).all(axis=None)
    assert (same["neighbours", "kept"] == 1).all()
    first, second = (analyze(perceptron(), LOADER, layers=[layer], nulls=[], **QUICK) for layer in ("1", "3"))
    with pytest.raises(ValueError, match=r"other: got the layers \['3'\], need some of \['1'\]"):
        first.compare(second)


def test_another_analysis_is_drawn_by_the_names_of_the_layers(analysis):
    other = analyze(perceptron(seed=1), LOADER, layers=["3"], nulls=[], **QUICK)
    (drawn,) = (line for line in analysis.plot(other).axes[0].lines if "other" in line.get_label())
    first, second = drawn.get_ydata().tolist()
    assert math.isnan(first)
    assert second == other.rows["3"]["rate"]
    for method in (analysis.plot, analysis.compare):
        with pytest.raises(TypeError, match="other: got dict, need an Analysis"):
            method({})


def test_html_and_figure(analysis):
    html = analysis._repr_html_()
    assert html.count("<svg") == html.count("<title>") == len(analysis.layers)
    assert html.startswith("<div style='overflow-x:auto' role='group' aria-label='Table of the layers' tabindex='0'>")
    assert f"rate {analysis.rows['1']['rate']:.3f}; shuffled null" in html
    figure = analysis.plot(analysis)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "SS rate",
        "deviation from a power law",
        "octaves of the scaling range",
    ]
    drawn = figure.axes[0].lines[0].get_ydata()
    assert drawn.tolist() == [row["rate"] for row in analysis.rows.values()]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"statistics": ["rat"]}, ValueError, "statistics: got 'rat', need one of .*did you mean 'rate'"),
        ({"statistics": "rate"}, TypeError, "statistics: got 'rate', need a sequence"),
        ({"nulls": ["gaus"]}, ValueError, "nulls: got 'gaus'"),
        ({"nulls": "gauss"}, TypeError, "nulls: got 'gauss', need a sequence"),
        ({"nulls": ["gauss", "gauss"]}, ValueError, "nulls: got .* need each null model once"),
        ({"nulls": None}, TypeError, "nulls: got None, need a sequence"),
        ({"statistics": 5}, TypeError, "statistics: got 5, need a sequence"),
        (
            {"statistics": [torch.Tensor.square]},
            TypeError,
            "layer '1': statistics: 'square': got Tensor, need one number",
        ),
        ({"statistics": [torch.Tensor.cholesky]}, RuntimeError, "layer '1'"),
        ({"pooling": lambda x: x @ x}, RuntimeError, "pooling: for layer '1'"),
        ({"pooling": torch.Tensor.numel}, ValueError, "pooling: for layer '1' it gave int, need a tensor"),
        ({"draws": 1}, ValueError, "draws: got 1, need an integer of at least 2"),
        ({"level": 1.0}, ValueError, "level: got 1.0"),
        ({"seed": 1.5}, ValueError, "seed: got 1.5"),
        ({"progress": "yes"}, ValueError, "progress: got 'yes', need True or False"),
        ({"layers": ["9"]}, ValueError, "layers: "),
        ({"samples": 500}, ValueError, "samples: got 500, but the loader has only 96"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        analyze(perceptron(), LOADER, **QUICK | change)


def test_layers_outside_their_bands(analysis):
    for layer, bands in analysis.bands_of("deviation").items():
        assert bands == [of_null["deviation"] for of_null in analysis.bands[layer].values()]
    for null, layers in analysis.outside("deviation").items():
        for layer in analysis.layers:
            band = analysis.bands[layer][null]["deviation"]
            assert (layer in layers) == (not band.low <= analysis.rows[layer]["deviation"] <= band.high)
    with pytest.raises(ValueError, match="column: got 'octaves', need one of 'rate', 'rate_median_unit', 'deviation'"):
        analysis.outside("octaves")


def test_the_rate_in_units_of_the_median_has_bands_of_its_own():
    one = analyze(perceptron(), LOADER, **QUICK, statistics=["rate", "rate_median_unit"])
    for layer, bands in one.bands_of("rate_median_unit").items():
        for band, null in zip(bands, ("shuffled", "gauss"), strict=True):
            rates = [
                float(
                    selfsim.ss_rate(
                        selfsim.null_activations(one.activations[layer], null=null, seed=draw), unit="median"
                    )
                )
                for draw in range(len(band.values))
            ]
            np.testing.assert_allclose(band.values, rates, rtol=1e-6)
        assert bands[0].values.tolist() != one.bands_of("rate")[layer][0].values.tolist()
        assert one.rows[layer]["rate_median_unit_null_low"] == bands[0].low
    assert one.measures == ["neurons", "samples", "rate", "rate_median_unit"]


def test_a_statistic_that_changes_its_argument_changes_nothing_else(analysis):
    def centred(x):
        x -= x.mean(0)
        return x.abs().max()

    names = ["rate", "scaling", "dimension", "spectrum"]
    for statistics in ([centred, *names], [*names, centred]):
        found = analyze(perceptron(), LOADER, **QUICK, statistics=statistics)
        for layer, row in analysis.rows.items():
            assert found.activations[layer].equal(analysis.activations[layer])
            assert {key: found.rows[layer][key] for key in row if row[key] == row[key]} == {
                key: value for key, value in row.items() if value == value
            }


def test_bands_of_what_was_not_asked_for_are_an_error(analysis):
    for answer in (analysis.outside, analysis.bands_of):
        with pytest.raises(ValueError, match="column: got 'rate_median_unit', need one of the columns neurons, "):
            answer("rate_median_unit")


def test_a_statistic_that_fails_in_one_layer_leaves_the_others():
    def inverse(x):
        return torch.linalg.inv(x.T @ x).trace()

    def divided(x):
        return 1 / int(x[0, 0].item() > 0)

    model = nn.Sequential(nn.Linear(20, 5), nn.ReLU(), nn.Linear(5, 1), nn.Linear(1, 60))
    with torch.no_grad():
        model[0].weight[0] = model[0].bias[0] = 0
    statistics = [inverse, divided, "scaling", "topology"]
    found = analyze(model, LOADER, **QUICK, layers=["1", "2", "3"], statistics=statistics)
    assert "inverse: " in found.rows["1"]["note"] and "divided: division by zero" in found.rows["1"]["note"]
    assert math.isfinite(found.rows["2"]["inverse"])
    assert "scaling: " in found.rows["2"]["note"] and math.isnan(found.rows["2"]["deviation"])
    assert not {"scaling", "topology"} & set(found.columns)


def test_few_and_equal_neurons_are_rows_with_reasons():
    model = nn.Sequential(nn.Linear(20, 2), nn.Linear(2, 3))
    table = analyze(model, LOADER, **QUICK).to_pandas()
    assert "rate: activations: got 2 neurons" in table.note["0"]
    assert math.isnan(table.deviation["0"])


def test_a_layer_without_a_clustering_has_none():
    model = nn.Sequential(nn.Linear(20, 2))
    row = analyze(model, LOADER, **QUICK, layers=["0"], statistics=["topology"]).rows["0"]
    assert math.isnan(row["clustering"]) and "clustering: " in row["note"]


@pytest.mark.parametrize("name", ["null_low", "z", "gauss_high", "deviation_gauss_z", "deviation_z"])
def test_a_statistic_may_not_have_the_name_of_a_bands_column(name):
    statistic = lambda x: 1.0  # noqa: E731
    statistic.__name__ = name
    with pytest.raises(ValueError, match=f"statistics: got a second '{name}'"):
        analyze(perceptron(), LOADER, **QUICK, statistics=["rate", statistic])


def test_two_statistics_may_not_give_one_column():
    def exponent(x):
        return 1.0

    with pytest.raises(ValueError, match="'exponent' gives the column 'exponent', which is another's"):
        analyze(perceptron(), LOADER, **QUICK, statistics=["spectrum", exponent])
    for column in ("null_low", "note", "rate"):
        with pytest.raises(ValueError, match=f"gives the column '{column}', which is another's"):
            analyze(perceptron(), LOADER, **QUICK, statistics=[lambda x, column=column: {column: 1.0}])


def test_small_layers_of_unrelated_networks_do_not_keep_all_neighbours():
    small = [nn.Sequential(nn.Linear(20, 10)) for _ in range(2)]
    one, other = (analyze(model, LOADER, **QUICK, layers=["0"], statistics=["rate"]) for model in small)
    assert 0.1 < one.compare(other)["neighbours", "kept"].item() < 0.9


def test_panels_of_many_layers_have_the_same_places_also_where_values_are_missing():
    layers = {f"blocks.{k}": torch.randn(64, 8 if k in (0, 11) else 40) for k in range(12)}  # 8 neurons do not scale
    figure = plot_analysis(
        {
            layer: {"rate": float(selfsim.ss_rate(x)), **({"octaves": 2.0} if x.shape[1] > 8 else {})}
            for layer, x in layers.items()
        },
        {},
    )
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    ticks = [tick for axes in figure.axes for tick in axes.get_xticks()]
    assert all(tick == int(tick) for tick in ticks)


def test_three_null_models_are_told_apart():
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    nulls = ["shuffled", "gauss", "gauss-covariance"]
    found = analyze(
        nn.Sequential(nn.Linear(12, 12), nn.ReLU()), [x], statistics=["rate"], nulls=nulls, draws=5, samples=60
    )
    figure = found.plot()
    FigureCanvasAgg(figure).draw()
    entries = figure.legends[0].get_patches()
    looks = {(patch.get_facecolor(), patch.get_hatch()) for patch in entries}
    assert len(looks) == len(entries) == 3
    page = found._repr_html_()
    assert "dark: shuffled, light: gauss, black: gauss-covariance" in page
    assert len(set(re.findall("<rect[^>]*fill='(#[0-9a-f]+)'", page))) == 3
    box = figure.legends[0].get_window_extent(figure.canvas.get_renderer())
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_the_legend_of_a_comparison_fits_without_the_books_style(analysis):
    with plt.rc_context(plt.rcParamsDefault):
        figure = analysis.plot(analysis)
        FigureCanvasAgg(figure).draw()
        box = figure.legends[0].get_window_extent(figure.canvas.get_renderer())
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
