"""The command ``selfsim``: from a run list to pages, and what it says when it cannot."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

import selfsim
from selfsim.command_line import main
from tests.conftest import BOOK_CODE, write_notebook
from tests.publish.test_book import TOC, make_project

ANNOUNCED = """\
chapters:
  one: {notebook: tiny.ipynb, title: One}
  two: {notebook: tiny.ipynb, title: Two}
presets:
  quick: {description: tiny images, jobs: 2, minutes: 0.5, disk: 1 MB, parameters: {epochs: 5}}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = make_project(tmp_path / "project")
    (root / "notebooks" / "runs.yml").write_text(ANNOUNCED)
    (root / "book" / "_ext").mkdir()
    shutil.copy(BOOK_CODE / "publication.py", root / "book" / "_ext")
    monkeypatch.chdir(root)
    return root


@pytest.mark.long
def test_a_book_is_made_checked_and_published(project, capsys):
    before = {p for p in project.rglob("*") if "_build" not in p.parts}
    assert main(["book", "--publish"]) == 0
    said = capsys.readouterr()
    page = project / "_build/quick/html/index.html"
    assert page.is_file()
    assert said.out.splitlines()[-1] == "_build/quick/html/index.html"
    assert "Making 2 chapter(s) of the preset 'quick' (tiny images): one, two" in said.err
    assert "about 0.5 min on 2 cores, about 1 MB of disk" in said.err
    assert said.err.index("Result: _build/quick/html/index.html") < said.err.index("one: done in ")
    assert "book/intro.html" in page.read_text()
    shown = (project / "_build/quick/html/book/chapters/one.html").read_text()
    assert "One" in shown
    published = nbformat.read(project / "book/chapters/one.ipynb", as_version=4)
    assert published.cells[-1].outputs[0].data["text/plain"] == "5"
    new = {p for p in project.rglob("*") if "_build" not in p.parts} - before
    names = {p.relative_to(project).as_posix() for p in new}
    assert names == {"book/chapters", "book/chapters/one.ipynb", "book/chapters/two.ipynb"}
    assert main(["check-pages", "_build/quick/html"]) == 0
    assert capsys.readouterr().out == "_build/quick/html: no faults\n"
    (project / "_build/quick/html/book/intro.html").unlink()
    assert main(["check-pages", "_build/quick/html"]) == 1
    assert "book/intro.html: the table of contents names it" in capsys.readouterr().out


@pytest.mark.long
def test_a_page_is_published_from_its_own_preset_alone(project, capsys):
    runs = ANNOUNCED.replace("title: Two}", "title: Two, published: large}") + "  large: {only: [two]}\n"
    (project / "notebooks" / "runs.yml").write_text(runs)
    published = project / "book" / "chapters"
    assert main(["book", "--no-render", "--publish"]) == 0
    assert "not published: two, whose page is made by --preset large" in capsys.readouterr().err
    assert [path.name for path in published.iterdir()] == ["one.ipynb"]
    assert main(["book", "--no-render", "--publish", "--preset", "large"]) == 0
    assert "not published" not in capsys.readouterr().err
    assert sorted(path.name for path in published.iterdir()) == ["one.ipynb", "two.ipynb"]


