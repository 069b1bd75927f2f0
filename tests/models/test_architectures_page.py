"""The table of book/architectures.md is what the code builds, and its tags are timm's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from selfsim import Probe, create
from selfsim.models.architectures import ARCHITECTURES, PIXELS

PAGE = Path(__file__).parents[2] / "book" / "architectures.md"


def row(entry) -> str:
    """One line of the table: parameters and layers read, at each size, for 10 classes and 3 channels."""
    cells = []
    for size in PIXELS:
        with torch.device("meta"):
            model = create(entry.name, size=size, num_classes=10)
        cells.append(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} / {len(Probe(model).layers)}")
    return f"| `{entry.name}` | {entry.title} | {entry.family} | " + " | ".join(cells) + " |"


@pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry.name)
def test_the_table_is_what_the_code_builds(entry):
    assert row(entry) in PAGE.read_text(encoding="utf-8")


def test_the_table_has_no_other_rows():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len([line for line in lines if line.count("|") == 7]) == len(ARCHITECTURES)


if __name__ == "__main__":
    print("\n".join(map(row, ARCHITECTURES)))
