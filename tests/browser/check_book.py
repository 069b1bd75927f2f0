"""Open every page of a rendered book in a browser: `python tests/browser/check_book.py _build/html`.

Each page is opened at the width of a desktop and of a phone, in light and in dark mode. Faults are script errors,
requests that fail or leave the site, sideways scrolling, invisible figures, serious findings of axe-core, a search
without results, and animations that do not play. Without a browser the check prints the reason and passes; with
`--required` it fails.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SEARCHED = "box covering"
GRAVE = ("serious", "critical")

# Returns the faults of the layout at the current width of the window.
LAYOUT = """() => {
  const faults = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    const wide = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > width + 1);
    const widest = wide.slice(-1).map((e) => e.tagName.toLowerCase() + "." + e.className).join();
    faults.push(`the page is ${document.documentElement.scrollWidth} pixels wide, the window ${width} (${widest})`);
  }
  const dark = document.documentElement.dataset.theme === "dark";
  for (const image of document.querySelectorAll("article img")) {
    const source = (image.getAttribute("src") || "").slice(0, 60), box = image.getBoundingClientRect();
    if (!image.naturalWidth) faults.push(`the figure ${source} is missing`);
    // Figures in a closed fold have no size.
    else if (image.checkVisibility() && box.width * box.height < 100) faults.push(`the figure ${source} is invisible`);
    if (!image.alt.trim()) faults.push(`the figure ${source} has no alt text`);
    const background = getComputedStyle(image).backgroundColor.match(/[\\d.]+/g).map(Number);
    const pale = background[3] !== 0 && background[0] >= 200;
    if (dark && !pale) faults.push(`the figure ${source} has a dark background in dark mode`);
  }
  return faults;
}"""


def find_browser() -> str | None:
    """The path of Chromium, from the variable CHROMIUM or else from the system."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def missing_browser() -> str:
    """The reason why no browser can be used, or an empty text."""
    missing = [name for name in ("playwright", "axe_playwright_python") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed; make setup installs them"
    return "" if find_browser() else f"none of {', '.join(BROWSERS)} found; install one, or set CHROMIUM=/path/to/it"


def check_book(html: str | Path, pages: Sequence[str] = ()) -> Iterator[str]:
    """Yield the faults of a rendered book, or of some of its pages; each names page and window."""
    from playwright.sync_api import sync_playwright

    html = Path(html)
    names = sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html"))
    names = [name for name in names if not name.startswith(("_static/", "_sources/"))]
    for name in ["index.html", *pages]:
        if name not in names:
            raise FileNotFoundError(f"{html / name}: no such page")
    with served(html) as address, sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, and a container's /dev/shm is small.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=find_browser(), args=flags)
        for window, (width, height) in SIZES.items():
            context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
            for name in pages or names:
                for fault in dict.fromkeys(_page_faults(context, address, name, window)):
                    yield f"{name} ({window}): {fault}"
            context.close()
        yield from _search_faults(browser, address)
        browser.close()


@contextmanager
def served(html: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine, and yield its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/favicon.ico":  # the browser requests it, not the page
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    server.handle_error = lambda *_: None  # browsers close connections early
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def _page_faults(context, address: str, name: str, window: str) -> list[str]:
    """Return the faults of a page in light and in dark mode."""
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(f"a script fails: {error.message}"))
    page.on("console", lambda entry: entry.type == "error" and faults.append(f"the console shows: {entry.text}"))
    page.on("response", lambda reply: reply.status >= 400 and faults.append(f"{reply.url} answers {reply.status}"))

    def refuse_other_sites(route):
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            faults.append(f"the page requests {route.request.url}, which is another site")
            route.abort()

    page.route("**/*", refuse_other_sites)
    _open(page, address + name)
    # Figures below the window are loaded lazily: load them all.
    page.evaluate("() => document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
    page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    for mode in ("light", "dark"):
        page.evaluate("(mode) => { document.documentElement.dataset.theme = mode; }", mode)
        layout = page.evaluate(LAYOUT)
        axe = _axe_faults(page, contrast=window == "desktop", other_rules=mode == "light")
        faults += [f"{fault} ({mode})" for fault in layout + axe]
    page.emulate_media(reduced_motion="no-preference")  # else an animation has no button
    faults += _animation_faults(page)
    page.close()
    return faults


def _open(page, address: str) -> None:
    """Open a page, and follow its redirection if it has one."""
    page.goto(address)
    page.wait_for_function("() => !document.querySelector('meta[http-equiv=refresh i]')")
    page.wait_for_load_state()


def _axe_faults(page, *, contrast: bool, other_rules: bool) -> list[str]:
    """Return the serious findings of axe-core: contrast, slow and needed in both modes, or its other rules."""
    from axe_playwright_python.sync_playwright import Axe

    # Without this, axe loads style sheets again, from the wrong folder.
    options: dict = {"preload": False, "resultTypes": ["violations"]}
    if not other_rules:
        options["runOnly"] = ["color-contrast"]
    elif not contrast:
        options["rules"] = {"color-contrast": {"enabled": False}}
    if not (contrast or other_rules):
        return []
    return [
        f"{rule['id']}, {rule['impact']}: {rule['help']}: {node['html'][:160]}"
        for rule in Axe().run(page, options=options).response["violations"]
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]


def _animation_faults(page) -> list[str]:
    """Play each animation to its end, and return the faults."""
    faults = []
    for number, button in enumerate(page.get_by_role("button", name="Play", exact=True).all()):
        box = button.locator("xpath=ancestor::div[.//img][1]")
        first = box.locator("img").get_attribute("src")
        last = box.locator("input").get_attribute("max")
        button.click()
        try:
            page.wait_for_function(
                "([slider, last]) => slider.value === last", arg=[box.locator("input").element_handle(), last]
            )
        except Exception as error:
            faults.append(f"animation {number} does not play: {type(error).__name__}")
        if box.locator("img").get_attribute("src") == first:
            faults.append(f"animation {number} ends with its first picture")
    return faults


def _search_faults(browser, address: str) -> list[str]:
    """Search from the field of a page, and return a fault if nothing is listed."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    _open(page, address)
    page.keyboard.press("Control+k")
    page.keyboard.type(SEARCHED)
    page.keyboard.press("Enter")
    try:
        page.wait_for_selector("#search-results li a", timeout=60_000)
    except Exception as error:
        return [f"search.html: no result for {SEARCHED!r}: {type(error).__name__}"]
    finally:
        page.close()
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("html", type=Path, metavar="HTML_DIR", help="for example _build/html")
    parser.add_argument("--required", action="store_true", help="fail without a browser")
    parser.add_argument("--pages", nargs="+", default=(), metavar="NAME", help="only these, such as book/intro.html")
    arguments = parser.parse_args()
    if reason := missing_browser():
        print(f"not checked in a browser: {reason}")
        return int(arguments.required)
    number = 0
    for fault in check_book(arguments.html, arguments.pages):
        print(fault, flush=True)
        number += 1
    print(f"{arguments.html}: {number or 'no'} fault(s) in {Path(find_browser()).name}")
    return 1 if number else 0


if __name__ == "__main__":
    sys.exit(main())
