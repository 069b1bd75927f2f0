"""Digests of the code and files that a page or a training run depends on.

Comments, docstrings and layout do not count: what is computed does not change with them.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..files import files_state
from .parameters import read_notebook
from .run_list import Chapter

_PACKAGE = Path(__file__).parents[1]
# The rooms that decide what a training run computes, beside the modules that all rooms share.
_RUN_ROOMS = ("boxes", "rate", "statistics", "models", "training")
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_NOT_SHARED = ("__init__.py", "command_line.py")


def run_digest(package: str | Path = _PACKAGE) -> str:
    """Return the sha256 of the code that decides what a training run computes."""
    package = Path(package)
    shared = [file for file in package.glob("*.py") if file.name not in _NOT_SHARED]
    rooms = (file for room in _RUN_ROOMS for file in (package / room).rglob("*.py"))
    return _digest(package, [*shared, *rooms], _code)


def page_digest(package: str | Path = _PACKAGE) -> str:
    """Return the sha256 of the code that a page may use: the whole package, and ``study/`` where it stands beside."""
    package = Path(package)
    beside = package.parent / "study"
    return _digest(package.parent, [*package.rglob("*.py"), *beside.rglob("*.py")], _code)


def chapter_fingerprint(chapter: Chapter, after: Sequence[str] = ()) -> str:
    """Return the sha256 of all that decides what a chapter shows.

    Parameters
    ----------
    chapter : Chapter
    after : sequence of str
        Fingerprints of the chapters that it reads from.
    """
    cells = [
        [cell.cell_type, cell.source, cell.metadata.get("tags"), cell.metadata.get("mystnb")]
        for cell in read_notebook(chapter.notebook).cells
    ]
    folders = [_digest(place, filter(Path.is_file, place.rglob("*")), Path.read_bytes) for place in chapter.reads]
    folders += _data_states(chapter.parameters)
    parts = [cells, chapter.parameters, chapter.title, chapter.intro, page_digest(), *folders, *after]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _data_states(parameters: Mapping[str, Any]) -> list[str]:
    """Return the states of the folders of data and results that parameters name, unless the chapter fills them."""
    names = ("results",) if parameters.get("download") else ("data_dir", "results")
    states = []
    for value in map(parameters.get, names):
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # text that is no path
            if isinstance(value, str) and (state := files_state(value)):
                states.append(state)
    return states


def _digest(root: Path, files: Iterable[Path], content: Callable[[Path], bytes]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + content(file) + b"\0")
    return digest.hexdigest()


def _code(file: Path) -> bytes:
    return _code_as_of(file, file.stat().st_mtime_ns, file.stat().st_size)


@cache
def _code_as_of(file: Path, modified: int, size: int) -> bytes:
    """Digest of one file's syntax tree without docstrings; of its bytes where it has a syntax error."""
    content = file.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return hashlib.sha256(content).digest()
    for node in ast.walk(tree):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).digest()
