"""The check in a browser finds every fault of pages written by hand, and none in a good site."""

from __future__ import annotations

import pytest

from tests.browser.check_book import check_book, missing_browser

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(missing_browser()), reason=missing_browser() or "a browser is here"),
]

HEAD = """<!doctype html><html lang="en"><title>A book</title><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">"""
PICTURE = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='{0}' height='40'/%3E"
# Like the theme of the book: a key opens the field, and results are listed.
SEARCH = """<form action="search.html"><input name="q" aria-label="Search"></form><ul id="search-results"></ul><script>
document.addEventListener("keydown", (e) => { if (e.key === "k") document.querySelector("input").focus(); });
const query = new URLSearchParams(location.search).get("q");
if (query === "box covering") document.querySelector("ul").innerHTML = "<li><a href='index.html'>Found</a></li>";
</script>"""
PLAYER = """<div><img src="{0}" alt="a frame" style="background: #fff"><button>Play</button>
<input type="range" max="1" value="0" aria-label="size"></div>
<script>document.querySelector("article button").onclick = () => {{ {1} }};</script>"""
PLAYS = """document.querySelector("article img").src = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E";
document.querySelector("article input").value = 1;"""


def image(style: str = "background: #fff", alt: str = "a picture") -> str:
    return f'<img src="{PICTURE.format(40)}" alt="{alt}" style="{style}">'


FAULTY = {
    "a script fails: broken": "<script>throw new Error('broken')</script>",
    "none.js answers 404": "<script src='none.js'></script>",
    "requests https://example.org/x.js, which is another": "<script src='https://example.org/x.js'></script>",
    "the page is ": "<div style='width: 1400px'>wide</div>",
    "the figure none.png is missing": '<img src="none.png" alt="a picture">',
    "is invisible": image("width: 1px; height: 1px; background: #fff"),
    "has no alt text": image(alt=""),
    "has a dark background in dark mode": image("background: #111"),
    "color-contrast, serious": "<p style='color: #999; background: #fff'>pale</p>",
    "button-name, critical": "<button></button>",
    "animation 0 does not play": PLAYER.format(PICTURE.format(40), ""),
    "animation 0 ends with its first picture": PLAYER.format(PICTURE.format(40), PLAYS.splitlines()[1]),
}


def faults_of_site(folder, *bodies: str, search: str = SEARCH) -> list[str]:
    """Return the faults of a site: a first page, a page of search results, and one page for each body."""
    for name, body in {"index": "", "search": "", **{f"page{k}": body for k, body in enumerate(bodies)}}.items():
        text = f"{HEAD}<main><h1>Title</h1>{search}<article>{body}</article></main></html>"
        (folder / f"{name}.html").write_text(text)
    return list(check_book(folder))


def test_a_good_site_has_no_faults(tmp_path):
    assert faults_of_site(tmp_path, f"<p>Text.</p>{image()}", PLAYER.format(PICTURE.format(40), PLAYS)) == []


def test_every_fault_is_found_on_its_page(tmp_path):
    faults = faults_of_site(tmp_path, *FAULTY.values(), search=SEARCH.replace("<li>", ""))
    for k, fault in enumerate(FAULTY):
        on_page = [text for text in faults if text.startswith(f"page{k}.html (")]
        assert any(fault in text for text in on_page), (fault, on_page)
    (other,) = [text for text in faults if not text.startswith("page")]
    assert other.startswith("search.html: no result for 'box covering'")


def test_a_missing_site_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"index\.html: no such page"):
        list(check_book(tmp_path / "none"))
