"""The command ``selfsim``: ``book`` makes a book, ``check-pages`` checks its pages, ``sweep`` runs a grid."""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .checks import errors_named
from .publish.run_list import PROJECT_LIST, RunList

if TYPE_CHECKING:
    from .sweep.sweep import Plan

_BOOK = ("yaml", "nbformat", "nbclient", "papermill", "ipykernel", "jupyter_book")
_CLUSTER = ("distributed", "pandas", "pyarrow", "yaml")


class UsageError(Exception):
    """The arguments are wrong; nothing was started."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments; return 0, 1 after a failure, 2 after wrong usage or parameters."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as end:  # argparse has written its message or the help
        return int(end.code or 0)
    try:
        return arguments.run(arguments)
    except UsageError as error:
        _say(f"selfsim {arguments.command}: {error}")
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        _say(f"selfsim {arguments.command}: {error}")
        return 1
    except KeyboardInterrupt:
        _say(f"\nselfsim {arguments.command}: interrupted")
        return 1


def _parser() -> argparse.ArgumentParser:
    from selfsim import __version__

    parser = argparse.ArgumentParser(prog="selfsim", description="Self-similarity of neural networks.")
    parser.add_argument("--version", action="version", version=f"selfsim {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    what = "execute the notebooks of a run list and render them as a book"
    book = commands.add_parser("book", help=what, description=f"{what}.".capitalize())
    add = book.add_argument
    add("runs", nargs="?", type=Path, default=PROJECT_LIST, metavar="RUNS_YML", help="a run list (%(default)s)")
    add("--preset", default="quick", help="one of the run list's presets (%(default)s)")
    add("--jobs", type=_at_least(1), metavar="N", help="chapters at a time (the preset's)")
    _add_shared_options(book, every="chapter", file="run list")
    add("--only", nargs="+", action="extend", metavar="CHAPTER", help="make these chapters only")
    add("--publish", action="store_true", help="copy the checked chapters to book/chapters/")
    add("--no-render", action="store_true", help="execute, but render no pages")
    add("--build-dir", type=Path, default=Path("_build"), help="where the result goes (%(default)s)")
    book.set_defaults(run=_book)

    what = "check a rendered book: pages, error outputs, alt texts, links"
    check = commands.add_parser("check-pages", help=what, description=what)
    check.add_argument("html", type=Path, metavar="HTML_DIR", help="for example _build/quick/html")
    toc = "its table of contents (HTML_DIR/../source/_toc.yml if there, else _toc.yml)"
    check.add_argument("--toc", type=Path, help=toc)
    check.set_defaults(run=_check_pages)

    what = "run every training, or every execution of a notebook, in a grid"
    sweep = commands.add_parser("sweep", help=what, description=f"{what}; finished ones are kept.".capitalize())
    add = sweep.add_argument
    add("grid", type=Path, metavar="GRID_YML", help="a grid, such as notebooks/grid.yml")
    add("--output", type=Path, metavar="DIR", help="where runs and results go (runs/NAME_OF_THE_GRID)")
    add("--workers", type=_at_least(1), metavar="N", help="processes on this machine (one per GPU, or one per core)")
    add("--scheduler", metavar="ADDRESS", help="a Dask scheduler, whose workers are used instead")
    retries = "attempts after a worker died, per cell (%(default)s)"
    add("--retries", type=_at_least(0), default=10, metavar="N", help=retries)
    retries = "attempts after a notebook's kernel died, per cell (%(default)s)"
    add("--kernel-retries", type=_at_least(0), default=2, metavar="N", help=retries)
    _add_shared_options(sweep, every="cell", file="grid")
    add("--dry-run", action="store_true", help="list what would be done, with time and disk, and do nothing")
    sweep.set_defaults(run=_sweep)
    return parser


def _add_shared_options(parser: argparse.ArgumentParser, *, every: str, file: str) -> None:
    values = f"a parameter for every {every}, a list as '[0, 1]'; wins over the {file}'s"
    value = ("NAME", "VALUE")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=value, help=values)
    limit = "seconds after which a cell of a notebook has failed (no limit)"
    parser.add_argument("--cell-timeout", type=_at_least(1), metavar="SECONDS", help=limit)


def _at_least(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text}, need an integer of at least {least}")
        return int(text)

    return read


def _book(arguments: argparse.Namespace) -> int:
    _check_packages(*_BOOK, extra="book")
    from .files import locked_directory
    from .publish.book import find_project, is_project_list

    try:
        root = find_project()
        of_project = is_project_list(root, arguments.runs)
        # Another list may have a preset of the same name.
        folder = arguments.build_dir / (arguments.preset if of_project else f"{arguments.runs.stem}-{arguments.preset}")
        run_list = _checked_run_list(arguments, root, folder, of_project)
        if arguments.publish and not of_project:
            raise ValueError(f"--publish: only {PROJECT_LIST} can be published; got {arguments.runs}")
        if arguments.publish and arguments.parameters:
            raise ValueError("--publish: got -p; published chapters have the parameters of their preset")
        # How chapters are published is the project's own affair, and not part of the package.
        project = runpy.run_path(str(root / "book" / "_ext" / "publication.py")) if arguments.publish else {}
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    result = folder / "chapters" if arguments.no_render else folder / "html" / "index.html"
    _announce(root, run_list, arguments.jobs or run_list.jobs, result)
    folder.mkdir(parents=True, exist_ok=True)
    with locked_directory(folder):
        executed = _make_book(arguments, root, folder, of_project, run_list)
    if arguments.publish:
        others = {c.name: c.published for c in run_list.chapters if c.published not in ("", run_list.preset)}
        for path in project["publish"]([path for path in executed if path.stem not in others], root):
            _say(f"published {path.relative_to(root)}")
        for name, preset in others.items():
            _say(f"not published: {name}, whose page is made by --preset {preset}")
    print(result)
    return 0


def _checked_run_list(arguments: argparse.Namespace, root: Path, folder: Path, of_project: bool) -> RunList:
    """Read the run list and check all that can be checked before anything starts."""
    from .publish.book import check_toc
    from .publish.folders import check_replaceable
    from .publish.run_list import read_run_list
    from .sweep.grid import check_training_values

    chosen, defaults = arguments.parameters, {"runs": str(folder / "runs")}
    run_list = read_run_list(arguments.runs, arguments.preset, chosen, only=arguments.only, defaults=defaults)
    for chapter in run_list.chapters:
        with errors_named(f"{arguments.runs}: chapter {chapter.name!r}"):
            check_training_values(chapter)
    if of_project:
        check_toc(root, run_list)
    for name in ("runs", "source", "html"):
        check_replaceable(folder / name)
    return run_list


def _make_book(
    arguments: argparse.Namespace, root: Path, folder: Path, of_project: bool, run_list: RunList
) -> list[Path]:
    """Execute the chapters and render them; return the executed notebooks."""
    from .publish.book import assemble, render
    from .publish.folders import folder_for_runs
    from .publish.runner import execute

    runs = folder / "runs"
    if any(chapter.parameters.get("runs") == str(runs) for chapter in run_list.chapters):
        for place in folder_for_runs(runs, _of_training(arguments.parameters))[1]:
            number = sum(run.is_dir() for run in place.iterdir())
            _say(f"{place}: {number} training runs of another version of the code or with other -p; kept, not used")
    executed = execute(run_list, folder / "chapters", jobs=arguments.jobs, cell_timeout=arguments.cell_timeout)
    if not arguments.no_render:
        left_out = assemble(root, executed, folder / "source", replace_chapters=not of_project)
        if left_out:
            _say(f"left out, neither executed nor published: {', '.join(left_out)}")
        # Warnings of the project's own pages are errors; those of others are for their authors.
        _say(render(folder / "source", folder / "html", strict=of_project and not left_out))
    return executed


def _of_training(given: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return those of the parameters given to all chapters that can change a training run."""
    from .sweep.grid import config_types

    names = {*config_types(), "seeds", "target", "weight"} - {"download"}
    return [(name, str(Path(text).resolve()) if name == "data_dir" else text) for name, text in given if name in names]


