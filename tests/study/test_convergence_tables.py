"""The tables of the second study: written in parts, they read back as they were, and mistakes are refused."""

from __future__ import annotations

import pandas as pd
import pytest

from study import convergence_tables as tables

from .made_convergence import made_tables


def test_tables_written_in_parts_are_those_written_at_once(tmp_path):
    made = made_tables(families=("mlp", "vit_small"), seeds=3)
    tables.write(tmp_path / "once", runs=made.runs, history=made.history, tuning=made.tuning)
    for seed in (2, 0, 1, 0):  # one of them again
        runs = made.runs[made.runs.seed == seed]
        tables.write(tmp_path / "parts", runs=runs, history=made.history[made.history.run.isin(runs.run)])
    tables.write(tmp_path / "parts", tuning=made.tuning)
    for name in ("runs", "history", "tuning"):
        once, parts = (tables.path(tmp_path / place, name).read_text() for place in ("once", "parts"))
        assert sorted(once.splitlines()) == sorted(parts.splitlines())
    back = tables.read(tmp_path / "once")
    both = back.runs.set_index("run").test_accuracy, made.runs.set_index("run").test_accuracy
    pd.testing.assert_series_equal(both[0].sort_index(), both[1].sort_index(), rtol=1e-8)
    assert back.tuning.chosen.sum() == 12 and back.tuning.chosen.dtype == bool
    assert len(tables.read(tmp_path / "nowhere").runs) == 0


def test_a_run_made_again_replaces_its_history(tmp_path):
    made = made_tables(families=("mlp",), seeds=1)
    tables.write(tmp_path, runs=made.runs, history=made.history)
    again = made.history[(made.history.run == "mlp-hold-0") & (made.history.epoch == 60)]
    tables.write(tmp_path, history=again)
    stored = tables.read(tmp_path).history
    assert len(stored[stored.run == "mlp-hold-0"]) == len(again)
    assert len(stored) == len(made.history) - (made.history.run == "mlp-hold-0").sum() + len(again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: runs.drop(columns="test_accuracy"), "runs: got no column test_accuracy"),
        (lambda runs: runs.assign(arm="held"), "runs: got arm 'held'"),
        (lambda runs: runs.assign(architecture="mpl"), "runs: got architecture 'mpl'"),
        (lambda runs: pd.concat([runs, runs]), "runs: got .* twice"),
        (lambda runs: runs.assign(subset=range(len(runs))), "runs: got pairs of several subsets"),
    ],
)
def test_wrong_tables_are_refused_before_anything_is_written(tmp_path, change, message):
    made = made_tables(families=("mlp",), seeds=2)
    with pytest.raises(ValueError, match=message):
        tables.write(tmp_path, tuning=made.tuning, runs=change(made.runs))
    assert not list(tmp_path.iterdir())
