"""The second study's runner on tiny networks and the digits."""

import json
from contextlib import suppress

import pandas as pd
import pytest
import torch

from selfsim import TrainConfig, load_images
from selfsim.rate.options import RateOptions
from selfsim.training.evaluation import Row
from selfsim.training.measure import ScalingOptions, converged_rates
from selfsim.training.runs import Run
from selfsim.training.stack import Stack
from study import convergence, convergence_tables

TINY = {
    "dataset": "digits", "size": "tiny", "train_images": 128, "validation_images": 64, "test_images": 64, "epochs": 4,
    "samples": 32, "batch_size": 32, "precision": "float32",
}  # fmt: skip


def arguments(results, *more):
    options = [part for name, value in TINY.items() for part in ("--option", name, json.dumps(value))]
    return ["--data", "", "--results", str(results), "--families", "mlp", "--seeds", "0", "8", "9",
            "--device", "cpu", "--rates", "0.001", "0.002", *options, *more]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convergence")
    convergence.main(arguments(folder))
    return folder


@pytest.mark.long
def test_tunes_and_trains_every_arm(results):
    found = convergence_tables.read(results)
    assert set(found.runs.arm) == set(convergence_tables.ARMS)
    assert found.tuning.groupby("arm").chosen.sum().tolist() == [1] * 6
    for row in found.tuning[found.tuning.chosen].itertuples():
        of_arm = found.tuning[found.tuning.arm == row.arm]
        assert row.validation_accuracy == of_arm.validation_accuracy.max()
        assert set(found.runs.learning_rate[found.runs.arm == row.arm]) == {row.learning_rate}
    seeds = found.runs.groupby("arm").seed.apply(list).to_dict()
    assert seeds == {arm: [0] for arm in convergence_tables.ARMS} | {"free": [0, *convergence.NOISE_SEEDS]}


@pytest.mark.long
def test_the_arms_differ_in_what_the_design_says(results):
    found = convergence_tables.read(results).runs.set_index("arm")
    converged = json.loads((results / "converged.json").read_text())["mlp"]
    assert json.loads(found.constraint["hold"])["target"] == converged["ss_rate_median"]
    assert json.loads(found.constraint["lower"])["target"] == converged["half_of_noise"]
    assert json.loads(found.constraint["published"])["target"] == converged["ss_rate"]
    assert json.loads(found.constraint["scaling"])["measure"] == "scaling"
    assert found.mixup.to_dict() == dict.fromkeys(convergence_tables.ARMS, 0) | {"control": 0.8}
    assert found.constraint[["free", "control"]].isna().all()


@pytest.mark.long
def test_what_is_done_is_not_done_again(results, capsys):
    before = {file.name: file.read_bytes() for file in results.iterdir()}
    convergence.main(arguments(results))
    assert "runs in" not in capsys.readouterr().out
    assert before == {file.name: file.read_bytes() for file in results.iterdir()}


def test_stops_in_time(tmp_path, capsys):
    convergence.main(arguments(tmp_path, "--minutes", "0"))
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_a_study_that_is_cut_off_has_whole_pairs(tmp_path, monkeypatch):
    """Seeds come before arms, however many are trained at once; an hour's limit is asked for before each batch."""
    trained, now = [], [0.0]

    def batch(study, family, configs, images):
        trained.extend((config.seed, bool(config.mixup)) for config in configs)
        now[0] += 10.0
        study.seconds_a_run[family] = 10.0 / len(configs)
        return {"validation": [0.0] * len(configs)}

    monkeypatch.setattr(convergence.Study, "_batch", batch)
    monkeypatch.setattr(convergence.Study, "_write_batch", lambda *a: None)
    monkeypatch.setattr(convergence.time, "monotonic", lambda: now[0])
    tuned = [tuned_row("free", "none"), tuned_row("control", "mixup")]
    convergence_tables.write(tmp_path, tuning=pd.DataFrame(tuned))
    options = ["--stages", "runs", "--together", "1", "--seeds", "0", "1", "2", "--minutes", "0.7"]
    convergence.main(arguments(tmp_path, *options))
    assert trained == [(0, False), (0, True), (1, False), (1, True)]


@pytest.mark.long
def test_a_seed_is_not_finished_on_another_machine(tmp_path, results):
    found = convergence_tables.read(results)
    runs, history = (table[table.run.str.contains("free")] for table in (found.runs, found.history))
    convergence_tables.write(tmp_path, runs=runs.assign(precision="bfloat16"), history=history, tuning=found.tuning)
    with pytest.raises(ValueError, match="seeds: got 0, whose other runs were made on .*bfloat16"):
        convergence.main(arguments(tmp_path, "--stages", "runs"))


