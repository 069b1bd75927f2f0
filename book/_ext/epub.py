"""The book as an EPUB: ``make epub``."""

from __future__ import annotations

from bs4 import BeautifulSoup, Comment


def set_version(app, config):
    """Tell the version of the package, which an EPUB must have."""
    from selfsim import __version__

    config.version = config.version or __version__


def make_well_formed(app, pagename, templatename, context, doctree):
    """Turn the HTML of notebooks' outputs and the entities of MathML into XHTML, which readers demand."""
    if app.builder.name == "epub" and "body" in context:
        page = BeautifulSoup(context["body"], "html.parser")
        for comment in page.find_all(string=lambda text: isinstance(text, Comment)):
            comment.extract()  # in XML it must not hold "--"
        context["body"] = str(page)


def setup(app):
    app.connect("config-inited", set_version)
    app.connect("html-page-context", make_well_formed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
