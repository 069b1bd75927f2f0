"""Open every page of a rendered book in a browser: `python tests/browser/check_book.py _build/html`.

At the width of a desktop and of a phone, in light and in dark mode: no script error, no request that fails or leaves
the site, nothing wider than the page, every figure visible, no serious finding of axe-core; the search finds, the
animation plays. Without a browser the check says so and is skipped; with `--required` that is a fault.
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

# What a page shows amiss at the width that the window has now.
LAYOUT = """() => {
  const faults = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    const wide = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > width + 1);
    const told = wide.slice(-1).map((e) => e.tagName.toLowerCase() + "." + e.className).join();
    faults.push(`the page is ${document.documentElement.scrollWidth} pixels wide, the window ${width} (${told})`);
  }
  const dark = document.documentElement.dataset.theme === "dark";
  for (const image of document.querySelectorAll("article img")) {
    const shown = (image.getAttribute("src") || "").slice(0, 60), box = image.getBoundingClientRect();
    if (!image.naturalWidth) faults.push(`the figure ${shown} is not there`);
    // What lies in a closed fold has no size.
    else if (image.checkVisibility() && box.width * box.height < 100) faults.push(`the figure ${shown} cannot be seen`);
    if (!image.alt.trim()) faults.push(`the figure ${shown} has no alt text`);
    const ground = getComputedStyle(image).backgroundColor.match(/[\\d.]+/g).map(Number);
    if (dark && (ground[3] === 0 || ground[0] < 200)) faults.push(`the figure ${shown} has a dark ground in dark mode`);
  }
  return faults;
}"""


def find_browser() -> str | None:
    """The path of a Chromium: that of the variable CHROMIUM, or one of the system."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def why_not() -> str:
    """Why there can be no check; empty if there can."""
    missing = [name for name in ("playwright", "axe_playwright_python") if find_spec(name) is None]
    if missing:
        return f"there is no {' and no '.join(missing)}; make setup installs it"
    return "" if find_browser() else f"there is no {', '.join(BROWSERS)}; install one, or name it: CHROMIUM=/path/to/it"


def check_book(html: str | Path, pages: Sequence[str] = ()) -> Iterator[str]:
    """Give the faults of a rendered book, or of some pages of it; each names page and window."""
    from playwright.sync_api import sync_playwright

    html = Path(html)
    names = sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html"))
    names = [name for name in names if not name.startswith(("_static/", "_sources/"))]
    for name in ["index.html", *pages]:
        if name not in names:
            raise FileNotFoundError(f"{html / name}: there is no such page")
    with served(html) as address, sync_playwright() as playwright:
        # Chromium's sandbox cannot be had by root, and a container's /dev/shm is small.
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
    """Serve a folder on a free port of this machine, and give its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/favicon.ico":  # asked for by the browser, not by the page
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    server.handle_error = lambda *_: None  # a browser hangs up when it likes
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def _page_faults(context, address: str, name: str, window: str) -> list[str]:
    """What is amiss with a page in light and in dark mode."""
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(f"a script fails: {error.message}"))
    page.on("console", lambda told: told.type == "error" and faults.append(f"the console says: {told.text}"))
    page.on("response", lambda got: got.status >= 400 and faults.append(f"{got.url} answers {got.status}"))

    def judge(route):
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            faults.append(f"the page asks for {route.request.url}, which is another site")
            route.abort()

    page.route("**/*", judge)
    _arrive(page, address + name)
    # Figures below the window are loaded when they are needed; here all are.
    page.evaluate("() => document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
    page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    for mode in ("light", "dark"):
        page.evaluate("(mode) => { document.documentElement.dataset.theme = mode; }", mode)
        found = page.evaluate(LAYOUT) + _axe_faults(page, contrast=window == "desktop", all_else=mode == "light")
        faults += [f"{fault} ({mode})" for fault in found]
    faults += _animation_faults(page)
    page.close()
    return faults


def _arrive(page, address: str) -> None:
    """Open a page, and wait for the one that it leads on to, as the first does."""
    page.goto(address)
    page.wait_for_function("() => !document.querySelector('meta[http-equiv=refresh i]')")
    page.wait_for_load_state()


def _axe_faults(page, *, contrast: bool, all_else: bool) -> list[str]:
    """What axe-core finds grave: contrast, which takes it longest and needs both modes, and all else."""
    from axe_playwright_python.sync_playwright import Axe

    # axe would load style sheets again, from the wrong folder.
    options: dict = {"preload": False, "resultTypes": ["violations"]}
    if not all_else:
        options["runOnly"] = ["color-contrast"]
    elif not contrast:
        options["rules"] = {"color-contrast": {"enabled": False}}
    found = Axe().run(page, options=options).response["violations"] if contrast or all_else else []
    return [
        f"{one['id']}, {one['impact']}: {one['help']}: {node['html'][:160]}"
        for one in found
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]


def _animation_faults(page) -> list[str]:
    """Each animation is played from its beginning to its end."""
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
            faults.append(f"animation {number} shows its first picture at its end")
    return faults


def _search_faults(browser, address: str) -> list[str]:
    """What the reader gets who writes into the field at the page's side."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    _arrive(page, address)
    page.keyboard.press("Control+k")
    page.keyboard.type(SEARCHED)
    page.keyboard.press("Enter")
    try:
        page.wait_for_selector("#search-results li a", timeout=60_000)
    except Exception as error:
        return [f"search.html: {SEARCHED!r} is not found: {type(error).__name__}"]
    finally:
        page.close()
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("html", type=Path, metavar="HTML_DIR", help="for example _build/html")
    parser.add_argument("--required", action="store_true", help="fail where there is no browser, instead of skipping")
    parser.add_argument("--pages", nargs="+", default=(), metavar="NAME", help="these only, such as book/intro.html")
    arguments = parser.parse_args()
    if reason := why_not():
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
