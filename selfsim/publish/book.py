"""Make a book of executed chapters: gather its sources, render them, publish the chapters.

Everything is made in a build folder. :func:`publish` alone writes files that are tracked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfsim.publish.contents import PAGE_SUFFIXES, toc_files, toc_pages, without_pages, without_suffix
from selfsim.publish.parameters import read_notebook
from selfsim.publish.plain_yaml import read_yaml, write_yaml
from selfsim.publish.run_list import RunList

_CHAPTERS = "book/chapters"


class RenderError(RuntimeError):
    """The book could not be rendered; the message holds the warnings and errors."""


def is_project_list(root: str | Path, run_list: RunList) -> bool:
    """Return whether a run list is the project's own, ``notebooks/runs.yml``."""
    return run_list.path.resolve() == (Path(root) / "notebooks" / "runs.yml").resolve()


def assemble(root: str | Path, run_list: RunList, executed: Sequence[str | Path], destination: str | Path) -> list[str]:
    """Gather the sources of a book with the freshly executed chapters in it.

    The project's own run list keeps the project's table of contents; any other gets one of the start page and
    its chapters. Only what changed is written, so that rendering again is quick; what went away is deleted.

    Parameters
    ----------
    root : str or Path
        The project: ``_config.yml``, ``_toc.yml``, ``book/``.
    run_list : RunList
    executed : sequence of str or Path
        The executed notebooks.
    destination : str or Path
        The folder of the book's sources; made if missing.

    Returns
    -------
    list of str
        Pages of the table of contents that are left out, because they are neither executed nor published.

    Raises
    ------
    FileNotFoundError
        No project at `root`.
    ValueError
        An executed chapter of the project's own run list is not in its table of contents.
    """
    root, destination = Path(root), Path(destination)
    check_root(root)
    config, toc = read_yaml(root / "_config.yml"), read_yaml(root / "_toc.yml")
    pages = {f"{_CHAPTERS}/{Path(path).name}": Path(path) for path in executed}
    files: dict[str, Path] = {}
    for path in _project_files(root, config, toc):
        files[path.relative_to(root).as_posix()] = path
    generated = {}
    if is_project_list(root, run_list):
        check_toc(root, run_list)
        files |= pages
        there = {without_suffix(name) for name in files}
        left_out = [page for page in toc_pages(toc) if page not in there]
        if left_out:
            generated["_toc.yml"] = without_pages(toc, set(left_out))
    else:
        files = {name: path for name, path in files.items() if not name.startswith(_CHAPTERS + "/")} | pages
        left_out = []
        generated["_toc.yml"] = {
            "format": "jb-book",
            "root": toc["root"],
            "chapters": [{"file": without_suffix(name)} for name in pages],
        }
        # The prose that belongs to the project's own chapters is not part of this book.
        generated["_config.yml"] = config | {"only_build_toc_files": True}
    destination.mkdir(parents=True, exist_ok=True)
    _mirror(files, destination, keep=set(generated))
    for name, content in generated.items():
        target = destination / name
        if not target.is_file() or read_yaml(target) != content:
            write_yaml(content, target)
    return left_out


def check_root(root: str | Path) -> None:
    """Raise ``FileNotFoundError`` unless `root` is a project that holds a book."""
    root = Path(root)
    missing = [name for name in ("_config.yml", "_toc.yml") if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{root.absolute()}: there is no {' and no '.join(missing)}; run this in the project's root"
        )


