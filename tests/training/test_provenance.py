"""Provenance: complete, JSON-able, an accessible table; the commit only of the package's own checkout."""

from __future__ import annotations

import datetime
import subprocess
import time

import numpy as np
import pytest

import selfsim
from selfsim.training.provenance import checkout_state, device_name, environment_facts, provenance


def git(folder, *arguments):
    subprocess.run(
        ["git", "-C", folder, "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        check=True,
        capture_output=True,
    )


def test_it_holds_all_that_a_page_must_name():
    made = provenance(parameters={"epochs": 3, "name": "<b>|x"}, seeds=(0, 1), started=time.time() - 61).rows
    assert list(made) == ["Package", "Parameters", "Seeds", "Device", "Versions", "Date", "Run time"]
    assert made["Package"].startswith(f"selfsim {selfsim.__version__}")
    assert made["Parameters"] == "epochs=3, name='<b>|x'"
    assert made["Seeds"] == "0, 1"
    assert made["Device"].startswith("cpu")
    for library in ("python", "torch", "numpy", "scipy", "networkx", "scikit-learn"):
        assert f"{library} " in made["Versions"]
    date = datetime.datetime.strptime(made["Date"], "%Y-%m-%d %H:%M UTC").replace(tzinfo=datetime.UTC)
    assert 0 <= (datetime.datetime.now(datetime.UTC) - date).total_seconds() < 120
    assert made["Run time"] in ("61 s", "62 s", "63 s")
    assert provenance(parameters={}, seeds=0, started=time.time() - 150.1).rows["Run time"] == "2 min 30 s"
    assert provenance(parameters={}, seeds=0, started=time.time() - 179.8).rows["Run time"] == "3 min 0 s"
    assert provenance(parameters={}, seeds=np.int64(3)).rows["Seeds"] == "3"


def test_the_table_is_accessible_and_escaped():
    made = provenance(parameters={"name": "<b>|x"}, seeds=0)
    table = made._repr_html_()
    assert table.count('<th scope="row"') == len(made.rows)
    assert "<caption>" in table
    assert "<b>" not in table
    assert "&lt;b&gt;" in table


def test_no_start_gives_no_run_time_and_the_future_is_refused():
    assert "Run time" not in provenance(parameters={}, seeds=0).rows
    with pytest.raises(ValueError, match=r"started: got .* in the future"):
        provenance(parameters={}, seeds=0, started=time.time() + 100)


def test_a_device_that_was_named_before_stays_as_it_is():
    # As a run keeps it; torch would not know a card by this name.
    assert device_name("cuda:0 (A card)") == "cuda:0 (A card)"
    assert device_name(environment_facts("cpu")["device"]) == environment_facts("cpu")["device"]


def test_only_imported_extras_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert "timm" in environment_facts()["libraries"]
    monkeypatch.delitem(__import__("sys").modules, "timm")
    assert "timm" not in environment_facts()["libraries"]


def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path):
    package = tmp_path / "selfsim"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert checkout_state(package) == (None, None)
    git(tmp_path, "init", "-q")
    # Installed in an environment that lies in somebody's repository: not tracked by it.
    assert checkout_state(package) == (None, None)
    git(tmp_path, "add", "selfsim")
    git(tmp_path, "commit", "-qm", "x")
    commit, modified = checkout_state(package)
    assert len(commit) == 12
    assert modified is False
    (tmp_path / "elsewhere").write_text("not the package")
    assert checkout_state(package)[1] is False
    (package / "__init__.py").write_text("x = 1")
    assert checkout_state(package) == (commit, True)
