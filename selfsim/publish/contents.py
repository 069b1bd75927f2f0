"""The table of contents of a book: read its pages, and put others in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PAGE_SUFFIXES = (".md", ".ipynb", ".rst")


def toc_pages(toc: Any) -> list[str]:
    """Return the pages that the content of a ``_toc.yml`` (or a part of it) names, without file endings.

    >>> toc_pages({"root": "book/intro", "chapters": [{"file": "book/why.md"}]})
    ['book/intro', 'book/why']
    """
    pages = []
    for key, value in toc.items() if isinstance(toc, dict) else enumerate(toc):
        if key in ("root", "file"):
            pages.append(_without_suffix(value))
        elif isinstance(value, dict | list):
            pages += toc_pages(value)
    return pages


def with_pages(toc: dict[str, Any], others: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the content of a table of contents with other pages in the place of some.

    A page that others replace by nothing is left out, and so is a part without pages.

    >>> with_pages({"root": "a", "chapters": [{"file": "b"}, {"file": "c"}]}, {"b": ["d", "e"], "c": []})
    {'root': 'a', 'chapters': [{'file': 'd'}, {'file': 'e'}]}
    """
    changed = {}
    for key, value in toc.items():
        if isinstance(value, list):
            items: list[dict[str, Any]] = []
            for item in value:
                page = _without_suffix(item.get("file", ""))
                items += [{"file": p} for p in others[page]] if page in others else [with_pages(item, others)]
            value = [item for item in items if set(item) - {"caption", "numbered"}]
        if value != []:
            changed[key] = value
    return changed


def _without_suffix(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in PAGE_SUFFIXES if name.endswith(suffix)), name)
