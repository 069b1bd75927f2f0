"""Provenance: complete, JSON-able, an accessible table; the commit only of the package's own checkout."""

from __future__ import annotations

import datetime
import json
import subprocess
import time

import pytest

import selfsim
from selfsim.publish.provenance import provenance
from selfsim.training.environment import checkout_state, environment_facts


def git(folder, *arguments):
    subprocess.run(
        ["git", "-C", folder, "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        check=True,
        capture_output=True,
    )


def test_it_holds_all_that_a_page_must_name():
    made = provenance(parameters={"epochs": 3, "seeds": (0, 1), "name": "a<b"}, seeds=(0, 1), started=time.time() - 61)
    held = json.loads(json.dumps(made.to_dict()))
    assert held["parameters"] == {"epochs": 3, "seeds": [0, 1], "name": "a<b"}
    assert held["seeds"] == [0, 1]
    assert held["facts"]["version"] == selfsim.__version__
    assert set(held["facts"]["libraries"]) >= {"torch", "numpy", "scipy", "networkx", "scikit-learn"}
    assert 61 <= held["seconds"] < 70
    date = datetime.datetime.fromisoformat(held["date"])
    assert date.utcoffset() == datetime.timedelta(0)
    assert abs((datetime.datetime.now(datetime.UTC) - date).total_seconds()) < 120
    labels = [label for label, _ in made.rows()]
    assert labels == ["Package", "Parameters", "Seeds", "Device", "Versions", "Date", "Run time"]


def test_the_table_is_accessible_and_escaped():
    made = provenance(parameters={"name": "<b>|x"}, seeds=0)
    table = made._repr_html_()
    assert table.count('<th scope="row"') == len(made.rows())
    assert "<caption>" in table
    assert "<b>" not in table
    assert "&lt;b&gt;" in table
    lines = made._repr_markdown_().splitlines()
    assert len(lines) == len(made.rows()) + 2
    assert r"\<b\>\|x" in lines[3]


def test_start_as_datetime_none_or_in_the_future():
    ago = datetime.datetime.now() - datetime.timedelta(seconds=30)
    assert 29 <= provenance(parameters={}, seeds=0, started=ago).seconds < 40
    assert provenance(parameters={}, seeds=0).seconds is None
    with pytest.raises(ValueError, match=r"started: got .* in the future"):
        provenance(parameters={}, seeds=0, started=time.time() + 100)


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
