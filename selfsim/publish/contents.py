"""The table of contents of a book: the pages that it names, and itself without some of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfsim.publish.plain_yaml import read_yaml

PAGE_SUFFIXES = (".md", ".ipynb", ".rst")


def toc_pages(toc: str | Path | Any) -> list[str]:
    """Return the pages that a table of contents names, root first, without file endings.

    Parameters
    ----------
    toc : str, Path or the content of such a file
        In Jupyter Book's format.

    Examples
    --------
    >>> toc_pages({"root": "book/intro", "chapters": [{"file": "book/why.md"}]})
    ['book/intro', 'book/why']
    """
    if isinstance(toc, str | Path):
        toc = read_yaml(Path(toc))
    return [without_suffix(page) for page in toc_files(toc)]


def toc_files(toc: Any) -> Iterator[str]:
    """Give the pages of a table's content as they are written in it."""
    if isinstance(toc, dict):
        for key, value in toc.items():
            if key in ("root", "file"):
                yield value
            else:
                yield from toc_files(value)
    elif isinstance(toc, list):
        for item in toc:
            yield from toc_files(item)


def without_pages(toc: Any, left_out: set[str]) -> Any:
    """Return the content of a table without these pages, and without what is empty without them."""
    if isinstance(toc, dict):
        return {key: kept for key, value in toc.items() if (kept := without_pages(value, left_out)) != []}
    if isinstance(toc, list):
        kept = [without_pages(i, left_out) for i in toc if without_suffix(_file(i)) not in left_out]
        return [item for item in kept if not isinstance(item, dict) or set(item) - {"caption", "numbered"}]
    return toc


def without_suffix(name: str) -> str:
    """Return the name of a page without the ending of its file."""
    return next((name.removesuffix(suffix) for suffix in PAGE_SUFFIXES if name.endswith(suffix)), name)


def _file(item: Any) -> str:
    return item.get("file", "") if isinstance(item, dict) else ""
