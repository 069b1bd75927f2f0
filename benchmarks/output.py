"""Where a benchmark writes its result: the option ``--output``, the stored file and the new one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from selfsim.files import write_atomic
from selfsim.training.provenance import environment_facts


def output_parser(description: str | None, file: str) -> argparse.ArgumentParser:
    """Return a parser with ``--output``, by default `file` in ``results/benchmarks/``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks", file))
    return parser


def stored(path: Path) -> dict[str, Any]:
    """Return the result in a file, empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result with the versions and the machine that made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(result | {"environment": environment_facts()}, indent=1) + "\n").encode())
