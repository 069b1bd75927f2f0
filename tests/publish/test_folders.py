"""What is kept: training runs always, foreign folders always; and which code a run and a page depend on."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfsim.publish.digests import page_digest, run_digest
from selfsim.publish.folders import STAMP, check_replaceable, folder_for_runs, replace_folder


@pytest.fixture
def package(tmp_path):
    """A package of a few rooms, and a study beside it."""
    files = ["checks.py", "__init__.py", "command_line.py", "rate/rate.py", "training/loop.py", "figures/plots.py"]
    for name in [f"selfsim/{file}" for file in files] + ["study/tables.py"]:
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""A docstring."""\n\n# A comment.\ndef f():\n    """Another."""\n    return 1\n')
    return tmp_path / "clone" / "selfsim"


def test_comments_docstrings_and_layout_change_no_digest(package):
    before = run_digest(package), page_digest(package)
    for path in package.rglob("*.py"):
        path.write_text('def f():\n    """Reworded."""\n\n    return 1  # one\n')
    (package / "notes.txt").write_text("not source")
    assert (run_digest(package), page_digest(package)) == before


@pytest.mark.parametrize(
    ("name", "runs_change", "pages_change"),
    [
        ("checks.py", True, True),
        ("rate/rate.py", True, True),
        ("training/loop.py", True, True),
        ("figures/plots.py", False, True),
        ("command_line.py", False, True),
        ("../study/tables.py", False, True),
    ],
)
def test_runs_depend_on_what_computes_them_and_pages_on_all_code(package, name, runs_change, pages_change):
    before = run_digest(package), page_digest(package)
    file = package / name
    file.write_text(file.read_text().replace("return 1", "return 2"))
    assert (run_digest(package) != before[0], page_digest(package) != before[1]) == (runs_change, pages_change)


def test_the_names_of_files_and_code_that_cannot_be_parsed_count(package):
    digests = [run_digest(package)]
    (package / "rate" / "rate.py").rename(package / "rate" / "other.py")
    digests.append(run_digest(package))
    (package / "rate" / "other.py").write_text("def f(:")
    digests.append(run_digest(package))
    assert len(set(digests)) == 3


@pytest.fixture
def version(monkeypatch):
    """Set the version of the code that computes runs."""

    def set_version(digit: str) -> None:
        monkeypatch.setattr("selfsim.publish.folders.run_digest", lambda: digit * 64)

    set_version("a")
    return set_version


def test_runs_of_another_version_are_kept_and_come_back(tmp_path, version):
    runs, others = folder_for_runs(tmp_path / "runs")
    assert (runs, others) == (tmp_path / "runs", [])
    (runs / "a-run").mkdir()
    assert folder_for_runs(runs) == (runs, [])
    assert (runs / "a-run").is_dir()
    version("b")
    runs, others = folder_for_runs(runs)
    assert others == [tmp_path / "runs-aaaaaaaaaaaa"]
    assert (others[0] / "a-run").is_dir()
    assert not (runs / "a-run").exists()
    (runs / "b-run").mkdir()
    version("a")
    runs, others = folder_for_runs(runs)
    assert (runs / "a-run").is_dir()
    assert [place.name for place in others] == ["runs-bbbbbbbbbbbb"]
    assert (others[0] / "b-run").is_dir()


def test_runs_with_other_parameters_are_kept_apart(tmp_path, version):
    runs, _ = folder_for_runs(tmp_path / "runs")
    (runs / "seeds-0-1").mkdir()
    runs, (others,) = folder_for_runs(runs, [("seeds", "[5, 6]")])
    assert (others / "seeds-0-1").is_dir() and not (runs / "seeds-0-1").exists()
    (runs / "seeds-5-6").mkdir()
    runs, _ = folder_for_runs(runs)
    assert (runs / "seeds-0-1").is_dir() and not (runs / "seeds-5-6").exists()
    runs, _ = folder_for_runs(runs, [("seeds", "[5, 6]")])
    assert (runs / "seeds-5-6").is_dir()


@pytest.mark.parametrize("stamp", ["", "c" * 64, "c" * 10])
def test_runs_below_an_old_or_half_written_stamp_are_kept(tmp_path, version, stamp):
    (tmp_path / "runs" / "a-run").mkdir(parents=True)
    (tmp_path / "runs" / ".package").write_text(stamp)
    for _ in range(2):
        (kept,) = folder_for_runs(tmp_path / "runs")[1]
        assert (kept / "a-run").is_dir()
    (tmp_path / "runs" / STAMP).write_text(stamp)
    assert len(folder_for_runs(tmp_path / "runs")[1]) == 2


def test_a_process_that_ends_before_the_stamp_is_written_blocks_nobody(tmp_path, version):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f"{STAMP}.partial").write_text("aa")
    folder_for_runs(tmp_path / "runs")
    assert (tmp_path / "runs" / STAMP).read_text() == "a" * 64


def test_a_folder_of_somebody_else_is_refused_with_its_path(tmp_path, version):
    for name in ("runs", "html"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    (tmp_path / "new").mkdir()
    for change in (folder_for_runs, check_replaceable, lambda place: replace_folder(place, tmp_path / "new")):
        for name in ("runs", "html"):
            with pytest.raises(FileExistsError, match=f"{name}: selfsim did not make this folder"):
                change(tmp_path / name)
    assert sorted(path.name for path in Path(tmp_path).rglob("*")) == ["html", "mine.txt", "mine.txt", "new", "runs"]


def test_a_folder_of_ours_is_replaced_with_all_that_is_in_it(tmp_path):
    for name in ("first", "second"):
        new = tmp_path / f"new-{name}"
        new.mkdir()
        (new / name).write_text(name)
        replace_folder(tmp_path / "html", new)
        assert sorted(path.name for path in (tmp_path / "html").iterdir()) == sorted([STAMP, name])
    assert [path.name for path in tmp_path.iterdir()] == ["html"]
