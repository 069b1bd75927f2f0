"""What an installation gets: the files of the wheel and of the source distribution."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = {path.relative_to(ROOT).as_posix() for path in (ROOT / "selfsim").rglob("*.py")}
PACKAGE |= {"selfsim/__init__.pyi", "selfsim/py.typed", "selfsim/figures/animation.html"}


def build(hook: str, folder: Path) -> Path:
    """Build a distribution with the backend alone, so that nothing is fetched."""
    code = f"import hatchling.build; print(hatchling.build.{hook}({str(folder)!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return folder / result.stdout.split()[-1]


@pytest.mark.long
def test_the_wheel_has_the_package_and_its_types_and_nothing_else(tmp_path):
    pytest.importorskip("hatchling", reason="needs hatchling, the build backend")
    with zipfile.ZipFile(build("build_wheel", tmp_path)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == PACKAGE


@pytest.mark.long
def test_the_source_distribution_has_no_study_no_tests_and_no_book(tmp_path):
    pytest.importorskip("hatchling", reason="needs hatchling, the build backend")
    with tarfile.open(build("build_sdist", tmp_path)) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    extra = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert names == PACKAGE | extra
