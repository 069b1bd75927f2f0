"""Look over a rendered book: are pages there, free of errors, figures described, links good?"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from selfsim.publish.contents import toc_pages

_LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "iframe": "src"}
_PICTURES = (".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp")
_HEADINGS = {f"h{level}" for level in range(1, 7)}
# Text inside these is not read by anyone.
_SILENT = {"script", "style"}
_FEWEST_WORDS = 3


def check_pages(html: str | Path, toc: str | Path) -> list[str]:
    """Return the faults of a rendered book.

    Parameters
    ----------
    html : str or Path
        Folder of the site.
    toc : str or Path
        The table of contents it was rendered from.

    Returns
    -------
    list of str
        Each names the page; empty if all is well.

    Raises
    ------
    FileNotFoundError
        There is no such folder or table of contents.
    """
    html = Path(html)
    if not html.is_dir():
        raise FileNotFoundError(f"{html}: there is no such folder")
    wanted = [f"{page}.html" for page in toc_pages(Path(toc))]
    pages = {
        path.relative_to(html).as_posix(): _read(path)
        for path in sorted(html.rglob("*.html"))
        if path.relative_to(html).parts[0] not in ("_static", "_sources")
    }
    faults = [f"{name}: the table of contents names it, but it is not there" for name in wanted if name not in pages]
    if "index.html" not in pages:
        faults.append("index.html: it is not there")
    for name, page in pages.items():
        if name in wanted and not page.has_content:
            faults.append(f"{name}: the page is empty")
        if page.errors:
            faults.append(f"{name}: {page.errors} error output(s)")
        faults += [f"{name}: {fault}" for fault in _alt_faults(page)]
        faults += [f"{name}: {fault}" for fault in _link_faults(name, page, pages, html)]
    return faults


@dataclass
class _Page:
    """What one page holds."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    images: list[tuple[bool, dict[str, str | None]]] = field(default_factory=list)
    has_article: bool = False
    has_content: bool = False
    errors: int = 0


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = _Page()
        self.inside = dict.fromkeys(("article", "heading", "silent"), 0)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        page, values = self.page, dict(attrs)
        for group in _groups(tag):
            self.inside[group] += 1
        page.has_article |= tag == "article"
        page.ids.update(value for key in ("id", "name") if (value := values.get(key)))
        if link := values.get(_LINKS.get(tag, "")):
            page.links.append(link)
        if tag == "meta" and (values.get("http-equiv") or "").lower() == "refresh":
            page.links.append((values.get("content") or "").partition("=")[2])
        if tag == "img":
            page.images.append((self.inside["article"] > 0, values))
            page.has_content |= self.inside["article"] > 0
        classes = set((values.get("class") or "").split())
        if {"output", "traceback"} <= classes or values.get("id") == "papermill-error-cell":
            page.errors += 1

    def handle_endtag(self, tag: str) -> None:
        for group in _groups(tag):
            self.inside[group] = max(0, self.inside[group] - 1)

    def handle_data(self, data: str) -> None:
        text = self.inside["article"] and not self.inside["heading"] and not self.inside["silent"]
        if text and data.strip():
            self.page.has_content = True


def _groups(tag: str) -> Iterator[str]:
    if tag == "article":
        yield "article"
    if tag in _HEADINGS:
        yield "heading"
    if tag in _SILENT:
        yield "silent"


def _read(path: Path) -> _Page:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return reader.page


def _alt_faults(page: _Page) -> Iterator[str]:
    for in_article, image in page.images:
        # The theme's own pictures (logo, buttons) lie outside the article; a page without one is all article.
        if page.has_article and not in_article:
            continue
        source, alt = image.get("src") or "", (image.get("alt") or "").strip()
        shown = source if len(source) < 100 else source[:60] + "..."
        if not alt:
            yield f"the image {shown} has no alt text"
        elif alt == source or alt.lower().endswith(_PICTURES) or ("/" in alt and " " not in alt):
            yield f"the image {shown} has a file name as alt text ({alt!r})"
        elif len(alt.split()) < _FEWEST_WORDS:
            yield f"the image {shown} has too short an alt text ({alt!r}), need {_FEWEST_WORDS} words"


def _link_faults(name: str, page: _Page, pages: dict[str, _Page], html: Path) -> Iterator[str]:
    for link in dict.fromkeys(page.links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        if parts.path.startswith("/"):
            yield f"the link {link} starts at the server's root, where the book need not be"
            continue
        path = posixpath.join(posixpath.dirname(name), unquote(parts.path)) if parts.path else name
        target = posixpath.normpath(path)
        if target.startswith(".."):
            yield f"the link {link} leads out of the book"
            continue
        if (html / target).is_dir():
            target = (Path(target) / "index.html").as_posix()
        if not (html / target).is_file():
            yield f"the link {link} leads nowhere"
        elif target in pages and not _has_anchor(pages[target], parts.fragment):
            yield f"the link {link} leads to an anchor that is not there"


def _has_anchor(page: _Page, fragment: str) -> bool:
    return not fragment or fragment in page.ids or unquote(fragment) in page.ids
