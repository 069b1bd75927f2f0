"""The targets of the Makefile, with stand-ins for the tools: nothing is installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(directory: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess:
    # Under `make test` this process is a child of make and would inherit that call's settings.
    inherited = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PRESET", "PYTHON", "WORKERS"}
    environment = {name: value for name, value in os.environ.items() if name not in inherited} | extra
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_clean_leaves_the_training_runs_of_books(clone):
    gone = ["_build/html/book", "_build/quick/html", "_build/.jupyter_cache", "selfsim/__pycache__", ".pytest_cache"]
    kept = ["_build/quick/runs/mlp-0", "_build/quick/runs-0123/mlp-1", "runs/mine", "data/train", ".venv/bin"]
    for folder in (*gone, *kept):
        (clone / folder).mkdir(parents=True)
    (clone / "_build" / "book.log").touch()
    assert make(clone, "clean").returncode == 0
    assert [name for name in gone if (clone / name).exists()] == [] and not (clone / "_build" / "book.log").exists()
    assert [name for name in kept if not (clone / name).is_dir()] == []
    shutil.rmtree(clone / "_build")
    assert make(clone, "clean").returncode == 0 and not (clone / "_build").exists()


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def with_environment(clone: Path) -> Path:
    """Add a .venv whose tools print how they were called."""
    for tool in ("selfsim", "python", "ruff", "mypy", "uv", "jupyter-book"):
        executable(clone / ".venv" / "bin" / tool, f'echo "{tool} called: $*"')
    (clone / ".venv" / ".selfsim-installed").touch()
    return clone


def test_without_a_target_make_lists_the_targets(clone):
    text = make(clone).stdout
    assert text == make(clone, "help").stdout
    for target in ("book", "publish", "test", "test-all", "clean", "help"):
        assert re.search(rf"^  make {target} ", text, re.MULTILINE)
    assert "6 GB" in text


def test_an_old_python_is_refused_with_the_remedy(clone):
    old = executable(clone / "old-python", 'case "$1" in --version) echo "Python 3.9.2";; *) exit 1;; esac')
    result = make(clone, "book", f"PYTHON={old}")
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr
    assert "Python 3.9.2" in result.stderr
    assert "make book PYTHON=" in result.stderr
    assert not (clone / ".venv").exists()


def test_every_command_prints_its_time_and_disk_before_the_set_up(clone):
    for target in ("book", "publish", "test", "test-all"):
        # The interpreter fails, so the set-up ends before it prints anything.
        result = make(clone, "-j4", target, "PYTHON=/bin/false")
        assert result.returncode != 0
        assert "set up" in result.stdout
        assert "6 GB of disk" in result.stdout
        assert re.search(rf"make {target}\b.*minutes.*disk", result.stdout)


def test_the_set_up_warns_of_little_free_disk(clone):
    fake = executable(clone / "bin" / "df", "echo h; echo 'dev 9 9 2000000 9% /'").parent
    python = executable(clone / "python", 'case "$2" in *version_info*) exit 0;; *) exit 1;; esac')
    result = make(clone, "setup", f"PYTHON={python}", PATH=f"{fake}:{os.environ['PATH']}")
    assert "only 2 GB of disk are free here; the set-up may need 7 GB" in result.stderr


def test_the_targets_call_their_tools(clone):
    with_environment(clone)
    workers = "python called: -m pytest -n logical --maxprocesses 8 --dist worksteal"
    for arguments, calls in [
        ("book", ["selfsim called: book --preset quick"]),
        ("publish PRESET=cifar10", ["selfsim called: book --preset cifar10 --publish"]),
        ("test", [f"{workers} -m not long"]),
        ("test-all", [workers]),
        ("test WORKERS=3", ["python called: -m pytest -n 3 --maxprocesses 8 --dist worksteal -m not long"]),
        ("lint", ["ruff called: check .", "ruff called: format --check .", "mypy called: "]),
    ]:
        result = make(clone, *arguments.split())
        assert result.returncode == 0, result.stderr
        assert [line for line in result.stdout.splitlines() if " called: " in line] == calls


def test_a_changed_constraints_file_repeats_the_set_up(clone):
    with_environment(clone)
    os.utime(clone / ".venv" / ".selfsim-installed", (1, 1))
    result = make(clone, "setup", "PYTHON=" + str(clone / ".venv" / "bin" / "python"))
    assert result.returncode == 0, result.stderr
    assert (
        "uv called: pip install --compile-bytecode --python .venv/bin/python -c constraints.txt -e .[dev]"
        in result.stdout
    )


def test_clean_keeps_environment_data_and_runs(clone):
    with_environment(clone)
    for folder in ("_build/quick/html", "data", "runs", ".pytest_cache", "selfsim/__pycache__"):
        (clone / folder).mkdir(parents=True)
    assert make(clone, "clean").returncode == 0
    assert not (clone / "_build").exists()
    assert not (clone / ".pytest_cache").exists()
    assert not (clone / "selfsim" / "__pycache__").exists()
    for folder in (".venv", "data", "runs"):
        assert (clone / folder).is_dir()
    assert make(clone, "clean-all").returncode == 0
    assert not (clone / ".venv").exists()