def check_toc(root: str | Path, run_list: RunList) -> None:
    """Raise ``ValueError`` if a chapter of the project's own run list is not in its table of contents."""
    if not is_project_list(root, run_list):
        return
    pages = set(toc_pages(Path(root) / "_toc.yml"))
    absent = [c.name for c in run_list.chapters if f"{_CHAPTERS}/{c.name}" not in pages]
    if absent:
        raise ValueError(
            f"{Path(root) / '_toc.yml'}: needs an entry 'file: {_CHAPTERS}/{absent[0]}' "
            f"for the chapter {absent[0]!r} of {run_list.path}"
        )


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
    work = html.parent / ".sphinx"
    record, pages = work / "pages.json", toc_pages(source / "_toc.yml")
    if record.is_file() and not set(json.loads(record.read_text())) <= set(pages):
        # Sphinx leaves the pages of deleted sources where they are.
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
    command += ["--path-output", str(work), "-q", *(["-W", "-n", "--keep-going"] if strict else [])]
    result = subprocess.run(
        command,
        env=os.environ | {"NO_COLOR": "1", "PYTHONWARNINGS": "ignore"},
        # Jupyter Book looks for local extensions from here.
        cwd=source,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    site = work / "_build" / "html"
    if result.returncode or not (site / "index.html").is_file():
        # Pages that are up to date are not read again, and their warnings would not be seen a second time.
        shutil.rmtree(work)
        said = result.stderr.strip() or result.stdout.strip() or "no message"
        raise RenderError(f"jupyter-book could not render {source}:\n{said}")
    record.write_text(json.dumps(pages))
    html.mkdir(parents=True, exist_ok=True)
    _mirror({path.relative_to(site).as_posix(): path for path in _walk(site)}, html)
    return result.stderr.strip()


def publish(executed: Sequence[str | Path], root: str | Path) -> list[Path]:
    """Check executed chapters and copy them to ``book/chapters/``, all or none.

    Parameters
    ----------
    executed : sequence of str or Path
    root : str or Path
        The project.

    Returns
    -------
    list of Path
        The published files.

    Raises
    ------
    ValueError
        A chapter holds an error output, no parameters cell, no provenance, widget state or a path of this
        machine. Nothing is copied then.
    """
    root = Path(root)
    faults = [f"{path}: {fault}" for path in executed for fault in page_faults(path, root)]
    if faults:
        raise ValueError("nothing is published:\n" + "\n".join(faults))
    folder = root / _CHAPTERS
    folder.mkdir(parents=True, exist_ok=True)
    published = []
    for path in map(Path, executed):
        _copy(path, folder / path.name)
        published.append(folder / path.name)
    return published


def page_faults(path: str | Path, root: str | Path) -> list[str]:
    """Return why an executed notebook cannot be published; empty if it can."""
    notebook = read_notebook(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    faults = []
    for number, cell in enumerate(notebook.cells, 1):
        outputs = cell.get("outputs", [])
        if any(output.output_type == "error" for output in outputs):
            faults.append(f"cell {number} holds an error output")
        if any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs):
            faults.append(f"cell {number} holds a widget, which a page cannot show")
    if not any("parameters" in cell.metadata.get("tags", []) for cell in code):
        faults.append("there is no cell tagged 'parameters'")
    if "fingerprint" not in notebook.metadata.get("selfsim", {}):
        faults.append("there is no provenance in its metadata; execute it with 'selfsim book'")
    if "widgets" in notebook.metadata:
        faults.append("there is widget state in its metadata")
    for name, place in (("project", Path(root).resolve()), ("home", Path.home())):
        # A home of "/" (some containers) is in every path.
        if len(place.parts) > 1:
            pattern = re.compile(re.escape(str(place)) + r"(?![\w-])")
            hit = next((text for text in _texts(notebook) if pattern.search(text)), None)
            if hit is not None:
                line = next(line for line in hit.splitlines() if pattern.search(line))
                faults.append(f"the path of this machine's {name} folder occurs in {line.strip()[:100]!r}")
    return faults


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            # Encoded pictures say nothing; SVG is text.
            if not str(key).startswith("image/") or key == "image/svg+xml":
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _project_files(root: Path, config: Any, toc: Any) -> Iterator[Path]:
    yield from (root / "_config.yml", root / "_toc.yml")
    # Pages of the book include these: a list of changes, how to contribute, what to cite.
    yield from (path for pattern in ("*.md", "*.cff") for path in root.glob(pattern) if path.is_file())
    yield from _walk(root / "book")
    for page in toc_files(toc):
        yield from (p for s in ("", *PAGE_SUFFIXES) if (p := root / (page + s)).is_file())
    for text in _texts(config):
        # Whatever the configuration names: logo, bibliography, style sheets.
        named = root / text if text and "\n" not in text and len(text) < 200 else root
        if named.is_file() and root.resolve() in named.resolve().parents:
            yield named


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in (".ipynb_checkpoints", "__pycache__"))
        yield from (Path(place, name) for name in sorted(names))


def _mirror(files: dict[str, Path], target: Path, keep: set[str] = frozenset()) -> None:
    """Make `target` hold these files (and what is to be kept), writing only those that differ."""
    for path in list(_walk(target)):
        name = path.relative_to(target).as_posix()
        if name not in files and name not in keep:
            path.unlink()
    for place, _, _ in os.walk(target, topdown=False):
        if Path(place) != target and not os.listdir(place):
            os.rmdir(place)
    for name, path in files.items():
        if name not in keep and not _same(path, target / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(path, target / name)


def _same(a: Path, b: Path) -> bool:
    return b.is_file() and a.stat().st_size == b.stat().st_size and a.read_bytes() == b.read_bytes()


def _copy(path: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(path, partial)
    os.replace(partial, target)
