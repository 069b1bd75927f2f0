"""The page on the constraint shows what the check of its defaults found."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.defaults import CANDIDATES, TARGET, page_table, table

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "results" / "benchmarks" / "defaults.json").read_text(encoding="utf-8"))


def test_the_table_of_the_page_is_that_of_the_file():
    assert page_table(RESULT) in (ROOT / "book" / "constraint.md").read_text(encoding="utf-8")
    assert page_table(RESULT).count("\n") == 11  # ten architectures


def test_the_file_is_what_its_runs_say():
    assert RESULT["table"] == json.loads(json.dumps(table(RESULT["runs"])))
    assert RESULT["target"] == TARGET
    assert {run["candidate"] for run in RESULT["runs"]} <= CANDIDATES.keys()
    assert CANDIDATES["default"] == {}  # the package's own
