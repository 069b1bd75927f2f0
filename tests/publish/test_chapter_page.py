"""What a page gets that its notebook does not have: the summary at its top, the address of the repository."""

from __future__ import annotations

import base64
import io
import shlex

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.cli import papermill
from PIL import Image

from selfsim.publish.page import make_page
from selfsim.publish.parameters import read_notebook
from selfsim.publish.pictures import small_png
from tests.conftest import book_extension

TASK = {"notebook": "notebooks/all.ipynb", "parameters": {}, "title": "A title", "intro": "An introduction."}
TASK |= {"name": "one", "fingerprint": "x"}
INSTALL = """\
import importlib.util

if importlib.util.find_spec("selfsim") is None:
    repository = ""
    %pip install --quiet "selfsim[boxes,models,plots,statistics] @ git+{repository}"
"""


def executed(*shown: str):
    """An executed notebook: installs, says what it asks, and shows these texts where its summary is made."""
    outputs = [new_output("display_data", {"text/markdown": text, "text/plain": "<Markdown>"}) for text in shown]
    return new_notebook(
        cells=[
            new_code_cell(INSTALL, metadata={"tags": ["install", "remove-cell"]}),
            new_markdown_cell("# A heading\n\nThe question."),
            new_code_cell("", metadata={"tags": ["parameters"]}),
            new_code_cell("Markdown(text)", outputs=outputs, metadata={"tags": ["summary", "hide-cell"]}),
        ]
    )


def test_the_summary_stands_below_the_title_and_where_it_was_made():
    page = make_page(executed("One. Two. Three."), TASK, seconds=1.0)
    note = ":::{admonition} In short\n:class: summary\nOne. Two. Three.\n:::"
    assert page.cells[1].source == f"# A title\n\n{note}\n\nAn introduction.\n\nThe question."
    assert page.cells[3].outputs[0].data["text/markdown"] == "One. Two. Three."


def test_the_figure_of_the_summary_stands_below_the_title():
    notebook = executed("One.")
    drawn = new_output("display_data", {"image/png": base64.b64encode(png(np.zeros((2, 2), np.uint8))).decode()})
    notebook.cells[-1].outputs.append(drawn)
    notebook.cells[-1].metadata["mystnb"] = {"figure": {"caption": "{title}: a figure", "name": "rates"}}
    _, title, figure, *_, summary = make_page(notebook, TASK, seconds=1.0).cells
    assert "One." in title.source
    assert (figure.outputs, figure.metadata["tags"]) == ([drawn], ["remove-input"])
    assert figure.source.startswith("# ")  # a page leaves out a cell without source
    assert figure.metadata["mystnb"]["figure"] == {"caption": "A title: a figure", "name": f"{TASK['name']}-rates"}
    assert [list(output.data) for output in summary.outputs] == [["text/markdown", "text/plain"]]


def test_the_parameters_are_folded_below_a_table_of_the_changed_ones():
    source = "epochs: int = 15  # passes\nsize: str = 'tiny'\nlayers: list[str] = []\nruns: str = ''  # a folder"
    notebook = new_notebook(
        cells=[
            new_code_cell(source, metadata={"tags": ["parameters"]}),
            new_code_cell("epochs = 3", metadata={"tags": ["injected-parameters"]}),
            new_code_cell("1 + 1"),
        ]
    )
    given = {"epochs": 3, "size": "tiny", "layers": ["<b>|`x`"], "runs": "a folder"}
    _, table, *codes = make_page(notebook, TASK | {"parameters": given}, seconds=1.0).cells
    rows = [line for line in table.source.splitlines() if line.startswith("| `")]
    assert rows[0] == "| `epochs` | <code>3</code> | passes |"
    assert rows[1].startswith("| `layers` | <code>") and "<b>" not in rows[1] and rows[1].count("|") == 4
    assert len(rows) == 2  # neither a default nor the runner's own folder
    assert ["hide-input" in cell.metadata.get("tags", []) for cell in codes] == [True, True, False]
    default = new_notebook(cells=[new_code_cell("a: int = 1", metadata={"tags": ["parameters"]})])
    assert len(make_page(default, TASK | {"parameters": {"a": 1}}, seconds=1.0).cells) == 2  # a title, no table


def png(pixels) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, format="png")
    return written.getvalue()


def pixels_of(content: bytes):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_figures_keep_their_frequent_colours_exactly_and_photographs_all():
    random = np.random.default_rng(0)
    photograph = random.integers(0, 256, (80, 80, 3), dtype=np.uint8)
    figure = np.full((80, 80, 3), 255, dtype=np.uint8)
    figure[10:40, 10:40], figure[50:60, 5:75] = (213, 94, 0), (223, 227, 231)
    edge = figure.copy()
    edge[45:49, :78] = photograph[45:49, :78]  # more colours than a palette has
    edge[62:70, :50] = np.arange(250, 255, dtype=np.uint8).repeat(10)[:, None]  # nearly white
    for drawn in (figure, edge):
        small = small_png(png(drawn))
        assert len(small) < len(png(drawn))
        flat = np.ones((80, 80), dtype=bool)
        flat[45:49] = False
        assert np.array_equal(pixels_of(small)[flat], drawn[flat])
    assert small_png(png(photograph)) == png(photograph)
    clear = np.dstack([figure, np.full((80, 80), 128, dtype=np.uint8)])
    assert small_png(png(clear)) == png(clear)
    output = new_output("display_data", {"image/png": base64.b64encode(png(edge)).decode()})
    notebook = new_notebook(cells=[new_code_cell("", outputs=[output])])
    page = make_page(notebook, TASK, seconds=1.0)
    assert base64.b64decode(page.cells[-1].outputs[0].data["image/png"]) == small_png(png(edge))


