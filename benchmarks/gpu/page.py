"""The tables that follow from `gpu.json`: on the terminal, and on the book's page on GPUs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study.answer_text import markdown

from .report import ROOT

Result = Mapping[str, Any]
RESULT, PAGE = ROOT / "results" / "benchmarks" / "gpu.json", ROOT / "book" / "gpu.md"
BEGIN, END = "<!-- begin: python -m benchmarks.gpu --page -->", "<!-- end -->"
NEVER = "**Never run on a card.** The tests of the code for cards run on the CPU, and on tensors without data."


def _rows(result: Result, section: str) -> list[dict[str, Any]]:
    return result.get(section, {}).get("rows", [])


def checks_summary(result: Result) -> tuple[int, int, list[dict[str, Any]]]:
    """Return how many checks passed, how many there were, and those that failed."""
    rows = [row for section in ("checks", "stacked") for row in _rows(result, section) if "passed" in row]
    failed = [row for row in rows if not row["passed"]]
    return len(rows) - len(failed), len(rows), failed


def timings_table(result: Result) -> str:
    """Return the median milliseconds by call and number of neurons, in Markdown."""
    rows = _rows(result, "timings")
    sizes = sorted({row["n"] for row in rows})
    by_name: dict[str, dict[int, float]] = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["n"]] = row["milliseconds"]
    cells = ([name, *(_three_digits(of[n]) if n in of else "–" for n in sizes)] for name, of in by_name.items())
    return markdown(["milliseconds, neurons:", *(f"{n:,}" for n in sizes)], cells)


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def step_table(result: Result) -> str:
    cells = ((row["name"], f"{row['milliseconds']:.1f}", f"{row['ratio']:.3f}") for row in _rows(result, "step"))
    return markdown(("constraint", "milliseconds", "ratio"), cells)


def stacked_table(result: Result) -> str:
    keys = ("seconds a network", "seconds a single run", "ratio")
    cells = ([row["name"], *(_three_digits(row[key]) for key in keys)] for row in _timed_stacks(result))
    return markdown(("trained at once", "seconds a network", "a single run", "times as fast"), cells)


def _timed_stacks(result: Result) -> list[dict[str, Any]]:
    return [row for row in _rows(result, "stacked") if "ratio" in row]


def against_table(result: Result) -> str:
    """Return the exact rate beside the published loss and the floor, by number of neurons, in Markdown."""
    rows = {(row["name"], row["n"]): row for row in _rows(result, "timings")}
    lines = []
    for (name, n), row in rows.items():
        if name != "rate":
            continue
        plain, took = rows.get(("published loss", n)), row["milliseconds"]
        parts = [rows.get((f"floor: {part}", n)) for part in ("product", "sort")]
        floor = sum(part["milliseconds"] for part in parts if part) if all(parts) else None
        faster = _three_digits(plain["milliseconds"] / took) if plain else "–"
        slower = _three_digits(took / floor) if floor else "–"
        lines.append((f"{n:,}", _three_digits(took), faster, slower, _mebibytes(row), _mebibytes(plain)))
    heads = ("neurons", "rate, ms", "times as fast as the published loss", "times the floor", "MiB")
    return markdown((*heads, "published loss, MiB"), lines)


def _mebibytes(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None or row["bytes"] is None else f"{row['bytes'] / 2**20:,.0f}"


def _hardware(result: Result) -> str:
    card, libraries = result["card"], result["card"]["environment"]["libraries"]
    name = card["name"] or card["environment"]["device"]
    return f"{name}, driver {card['driver']}, torch {libraries.get('torch')}"


def page_section(result: Result | None) -> str:
    """Return what the page says of a run on a card, in Markdown; without a run, that there was none."""
    if result is None or result["card"]["name"] is None:
        return NEVER
    passed, number, failed = checks_summary(result)
    parts = [" ".join([f"**Run on {_hardware(result)}.**", *_answers(result)])]
    if rows := _rows(result, "step"):
        parts += [
            f"A training step of {rows[0]['model']}, with the default constraint of the time (detached ends):",
            step_table(result),
        ]
    if _rows(result, "timings"):
        parts += ["The exact rate with its gradient, 128 samples. The floor is one matrix product and one sort:"]
        parts += [against_table(result)]
        parts += ["Every call, with its gradient where it has one:", timings_table(result)]
    if _timed_stacks(result):
        parts += ["Many small networks trained at once, against one after another:", stacked_table(result)]
    parts.append(
        f"{passed} of {number} checks passed: values and gradients in float32 and float64 against the CPU's float64, "
        "the times that the CPU waits for the card, autocast, `torch.compile`, CUDA graphs and training."
    )
    if failed:
        keys = (("error", "raised"), ("tolerance", "–"))
        cells = ([f"{row[key]:.2g}" if row[key] is not None else none for key, none in keys] for row in failed)
        named = ([row["name"], *of_row] for row, of_row in zip(failed, cells, strict=True))
        parts.append(markdown(("failed check", "error", "allowed"), named))
    return "\n\n".join(parts)


def _answers(result: Result) -> list[str]:
    """Say in a few sentences what a user of a card can expect."""
    steps = {row["name"]: row for row in _rows(result, "step")}
    said = []
    if {"all layers", "one layer per step"} <= steps.keys():
        every, one = (steps[name]["ratio"] for name in ("all layers", "one layer per step"))
        said.append(
            f"A training step of {steps['all layers']['model'].split(',')[0]} takes {every:.1f} times as long with the "
            f"constraint on all layers, and {one:.1f} times with one layer a step."
        )
    timed = {(row["name"], row["n"]): row["milliseconds"] for row in _rows(result, "timings")}
    if {("rate", 4096), ("published loss", 4096)} <= timed.keys():
        rate, loss = timed["rate", 4096], timed["published loss", 4096]
        slower = [n for name, n in timed if name == "published loss" and timed[name, n] < timed["rate", n]]
        said.append(
            f"The rate of 4,096 neurons with its gradient takes {rate:.1f} ms, and the published loss {loss:.0f} ms. "
            "With fewer neurons the card mostly waits for its next task."
            + (
                f" The published loss has fewer tasks, and is faster with {max(slower)} neurons or fewer."
                if slower
                else ""
            )
        )
    if stacks := _timed_stacks(result):
        said.append(
            f"Small networks train {max(row['ratio'] for row in stacks):.0f} times as fast when trained together."
        )
    return said


def with_section(page: str, result: Result | None) -> str:
    """Return a page with the section between its two comments made anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{page_section(result)}\n\n{END}{rest.split(END)[1]}"


