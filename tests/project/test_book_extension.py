"""The book's Sphinx extension: launch buttons, the provenance of a chapter, and line breaks in long names."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


def extension(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chapters = extension("chapters")


def buttons(folder, *, address, installs_from, page="book/chapters/one"):
    (folder / "book" / "chapters").mkdir(parents=True)
    source = f'    repository = "{installs_from}"\n    %pip install x'
    notebook = {"cells": [{"cell_type": "code", "source": [source], "metadata": {"tags": ["install"]}}]}
    (folder / "book" / "chapters" / "one.ipynb").write_text(json.dumps(notebook))
    (folder / "_config.yml").write_text(f"repository: {{url: '{address}', branch: main}}\n")
    context = {"body": "text"}
    chapters.launch_buttons(SimpleNamespace(srcdir=folder), page, "page.html", context, None)
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
    extension("selfsim_sphinx").breakable_names(None, "page", "page.html", context, None)
    long, rest = context["body"].split("</span>", 1)
    assert long.removeprefix('<code><span class="pre">') == "tests/<wbr>a_<wbr>b.<wbr>py::<wbr>test_<wbr>one"
    assert rest == ' <span class="pre">ss_rate</span></code> a_b.c'
