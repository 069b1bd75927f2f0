"""The tables that follow from `gpu.json`: on the terminal, and on the book's page on GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]


def _rows(result: Result, section: str) -> list[dict[str, Any]]:
    return result.get(section, {}).get("rows", [])


def checks_summary(result: Result) -> tuple[int, int, list[dict[str, Any]]]:
    """Return how many checks passed, how many there were, and those that failed."""
    rows = _rows(result, "checks")
    failed = [row for row in rows if not row["passed"]]
    return len(rows) - len(failed), len(rows), failed


def timings_table(result: Result) -> str:
    """Return the median milliseconds by call and number of neurons, in Markdown."""
    rows = _rows(result, "timings")
    sizes = sorted({row["n"] for row in rows})
    by_name: dict[str, dict[int, float]] = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["n"]] = row["milliseconds"]
    lines = ["| milliseconds, neurons: | " + " | ".join(f"{n:,}" for n in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    for name, values in by_name.items():
        cells = [_three_digits(values[n]) if n in values else "–" for n in sizes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def step_table(result: Result) -> str:
    lines = ["| constraint | milliseconds | ratio |", "|---|---|---|"]
    for row in _rows(result, "step"):
        lines.append(f"| {row['name']} | {row['milliseconds']:.1f} | {row['ratio']:.3f} |")
    return "\n".join(lines)


def summary(result: Result) -> str:
    """Return what a run found, as a short text for a terminal."""
    card = result["card"]
    libraries = card["environment"]["libraries"]
    hardware = card["name"] or card["environment"]["device"]
    lines = [f"{hardware}, driver {card['driver']}, torch {libraries.get('torch')}"]
    passed, number, failed = checks_summary(result)
    lines.append(f"checks: {passed} of {number} passed")
    for row in failed:
        error = "raised" if row["error"] is None else f"{row['error']:.2g} > {row['tolerance']:.2g}"
        note = row.get("note", "").strip().splitlines()
        lines.append(f"  failed: {row['name']}: {error}  {note[-1][:150] if note else ''}")
    for name in ("checks", "timings", "step", "study"):
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
    return "\n".join(lines)