def _rounded(number: float) -> str:
    """Return a number to two digits.

    >>> _rounded(297.0), _rounded(0.333)
    ('300', '0.33')
    """
    return f"{float(f'{number:.2g}'):g}"


def _announce(root: Path, run_list: RunList, jobs: int, result: Path) -> None:
    from .publish.book import expected_minutes

    names = ", ".join(chapter.name for chapter in run_list.chapters)
    about = f" ({run_list.description})" if run_list.description else ""
    _say(f"Making {len(run_list.chapters)} chapter(s) of the preset {run_list.preset!r}{about}: {names}")
    minutes = expected_minutes(root, run_list, jobs)
    time = ", for an unknown time: the preset names no minutes" if minutes is None else ""
    if minutes is not None:
        time = f", about {_rounded(minutes)} min on 2 cores"
        if run_list.minutes is None:
            time += " if they have the sizes of the project's own chapters"
    disk = f", about {run_list.disk} of disk" if run_list.disk else ""
    _say(f"{jobs} at a time{time}{disk}; chapters made before are kept")
    _say(f"Result: {result}")


def _check_pages(arguments: argparse.Namespace) -> int:
    _check_packages("yaml", "bs4", extra="book")
    from .publish.page_check import check_pages

    beside = arguments.html.parent / "source" / "_toc.yml"
    toc = arguments.toc or (beside if beside.is_file() else Path("_toc.yml"))
    try:
        faults = check_pages(arguments.html, toc)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    print("\n".join(faults) or f"{arguments.html}: no faults")
    return 1 if faults else 0


