"""The book's Sphinx extension: launch buttons, the provenance of a chapter, and line breaks in long names."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.conftest import book_extension

ROOT = Path(__file__).parents[2]


chapters, addresses = book_extension("chapters"), book_extension("address")


def buttons(folder, *, address, installs_from, page="book/chapters/one"):
    (folder / "book" / "chapters").mkdir(parents=True)
    source = f'    repository = "{installs_from}"\n    %pip install x'
    notebook = {"cells": [{"cell_type": "code", "source": [source], "metadata": {"tags": ["install"]}}]}
    (folder / "book" / "chapters" / "one.ipynb").write_text(json.dumps(notebook))
    (folder / "_config.yml").write_text(f"repository: {{url: '{address}', branch: main}}\n")
    context = {"body": "text"}
    addresses.add_links(SimpleNamespace(srcdir=folder), page, "page.html", context, None)
    return context["body"].removeprefix("text")


ADDRESS = "https://github.com/someone/something"


@pytest.mark.parametrize("ending", ["", "/", ".git"])
def test_a_published_chapter_has_buttons_for_binder_and_colab(tmp_path, ending):
    body = buttons(tmp_path, address=ADDRESS + ending, installs_from=ADDRESS + ending)
    repository = "someone/something"
    assert f'"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/book/chapters/one.ipynb"' in body
    assert f'"https://colab.research.google.com/github/{repository}/blob/main/book/chapters/one.ipynb"' in body


@pytest.mark.parametrize(
    "where",
    [
        {"address": "", "installs_from": ""},
        {"address": ADDRESS, "installs_from": ""},  # published before the repository had an address
        {"address": "https://example.org/a/b", "installs_from": "https://example.org/a/b"},  # not on GitHub
        {"address": ADDRESS, "installs_from": ADDRESS, "page": "book/intro"},
    ],
)
def test_pages_that_cannot_be_opened_elsewhere_have_no_buttons(tmp_path, where):
    assert buttons(tmp_path, **where) == ""


def config_with(url: str) -> str:
    return f"repository: {{url: '{url}', branch: main}}\n"


def test_all_addresses_follow_from_the_repository(tmp_path):
    (tmp_path / "_config.yml").write_text(config_with("https://github.com/Someone/some.thing.git"))
    assert addresses.address(tmp_path)[1:] == ("Someone/some.thing", "main", "https://someone.github.io/some.thing/")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "one.md").write_text("# One\n")
    app = SimpleNamespace(srcdir=tmp_path)
    prose, missing = {"body": "text"}, {"body": "text"}
    addresses.add_links(app, "book/one", "page.html", prose, None)
    assert 'href="https://github.com/Someone/some.thing/edit/main/book/one.md"' in prose["body"]
    addresses.add_links(app, "404", "404.html", missing, None)
    assert missing == {"body": "text", "metatags": '<base href="https://someone.github.io/some.thing/">'}
    (tmp_path / "_config.yml").write_text(config_with(""))
    assert addresses.address(tmp_path) == ("", "", "main", "")


def test_former_pages_lead_to_pages_that_are_there():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    moved = config["selfsim_moved"]
    app = SimpleNamespace(config=SimpleNamespace(selfsim_moved=moved), builder=SimpleNamespace(name="html"))
    found = list(addresses.former_pages(app))
    assert len(found) == len(moved) > 0
    for old, context, template in found:
        assert not (ROOT / f"{old}.md").exists()
        assert (ROOT / old).parent.joinpath(context["target"]).with_suffix(".md").is_file()
        assert (ROOT / "book" / "_templates" / template).is_file()


def test_the_book_and_the_citation_have_one_title_and_author():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert config["title"] == config["project"] == citation["title"]
    assert [{"name": config["author"]}] == citation["authors"]
    assert citation.get("repository-code", "") == config["repository"]["url"]


def test_the_provenance_of_a_chapter_is_read_from_its_outputs():
    from selfsim.training.provenance import provenance

    made = provenance(parameters={"a": "<b>"}, seeds=[0])
    notebook = {"cells": [{"outputs": [{"data": {"text/html": [made._repr_html_()]}}]}]}
    assert chapters.provenance(notebook) == made.rows
    assert chapters.provenance({"cells": []}) == {}


def test_long_names_in_code_break_between_their_parts():
    context = {
        "body": '<code><span class="pre">tests/a_b.py::test_one</span> <span class="pre">ss_rate</span></code> a_b.c'
    }
    book_extension("selfsim_sphinx").breakable_names(None, "page", "page.html", context, None)
    long, rest = context["body"].split("</span>", 1)
    assert long.removeprefix('<code><span class="pre">') == "tests/<wbr>a_<wbr>b.<wbr>py::<wbr>test_<wbr>one"
    assert rest == ' <span class="pre">ss_rate</span></code> a_b.c'


def test_an_epub_gets_well_formed_pages():
    from xml.etree import ElementTree

    context = {"body": "<!-- a --b --><style scoped>p {}</style><br><p>&ApplyFunction;</p>"}
    book_extension("epub").make_well_formed(
        SimpleNamespace(builder=SimpleNamespace(name="epub")), "", "", context, None
    )
    style, _, text = ElementTree.fromstring(f"<div>{context['body']}</div>")
    assert (style.text, text.text) == ("p {}", "\u2061")
