"""The check in a browser, on pages written by hand: each fault is found, and a good site has none."""

from __future__ import annotations

import pytest

from tests.browser.check_book import check_book, why_not

pytestmark = [pytest.mark.long, pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a browser")]

HEAD = """<!doctype html><html lang="en"><title>A book</title><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">"""
PICTURE = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='{0}' height='40'/%3E"
# As the theme has it: a key opens the field, and results are listed.
SEARCH = """<form action="search.html"><input name="q" aria-label="Search"></form><ul id="search-results"></ul><script>
document.addEventListener("keydown", (e) => { if (e.key === "k") document.querySelector("input").focus(); });
const asked = new URLSearchParams(location.search).get("q");
if (asked === "box covering") document.querySelector("ul").innerHTML = "<li><a href='index.html'>Found</a></li>";
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
    "asks for https://example.org/x.js, which is another": "<script src='https://example.org/x.js'></script>",
    "the page is ": "<div style='width: 1400px'>wide</div>",
    "the figure none.png is not there": '<img src="none.png" alt="a picture">',
    "cannot be seen": image("width: 1px; height: 1px; background: #fff"),
    "has no alt text": image(alt=""),
    "has a dark ground in dark mode": image("background: #111"),
    "color-contrast, serious": "<p style='color: #999; background: #fff'>pale</p>",
    "button-name, critical": "<button></button>",
    "animation 0 does not play": PLAYER.format(PICTURE.format(40), ""),
    "animation 0 shows its first picture": PLAYER.format(PICTURE.format(40), PLAYS.splitlines()[1]),
}


def found(folder, *bodies: str, search: str = SEARCH) -> list[str]:
    """The faults of a site with a first page, one of search results, and one for each of these bodies."""
    for name, body in {"index": "", "search": "", **{f"page{k}": body for k, body in enumerate(bodies)}}.items():
        text = f"{HEAD}<main><h1>Title</h1>{search}<article>{body}</article></main></html>"
        (folder / f"{name}.html").write_text(text)
    return list(check_book(folder))


def test_a_good_site_has_no_faults(tmp_path):
    assert found(tmp_path, f"<p>Text.</p>{image()}", PLAYER.format(PICTURE.format(40), PLAYS)) == []


def test_each_fault_is_found_where_it_is(tmp_path):
    faults = found(tmp_path, *FAULTY.values(), search=SEARCH.replace("<li>", ""))
    for k, fault in enumerate(FAULTY):
        own = [one for one in faults if one.startswith(f"page{k}.html (")]
        assert any(fault in one for one in own), (fault, own)
    assert not [one for one in faults if not one.startswith(("page", "search.html: 'box covering' is not found"))]
    assert len([one for one in faults if "search.html" in one]) == 1


def test_a_missing_site_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"index\.html: there is no such page"):
        list(check_book(tmp_path / "none"))