def stored_result(path: Path = RESULT) -> Result | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_page() -> None:
    PAGE.write_text(with_section(PAGE.read_text(encoding="utf-8"), stored_result()), encoding="utf-8")


def summary(result: Result) -> str:
    """Return what a run found, as a short text for a terminal."""
    lines = [_hardware(result)]
    passed, number, failed = checks_summary(result)
    lines.append(f"checks: {passed} of {number} passed")
    for row in failed:
        error = "raised" if row["error"] is None else f"{row['error']:.2g} > {row['tolerance']:.2g}"
        note = row.get("note", "").strip().splitlines()
        lines.append(f"  failed: {row['name']}: {error}  {note[-1][:150] if note else ''}")
    for name in ("checks", "timings", "step", "stacked", "study"):
        section = result.get(name, {})
        for item in section.get("left out", []):
            reason = item["reason"].strip().splitlines()[-1][:150]
            lines.append(f"  {name}, left out: {item['name']}: {reason}")
        if "failed" in section:
            lines.append(f"  {name} failed: {section['failed'].strip().splitlines()[-1]}")
    if _rows(result, "timings"):
        lines.append(timings_table(result))
    if _rows(result, "step"):
        lines.append(step_table(result))
    if _timed_stacks(result):
        lines.append(stacked_table(result))
    return "\n".join(lines)
