"""What a page gets that its notebook does not have: the summary at its top, the address of the repository."""

from __future__ import annotations

import shlex

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.cli import papermill

from selfsim.publish.book import publish, repository_address
from selfsim.publish.chapter_process import tidy
from selfsim.publish.runner import read_notebook

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
    page = tidy(executed("One. Two. Three."), TASK, seconds=1.0)
    note = ":::{admonition} In short\n:class: summary\nOne. Two. Three.\n:::"
    assert page.cells[1].source == f"# A title\n\n{note}\n\nAn introduction.\n\nThe question."
    assert page.cells[3].outputs[0].data["text/markdown"] == "One. Two. Three."


def test_a_notebook_without_a_summary_gets_none():
    page = tidy(executed(), TASK, seconds=1.0)
    assert page.cells[1].source == "# A title\n\nAn introduction.\n\nThe question."
    without = executed()
    del without.cells[-1]
    assert "admonition" not in tidy(without, TASK, seconds=1.0).cells[1].source


def test_the_command_at_the_foot_is_that_of_the_chapter(monkeypatch):
    notebook = executed("One.")
    foot = "```bash\nmkdir -p runs\npapermill {} runs/x.ipynb \\\n    -k python3 -p epochs 3\n```\n\nText."
    notebook.cells += [new_markdown_cell(foot.format(f"notebooks/{name}.ipynb")) for name in ("all", "another")]
    parameters = {
        "runs": "a folder",
        "epochs": 12,
        "rate": 1e-05,
        "download": True,
        "seeds": [0, 1],
        "by": {"a": "it's"},
    }
    *_, own, other = tidy(notebook, TASK | {"parameters": parameters}, seconds=1.0).cells
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


@pytest.mark.parametrize("config", ["repository: {url: https://example.org/a/b}\n", "repository: {url: ''}\n", "{}\n"])
def test_published_chapters_know_where_the_package_is(tmp_path, config):
    (tmp_path / "_config.yml").write_text(config)
    address = "https://example.org/a/b" if "example" in config else ""
    assert repository_address(tmp_path) == address
    source = tmp_path / "one.ipynb"
    nbformat.write(tidy(executed("One."), TASK, seconds=1.0), source)
    (published,) = publish([source], tmp_path)
    cells = read_notebook(published).cells
    assert cells[0].source == INSTALL.replace('repository = ""', f'repository = "{address}"')
    assert [cell.source for cell in cells[1:]] == [cell.source for cell in read_notebook(source).cells[1:]]
