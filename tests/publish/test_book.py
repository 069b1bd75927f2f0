"""The book: sources gathered, only changes written, rendered where it belongs, warnings as errors."""

from __future__ import annotations

import pytest

from selfsim.files import read_yaml
from selfsim.publish.book import RenderError, assemble, check_toc, is_project_list, render
from selfsim.publish.contents import toc_pages, with_pages
from selfsim.publish.page_check import check_pages
from selfsim.publish.run_list import read_run_list
from tests.conftest import write_notebook

TOC = """\
format: jb-book
root: book/intro
parts:
- caption: Chapters
  chapters:
  - file: book/chapters/one
  - file: book/chapters/two
- caption: Other
  chapters:
  - file: CHANGELOG
"""
CONFIG = """\
title: A tiny book
execute: {execute_notebooks: "off"}
only_build_toc_files: true
"""
RUNS = """\
chapters:
  one: {notebook: tiny.ipynb}
  two: {notebook: tiny.ipynb}
presets: {quick: {}, half: {only: [one]}}
"""


def make_project(root):
    root.mkdir()
    (root / "_config.yml").write_text(CONFIG)
    (root / "_toc.yml").write_text(TOC)
    (root / "CHANGELOG.md").write_text("# Changes\n\nNone.\n")
    (root / "private.txt").write_text("not named anywhere")
    (root / "book").mkdir()
    (root / "book" / "intro.md").write_text("# Start\n\nWelcome.\n")
    write_notebook(root / "notebooks" / "tiny.ipynb", "epochs")
    (root / "notebooks" / "runs.yml").write_text(RUNS)
    return root


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path / "project")


def executed(folder, *names):
    return [write_notebook(folder / f"{name}.ipynb", f"'{name}'") for name in names]


