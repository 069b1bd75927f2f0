"""Make a book of executed chapters: gather its sources, render them, publish the chapters.

Everything is made in a build folder. :func:`publish` alone writes files that are tracked.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..files import read_yaml
from .contents import PAGE_SUFFIXES, toc_pages, with_pages
from .parameters import read_notebook
from .run_list import RunList
from .runner import page_facts

OWN_LIST = Path("notebooks") / "runs.yml"
_CHAPTERS = "book/chapters/"
# The figure of a published chapter that the README shows: kept as a picture beside the book's others.
FRONT_FIGURE = "mlp-rates"
# The line of a chapter's first cell that says where the package is to be had, as JSON has it.
_NO_ADDRESS = r"repository = \"\""


class RenderError(RuntimeError):
    """The book could not be rendered; the message holds the warnings and errors."""


def find_project() -> Path:
    """Return the folder that holds the book's sources: this one, or the clone that the package is installed from."""
    for folder in (Path(), Path(__file__).parents[2]):
        if (folder / "_toc.yml").is_file() and (folder / "book").is_dir():
            return folder
    raise FileNotFoundError(f"{Path.cwd()}: there is no _toc.yml; run this in a clone of the project")


def is_own_list(root: str | Path, runs: str | Path) -> bool:
    """Return whether `runs` is the run list of the project at `root`."""
    return Path(runs).resolve() == (Path(root) / OWN_LIST).resolve()


def expected_minutes(root: str | Path, run_list: RunList, jobs: int) -> float | None:
    """Return how long a run list should take: by its preset, or by the project's own chapters of the same notebooks.

    None where neither tells.
    """
    if run_list.minutes is not None:
        return run_list.minutes
    took: dict[Path, list[float]] = {}
    own = Path(root) / OWN_LIST
    for name, chapter in read_yaml(own)["chapters"].items() if own.is_file() else ():
        if seconds := page_facts(Path(root) / _CHAPTERS / f"{name}.ipynb").get("seconds"):
            took.setdefault((own.parent / chapter["notebook"]).resolve(), []).append(seconds)
    notebooks = [chapter.notebook.resolve() for chapter in run_list.chapters]
    if not set(notebooks) <= set(took):
        return None
    return sum(sum(took[path]) / len(took[path]) for path in notebooks) / 60 / min(jobs, len(notebooks))


def check_toc(root: str | Path, run_list: RunList) -> None:
    """Raise ``ValueError`` if a chapter of the project's own run list is not in its table of contents."""
    toc = Path(root) / "_toc.yml"
    for name in [chapter.name for chapter in run_list.chapters]:
        if _CHAPTERS + name not in toc_pages(read_yaml(toc)):
            entry = f"'file: {_CHAPTERS}{name}'"
            raise ValueError(f"{toc}: needs an entry {entry} for the chapter {name!r} of {run_list.path}")


def assemble(
    root: str | Path, executed: Sequence[str | Path], destination: str | Path, *, own: bool = True
) -> list[str]:
    """Gather the sources of a book with the freshly executed chapters in it.

    Parameters
    ----------
    root : str or Path
        The project: ``_config.yml``, ``_toc.yml``, ``book/``.
    executed : sequence of str or Path
        The executed notebooks.
    destination : str or Path
        The folder of the book's sources; made anew.
    own : bool
        Whether these are chapters of the project's own run list, which its table of contents names. Others take
        the place of the project's chapters, in the part that holds most of them.

    Returns
    -------
    list of str
        Pages of the table of contents that are left out, because they are neither executed nor published.
    """
    import yaml

    root, destination = Path(root), Path(destination)
    toc = read_yaml(root / "_toc.yml")
    shutil.rmtree(destination, ignore_errors=True)
    unwanted = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__", *([] if own else ["chapters"]))
    shutil.copytree(root / "book", destination / "book", ignore=unwanted)
    shutil.copyfile(root / "_config.yml", destination / "_config.yml")
    (destination / _CHAPTERS).mkdir(exist_ok=True)
    for path in map(Path, executed):
        shutil.copyfile(path, destination / _CHAPTERS / path.name)
    others: dict[str, list[str]] = {}
    if not own:
        parts = [[page for page in toc_pages(part) if page.startswith(_CHAPTERS)] for part in toc.get("parts", [toc])]
        others = {page: [] for part in parts for page in part}
        for page in max(parts, key=len)[:1]:
            others[page] = [_CHAPTERS + Path(path).stem for path in executed]
    left_out = []
    for page in toc_pages(toc):
        files = [page + suffix for suffix in PAGE_SUFFIXES]
        for name in files:
            # A page beside book/, such as a list of changes.
            if "/" not in name and (root / name).is_file():
                shutil.copyfile(root / name, destination / name)
        if page not in others and not any((destination / name).is_file() for name in files):
            others[page] = []
            left_out.append(page)
    text = yaml.safe_dump(with_pages(toc, others), sort_keys=False, allow_unicode=True)
    (destination / "_toc.yml").write_text(text, encoding="utf-8")
    return left_out


