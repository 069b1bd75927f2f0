"""Make a book of executed chapters: gather its sources and render them, in a build folder."""

from __future__ import annotations

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
from .folders import check_replaceable, replace_folder
from .run_list import PROJECT_LIST, RunList
from .runner import page_facts

CHAPTERS = "book/chapters/"


class RenderError(RuntimeError):
    """The book could not be rendered; the message holds the warnings and errors."""


def find_project() -> Path:
    """Return the folder that holds the book's sources: this one, or the clone that the package is installed from."""
    for folder in (Path(), Path(__file__).parents[2]):
        if (folder / "_toc.yml").is_file() and (folder / "book").is_dir():
            return folder
    raise FileNotFoundError(f"{Path.cwd()}: there is no _toc.yml; run this in a clone of the project")


def is_project_list(root: str | Path, runs: str | Path) -> bool:
    """Return whether `runs` is the run list of the project at `root`."""
    return Path(runs).resolve() == (Path(root) / PROJECT_LIST).resolve()


def expected_minutes(root: str | Path, run_list: RunList, jobs: int) -> float | None:
    """Return how long a run list should take: by its preset, or by the project's own chapters of the same notebooks.

    None where neither is known.
    """
    if run_list.minutes is not None:
        return run_list.minutes
    seconds: dict[Path, list[float]] = {}
    project_list = Path(root) / PROJECT_LIST
    for name, chapter in read_yaml(project_list)["chapters"].items() if project_list.is_file() else ():
        if took := page_facts(Path(root) / CHAPTERS / f"{name}.ipynb").get("seconds"):
            seconds.setdefault((project_list.parent / chapter["notebook"]).resolve(), []).append(took)
    notebooks = [chapter.notebook.resolve() for chapter in run_list.chapters]
    if not set(notebooks) <= set(seconds):
        return None
    total = sum(sum(seconds[path]) / len(seconds[path]) for path in notebooks)
    return total / 60 / min(jobs, len(notebooks))


def check_toc(root: str | Path, run_list: RunList) -> None:
    """Raise ``ValueError`` if a chapter of the project's run list is not in its table of contents."""
    toc = Path(root) / "_toc.yml"
    pages = toc_pages(read_yaml(toc))
    for chapter in run_list.chapters:
        page = CHAPTERS + chapter.name
        if page not in pages:
            where = f"the chapter {chapter.name!r} of {run_list.path}"
            raise ValueError(f"{toc}: needs an entry 'file: {page}' for {where}")


def assemble(
    root: str | Path, executed: Sequence[str | Path], destination: str | Path, *, replace_chapters: bool = False
) -> list[str]:
    """Gather the sources of a book with the executed chapters in it.

    Parameters
    ----------
    root : str or Path
        The project: ``_config.yml``, ``_toc.yml``, ``book/``.
    executed : sequence of str or Path
        The executed notebooks.
    destination : str or Path
        The folder of the book's sources. One that an earlier call made is replaced.
    replace_chapters : bool
        Whether the notebooks take the place of the project's chapters, in the part of the table of contents that holds
        most of them. By default they are chapters that the table of contents names.

    Returns
    -------
    list of str
        Pages of the table of contents that are left out, because they are neither executed nor published.

    Raises
    ------
    FileExistsError
        `destination` is a folder that this program did not make.
    """
    import yaml

    root, destination = Path(root), Path(destination)
    check_replaceable(destination)
    toc = read_yaml(root / "_toc.yml")
    substitutes = _substitutes(toc, executed) if replace_chapters else {}
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".source-", dir=destination.parent) as work:
        source = Path(work) / "source"
        unwanted = [".ipynb_checkpoints", "__pycache__", *(["chapters"] if replace_chapters else [])]
        shutil.copytree(root / "book", source / "book", ignore=shutil.ignore_patterns(*unwanted))
        shutil.copyfile(root / "_config.yml", source / "_config.yml")
        (source / CHAPTERS).mkdir(exist_ok=True)
        for path in map(Path, executed):
            shutil.copyfile(path, source / CHAPTERS / path.name)
        left_out = []
        for page in toc_pages(toc):
            files = [page + suffix for suffix in PAGE_SUFFIXES]
            for name in files:
                # A page beside book/, such as a list of changes.
                if "/" not in name and (root / name).is_file():
                    shutil.copyfile(root / name, source / name)
            if page not in substitutes and not any((source / name).is_file() for name in files):
                substitutes[page] = []
                left_out.append(page)
        text = yaml.safe_dump(with_pages(toc, substitutes), sort_keys=False, allow_unicode=True)
        (source / "_toc.yml").write_text(text, encoding="utf-8")
        replace_folder(destination, source)
    return left_out


def _substitutes(toc: dict, executed: Sequence[str | Path]) -> dict[str, list[str]]:
    """The executed chapters for the first chapter of the part with most of them, nothing for all other chapters."""
    parts = [[page for page in toc_pages(part) if page.startswith(CHAPTERS)] for part in toc.get("parts", [toc])]
    substitutes: dict[str, list[str]] = {page: [] for part in parts for page in part}
    for page in max(parts, key=len)[:1]:
        substitutes[page] = [CHAPTERS + Path(path).stem for path in executed]
    return substitutes


def render(source: str | Path, html: str | Path, *, strict: bool = True) -> str:
    """Render a book's sources as a site of HTML pages.

    Parameters
    ----------
    source : str or Path
        The folder that :func:`assemble` made.
    html : str or Path
        Folder of the finished site, with ``index.html`` in it. It is replaced when rendering succeeds.
    strict : bool
        Whether a warning or an unresolved reference is an error.

    Returns
    -------
    str
        Warnings, each once; empty if `strict`.

    Raises
    ------
    RenderError
        Rendering failed, or warned when `strict`.
    FileExistsError
        `html` is a folder that this program did not make.
    """
    source, html = Path(source).absolute(), Path(html).absolute()
    check_replaceable(html)
    html.parent.mkdir(parents=True, exist_ok=True)
    # Always from nothing: what Sphinx keeps between builds may be stale, and it warns of a kept page only once.
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
        lines = re.sub(r"\x1b\[[\d;]*m", "", result.stderr).strip().splitlines()
        warnings = "\n".join(dict.fromkeys(lines))
        site = Path(work) / "_build" / "html"
        if result.returncode or not (site / "index.html").is_file():
            raise RenderError(f"jupyter-book could not render {source}:\n{warnings or result.stdout.strip()}")
        replace_folder(html, site)
    return warnings