def times(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_executed_chapters_take_the_place_of_published_ones(project, tmp_path):
    write_notebook(project / "book/chapters/one.ipynb", "'old'")
    write_notebook(project / "book/chapters/two.ipynb", "'old'")
    before = times(project)
    pages = executed(tmp_path / "out", "one")
    assert assemble(project, pages, tmp_path / "source") == []
    source = tmp_path / "source"
    assert "'one'" in (source / "book/chapters/one.ipynb").read_text()
    assert "'old'" in (source / "book/chapters/two.ipynb").read_text()
    assert read_yaml(source / "_toc.yml") == read_yaml(project / "_toc.yml")
    assert set(times(source)) == {
        ".selfsim",
        "_config.yml",
        "_toc.yml",
        "CHANGELOG.md",
        "book/intro.md",
        "book/chapters/one.ipynb",
        "book/chapters/two.ipynb",
    }
    assert times(project) == before


def test_sources_and_sites_of_somebody_else_are_refused(project, tmp_path):
    for name in ("source", "html"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text("mine")
    before = times(tmp_path)
    with pytest.raises(FileExistsError, match="source: selfsim did not make this folder"):
        assemble(project, [], tmp_path / "source")
    with pytest.raises(FileExistsError, match="html: selfsim did not make this folder"):
        render(project, tmp_path / "html")
    assert times(tmp_path) == before


def test_what_went_away_leaves_the_sources(project, tmp_path):
    pages, source = executed(tmp_path / "out", "one", "two"), tmp_path / "source"
    (project / "book" / "more.md").write_text("# More\n")
    assemble(project, pages, source)
    assert (source / "book" / "more.md").is_file()
    (project / "book" / "more.md").unlink()
    assemble(project, pages, source)
    assert not (source / "book" / "more.md").exists()


def test_chapters_that_are_not_there_leave_the_contents(project, tmp_path):
    left_out = assemble(project, executed(tmp_path / "out", "one"), tmp_path / "source")
    assert left_out == ["book/chapters/two"]
    assert toc_pages(read_yaml(tmp_path / "source/_toc.yml")) == ["book/intro", "book/chapters/one", "CHANGELOG"]
    assert (project / "_toc.yml").read_text() == TOC


def test_a_part_without_pages_leaves_the_contents():
    toc = {
        "root": "a",
        "parts": [{"caption": "x", "chapters": [{"file": "b.md"}]}, {"chapters": [{"file": "c"}]}],
    }
    assert with_pages(toc, {"b": []}) == {"root": "a", "parts": [{"chapters": [{"file": "c"}]}]}
    nested = {"root": "a", "chapters": [{"file": "b", "sections": [{"file": "c"}]}]}
    assert with_pages(nested, {"c": []}) == {"root": "a", "chapters": [{"file": "b"}]}


IDEAS = """\
parts:
- caption: Ideas
  chapters:
  - file: book/idea
  - file: book/chapters/three
"""


@pytest.fixture
def my_book(project, tmp_path):
    """The sources of a book of somebody's own run list."""
    write_notebook(project / "book/chapters/one.ipynb", "'old'")
    (project / "book/idea.md").write_text("# An idea\n\nText, [and the start](intro.md).\n")
    (project / "_toc.yml").write_text(TOC.replace("parts:\n", IDEAS))
    assert (
        assemble(project, executed(tmp_path / "out", "mine", "more"), tmp_path / "source", replace_chapters=True) == []
    )
    return tmp_path / "source"


def test_chapters_of_another_run_list_take_the_place_of_the_projects_own(my_book):
    toc = read_yaml(my_book / "_toc.yml")
    assert toc["parts"] == [
        {"caption": "Ideas", "chapters": [{"file": "book/idea"}]},
        {"caption": "Chapters", "chapters": [{"file": "book/chapters/mine"}, {"file": "book/chapters/more"}]},
        {"caption": "Other", "chapters": [{"file": "CHANGELOG"}]},
    ]
    assert sorted(path.name for path in (my_book / "book/chapters").iterdir()) == ["mine.ipynb", "more.ipynb"]


@pytest.mark.long
def test_a_book_of_another_run_list_has_no_warnings(my_book, tmp_path):
    assert render(my_book, tmp_path / "html") == ""
    assert check_pages(tmp_path / "html", my_book / "_toc.yml") == []
    assert "A heading" in (tmp_path / "html" / "book/idea.html").read_text()  # in the list of pages


def test_a_folder_without_a_book_and_a_chapter_without_contents(project, tmp_path):
    runs = project / "notebooks/runs.yml"
    assert is_project_list(project, runs)
    assert not is_project_list(project, project / "mine.yml")
    check_toc(project, read_run_list(runs, "quick"))
    (project / "_toc.yml").write_text(TOC.replace("  - file: book/chapters/two\n", ""))
    with pytest.raises(ValueError, match=r"_toc\.yml: needs an entry 'file: book/chapters/two'"):
        check_toc(project, read_run_list(runs, "quick"))


@pytest.mark.long
def test_a_warning_fails_a_strict_build_and_leaves_the_site_alone(project, tmp_path):
    pages, source, html = executed(tmp_path / "out", "one", "two"), tmp_path / "source", tmp_path / "html"
    assemble(project, pages, source)
    assert render(source, html) == ""
    site = times(html)
    (project / "book/intro.md").write_text("# Start\n\n[](nowhere.md)\n")
    assemble(project, pages, source)
    with pytest.raises(RenderError, match="nowhere") as caught:
        render(source, html)
    assert "\x1b" not in str(caught.value)
    assert times(html) == site
    assert "nowhere" in render(source, html, strict=False)
    (project / "_toc.yml").write_text(TOC.replace("- file: CHANGELOG", "- file: book/intro2"))
    (project / "book/intro.md").write_text("# Start\n\nGood.\n")
    (project / "book/intro2.md").write_text("# More\n\nGood.\n")
    assemble(project, pages, source)
    render(source, html)
    assert "Good." in (html / "book/intro.html").read_text()
    assert not (html / "CHANGELOG.html").exists()