def _sweep(arguments: argparse.Namespace) -> int:
    _check_packages(*_CLUSTER, extra="cluster")
    from .sweep.grid import read_grid
    from .sweep.sweep import plan_sweep, sweep

    folder = arguments.output or Path("runs") / arguments.grid.stem
    scheduler, workers = arguments.scheduler, arguments.workers
    try:
        grid = read_grid(arguments.grid, arguments.parameters)
        plan = plan_sweep(grid, folder, scheduler=scheduler, workers=workers)
    except ModuleNotFoundError:
        _check_packages(*_BOOK, extra="book")  # a grid of a notebook needs what a book needs
        raise
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if arguments.dry_run:
        for cell in grid.cells:
            print(f"{plan.states[cell.name]:8}{cell.name}", *(f"{name}={value}" for name, value in cell.varied.items()))
    _announce_sweep(plan, grid.description, folder)
    if arguments.dry_run:
        return 0
    limits = {name: getattr(arguments, name) for name in ("retries", "kernel_retries", "cell_timeout")}
    print(sweep(grid, folder, scheduler=scheduler, workers=workers, **limits))
    return 0


def _announce_sweep(plan: Plan, description: str, folder: Path) -> None:
    numbers = {"done": 0, "begun": 0, "missing": 0} | Counter(plan.states.values())
    counts = ", ".join(f"{number} {state}" for state, number in numbers.items())
    _say(f"{len(plan.states)} cell(s){f' ({description})' if description else ''}: {counts}")
    if plan.left:
        time = disk = "unknown"
        if plan.seconds is not None:
            minutes = plan.seconds / 60 * (-(-plan.left // plan.workers) if plan.workers else plan.left)
            time = f"about {_rounded(minutes)} min" + ("" if plan.workers else " in all")
        if plan.megabytes is not None:
            disk = f"about {_rounded(plan.left * plan.megabytes)} MB"
        workers = f"{plan.workers} worker(s)" if plan.workers else "the scheduler's workers"
        _say(f"Still to do on {workers}: time {time}, disk {disk} ({plan.source})")
    _say(f"Result: {folder}")


def _check_packages(*names: str, extra: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f'there is no {", ".join(missing)}; install with: pip install ".[{extra}]" in the clone')


def _say(line: str) -> None:
    if line:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