def test_a_notebook_without_a_summary_gets_none():
    page = make_page(executed(), TASK, seconds=1.0)
    assert page.cells[1].source == "# A title\n\nAn introduction.\n\nThe question."
    without = executed()
    del without.cells[-1]
    assert "admonition" not in make_page(without, TASK, seconds=1.0).cells[1].source


def test_the_command_at_the_foot_is_that_of_the_chapter(monkeypatch):
    notebook = executed("One.")
    # What a reader pastes must not end the block of code, nor mean anything else to the shell.
    foot = "```bash\nmkdir -p runs\npapermill {} runs/x.ipynb \\\n    -k python3 -p epochs 3\n```\n\nText."
    notebook.cells += [new_markdown_cell(foot.format(f"notebooks/{name}.ipynb")) for name in ("all", "another")]
    parameters = {
        "runs": "a folder",
        "data_dir": "2024",
        "dataset": "None",
        "epochs": 12,
        "rate": 1e-05,
        "download": True,
        "seeds": [0, 1],
        "by": {"a": "it's"},
        "note": "one\n```\n<script>$(x)`y` 'z'",
    }
    *_, own, other = make_page(notebook, TASK | {"parameters": parameters}, seconds=1.0).cells
    assert other.source == foot.format("notebooks/another.ipynb")
    assert own.source.startswith("```bash\nmkdir -p runs\npapermill notebooks/all.ipynb runs/x.ipynb ")
    assert own.source.endswith("\n```\n\nText.")
    # What papermill's own command line makes of it.
    given = {}
    monkeypatch.setattr("papermill.cli.execute_notebook", lambda **call: given.update(call["parameters"]))
    command = own.source.partition("papermill ")[2].partition("\n```")[0]
    words = shlex.split(command.replace("\\\n", ""))  # as a shell does
    papermill(words, standalone_mode=False)
    assert given == parameters


def page_source(notebook, **changes) -> str:
    """The first cell of a page with text."""
    page = make_page(notebook, TASK | changes, seconds=1.0)
    return next(cell.source for cell in page.cells if cell.cell_type == "markdown")


def test_a_title_is_text_and_not_html():
    for title in ("<script>x</script> & more", "a\n\n<script>x</script> &\tmore"):
        source = page_source(executed(), title=title)
        assert source.startswith("# ")
        assert "<" not in source and "&lt;script&gt;x&lt;/script&gt; &amp; more\n\nAn introduction." in source
    figure = {"image": {"alt": "Of {title}"}, "figure": {"caption": "Of {title}", "name": "n"}}
    notebook = executed()
    notebook.cells[-1].metadata["mystnb"] = figure
    shown = make_page(notebook, TASK | {"title": "<b>"}, seconds=1.0).cells[-1].metadata["mystnb"]
    assert shown == {"image": {"alt": "Of <b>"}, "figure": {"caption": "Of &lt;b&gt;", "name": "one-n"}}


@pytest.mark.parametrize("text", ["No heading.", "```sh\n# a comment\n```", "#\n\nText", "> # quoted", "#no-heading"])
@pytest.mark.parametrize("title", [None, "", "  \n"])
def test_a_page_without_heading_or_title_is_named_after_its_parameters(text, title):
    notebook = new_notebook(cells=[new_markdown_cell(text), new_code_cell("", metadata={"tags": ["parameters"]})])
    source = page_source(notebook, name="my-chapter", title=title, parameters={"epochs": 2, "name": "<b>"}, intro="")
    assert source == "# My chapter: epochs 2, name &lt;b&gt;"
    assert [cell.source for cell in notebook.cells if cell.cell_type == "markdown"][1] == text


@pytest.mark.parametrize("heading", ["# A heading", "A heading\n=========", "```\n# code\n```\n## A heading"])
def test_the_title_takes_the_place_of_the_first_heading(heading):
    notebook = new_notebook(cells=[new_markdown_cell(f"{heading}\n\nText.")])
    before = "```\n# code\n```\n" if "code" in heading else ""
    assert page_source(notebook, intro="") == f"{before}# A title\n\nText."
    notebook = new_notebook(cells=[new_markdown_cell(f"{heading}\n\nText.")])
    assert page_source(notebook, intro="", title=None) == f"{heading}\n\nText."


@pytest.mark.parametrize("config", ["repository: {url: https://example.org/a/b}\n", "repository: {url: ''}\n", "{}\n"])
def test_published_chapters_know_where_the_package_is(tmp_path, config):
    (tmp_path / "_config.yml").write_text(config)
    address = "https://example.org/a/b" if "example" in config else ""
    publication = book_extension("publication")
    assert publication.repository_address(tmp_path) == address
    source = tmp_path / "one.ipynb"
    nbformat.write(make_page(executed("One."), TASK, seconds=1.0), source)
    (published,) = publication.publish([source], tmp_path)
    cells = read_notebook(published).cells
    assert cells[0].source == INSTALL.replace('repository = ""', f'repository = "{address}"')
    assert [cell.source for cell in cells[1:]] == [cell.source for cell in read_notebook(source).cells[1:]]
