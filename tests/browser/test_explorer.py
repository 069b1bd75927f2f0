"""The explorer shows the boxes, the rate and the band of its data, and works from a folder and by keyboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster

from selfsim.models.architectures import ARCHITECTURES
from tests.browser.check_book import find_browser, missing_browser

STATIC = Path(__file__).parents[2] / "book" / "_static"


def explorer_data() -> list[dict]:
    """Read the data as JSON, whose numbers have a digit before the point."""
    text = (STATIC / "explorer-data.js").read_text(encoding="utf-8")
    return json.loads(re.sub(r"(?<=[\[,:])\.", "0.", text[text.index("[") : text.rindex(";")]))


def linkage_matrix(state: dict) -> np.ndarray:
    """Return the merges of a layer as SciPy has them."""
    pairs = np.reshape(state["m"], (-1, 2))
    sizes = dict.fromkeys(range(len(pairs) + 1), 1)
    for merge, (a, b) in enumerate(pairs):
        sizes[len(pairs) + 1 + merge] = sizes[a] + sizes[b]
    return np.column_stack([pairs, state["h"], [sizes[len(pairs) + 1 + merge] for merge in range(len(pairs))]])


def test_the_data_have_every_architecture_and_whole_layers():
    data = explorer_data()
    assert sorted(each["name"] for each in data) == sorted(entry.title for entry in ARCHITECTURES)
    for each in data:
        for layer, states in each["layers"].items():
            assert len(states) == len(each["epochs"]), (each["name"], layer)
            for state in states:
                n = len(state["p"]) // 2
                assert sorted(state["m"]) == list(range(2 * n - 2))  # every cluster is merged once, but the last
                assert (np.diff(state["h"]) >= 0).all() and max(state["e"]) < n and min(state["p"]) >= 0
                rate, low, high = state["r"]
                assert 0 <= rate < 1 and low <= high
    weight = sum(path.stat().st_size for path in STATIC.glob("explorer*"))
    assert weight < 3_000_000


@pytest.mark.long
@pytest.mark.skipif(bool(missing_browser()), reason=missing_browser() or "a browser is here")
def test_the_page_counts_the_boxes_of_every_size(tmp_path):
    from playwright.sync_api import sync_playwright

    scripts = [f"<script>{(STATIC / name).read_text()}</script>" for name in ("explorer-data.js", "explorer.js")]
    still = '<p class="without-script">A still.</p>'
    (tmp_path / "page.html").write_text(f'<div id="explorer" hidden></div>{still}{"".join(scripts)}')
    each = explorer_data()[0]
    name, states = list(each["layers"].items())[-1]
    state = states[-1]
    n, merges = len(state["p"]) // 2, linkage_matrix(state)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        assert not page.locator(".without-script").is_visible()
        page.select_option("select[name=layer]", name)
        size = page.locator("input[name=size]")
        size.focus()
        page.keyboard.press("Home")
        seen = []
        for place in range(0, 101, 10):
            said = page.locator("[role=status]").inner_text()
            number, shown = re.search(r"in (\d+) box(?:es)? of size ([\d.]+)\.", said).groups()
            ends = np.log1p(state["d"])
            length = np.expm1(ends[0] + place / 100 * (ends[1] - ends[0]))
            length = {0: 0.0, 100: np.inf}.get(place, length)  # a box with the shortest edge is longer than it
            # fcluster cuts at "<=" and a box at "<".
            expected = fcluster(merges, max(np.nextafter(length, 0), 0), "distance")
            assert int(number) == expected.max(), place
            assert place in (0, 100) or float(shown) == pytest.approx(length, rel=0.06)
            colours = page.eval_on_selector_all(
                "figure:first-child circle", "(dots) => dots.map((dot) => dot.getAttribute('fill'))"
            )
            for box in range(1, expected.max() + 1):
                assert len({colour for colour, of in zip(colours, expected, strict=True) if of == box}) == 1
            seen.append(int(number))
            for _ in range(10):
                page.keyboard.press("ArrowRight")
        assert seen[0] == n and seen[-1] == 1
        rate, low, high = state["r"]
        where = "below" if rate < low else "above" if rate > high else "inside"
        assert f"SS rate {rate}, {where} the null band ({low} to {high})" in said
        browser.close()