def tuned_row(arm, form):
    return {
        "architecture": "mlp", "arm": arm, "form": form, "learning_rate": 0.001, "seed": convergence.TUNING_SEED,
        "validation_accuracy": 0.5, "chosen": True, "train_accuracy": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("stop", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_a_study_that_is_cut_off_keeps_the_batches_before(tmp_path, monkeypatch, stop):
    whole = convergence.Study._batch
    trained = []

    def cut_off(study, family, configs, images):
        if trained:
            raise stop
        trained.extend(configs)
        return whole(study, family, configs, images)

    monkeypatch.setattr(convergence.Study, "_batch", cut_off)
    convergence_tables.write(tmp_path, tuning=pd.DataFrame([tuned_row("free", "none")]))
    with pytest.raises(stop):
        convergence.main(arguments(tmp_path, "--stages", "runs", "--together", "1", "--option", "epochs", "1"))
    assert convergence_tables.read(tmp_path).runs.run.tolist() == ["mlp-free-0"]
    assert [config.seed for config in trained] == [0]


def test_tuning_that_is_cut_off_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """The tables, the converged rates and the curves are those of a tuning in one go."""
    configs, stop_at = [], [3]

    def batch(study, family, given, images):
        if len(configs) == stop_at[0]:
            raise KeyboardInterrupt
        configs.extend(given)
        score = {0.001: 0.5, 0.002: 0.75, 0.004: 0.75}[given[0].learning_rate] - 0.1 * bool(given[0].mixup)
        rates = {name: {"layer": [given[0].learning_rate]} for name in ("ss_rate", "ss_rate_median")}
        history = [Row(0, "validation", "", "accuracy", score)]
        return {"validation": [score], "clean": [1.0], "history": [history], "rates": rates}

    monkeypatch.setattr(convergence.Study, "_batch", batch)
    monkeypatch.setattr(convergence.Study, "_half_of_noise", lambda *a: {"layer": 0.1})
    options = ["--stages", "tune-free", "tune", "--together", "1", "--rates", "0.004", "0.001", "0.002"]
    with pytest.raises(KeyboardInterrupt):
        convergence.main(arguments(tmp_path / "parts", *options))
    assert json.loads((tmp_path / "parts" / "converged.json").read_text())["mlp"]["ss_rate"] == {"layer": 0.002}
    assert not convergence_tables.read(tmp_path / "parts").tuning.chosen.any()
    for stop_at[0] in (5, 1000):
        with suppress(KeyboardInterrupt):
            convergence.main(arguments(tmp_path / "parts", *options))
    assert len(configs) == 3 * (1 + 2 + 4)  # free, two forms of control, four constrained arms
    convergence.main(arguments(tmp_path / "at once", *options))
    parts, at_once = ({f.name: f.read_text() for f in (tmp_path / name).iterdir()} for name in ("parts", "at once"))
    assert parts == at_once
    found = convergence_tables.read(tmp_path / "parts").tuning
    assert found[found.chosen].learning_rate.tolist() == [0.002] * 6
    assert set(found[found.chosen].form) == {"none", "decay"}


def test_the_best_of_rates_that_were_tuned_elsewhere_is_chosen(tmp_path):
    """Workers that share the learning rates each mark the best of their own; tuning again marks the best of all."""
    rows = [
        tuned_row(arm, "none") | {"learning_rate": rate, "validation_accuracy": score}
        for arm in ("hold", "lower", "scaling", "published")
        for rate, score in ((0.001, 0.5), (0.002, 0.75))
    ]
    convergence_tables.write(tmp_path, tuning=pd.DataFrame(rows))
    (tmp_path / "converged.json").write_text(json.dumps({"mlp": {"half_of_noise": {}}}))
    convergence.main(arguments(tmp_path, "--stages", "tune"))
    found = convergence_tables.read(tmp_path).tuning
    assert found[found.chosen].learning_rate.tolist() == [0.002] * 4


def test_training_rates_are_what_a_constraint_reads():
    """Those of `SelfSimilarityConstraint.hold`, where all training images are read."""
    config = TrainConfig("mlp", **(TINY | {"epochs": 1, "train_images": 128}))
    images = load_images("digits", train_images=128, validation_images=64, test_images=64)
    stack = Stack([config], [images], torch.device("cpu"))
    weights = stack.weights()[0]
    rates = convergence.training_rates(stack)
    run = Run(config, [], stack.built_as, {}, weights)
    for name, measure in {"ss_rate_median": RateOptions(unit="median"), "scaling_deviation": ScalingOptions()}.items():
        for layer, value in converged_rates(run, measure).items():
            # The batches are others, of the same images.
            assert rates[name][layer] == [pytest.approx(value, abs=0.02)]
