"""Additions to Sphinx: equations without a network, references of many docstrings on one page.

MathJax comes from another site when the page is read. docutils can turn the same LaTeX into MathML, which
browsers draw themselves, screen readers read, and which is there when the book is opened from a folder.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)

# "ln n" without a space reads like a product; a bracket needs none.
BARE_ARGUMENT = re.compile(r"(<mo>&ApplyFunction;</mo>)(?!\s*(?:<mrow>\s*)?<mo[^>]*>[(\[{|])")
# Bars count as operators: with blanks around them, and as tall as the whole formula.
BAR = re.compile(r'<mo(?: class="mathopen")?>\|</mo>')
# Where a name in code may go on in the next line: after its dots, colons, slashes and underscores, if it is long.
CODE = re.compile(r'(?<=<span class="pre">)[^<]{16,}(?=</span>)')
SEAM = re.compile(r"(?<=\w)([./_]|::)(?=\w)")
# Pixels of a picture that a phone cannot show without scrolling.
WIDE = 1100
REFERENCE = re.compile(r"^(\s*)\.\. \[(\d+)\] ?(.*)$")


def to_mathml(node: nodes.Node, *, block: bool) -> str:
    source = node.astext().strip()
    try:
        # The one-line form: indentation inside <math> would show as blanks in some readers.
        mathml = latex2mathml.tex2mathml(source, as_block=block)
    except Exception as error:
        logger.warning("cannot turn %r into MathML: %s", source, error, location=node)
        return f"<code>{html.escape(source)}</code>"
    mathml = BARE_ARGUMENT.sub(r'\1<mspace width="0.17em"/>', mathml)
    mathml = BAR.sub('<mo stretchy="false" lspace="0" rspace="0">|</mo>', mathml)
    return mathml.replace("<math ", f'<math alttext="{html.escape(source, quote=True)}" ', 1)


def visit_inline(translator, node):
    translator.body.append(f'<span class="math notranslate nohighlight">{to_mathml(node, block=False)}</span>')
    raise nodes.SkipNode


def visit_block(translator, node):
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(to_mathml(node, block=True) + "</div>\n")
    raise nodes.SkipNode


def plain_references(app, what, name, obj, options, lines):
    """Write the numbered references of a docstring as plain text.

    As footnotes, the [1] of one docstring would clash with the [1] of the next one on the same page.
    """
    written: list[str] = []
    inside = None
    for line in lines:
        match = REFERENCE.match(line)
        if match:
            inside = match[1]
            written += ["", f"{inside}[{match[2]}] {match[3]}"]
        elif inside is not None and line.startswith(inside + "   "):
            written[-1] += " " + line.strip()
        else:
            inside = None
            written.append(re.sub(r"\[(\d+)\]_", r"[\1]", line))
    lines[:] = written


def without_thebe(app, config):
    """Leave out the scripts that run cells on another site's machines: they are unused here and clash."""
    unused = ("init_thebe_core", "update_thebe_context")
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if getattr(one.handler, "__name__", "") not in unused]


def half_size(app, doctree):
    """Show each picture of a notebook at half its pixels, so that it is sharp, with a link to the full picture."""
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir, image["uri"].lstrip("/"))
        if path.suffix == ".png" and "jupyter_execute" in path.parts and path.is_file():
            width = int.from_bytes(path.read_bytes()[16:20], "big")  # where a PNG says it
            image["width"] = f"{width // 2}px"
            if width > WIDE:
                image["classes"].append("wide")


def plain_citations(app, pagename, templatename, context, doctree):
    """Drop the role "list" of a bibliography: docutils gives its entries another role than "listitem"."""
    if "body" in context:
        context["body"] = context["body"].replace('role="list" class="citation-list"', 'class="citation-list"')


def breakable_names(app, pagename, templatename, context, doctree):
    """Let long names in code break between their parts, and not within a word."""
    if "body" in context:
        context["body"] = CODE.sub(lambda name: SEAM.sub(r"\1<wbr>", name[0]), context["body"])


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("autodoc-process-docstring", plain_references, priority=400)
    app.connect("config-inited", without_thebe)
    app.connect("doctree-read", half_size)
    app.connect("html-page-context", plain_citations)
    app.connect("html-page-context", breakable_names)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