def render(source: str | Path, html: str | Path, *, strict: bool = True) -> str:
    """Render a book's sources as a site of HTML pages.

    Parameters
    ----------
    source : str or Path
        What :func:`assemble` made.
    html : str or Path
        Folder of the finished site, with ``index.html`` in it. It changes only when rendering succeeds.
    strict : bool
        Whether a warning or an unresolved reference is an error.

    Returns
    -------
    str
        Warnings; empty if `strict`.

    Raises
    ------
    RenderError
        Rendering failed, or warned when `strict`.
    """
    source, html = Path(source).absolute(), Path(html).absolute()
    html.parent.mkdir(parents=True, exist_ok=True)
    # Always from nothing: what Sphinx keeps between builds may be stale, and its warnings are told only once.
    with tempfile.TemporaryDirectory(prefix=".render-", dir=html.parent) as work:
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
        command += ["--path-output", work, "-q", *(["-W", "-n", "--keep-going"] if strict else [])]
        result = subprocess.run(
            command,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            # Jupyter Book looks for local extensions from here.
            cwd=source,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        said = re.sub(r"\x1b\[[\d;]*m", "", result.stderr).strip()
        site = Path(work) / "_build" / "html"
        if result.returncode or not (site / "index.html").is_file():
            raise RenderError(f"jupyter-book could not render {source}:\n{said or result.stdout.strip()}")
        shutil.rmtree(html, ignore_errors=True)
        os.replace(site, html)
    return said


def publish(executed: Sequence[str | Path], root: str | Path) -> list[Path]:
    """Check executed chapters, copy them to ``book/chapters/``, and return where they are.

    In a copy, the cell that installs the package where it is missing knows the repository's address.

    All or none: a ``ValueError`` lists the error outputs, widgets and paths of this machine that a chapter holds, or
    the parameters cell and provenance that it lacks.
    """
    faults = [f"{path}: {fault}" for path in executed for fault in page_faults(path, root)]
    if faults:
        raise ValueError("nothing is published:\n" + "\n".join(faults))
    folder = Path(root) / _CHAPTERS
    folder.mkdir(parents=True, exist_ok=True)
    address = _NO_ADDRESS.replace(r"\"\"", rf"\"{repository_address(root)}\"")
    pictures = Path(root) / "book" / "_static"
    published = []
    for path in executed:
        target = folder / Path(path).name
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(Path(path).read_text(encoding="utf-8").replace(_NO_ADDRESS, address), encoding="utf-8")
        published.append(partial.replace(target))
        picture = figure_png(target, FRONT_FIGURE)
        if picture is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            (pictures / f"{FRONT_FIGURE}.png").write_bytes(picture)
    return published


def repository_address(root: str | Path) -> str:
    """Return where the project is published: ``url`` under ``repository`` in its ``_config.yml``; empty if nowhere."""
    config = Path(root) / "_config.yml"
    return (read_yaml(config).get("repository") or {}).get("url") or "" if config.is_file() else ""


def figure_png(path: str | Path, name: str) -> bytes | None:
    """Return the picture of the figure with this name in an executed notebook; None if it has none."""
    for cell in read_notebook(path).cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output["data"]["image/png"])
    return None


def page_faults(path: str | Path, root: str | Path) -> list[str]:
    """Return why an executed notebook cannot be published; empty if it can."""
    notebook = read_notebook(path)
    faults = []
    for number, cell in enumerate(notebook.cells, 1):
        outputs = cell.get("outputs", [])
        if any(output.output_type == "error" for output in outputs):
            faults.append(f"cell {number} holds an error output")
        if any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs):
            faults.append(f"cell {number} holds a widget, which a page cannot show")
    if not any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
        faults.append("there is no cell tagged 'parameters'")
    if "fingerprint" not in notebook.metadata.get("selfsim", {}):
        faults.append("there is no provenance in its metadata; execute it with 'selfsim book'")
    if "widgets" in notebook.metadata:
        faults.append("there is widget state in its metadata")
    text = Path(path).read_text(encoding="utf-8")
    for name, place in (("project", Path(root).resolve()), ("home", Path.home())):
        found = re.search(r".{0,50}" + re.escape(str(place)) + r"(?![\w-]).{0,50}", text)
        # A home of "/" (some containers) is in every path.
        if found and len(place.parts) > 1:
            faults.append(f"the path of this machine's {name} folder occurs in {found[0].strip()}")
    return faults
