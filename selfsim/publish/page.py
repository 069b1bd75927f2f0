"""Make a page of an executed notebook: its title, summary and command line, without traces of this machine."""

from __future__ import annotations

import ast
import base64
import datetime
import html
import json
import re
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from .pictures import small_png
from .run_list import title_from_parameters

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python"}
_INJECTED = "injected-parameters"
_ONLY_WITH = "only-with-"


def make_page(notebook: Any, task: Mapping[str, Any], *, seconds: float) -> Any:
    """Turn an executed notebook into a page, in place, and return it.

    - The chapter's title takes the place of the first heading, and of ``{title}`` in alt texts and captions of figures.
      A notebook without heading or title is named after its chapter and parameters.
    - What the cell tagged ``summary`` displays and the introduction follow the title: its text as a note, its figure
      below in a cell of its own.
    - Pictures get a palette, which makes them smaller.
    - The cells with parameters are folded, below a table of those that are not at their default.
    - Labels of figures start with the chapter's name, since one notebook can make several chapters of a book. For the
      same reason the papermill command gets the chapter's parameters.
    - Paths and times that papermill and nbclient noted are replaced by what a reader and the next run need.

    Parameters
    ----------
    notebook : NotebookNode
    task : mapping
        The chapter's ``name``, ``notebook``, ``title``, ``intro``, ``parameters`` and ``fingerprint``.
    seconds : float
        How long it was executed.
    """
    from selfsim import __version__

    parameters = task["parameters"]
    notebook.cells = [cell for cell in notebook.cells if _is_wanted(cell, parameters)]
    title = _set_title(notebook, task)
    command = re.compile(
        rf"(papermill \S*{re.escape(Path(task['notebook']).name)} .*?-k python3) [^`]*(?=\n```)", re.DOTALL
    )
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and parameters:
            cell.source = command.sub(lambda match: match[1] + papermill_options(parameters), cell.source)
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "mystnb" in cell.metadata:
            cell.metadata["mystnb"] = _figure_facts(cell.metadata["mystnb"], title, task["name"])
        if is_injected(cell):
            # Papermill draws it at random, which would make every publication a change.
            cell["id"] = _INJECTED
        for output in cell.get("outputs", []):
            if drawn := output.get("data", {}).get("image/png"):
                output["data"]["image/png"] = base64.b64encode(small_png(base64.b64decode(drawn))).decode()
    _fold_parameters(notebook, parameters)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = dict(KERNEL, name="python3")
    notebook.metadata["papermill"] = {"parameters": parameters}
    notebook.metadata["selfsim"] = {
        "chapter": task["name"],
        "fingerprint": task["fingerprint"],
        "version": __version__,
        "executed": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "seconds": round(seconds, 1),
    }
    return notebook


def is_injected(cell: Any) -> bool:
    """Return whether a cell is the one that papermill put in, with the values of parameters."""
    return _INJECTED in cell.metadata.get("tags", [])


def papermill_options(parameters: Mapping[str, Any]) -> str:
    r"""Return parameters as options of papermill's command line, each on a line of its own.

    >>> print(papermill_options({"epochs": 3, "seeds": [0, 1]}))
     \
        -p epochs 3 \
        -y 'seeds: [0, 1]'
    """
    options = []
    for name, value in parameters.items():
        if isinstance(value, str | int | float) and str(value).isprintable() and value != "" and "`" not in str(value):
            flag = "-r" if isinstance(value, str) and not _stays_text(value) else "-p"
            option = f"{flag} {name} {shlex.quote(str(value))}"
        else:
            # In JSON, no line break or backtick can end the block of code on the page.
            option = f"-y {shlex.quote(f'{name}: {json.dumps(value)}'.replace('`', chr(92) + 'u0060'))}"
        options.append(f" \\\n    {option}")
    return "".join(options)


def _stays_text(value: str) -> bool:
    """Whether papermill takes a text after ``-p`` as text; after ``-r`` it always does."""
    try:
        float(value)
    except ValueError:
        return value not in ("True", "False", "None")
    return False


def _set_title(notebook: Any, task: Mapping[str, Any]) -> str:
    """Put title, summary and introduction at the first heading, or on top where there is none; return the title.

    The title is text, not HTML; the introduction is Markdown.
    """
    from nbformat.v4 import new_markdown_cell

    title = " ".join((task["title"] or "").split())
    note, figures = _taken_summary(notebook)
    intro = "\n\n".join(filter(None, (note, task["intro"])))
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and (found := _first_heading(cell.source)):
            text, start, end = found
            lines = cell.source.splitlines()
            heading = [f"# {html.escape(title, quote=False)}"] if title else lines[start:end]
            parts = ("\n".join(lines[:start] + heading), intro, "\n".join(lines[end:]).strip())
            cell.source = "\n\n".join(filter(None, parts))
            notebook.cells[place + 1 : place + 1] = figures
            return title or text
    title = title or title_from_parameters(task["name"], task["parameters"])
    source = f"# {html.escape(title, quote=False)}\n\n{intro}".strip()
    notebook.cells[:0] = [new_markdown_cell(source, id="title"), *figures]
    return title


