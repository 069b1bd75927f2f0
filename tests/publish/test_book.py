"""The book: sources gathered, only changes written, rendered where it belongs, warnings as errors."""

from __future__ import annotations

import shutil

import pytest

from selfsim.publish.book import RenderError, assemble, render
from selfsim.publish.contents import toc_pages, without_pages
from selfsim.publish.plain_yaml import read_yaml
from selfsim.publish.run_list import read_run_list
from tests.publish.conftest import write_notebook

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
logo: extra/logo.svg
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
    (root / "extra").mkdir()
    (root / "extra" / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
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
    run_list = read_run_list(project / "notebooks/runs.yml", "half")
    before = times(project)
    pages = executed(tmp_path / "out", "one")
    assert assemble(project, run_list, pages, tmp_path / "source") == []
    source = tmp_path / "source"
    assert "'one'" in (source / "book/chapters/one.ipynb").read_text()
    assert "'old'" in (source / "book/chapters/two.ipynb").read_text()
    assert (source / "_toc.yml").read_text() == TOC
    assert {"extra/logo.svg", "CHANGELOG.md", "book/intro.md"} <= set(times(source))
    assert "private.txt" not in times(source)
    assert times(project) == before


def test_only_what_changed_is_written_and_what_went_away_is_deleted(project, tmp_path):
    run_list = read_run_list(project / "notebooks/runs.yml", "quick")
    pages, source = executed(tmp_path / "out", "one", "two"), tmp_path / "source"
    (project / "book" / "more").mkdir()
    (project / "book" / "more" / "page.md").write_text("# More\n")
    assemble(project, run_list, pages, source)
    before = times(source)
    shutil.rmtree(project / "book" / "more")
    (project / "book" / "intro.md").write_text("# Start\n\nChanged.\n")
    assemble(project, run_list, pages, source)
    after = times(source)
    assert {name for name in after if after[name] != before[name]} == {"book/intro.md"}
    assert set(before) - set(after) == {"book/more/page.md"}
    assert not (source / "book" / "more").exists()


def test_chapters_that_are_not_there_leave_the_contents(project, tmp_path):
    run_list = read_run_list(project / "notebooks/runs.yml", "half")
    left_out = assemble(project, run_list, executed(tmp_path / "out", "one"), tmp_path / "source")
    assert left_out == ["book/chapters/two"]
    assert toc_pages(tmp_path / "source/_toc.yml") == ["book/intro", "book/chapters/one", "CHANGELOG"]
    assert (project / "_toc.yml").read_text() == TOC


def test_a_part_without_pages_leaves_the_contents():
    toc = {
        "root": "a",
        "parts": [{"caption": "x", "chapters": [{"file": "b.md"}]}, {"chapters": [{"file": "c"}]}],
    }
    assert without_pages(toc, {"b"}) == {"root": "a", "parts": [{"chapters": [{"file": "c"}]}]}
    nested = {"root": "a", "chapters": [{"file": "b", "sections": [{"file": "c"}]}]}
    assert without_pages(nested, {"c"}) == {"root": "a", "chapters": [{"file": "b"}]}


def test_another_run_list_gets_contents_of_its_own(project, tmp_path):
    write_notebook(project / "book/chapters/one.ipynb", "'old'")
    (project / "mine.yml").write_text("chapters: {mine: {notebook: notebooks/tiny.ipynb}}\npresets: {quick: {}}\n")
    run_list = read_run_list(project / "mine.yml", "quick")
    assert assemble(project, run_list, executed(tmp_path / "out", "mine"), tmp_path / "source") == []
    source = tmp_path / "source"
    assert toc_pages(source / "_toc.yml") == ["book/intro", "book/chapters/mine"]
    assert [p.name for p in (source / "book/chapters").iterdir()] == ["mine.ipynb"]
    assert read_yaml(source / "_config.yml")["title"] == "A tiny book"
    before = times(source)
    assemble(project, run_list, [tmp_path / "out" / "mine.ipynb"], source)
    assert times(source) == before


def test_a_folder_without_a_book_and_a_chapter_without_contents(project, tmp_path):
    run_list = read_run_list(project / "notebooks/runs.yml", "quick")
    with pytest.raises(FileNotFoundError, match=r"no _config\.yml and no _toc\.yml; run this in the project"):
        assemble(tmp_path, run_list, [], tmp_path / "source")
    (project / "_toc.yml").write_text(TOC.replace("  - file: book/chapters/two\n", ""))
    with pytest.raises(ValueError, match=r"_toc\.yml: needs an entry 'file: book/chapters/two'"):
        assemble(project, run_list, [], tmp_path / "source")


@pytest.mark.long
def test_a_warning_fails_a_strict_build_each_time_and_leaves_the_site_alone(project, tmp_path):
    run_list = read_run_list(project / "notebooks/runs.yml", "quick")
    pages, source, html = executed(tmp_path / "out", "one", "two"), tmp_path / "source", tmp_path / "html"
    assemble(project, run_list, pages, source)
    assert render(source, html) == ""
    site = times(html)
    (project / "book/intro.md").write_text("# Start\n\n[](nowhere.md)\n")
    assemble(project, run_list, pages, source)
    for _ in range(2):
        with pytest.raises(RenderError, match="nowhere"):
            render(source, html)
        assert times(html) == site
    assert "nowhere" in render(source, html, strict=False)
    (project / "book/intro.md").write_text("# Start\n\nGood.\n")
    (project / "_toc.yml").write_text(TOC.replace("- file: CHANGELOG", "- file: book/intro2"))
    (project / "book/intro2.md").write_text("# More\n\nGood.\n")
    assemble(project, run_list, pages, source)
    render(source, html)
    assert "Good." in (html / "book/intro.html").read_text()
    assert not (html / "CHANGELOG.html").exists()
