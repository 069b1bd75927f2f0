"""Print how easy the prose of the rendered book reads, hardest first; a help for writers, not a check.

After `jupyter-book build .`:

    uv run --no-project --with 'beautifulsoup4,textstat==0.7.3,setuptools<80' book/_ext/reading_ease.py

Goals are a Flesch reading ease of at least 50 and a median of at most 18 words a sentence. Later versions of textstat
need a download.
"""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path

END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z0-9(])")


def sentences(page: Path) -> list[str]:
    """Return the sentences of a rendered page's paragraphs and lists, without formulas and code."""
    from bs4 import BeautifulSoup

    article = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find("article")
    for part in article.select("pre, code, math, table, figure, .headerlink, dl.py, nav, footer, script, style"):
        part.decompose()
    texts = [" ".join(part.get_text().split()) for part in article.select("p, li > :not(p, ul, ol), dd")]
    return [sentence for text in dict.fromkeys(texts) for sentence in END.split(text) if len(sentence.split()) > 2]


def main() -> None:
    import textstat

    root = Path(__file__).parents[2]
    pages = sys.argv[1:] or [path.stem for path in (root / "book").glob("*.md") if not path.stem.startswith("api")]
    rows = []
    for name in pages:
        found = sentences(root / "_build" / "html" / "book" / f"{name}.html")
        if found:
            ease = textstat.flesch_reading_ease(" ".join(found))
            rows.append((ease, statistics.median(len(sentence.split()) for sentence in found), len(found), name))
    print("ease  median words  sentences  page")
    for ease, words, number, name in sorted(rows):
        print(f"{ease:4.0f}  {words:12g}  {number:9d}  {name}")


if __name__ == "__main__":
    main()
