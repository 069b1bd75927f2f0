"""The benchmark of graphics cards: its dry run on the CPU, and what it does with failures and without time."""

from __future__ import annotations

import functools
import json
import warnings

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import alone
from benchmarks.gpu.check import Check, rows_of, run_checks
from benchmarks.gpu.checks import TOLERANCES, of_function, synchronisation_checks, synchronisations
from benchmarks.gpu.page import (
    NEVER,
    PAGE,
    against_table,
    checks_summary,
    page_section,
    step_table,
    stored_result,
    summary,
    timings_table,
    with_section,
)
from benchmarks.gpu.report import Report
from selfsim import ss_rate

CPU = torch.device("cpu")


@pytest.mark.long
def test_a_dry_run_passes_every_check_and_measures_every_call(tmp_path, capsys):
    gpu.main(["--dry-run", "--minutes", "60", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    passed, number, failed = checks_summary(result)
    assert not failed
    assert passed == number > 150
    names = {row["name"] for row in result["checks"]["rows"]}
    assert any(name.startswith("compile: ss_rate") for name in names)
    for section in ("checks", "timings", "step", "stacked"):
        assert result[section]["left out"] == []
        assert "failed" not in result[section]
    assert {row["name"] for row in result["step"]["rows"]} == {"without", "all layers", "one layer per step"}
    assert all(row["milliseconds"] > 0 for row in result["timings"]["rows"])
    assert timings_table(result) in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize(("wrong_by", "passed"), [(0.0, True), (1e-3, False)])
def test_a_wrong_float32_is_found(wrong_by, passed):
    def rate(x):
        return ss_rate(x) * (1 + wrong_by * (x.dtype == torch.float32))

    rows = rows_of(of_function("rate", rate, CPU, torch.float32))
    assert [row["name"] for row in rows] == ["rate, float32: value", "rate, float32: gradient"]
    assert all(row["passed"] is passed and row["tolerance"] == TOLERANCES[torch.float32] for row in rows)


@pytest.mark.long
def test_synchronisations_are_counted_by_torchs_warnings(monkeypatch):
    """Without a card nothing waits, so every count is 0, and the check of the counting itself fails."""
    for name in ("synchronize", "set_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    rows = [row for check in synchronisation_checks(CPU) for row in rows_of(check)]
    assert [row["name"] for row in rows if not row["passed"]] == ["synchronisations: .item() counts as one"]
    assert {row["error"] for row in rows[1:]} == {0.0}
    message = "called a synchronizing CUDA operation"
    counted_twice = synchronisations(lambda: [warnings.warn(message, stacklevel=1) for _ in range(2)])
    assert len(counted_twice) == 2
    assert all(place.startswith("tests/benchmarks/test_gpu.py:") for place in counted_twice)


def test_what_raises_fails_and_the_next_one_runs(tmp_path):
    report = Report(tmp_path / "gpu.json", CPU, 60)
    every = [Check("raises", 1.0, lambda: 1 / 0), Check("not a number", 1.0, lambda: {"": float("nan")})]
    with report.section("checks", 1.0) as section:
        run_checks(section, iter([*every, Check("fine", 1.0, lambda: ({"": 1.0}, "a note"))]))
        raise ValueError("after the rows")
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [row["passed"] for row in result["checks"]["rows"]] == [False, False, True]
    assert "ZeroDivisionError" in result["checks"]["rows"][0]["note"]
    assert "after the rows" in result["checks"]["failed"]
    shown = summary(result)
    assert "checks: 1 of 3 passed" in shown
    assert "failed: raises: raised" in shown


def test_without_time_checks_are_left_out_by_name(tmp_path):
    report = Report(tmp_path / "gpu.json", CPU, 0)
    with report.section("checks", 1.0) as section:
        run_checks(section, iter([Check("late", 1.0, lambda: {"": 0.0})]))
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert result["checks"]["left out"] == [{"name": "late", "reason": "no time left"}]
    assert result["checks"]["rows"] == []


def test_a_process_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setitem(alone.SECONDS, "cpu", 0.0)
    report = Report(tmp_path / "gpu.json", CPU, 60)
    with report.section("checks", 1.0) as section:
        process = alone.Alone("compile", CPU)
        process.collect(section)
    [row] = section.content["rows"]
    assert not row["passed"]
    assert "not done" in row["note"]
    assert process._process.returncode


def test_what_a_machine_needs_is_listed_with_sizes(tmp_path, monkeypatch, capsys):
    (tmp_path / "images.tar.xz").write_bytes(bytes(2**20))
    listed = functools.partial(gpu.main, ["--list", "--carry", str(tmp_path)])
    listed()
    assert "1.0 MiB" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "MOST_BYTES", 2**19)
    with pytest.raises(SystemExit, match="--carry: got 1048576 bytes"):
        listed()


def test_a_section_that_is_unknown_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--only", "checks,speed"])
    assert "got speed, need some of checks,timings,step,stacked,study" in capsys.readouterr().err


def test_tables_follow_from_the_rows():
    rows = [
        {"name": "rate", "n": 128, "milliseconds": 0.5},
        {"name": "rate", "n": 4096, "milliseconds": 3.0},
        {"name": "published loss", "n": 128, "milliseconds": 1234.0},
    ]
    table = timings_table({"timings": {"rows": rows}}).splitlines()
    assert table[0] == "| milliseconds, neurons: | 128 | 4,096 |"
    assert table[2:] == ["| rate | 0.5 | 3 |", "| published loss | 1,234 | – |"]
    steps = [{"name": "all layers", "milliseconds": 41.0, "ratio": 1.025}]
    assert step_table({"step": {"rows": steps}}).endswith("| all layers | 41.0 | 1.025 |")


def test_the_rate_stands_beside_the_published_loss_and_the_floor():
    names = {"rate": 2.0, "published loss": 300.0, "floor: product": 0.5, "floor: sort": 0.75}
    rows = [{"name": name, "n": 4096, "milliseconds": ms, "bytes": 2**21} for name, ms in names.items()]
    rows.append({"name": "rate", "n": 16384, "milliseconds": 40.0, "bytes": None})
    table = against_table({"timings": {"rows": rows}}).splitlines()
    assert table[2:] == ["| 4,096 | 2 | 150 | 1.6 | 2 | 2 |", "| 16,384 | 40 | – | – | – | – |"]


def test_the_page_shows_the_stored_run_and_says_where_there_was_none():
    page = PAGE.read_text(encoding="utf-8")
    assert with_section(page, stored_result()) == page, "run: python -m benchmarks.gpu --page"
    card = {"name": "Some GPU", "driver": "1.2", "environment": {"device": "cuda", "libraries": {"torch": "2.0"}}}
    failed = {"name": "rate", "passed": False, "error": 0.01, "tolerance": 1e-4}
    shown = page_section({"card": card, "checks": {"rows": [failed]}})
    assert shown.startswith("**Run on Some GPU, driver 1.2, torch 2.0.**")
    assert "\n0 of 1 checks passed" in shown
    assert shown.endswith("| rate | 0.01 | 0.0001 |")
    assert page_section(None) == page_section({"card": card | {"name": None}}) == NEVER