def _first_heading(source: str) -> tuple[str, int, int] | None:
    """Text of the first heading that has any, its first line and the line after it; none in code or quotes."""
    from markdown_it import MarkdownIt

    for token, inline in pairwise(MarkdownIt().parse(source)):
        if token.type == "heading_open" and token.level == 0 and token.map and inline.content.strip():
            start, end = token.map
            return inline.content, start, end
    return None


def _fold_parameters(notebook: Any, parameters: Mapping[str, Any]) -> None:
    """Fold the cells with parameters, and put a table of the changed ones before the first."""
    from nbformat.v4 import new_markdown_cell
    from papermill.translators import PythonTranslator

    first, known = 0, []
    for place, cell in enumerate(notebook.cells):
        tags = cell.metadata.setdefault("tags", [])
        if "parameters" in tags:
            first, known = place, PythonTranslator.inspect(cell)
            prompt = "all parameters, with their defaults"
        elif is_injected(cell):
            prompt = "the parameters of this page, as code"
        else:
            continue
        tags.append("hide-input")
        prompts = {"code_prompt_show": f"Show {prompt}", "code_prompt_hide": f"Hide {prompt}"}
        cell.metadata["mystnb"] = prompts | cell.metadata.get("mystnb", {})
    rows = [
        f"| `{one.name}` | <code>{_in_table(parameters[one.name])}</code> | {_in_table(one.help)} |"
        for one in known
        if one.name in parameters and one.name != "runs" and repr(parameters[one.name]) != repr(_literal(one.default))
    ]
    if rows:
        text = "\n".join(["This page changes these:", "", "| parameter | value | meaning |", "|---|---|---|", *rows])
        notebook.cells.insert(first, new_markdown_cell(text, id="changed-parameters"))


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return None


def _in_table(value: Any) -> str:
    """Return a value as text for a cell of a Markdown table, where it is neither HTML nor a formula."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"[|`$*_\[\]{}\\]", lambda match: f"&#{ord(match[0])};", text)


def _taken_summary(notebook: Any) -> tuple[str, list[Any]]:
    """Return what the cell tagged ``summary`` displays: its text as a note, and a cell that shows its figure.

    The text stays there too, and the figure does not. Both are empty where the cell has none.
    """
    from nbformat.v4 import new_code_cell

    cell: Any = next((cell for cell in notebook.cells if "summary" in cell.metadata.get("tags", [])), None)
    outputs = cell.outputs if cell else []
    text = "\n\n".join(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))
    note = f":::{{admonition}} In short\n:class: summary\n{text.strip()}\n:::" if text.strip() else ""
    shown = [output for output in outputs if any("image/" in kind for kind in output.get("data", {}))]
    if not shown:
        return note, []
    cell.outputs = [output for output in outputs if output not in shown]
    told = cell.metadata.get("mystnb", {})
    facts = {"tags": ["remove-input"], "mystnb": {key: told.pop(key) for key in ("figure", "image") if key in told}}
    # A page leaves out a cell without source.
    source = "# The figure that the cell of the summary draws."
    return note, [new_code_cell(source, outputs=shown, metadata=facts, id="summary-figure")]


def _figure_facts(facts: Mapping[str, Any], title: str, chapter: str) -> dict[str, Any]:
    """Alt text, caption and label of a figure, with the chapter's title and name in them."""
    filled = {key: dict(value) if isinstance(value, dict) else value for key, value in facts.items()}
    caption = html.escape(title, quote=False)
    for part, key, text in (("image", "alt", title), ("figure", "alt", title), ("figure", "caption", caption)):
        if isinstance(filled.get(part), dict) and isinstance(filled[part].get(key), str):
            filled[part][key] = filled[part][key].replace("{title}", text)
    if "name" in filled.get("figure", {}):
        filled["figure"]["name"] = f"{chapter}-{filled['figure']['name']}"
    return filled


def _is_wanted(cell: Any, parameters: Mapping[str, Any]) -> bool:
    tags = cell.metadata.get("tags", [])
    return all(parameters.get(tag.removeprefix(_ONLY_WITH)) for tag in tags if tag.startswith(_ONLY_WITH))