@pytest.mark.long
def test_a_failing_cell_is_told_and_gives_no_page(project, capsys):
    notebook = nbformat.read("notebooks/tiny.ipynb", as_version=4)
    notebook.cells[-1].source = "1 / weight"
    nbformat.write(notebook, "notebooks/tiny.ipynb")
    assert main(["book", "--only", "one", "--no-render", "-p", "weight", "0"]) == 1
    said = capsys.readouterr().err
    assert "chapter 'one': cell 3 of " in said
    assert "1 / weight" in said
    assert said.splitlines()[-1].startswith("ZeroDivisionError: ")
    assert not (project / "_build/quick/chapters/one.ipynb").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["book", "--preset", "quik"], "preset: got 'quik', need one of 'quick'; did you mean 'quick'"),
        (["book", "-p", "epoch", "3"], "-p: got 'epoch', need one of 'name', 'epochs'"),
        (["book", "-p", "epochs", "many"], "epochs: got 'many', need int"),
        (["book", "--only", "three"], "chapter: got 'three', need one of 'one', 'two'"),
        (["book", "none.yml"], "none.yml: no such run list"),
        (["book", "--jobs", "0"], "--jobs: got 0, need an integer of at least 1"),
        (["book", "--cell-timeout", "x"], "--cell-timeout: got x, need an integer of at least 1"),
        (["book", "-p", "seeds", "[0, 0]"], "seeds: got '[0, 0]', need at least one, each once"),
        (["book", "mine.yml", "--publish"], "--publish: only notebooks/runs.yml can be published"),
        (["book", "--publish", "-p", "epochs", "3"], "--publish: got -p; published chapters have the parameters of"),
        (["check-pages", "nowhere"], "nowhere: there is no such folder"),
        (["bok"], "invalid choice: 'bok'"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_usage_starts_nothing_and_exits_with_2(project, capsys, arguments, message):
    (project / "mine.yml").write_text(ANNOUNCED.replace("tiny.ipynb", "notebooks/tiny.ipynb"))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (project / "_build").exists()


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("architecture", "mpl", "architecture: got 'mpl'.*did you mean 'mlp'"),
        ("architectures", "[mlp, resnet35]", "architecture: got 'resnet35'"),
        ("epochs", "0", "epochs: got 0, need an integer of at least 1"),
        ("epochs", "1:30", "epochs: got '1:30', need int"),
        ("size", "huge", "size: got 'huge', need one of 'tiny'"),
        ("learning_rate", ".nan", "learning_rate: got '.nan', need float, finite"),
        ("learning_rate", "-1", "learning_rate: got -1.0, need a number"),
        ("target", "2", "target: got 2, need"),
        ("seeds", "[]", r"seeds: got '\[\]', need at least one"),
    ],
)
def test_values_that_no_training_can_have_are_found_before_anything_starts(project, capsys, parameter, value, message):
    parameters = (
        'architecture: str = "mlp"\narchitectures: list[str] = []\nepochs: int = 3\nsize: str = "tiny"\n'
        "learning_rate: float = 0.001\ntarget: float = 0.1\nseeds: list[int] = [0, 1]\ntrain_images: int = 0\n"
    )
    write_notebook(project / "notebooks/tiny.ipynb", "import selfsim; selfsim.TrainConfig", parameters=parameters)
    runs = "chapters: {one: {notebook: tiny.ipynb}}\npresets: {quick: {}}\n"
    (project / "notebooks" / "runs.yml").write_text(runs)
    (project / "grid.yml").write_text("notebook: notebooks/tiny.ipynb")
    for command in (["book"], ["sweep", "grid.yml", "--dry-run"]):
        assert main([*command, "-p", parameter, value]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not (project / "_build").exists()
    # To a notebook, 0 of a number of images means all of them.
    assert main(["sweep", "grid.yml", "--dry-run", "-p", "train_images", "0"]) == 0


def test_a_folder_that_is_not_ours_is_refused_before_anything_starts(project, capsys):
    for name in ("runs", "source", "html"):
        mine = project / "_build" / "quick" / name / "mine.txt"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        assert main(["book"]) == 2
        assert f"_build/quick/{name}: selfsim did not make this folder" in capsys.readouterr().err
        assert [path for path in (project / "_build").rglob("*") if path.is_file()] == [mine]
        shutil.rmtree(project / "_build")


def test_a_chapter_outside_the_contents_is_found_before_anything_starts(project, capsys):
    (project / "_toc.yml").write_text(TOC.replace("  - file: book/chapters/two\n", ""))
    assert main(["book"]) == 2
    assert "needs an entry 'file: book/chapters/two'" in capsys.readouterr().err
    assert not (project / "_build").exists()


def test_outside_a_project_there_is_a_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("selfsim.publish.book.__file__", str(tmp_path / "lib/selfsim/publish/book.py"))
    assert main(["book"]) == 2
    assert "there is no _toc.yml; run this in a clone of the project" in capsys.readouterr().err


MINE = """\
chapters:
  short_run: {notebook: NOTEBOOK, parameters: {epochs: 1}}
  long-run: {notebook: NOTEBOOK, parameters: {epochs: 2}}
  named: {notebook: NOTEBOOK, title: A name of its own}
presets: {quick: {}}
"""


@pytest.mark.long
def test_a_readers_own_book_is_made_outside_the_project(project, tmp_path, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in project.rglob("*")}
    mine = tmp_path / "elsewhere"
    mine.mkdir()
    monkeypatch.chdir(mine)
    monkeypatch.setattr("selfsim.publish.book.__file__", str(project / "selfsim/publish/book.py"))
    (mine / "my-runs.yml").write_text(MINE.replace("NOTEBOOK", str(project / "notebooks/tiny.ipynb")))
    assert main(["book", "my-runs.yml"]) == 0
    said = capsys.readouterr()
    assert "for an unknown time: the preset names no minutes" in said.err
    assert said.out.strip() == "_build/my-runs-quick/html/index.html"
    assert {p: p.stat().st_mtime_ns for p in project.rglob("*")} == before
    pages = mine / "_build/my-runs-quick/html/book/chapters"
    assert sorted(p.stem for p in pages.glob("*.html")) == ["long-run", "named", "short_run"]
    shown = (pages / "short_run.html").read_text()
    for title in ("Short run: epochs 1", "Long run: epochs 2", "A name of its own"):
        assert title in shown  # in the contents at the side
    # Once the project has a chapter of the same notebook, that one's time is the guess.
    page = nbformat.read(mine / "_build/my-runs-quick/chapters/named.ipynb", as_version=4)
    page.metadata["selfsim"]["seconds"] = 120.0
    (project / "book/chapters").mkdir()
    nbformat.write(page, project / "book/chapters/one.ipynb")
    assert main(["book", "my-runs.yml", "--no-render", "--jobs", "1"]) == 0
    assert "about 6 min on 2 cores if they have the sizes of the project's own" in capsys.readouterr().err


def test_missing_extras_name_the_remedy(project, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "papermill" else find(name))
    assert main(["book"]) == 2
    assert 'there is no papermill; install with: pip install ".[book]" in the clone' in capsys.readouterr().err


def test_the_module_is_a_command_that_imports_nothing_heavy():
    code = (
        "import sys, selfsim.command_line as c; before = set(sys.modules); c.main(['--version']); "
        "print([m for m in ('papermill', 'jupyter_book', 'yaml', 'nbformat') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == f"selfsim {selfsim.__version__}\n[]\n"
    module = [sys.executable, "-m", "selfsim.command_line", "book", "--help"]
    assert "--preset" in subprocess.run(module, capture_output=True, text=True, check=True).stdout
