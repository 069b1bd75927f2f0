"""The types that a user's type checker sees: `tests/typed_names.py` states them, mypy checks the statements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_public_names_have_the_types_that_are_stated():
    pytest.importorskip("mypy", reason="needs mypy")
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "tests/typed_names.py"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_package_carries_its_types():
    assert (ROOT / "selfsim" / "py.typed").is_file()
