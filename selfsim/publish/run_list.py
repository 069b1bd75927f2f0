"""The run list: which notebook, with which parameters, makes which chapter of a book.

A run list is a YAML file with two tables, ``chapters`` and ``presets``, and ``imports``, a list of modules that are
imported once, before the kernels of the chapters are started. The parameters of a chapter are its own, then
the preset's for all chapters (those that its notebook has), then the preset's for this chapter, then the caller's;
later ones win. A chapter that reads the results of chapters above it names them in ``after``, and folders whose files
it shows in ``reads``. All of it is checked against the notebooks here, before anything starts.
"""

from __future__ import annotations

import math
import re
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..checks import check_choice, errors_named
from ..files import read_yaml
from .parameters import check_parameters, notebook_parameters, parse_value

# The project's own run list, relative to its folder.
PROJECT_LIST = Path("notebooks") / "runs.yml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LIST_KEYS = {**dict.fromkeys(("chapters", "presets"), "a table"), "imports": "a list of texts"}
_CHAPTER_KEYS = {
    **dict.fromkeys(("title", "notebook", "intro", "published"), "text"),
    **dict.fromkeys(("after", "reads"), "a list of texts"),
    "parameters": "a table",
}
_PRESET_KEYS = {
    **dict.fromkeys(("description", "disk"), "text"),
    **dict.fromkeys(("parameters", "chapters"), "a table"),
    **{"jobs": "an integer", "minutes": "a number", "only": "a list of texts"},
}
# What a value may be, in the words of the messages.
_KINDS: dict[str, type | tuple[type, ...]] = {"text": str, "an integer": int, "a number": (int, float), "a table": dict}


@dataclass(frozen=True)
class Chapter:
    """A notebook and the parameters to execute it with, which make one page."""

    name: str  # file name of the page, without its ending
    title: str | None  # in place of the notebook's first heading; None keeps that
    notebook: Path
    parameters: dict[str, Any]  # checked; those left out keep the notebook's default
    intro: str = ""  # Markdown below the title
    after: tuple[str, ...] = ()  # chapters of the list whose results it reads, of those that are made
    reads_runs: bool = False  # whether it reads those of any
    reads: tuple[Path, ...] = ()  # folders whose files it shows; a change there makes the page anew
    published: str = ""  # the preset that makes its published page; empty for any


@dataclass(frozen=True)
class RunList:
    """One preset of a run list, checked."""

    path: Path  # the file that it was read from
    preset: str
    chapters: tuple[Chapter, ...]
    description: str = ""
    jobs: int = 1  # chapters at a time
    minutes: float | None = None  # estimated, on two cores
    disk: str = ""  # estimated, in words
    imports: tuple[str, ...] = ()  # modules that are imported once for all kernels


