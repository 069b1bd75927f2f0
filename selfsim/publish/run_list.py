"""The run list: which notebook, with which parameters, makes which chapter of a book.

A run list is a YAML file with two tables, ``chapters`` and ``presets``. The parameters of a chapter are its own, then
the preset's for all chapters (those that its notebook has), then the preset's for this chapter, then what the caller
gives; later ones win. A chapter that reads the results of chapters above it names them in ``after``, and folders whose
files it shows in ``reads``. All is checked against the notebooks here, so that nothing starts with a mistake in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_yaml
from .parameters import check_known, check_parameters, notebook_parameters, parse_value

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LIST_KEYS = {"chapters": dict, "presets": dict}
_CHAPTER_KEYS = {
    "title": str,
    "notebook": str,
    "parameters": dict,
    "intro": str,
    "after": list,
    "reads": list,
    "published": str,
}
_PRESET_KEYS = {
    "description": str,
    "jobs": int,
    "minutes": (int, float),
    "disk": str,
    "parameters": dict,
    "chapters": dict,
    "only": list,
}
_KIND_NAMES = {str: "text", int: "an integer", (int, float): "a number", dict: "a table", list: "a list"}


@dataclass(frozen=True)
class Chapter:
    """One page to be made: a notebook and the parameters to execute it with."""

    name: str  # file name of the page, without its ending
    title: str | None  # in place of the notebook's first heading
    notebook: Path
    parameters: dict[str, Any]  # checked; those left out keep the notebook's default
    intro: str = ""  # Markdown that is put below the title
    after: tuple[str, ...] = ()  # chapters of the list whose results it reads
    reads: tuple[Path, ...] = ()  # folders whose files it shows; it is made anew when one of them changes
    published: str = ""  # the preset that its published page is made by; empty for any


@dataclass(frozen=True)
class RunList:
    """One preset of a run list, ready to be executed."""

    path: Path  # the file that it was read from
    preset: str
    chapters: tuple[Chapter, ...]
    description: str = ""
    jobs: int = 1  # chapters at a time
    minutes: float | None = None  # about how long it takes on two cores
    disk: str = ""  # about how much it needs, in words


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
        Parameters for every chapter whose notebook has them, which all others win over.

    Returns
    -------
    RunList
        Its chapters in the order of the file.

    Raises
    ------
    FileNotFoundError
        No such run list, or a notebook that it names is missing.
    ValueError
        An unknown key, preset, chapter or parameter (with the known names and the nearest one), or a value of
        the wrong type; the message starts with the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such run list")
    content = read_yaml(path)
    try:
        chosen, names = _checked(content, preset, only)
        own = {name: content["chapters"][name] for name in names}
        for name, chapter in own.items():
            if not (notebook := path.parent / chapter["notebook"]).is_file():
                raise FileNotFoundError(f"chapter {name!r}: notebook: there is no {notebook}")
        # One chapter at least must know a parameter that all are given; the others go without.
        known = sorted(_types(path.parent, content["chapters"].values()))
        for name in chosen.get("parameters", {}):
            check_known(name, known, name="parameter for all chapters")
        types, given = _types(path.parent, own.values()), {}
        for name, text in overrides:
            check_known(name, types, name="-p")
            given[name] = parse_value(name, text, types[name])
        chapters = (
            _chapter(path.parent, name, own, content["chapters"], chosen, given, defaults or {}) for name in names
        )
        about = {key: chosen[key] for key in ("description", "jobs", "minutes", "disk") if key in chosen}
        return RunList(path, preset, tuple(chapters), **about)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{path}: {error}") from error


def _checked(content: Any, preset: str, only: Iterable[str] | None) -> tuple[dict[str, Any], list[str]]:
    """Check all but the parameters; give the chosen preset and the names of its chapters."""
    check_table(content, _LIST_KEYS, "run list")
    for key in _LIST_KEYS:
        if not content.get(key):
            raise ValueError(f"{key}: got none, need at least one")
    chapters, presets = content["chapters"], content["presets"]
    for name, chapter in chapters.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"chapter {name!r}: need a file name of letters, digits, - and _")
        check_table(chapter, _CHAPTER_KEYS, f"chapter {name!r}")
        if "notebook" not in chapter:
            raise ValueError(f"chapter {name!r}: need the key 'notebook'")
        above = list(chapters)[: list(chapters).index(name)]
        for other in chapter.get("after", ()):
            check_known(other, above, name=f"chapter {name!r}: after (chapters above it)")
        if "published" in chapter:
            check_known(chapter["published"], presets, name=f"chapter {name!r}: published (a preset)")
    for name, table in presets.items():
        where = f"preset {name!r}"
        check_table(table, _PRESET_KEYS, where)
        for key in ("jobs", "minutes"):
            if table.get(key, 1) <= 0:
                raise ValueError(f"{where}: {key}: got {table[key]}, need more than 0")
        for key in ("only", "chapters"):
            for chapter in table.get(key, ()):
                check_known(chapter, chapters, name=f"{where}: {key}")
        check_table(table.get("chapters", {}), dict.fromkeys(chapters, dict), f"{where}: chapters")
    check_known(preset, presets, name="preset")
    wanted = list(only or presets[preset].get("only") or chapters)
    for name in wanted:
        check_known(name, chapters, name="chapter")
    return presets[preset], [name for name in chapters if name in wanted]


def _types(folder: Path, chapters: Iterable[dict]) -> dict[str, str]:
    """Types of the parameters that these chapters' notebooks have, by name; the first notebook's where they differ."""
    types: dict[str, str] = {}
    for notebook in dict.fromkeys(folder / chapter["notebook"] for chapter in chapters):
        if notebook.is_file():
            types = notebook_parameters(notebook) | types
    return types


def _chapter(folder: Path, name: str, own: dict, every: dict, preset: dict, given: dict, defaults: Mapping) -> Chapter:
    chapter = own[name]
    notebook = folder / chapter["notebook"]
    try:
        known = notebook_parameters(notebook)
        lowest, shared, highest = (
            {k: v for k, v in table.items() if k in known} for table in (defaults, preset.get("parameters", {}), given)
        )
        own_of_preset = preset.get("chapters", {}).get(name, {})
        values = lowest | chapter.get("parameters", {}) | shared | own_of_preset | highest
        parameters = check_parameters(notebook, values)
        title = chapter.get("title") or _title(name, every, parameters)
    except ValueError as error:
        raise ValueError(f"chapter {name!r}: {error}") from error
    after = tuple(other for other in chapter.get("after", ()) if other in own)
    reads = tuple(folder / place for place in chapter.get("reads", ()))
    for place in reads:
        if not place.is_dir():
            raise FileNotFoundError(f"chapter {name!r}: reads: there is no folder {place}")
    intro, published = chapter.get("intro", "").strip(), chapter.get("published", "")
    return Chapter(name, title, notebook, parameters, intro, after, reads, published)


def _title(name: str, every: dict, parameters: Mapping[str, Any]) -> str | None:
    """None, for the notebook's own title; where several chapters share a notebook, name and own parameters."""
    if sum(other.get("notebook") == every[name]["notebook"] for other in every.values()) < 2:
        return None
    told = ", ".join(f"{key} {parameters[key]}" for key in every[name].get("parameters", ()))
    return name.replace("-", " ").replace("_", " ").capitalize() + (f": {told}" if told else "")


def check_table(table: Any, kinds: Mapping[str, Any], where: str) -> None:
    """Raise a ``ValueError`` unless `table` is a mapping whose keys are known and whose values are of their kinds."""
    if not isinstance(table, dict):
        raise ValueError(f"{where}: got {table!r}, need a table with the keys {', '.join(kinds)}")
    for key, value in table.items():
        check_known(key, kinds, name=f"{where}: key")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise ValueError(f"{where}: {key}: got {value!r}, need {_KIND_NAMES[kinds[key]]}")
