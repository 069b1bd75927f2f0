"""The check of rendered pages, on pages written by hand: each fault is found, and a good site has none."""

from __future__ import annotations

import json

import pytest

from selfsim.publish.page_check import check_pages

GOOD = {
    "index.html": '<meta http-equiv="Refresh" content="0; url=book/intro.html">',
    "book/intro.html": (
        '<img src="../logo.svg" alt=""><article><h1 id="top">Start</h1><p>Read <a href="a.html#b%20c">on</a>'
        '<a href="#top">up</a>, <a href="https://example.org/x#y">out</a>, <a href="mailto:a@b.c">m</a>.</p>'
        '<img src="p.png" alt="Counts of boxes fall with their size"></article>'
    ),
    "book/a.html": '<article><h1>A</h1><p id="b c">Text.</p><a href="../">home</a></article>',
    "search.html": '<script src="s.js?v=1"></script><article></article>',
    "s.js": "",
    "logo.svg": "",
    "book/p.png": "",
}


@pytest.fixture
def site(tmp_path):
    def write(changes=()):
        for name, text in (GOOD | dict(changes)).items():
            if text is not None:
                (tmp_path / "html" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "html" / name).write_text(text)
        (tmp_path / "_toc.yml").write_text(
            "format: jb-book\nroot: book/intro\nparts:\n- caption: C\n  chapters:\n  - file: book/a.md\n"
        )
        return check_pages(tmp_path / "html", tmp_path / "_toc.yml")

    return write


def test_a_good_site_has_no_faults(site):
    assert site() == []


def article(body):
    return {"book/a.html": f'<article><h1>A</h1><p id="b c">Text.</p>{body}</article>'}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"book/a.html": None}, "book/a.html: the table of contents names it"),
        ({"index.html": None}, "index.html: it is not there"),
        (
            {"index.html": '<meta http-equiv="refresh" content="0; url=no.html">'},
            "index.html: the link no.html",
        ),
        (
            {"book/a.html": '<article><h1 id="b c">A</h1><script>x</script></article>'},
            "a.html: the page is empty",
        ),
        (article('<div class="output traceback highlight">Error</div>'), "a.html: 1 error output(s)"),
        (article('<span id="papermill-error-cell">x</span>'), "a.html: 1 error output(s)"),
        (article('<img src="p.png">'), "the image p.png has no alt text"),
        (article('<img src="p.png" alt=" ">'), "the image p.png has no alt text"),
        (article('<img src="p.png" alt="p.png">'), "has a file name as alt text"),
        (article('<img src="p.png" alt="../_images/0a1b">'), "has a file name as alt text"),
        (article('<img src="p.png" alt="A plot">'), "has too short an alt text ('A plot')"),
        (article('<img src="no.png" alt="Counts of boxes by size">'), "the link no.png leads nowhere"),
        (article('<a href="no.html">x</a>'), "the link no.html leads nowhere"),
        (article('<a href="intro.html#no">x</a>'), "the link intro.html#no leads to an anchor"),
        (article('<a href="#no">x</a>'), "the link #no leads to an anchor"),
        (article('<a href="/index.html">x</a>'), "starts at the server's root"),
        (article('<a href="../../book/intro.html">x</a>'), "leads out of the book"),
    ],
)
def test_each_fault_is_found_and_names_its_page(site, changes, fault):
    faults = site(changes)
    assert any(fault in found for found in faults), faults
    assert all(found.split(":")[0].endswith(".html") for found in faults)


def test_heavy_pages_and_sites_are_faults(site):
    heavy = {"book/p.png": "x" * 2_900_000, "book/a.html": "<article><p>Text.</p></article>" + " " * 3_100_000}
    assert [fault for fault in site(heavy) if "weighs" in fault] == [
        "book/a.html: the page with its pictures weighs 3.1 MB, at most 3 are wanted"
    ]
    # A picture weighs on the page that shows it; one that is only there, on the site.
    heavy = {"book/p.png": "x" * 3_000_000, "book/q.bin": "x" * 57_000_000}
    assert [fault for fault in site(GOOD | heavy) if "weighs" in fault] == [
        "index.html: the site weighs 60.0 MB, at most 60 are wanted",
        "book/intro.html: the page with its pictures weighs 3.0 MB, at most 3 are wanted",
    ]


def test_a_picture_of_a_notebook_that_its_page_lacks(site):
    def notebook(*tags):
        drawn = [{"output_type": "display_data", "data": {"image/png": ""}}, {"output_type": "stream"}]
        cell = {"cell_type": "code", "source": "", "metadata": {"tags": list(tags)}, "outputs": drawn}
        return json.dumps({"cells": [cell, {"cell_type": "markdown", "source": "", "metadata": {}}]})

    source = "_sources/book/a.ipynb"
    assert site({source: notebook("remove-input")}) == ["book/a.html: 0 pictures, 1 in its notebook"]
    assert site({source: notebook("remove-output")}) == []
    assert site({source: notebook()} | article('<img src="p.png" alt="Counts of boxes">')) == []


def test_standard_error_output_is_no_fault(site):
    assert site(article('<div class="output stderr">a warning</div>')) == []


def test_a_missing_site_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check_pages(tmp_path / "none", tmp_path / "_toc.yml")
