"""Check a rendered book: missing and empty pages, missing pictures, error outputs, alt texts, links, weight."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from ..files import read_yaml
from .contents import toc_pages

_LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "iframe": "src"}
_PICTURES = (".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp")
# Text in these does not count as content.
_HEADINGS = [f"h{level}" for level in range(1, 7)]
_FEWEST_WORDS = 3
# Megabytes: of a page with its pictures, of the whole site.
_HEAVIEST_PAGE, _HEAVIEST_SITE = 3, 60


def check_pages(html: str | Path, toc: str | Path) -> list[str]:
    """Return the faults of a rendered book.

    Parameters
    ----------
    html : str or Path
        Folder of the site.
    toc : str or Path
        The table of contents that it was rendered from.

    Returns
    -------
    list of str
        Each names the page; empty if there are none.

    Raises
    ------
    FileNotFoundError
        There is no such folder or table of contents.
    """
    html = Path(html)
    if not html.is_dir():
        raise FileNotFoundError(f"{html}: there is no such folder")
    wanted = [f"{page}.html" for page in toc_pages(read_yaml(toc))]
    paths = {path.relative_to(html).as_posix(): path for path in sorted(html.rglob("*.html"))}
    pages = {n: _read(path) for n, path in paths.items() if not n.startswith(("_static/", "_sources/"))}
    faults = [f"{name}: the table of contents names it, but it is not there" for name in wanted if name not in pages]
    if "index.html" not in pages:
        faults.append("index.html: it is not there")
    sizes = {path: path.stat().st_size / 1e6 for path in html.rglob("*") if path.is_file()}
    faults += _weight_faults("index.html: the site", sum(sizes.values()), _HEAVIEST_SITE)
    for name, page in pages.items():
        pictures = {Path(os.path.normpath(html / name / ".." / (image.get("src") or ""))) for image in page.images}
        weight = sum(sizes.get(path, 0) for path in {html / name, *pictures})
        faults += _weight_faults(f"{name}: the page with its pictures", weight, _HEAVIEST_PAGE)
        if name in wanted and not page.has_content:
            faults.append(f"{name}: the page is empty")
        drawn = _pictures_of(html / "_sources" / Path(name).with_suffix(".ipynb"))
        if len(page.images) < drawn:
            faults.append(f"{name}: {len(page.images)} pictures, {drawn} in its notebook")
        if page.errors:
            faults.append(f"{name}: {page.errors} error output(s)")
        faults += [f"{name}: {fault}" for image in page.images for fault in _alt_faults(image)]
        faults += [f"{name}: {fault}" for link in dict.fromkeys(page.links) for fault in _link(link, name, pages, html)]
    return faults


class _Page(NamedTuple):
    """The parts of one page that are checked; `images` are those of its article, without the theme's."""

    ids: set[str]
    links: list[str]
    images: list[Any]
    has_content: bool
    errors: int


def _read(path: Path) -> _Page:
    from bs4 import BeautifulSoup

    soup: Any = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    links = [tag.get(_LINKS[tag.name]) for tag in soup.find_all(list(_LINKS))]
    links += [tag.get("content", "").partition("=")[2] for tag in soup.select('meta[http-equiv="refresh" i]')]
    images = soup.select("article img")
    texts = (text for article in soup.find_all("article") for text in article.strings if text.strip())
    return _Page(
        ids={tag[key] for key in ("id", "name") for tag in soup.find_all(attrs={key: True})},
        links=[link for link in links if link],
        images=images,
        has_content=bool(images) or any(not text.find_parent(_HEADINGS) for text in texts),
        errors=len(soup.select(".output.traceback, #papermill-error-cell")),
    )


def _pictures_of(notebook: Path) -> int:
    """Return how many pictures an executed notebook shows; none if there is no such notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.is_file() else []
    hidden = {"remove-cell", "remove-output"}
    shown = [cell for cell in cells if hidden.isdisjoint(cell["metadata"].get("tags", []))]
    outputs = [output.get("data", {}) for cell in shown for output in cell.get("outputs", [])]
    return sum(any(kind.startswith("image/") for kind in data) for data in outputs)


def _alt_faults(image: Any) -> Iterator[str]:
    source, alt = image.get("src") or "", (image.get("alt") or "").strip()
    shown = source if len(source) < 100 else source[:60] + "..."
    if not alt:
        yield f"the image {shown} has no alt text"
    elif alt == source or alt.lower().endswith(_PICTURES) or ("/" in alt and " " not in alt):
        yield f"the image {shown} has a file name as alt text ({alt!r})"
    elif len(alt.split()) < _FEWEST_WORDS:
        yield f"the image {shown} has too short an alt text ({alt!r}), need {_FEWEST_WORDS} words"


def _weight_faults(what: str, megabytes: float, most: float) -> list[str]:
    return [f"{what} weighs {megabytes:.1f} MB, at most {most} are wanted"] if megabytes > most else []


def _link(link: str, name: str, pages: dict[str, _Page], html: Path) -> Iterator[str]:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return
    if parts.path.startswith("/"):
        yield f"the link {link} starts at the server's root, where the book need not be"
        return
    path = posixpath.join(posixpath.dirname(name), unquote(parts.path)) if parts.path else name
    target = posixpath.normpath(path)
    if target.startswith(".."):
        yield f"the link {link} leads out of the book"
        return
    if (html / target).is_dir():
        target = posixpath.normpath(f"{target}/index.html")
    if not (html / target).is_file():
        yield f"the link {link} leads nowhere"
    elif parts.fragment and target in pages and not {parts.fragment, unquote(parts.fragment)} & pages[target].ids:
        yield f"the link {link} leads to an anchor that is not there"
