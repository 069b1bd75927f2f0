"""Chapters and the study on the pages: links, numbers, a table of how chapters were made."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import ReferenceRole, SphinxDirective, SphinxRole

logger = logging.getLogger(__name__)

FOLDER = "book/chapters/"
FACTS = Path(__file__).with_name("study.json")  # written by `python -m study --facts`
ROW = re.compile(r'<th scope="row"[^>]*>([^<]*)</th><td[^>]*>([^<]*)</td>')


class ChapterRole(ReferenceRole):
    """{chapter}`VGG-11 <vgg11>`: a link, or in a book of other chapters the title alone."""

    def run(self):
        if not Path(self.env.srcdir, FOLDER, f"{self.target}.ipynb").is_file():
            return [nodes.emphasis(self.rawtext, self.title)], []
        where = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{FOLDER}{self.target}", "refexplicit": True}
        shown = nodes.inline("", self.title, classes=["std", "std-doc"])
        return [addnodes.pending_xref(self.rawtext, shown, refdoc=self.env.docname, refwarn=True, **where)], []


class StudyRole(SphinxRole):
    """{study}`confirm.vit_small`: a number or verdict of the study, by its name in study.json."""

    def run(self):
        self.env.note_dependency(str(FACTS))
        facts = json.loads(FACTS.read_text(encoding="utf-8"))
        if self.text not in facts:
            logger.warning("the study has no fact %r", self.text, location=(self.env.docname, self.lineno))
        # A minus sign is longer than a hyphen, and no line ends after it. The hyphen of ResMLP-12 stays.
        return [nodes.Text(re.sub(r"(?<![\w-])-(?=[\d.])", "\u2212", facts.get(self.text, self.text)))], []


class StudyText(SphinxDirective):
    """Markdown of the study, such as a table, by its name in study.json."""

    required_arguments = 1

    def run(self):
        self.env.note_dependency(str(FACTS))
        text = json.loads(FACTS.read_text(encoding="utf-8"))[self.arguments[0]]
        content = nodes.container()
        self.state.nested_parse(StringList(text.splitlines(), source=self.env.docname), 0, content)
        return content.children


class ChapterStatus(SphinxDirective):
    """A table of this book's chapters: when, how long and with what they were executed."""

    def run(self):
        contents = getattr(self.env, "external_site_map", None) or sorted(self.env.found_docs)
        pages = [name for name in contents if name.startswith(FOLDER) and name in self.env.found_docs]
        lines = ["| chapter | executed (UTC) | run time | package |", "|---|---|---|---|"]
        seconds, common = 0.0, {"Device": {}, "Versions": {}}
        for page in pages:
            self.env.note_dependency(f"{page}.ipynb")
            notebook = json.loads(Path(self.env.srcdir, f"{page}.ipynb").read_text(encoding="utf-8"))
            made, facts = notebook["metadata"].get("selfsim", {}), provenance(notebook)
            title = next((cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"), {"source": [page]})
            title = re.search(r"^#* *(.*)", "".join(title["source"]))[1].replace("|", r"\|")
            took = made.get("seconds")
            seconds += took or 0
            cells = [made.get("executed", "")[:16].replace("T", " "), "" if took is None else f"{took:.0f} s"]
            lines.append(f"| [{title}](/{page}.ipynb) | {' | '.join(cells)} | {facts.get('Package', '')} |")
            for label, found in common.items():
                found.setdefault(facts.get(label, "unknown"), []).append(page)
        lines.append(f"| all, one after the other | | {seconds / 60:.0f} min | |")
        for label, found in common.items():
            lines += ["", label]
            for text, on in found.items():
                lines += [f": {text}" + (f" ({len(on)} of {len(pages)} chapters)" if len(found) > 1 else ""), ""]
        content = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.env.docname), 0, content)
        return content.children


def provenance(notebook: dict) -> dict[str, str]:
    """Return the rows of the table that ends an executed chapter; empty if it has none."""
    tables = [
        "".join(output["data"]["text/html"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if 'class="provenance"' in "".join(output.get("data", {}).get("text/html", ""))
    ]
    return {label: html.unescape(text) for label, text in ROW.findall(tables[-1])} if tables else {}


def setup(app):
    app.add_role("chapter", ChapterRole())
    app.add_role("study", StudyRole())
    app.add_directive("study-text", StudyText)
    app.add_directive("chapter-status", ChapterStatus)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