def read_run_list(
    path: str | Path,
    preset: str,
    overrides: Iterable[tuple[str, str]] = (),
    *,
    only: Iterable[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> RunList:
    """Read one preset of a run list and check all of it.

    Parameters
    ----------
    path : str or Path
        A YAML file; notebooks are named relative to its folder.
    preset : str
        One of the file's presets.
    overrides : iterable of (str, str), optional
        Names and values, as text, of parameters for every chapter whose notebook has them; they win over the file's.
    only : iterable of str, optional
        Names of the chapters to make, in place of the preset's own choice.
    defaults : mapping of str to object, optional
        Parameters for every chapter whose notebook has them; all others win over these.

    Returns
    -------
    RunList
        Its chapters in the order of the file.

    Raises
    ------
    FileNotFoundError
        No such run list, or a notebook or folder that it names is missing.
    ValueError
        Not YAML, an unknown key, preset, chapter or parameter (with the known names and the nearest one), or an
        invalid value; the message starts with the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such run list")
    content = read_yaml(path)
    with errors_named(path):
        _check_structure(content)
        chapters, presets = content["chapters"], content["presets"]
        chosen = presets[check_choice(preset, presets, name="preset")]
        wanted = [check_choice(name, chapters, name="chapter") for name in only or chosen.get("only") or chapters]
        made = [name for name in chapters if name in wanted]
        types = _parameter_types(path.parent, chapters, made)
        of_made = dict(ChainMap(*(types[name] for name in made)))
        given = {
            name: parse_value(name, text, of_made[check_choice(name, of_made, name="-p")]) for name, text in overrides
        }
        # At least one chapter must have a parameter that is given to all; the others go without it.
        shared = chosen.get("parameters", {})
        for name in shared:
            check_choice(name, sorted(ChainMap(*types.values())), name="parameter for all chapters")
        checked = []
        for name in made:
            first, for_all, last = (
                {key: value for key, value in values.items() if key in types[name]}
                for values in (defaults or {}, shared, given)
            )
            of_preset = chosen.get("chapters", {}).get(name, {})
            values = first | chapters[name].get("parameters", {}) | for_all | of_preset | last
            with errors_named(f"chapter {name!r}"):
                checked.append(_chapter(path.parent, name, chapters, made, values, types[name]))
        keys = ("description", "jobs") if only else ("description", "jobs", "minutes", "disk")  # of the whole preset
        about = {key: chosen[key] for key in keys if key in chosen}
        return RunList(path, preset, tuple(checked), **about, imports=tuple(content.get("imports", ())))


def _check_structure(content: Any) -> None:
    """Check the keys, kinds and references of a run list; values of parameters are checked with their notebook."""
    check_table(content, _LIST_KEYS, "run list")
    for key in ("chapters", "presets"):
        if not content.get(key):
            raise ValueError(f"{key}: got none, need at least one")
    chapters, presets = content["chapters"], content["presets"]
    check_table(chapters, dict.fromkeys(chapters, "a table"), "chapters")
    check_table(presets, dict.fromkeys(presets, "a table"), "presets")
    above: list[str] = []
    for name, chapter in chapters.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"chapter {name!r}: need a file name of letters, digits, - and _")
        check_table(chapter, _CHAPTER_KEYS, f"chapter {name!r}")
        if "notebook" not in chapter:
            raise ValueError(f"chapter {name!r}: need the key 'notebook'")
        for other in chapter.get("after", ()):
            check_choice(other, above, name=f"chapter {name!r}: after (chapters above it)")
        if "published" in chapter:
            check_choice(chapter["published"], presets, name=f"chapter {name!r}: published (a preset)")
        above.append(name)
    for name, table in presets.items():
        where = f"preset {name!r}"
        check_table(table, _PRESET_KEYS, where)
        for key in ("jobs", "minutes"):
            if not 0 < table.get(key, 1) < math.inf:
                raise ValueError(f"{where}: {key}: got {table[key]}, need more than 0")
        for key in ("only", "chapters"):
            for chapter in table.get(key, ()):
                check_choice(chapter, chapters, name=f"{where}: {key}")
        check_table(table.get("chapters", {}), dict.fromkeys(chapters, "a table"), f"{where}: chapters")


def _parameter_types(folder: Path, chapters: Mapping[str, dict], made: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the types of each chapter's parameters; a missing notebook is an error only for a chapter that is made."""
    parsed = cache(notebook_parameters)
    paths = {name: folder / chapter["notebook"] for name, chapter in chapters.items()}
    for name in made:
        if not paths[name].is_file():
            raise FileNotFoundError(f"chapter {name!r}: notebook: there is no {paths[name]}")
    return {name: parsed(path) for name, path in paths.items() if path.is_file()}


def _chapter(
    folder: Path,
    name: str,
    chapters: Mapping[str, dict],
    made: Iterable[str],
    values: Mapping[str, Any],
    types: Mapping[str, str],
) -> Chapter:
    chapter = chapters[name]
    notebook = folder / chapter["notebook"]
    parameters = check_parameters(notebook, values, types=types)
    title = " ".join(chapter.get("title", "").split())
    shares_notebook = sum(other["notebook"] == chapter["notebook"] for other in chapters.values()) > 1
    if not title and shares_notebook:
        title = title_from_parameters(name, {key: parameters[key] for key in chapter.get("parameters", ())})
    reads = tuple(folder / place for place in chapter.get("reads", ()))
    for place in reads:
        if not place.is_dir():
            raise FileNotFoundError(f"reads: there is no folder {place}")
    return Chapter(
        name,
        title or None,
        notebook,
        parameters,
        intro=chapter.get("intro", "").strip(),
        after=tuple(other for other in chapter.get("after", ()) if other in made),
        reads_runs=bool(chapter.get("after")),
        reads=reads,
        published=chapter.get("published", ""),
    )


def title_from_parameters(name: str, parameters: Mapping[str, Any]) -> str:
    """Return a title for a chapter that has none.

    >>> title_from_parameters("long-run", {"epochs": 2})
    'Long run: epochs 2'
    """
    values = ", ".join(f"{key} {value}" for key, value in parameters.items())
    return re.sub("[-_]", " ", name).capitalize() + (f": {values}" if values else "")


def check_table(table: Any, kinds: Mapping[str, str], where: str) -> None:
    """Raise ``ValueError`` unless `table` is a mapping whose keys are known and whose values are of their kinds.

    Parameters
    ----------
    table : object
    kinds : mapping of str to str
        Key -> "text", "an integer", "a number", "a table", "a list" or "a list of texts".
    where : str
        Where the table stands, for the message.
    """
    if not isinstance(table, dict):
        raise ValueError(f"{where}: got {table!r}, need a table with the keys {', '.join(kinds)}")
    for key, value in table.items():
        if not isinstance(key, str):
            raise ValueError(f"{where}: key: got {key!r}, need text")
        check_choice(key, kinds, name=f"{where}: key")
        valid = isinstance(value, _KINDS.get(kinds[key], list)) and not isinstance(value, bool)
        if not valid or (kinds[key] == "a list of texts" and not all(isinstance(item, str) for item in value)):
            raise ValueError(f"{where}: {key}: got {value!r}, need {kinds[key]}")
