"""What follows from the book's address, `url` under `repository` in _config.yml, and pages at former addresses."""

from __future__ import annotations

import html
import json
import posixpath
import re
from pathlib import Path
from typing import NamedTuple

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

GITHUB = re.compile(r"https://github\.com/(?P<owner>[\w.-]+)/(?P<name>[\w.-]+?)(?:\.git|/)?")


class Address(NamedTuple):
    """Where the repository and the book are published; empty texts where they are not."""

    repository: str  # as _config.yml has it
    project: str  # owner/name on GitHub
    branch: str
    pages: str  # the book, with a slash at its end


def address(folder: str | Path) -> Address:
    """Read the address from the _config.yml of a folder."""
    # Not from the theme's options: html_theme_options in _config.yml replaces all of them.
    config = yaml.safe_load(Path(folder, "_config.yml").read_text(encoding="utf-8"))
    repository = config.get("repository") or {}
    url = repository.get("url") or ""
    found = GITHUB.fullmatch(url)
    project = f"{found['owner']}/{found['name']}" if found else ""
    pages = f"https://{found['owner'].lower()}.github.io/{found['name']}/" if found else ""
    return Address(url, project, repository.get("branch") or "main", pages)


def set_base(app, config):
    """Tell Sphinx the book's address, for canonical links, unless the configuration has one."""
    config.html_baseurl = config.html_baseurl or address(app.srcdir).pages


def add_links(app, pagename, templatename, context, doctree):
    """Add buttons that open a published chapter on Binder or Colab, or a link to edit a page of prose."""
    where = address(app.srcdir)
    if pagename == "404" and where.pages:
        # This page is shown at any address: its links start at the book's.
        context["metatags"] = f'<base href="{html.escape(where.pages)}">' + context.get("metatags", "")
    notebook = Path(app.srcdir, f"{pagename}.ipynb")
    places = {}
    if where.project and Path(app.srcdir, f"{pagename}.md").is_file():
        places["Edit this page"] = f"https://github.com/{where.project}/edit/{where.branch}/{pagename}.md"
    # Publication wrote the address into each chapter that can install the package.
    elif where.project and notebook.is_file() and _installs_from(where.repository) in notebook.read_text():
        file = f"{pagename}.ipynb"
        binder = f"https://mybinder.org/v2/gh/{where.project}/{where.branch}?urlpath=lab/tree/{file}"
        colab = f"https://colab.research.google.com/github/{where.project}/blob/{where.branch}/{file}"
        places = {"Open on Binder (CPU)": binder, "Open on Colab": colab}
    if places:
        links = " ".join(
            f'<a class="sd-btn sd-btn-outline-primary" href="{html.escape(to)}">{name}</a>'
            for name, to in places.items()
        )
        context["body"] += f'\n<p class="launch">{links}</p>\n'


def _installs_from(repository: str) -> str:
    return json.dumps(f'repository = "{repository}"')[1:-1]


class Citation(SphinxDirective):
    """How to cite the software, as BibTeX."""

    def run(self):
        from selfsim import __version__

        fields = {"title": self.config.project, "author": f"{{{self.config.author}}}", "version": __version__}
        if url := address(self.env.srcdir).repository:
            fields["url"] = url
        lines = ",\n".join(f"  {name} = {{{text}}}" for name, text in fields.items())
        block = nodes.literal_block(text := f"@software{{selfsim,\n{lines}\n}}", text, language="bibtex")
        return [block]


def former_pages(app):
    """Yield a page at each former address of the site, which leads to the present one."""
    if app.builder.name == "epub":
        return
    for old, new in app.config.selfsim_moved.items():
        target = posixpath.relpath(f"{new}.html", posixpath.dirname(old) or ".")
        yield old, {"target": target}, "redirect.html"


def setup(app):
    app.add_config_value("selfsim_moved", {}, "html", [dict])
    app.add_directive("citation", Citation)
    app.connect("config-inited", set_base)
    app.connect("html-page-context", add_links)
    app.connect("html-collect-pages", former_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
