"""The command ``selfsim``: ``book`` makes a book, ``check-pages`` looks it over, ``sweep`` does the cells of a grid."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NEEDED = ("yaml", "nbformat", "nbclient", "papermill", "ipykernel", "jupyter_book")
_CLUSTER = ("distributed", "pandas", "pyarrow", "yaml")
_OWN_LIST = Path("notebooks") / "runs.yml"


class UsageError(Exception):
    """The command was asked for something that cannot be done; nothing was started."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments; give 0, 1 after a failure, 2 after wrong usage or parameters."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as end:  # argparse has written its message, or the help that was asked for
        return int(end.code or 0)
    try:
        return arguments.run(arguments)
    except UsageError as error:
        _say(f"selfsim {arguments.command}: {error}")
        return 2
    except KeyboardInterrupt:
        _say(f"\nselfsim {arguments.command}: interrupted")
        return 1


def _parser() -> argparse.ArgumentParser:
    from selfsim import __version__

    parser = argparse.ArgumentParser(prog="selfsim", description="Self-similarity of neural networks.")
    parser.add_argument("--version", action="version", version=f"selfsim {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    told = "execute the notebooks of a run list and render them as a book"
    book = commands.add_parser("book", help=told, description=f"{told}.".capitalize())
    add = book.add_argument
    add("runs", nargs="?", type=Path, default=_OWN_LIST, metavar="RUNS_YML", help="a run list (%(default)s)")
    add("--preset", default="quick", help="one of the run list's presets (%(default)s)")
    add("--jobs", type=int, metavar="N", help="chapters at a time (the preset's)")
    told = "a parameter for every chapter, a list as '[0, 1]'; wins over the run list's"
    add("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=told)
    add("--only", nargs="+", action="extend", metavar="CHAPTER", help="make these chapters only")
    add("--publish", action="store_true", help="copy the checked chapters to book/chapters/")
    add("--no-render", action="store_true", help="execute, but render no pages")
    add("--build-dir", type=Path, default=Path("_build"), help="where the result goes (%(default)s)")
    book.set_defaults(run=_book)

    told = "look over a rendered book: pages, error outputs, alt texts, links"
    check = commands.add_parser("check-pages", help=told, description=told)
    check.add_argument("html", type=Path, metavar="HTML_DIR", help="for example _build/quick/html")
    told = "its table of contents (HTML_DIR/../source/_toc.yml if there, else _toc.yml)"
    check.add_argument("--toc", type=Path, help=told)
    check.set_defaults(run=_check_pages)

    told = "do every training run, or every execution of a notebook, that a grid asks for"
    sweep = commands.add_parser("sweep", help=told, description=f"{told}; those done before are kept.".capitalize())
    add = sweep.add_argument
    add("grid", type=Path, metavar="GRID_YML", help="a grid, such as notebooks/grid.yml")
    add("--output", type=Path, metavar="DIR", help="where runs and results go (runs/NAME_OF_THE_GRID)")
    add("--workers", type=int, metavar="N", help="processes on this machine (one per GPU, or one per core)")
    add("--scheduler", metavar="ADDRESS", help="a Dask scheduler, whose workers are used instead")
    add("--retries", type=int, default=10, metavar="N", help="attempts after a worker died, per cell (%(default)s)")
    told = "a parameter for every cell; wins over the grid's"
    add("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=told)
    add("--dry-run", action="store_true", help="list what would be done, with time and disk, and do nothing")
    sweep.set_defaults(run=_sweep)
    return parser


def _book(arguments: argparse.Namespace) -> int:
    _check_extras(*_NEEDED)
    from .publish.book import RenderError, assemble, check_toc, find_project, is_own_list, publish, render
    from .publish.run_list import read_run_list
    from .publish.runner import ChapterError, execute, own_runs

    try:
        root = find_project()
        own = is_own_list(root, arguments.runs)
        # Another list may have a preset of the same name.
        folder = arguments.build_dir / (arguments.preset if own else f"{arguments.runs.stem}-{arguments.preset}")
        chosen = {"only": arguments.only, "defaults": {"runs": str(folder / "runs")}}
        run_list = read_run_list(arguments.runs, arguments.preset, arguments.parameters, **chosen)
        if own:
            check_toc(root, run_list)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError(f"--jobs: got {arguments.jobs}, need at least 1")
    if arguments.publish and not own:
        raise UsageError(f"--publish: only {_OWN_LIST} can be published; got {arguments.runs}")
    result = folder / "chapters" if arguments.no_render else folder / "html" / "index.html"
    _announce(root, run_list, arguments.jobs or run_list.jobs, result)
    try:
        own_runs(folder / "runs")
        executed = execute(run_list, folder / "chapters", jobs=arguments.jobs)
        if not arguments.no_render:
            left_out = assemble(root, executed, folder / "source", own=own)
            if left_out:
                _say(f"left out, neither executed nor published: {', '.join(left_out)}")
            # The project's own pages have no faults; those of others are theirs to judge.
            _say(render(folder / "source", folder / "html", strict=own and not left_out))
        if arguments.publish:
            kept = {c.name: c.published for c in run_list.chapters if c.published not in ("", run_list.preset)}
            for path in publish([path for path in executed if path.stem not in kept], root):
                _say(f"published {path.relative_to(root)}")
            for name, preset in kept.items():
                _say(f"not published: {name}, whose page is made by --preset {preset}")
    except (ChapterError, RenderError, ValueError, RuntimeError, OSError) as error:
        _say(f"selfsim book: {error}")
        return 1
    print(result)
    return 0


def _announce(root: Path, run_list: Any, jobs: int, result: Path) -> None:
    from .publish.book import expected_minutes

    names = ", ".join(chapter.name for chapter in run_list.chapters)
    about = f" ({run_list.description})" if run_list.description else ""
    _say(f"Making {len(run_list.chapters)} chapter(s) of the preset {run_list.preset!r}{about}: {names}")
    minutes = expected_minutes(root, run_list, jobs)
    time = ", for a time that is not known: the preset names no minutes" if minutes is None else ""
    if minutes is not None:
        time = f", about {minutes:.2g} min on 2 cores"
        if run_list.minutes is None:
            time += " if they have the sizes of the project's own chapters"
    disk = f", about {run_list.disk} of disk" if run_list.disk else ""
    _say(f"{jobs} at a time{time}{disk}; chapters made before are kept")
    _say(f"Result: {result}")


def _check_pages(arguments: argparse.Namespace) -> int:
    _check_extras("yaml")
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
    _check_extras(*_CLUSTER, extra="cluster")
    from .sweep.grid import read_grid
    from .sweep.sweep import plan_sweep, sweep

    folder = arguments.output or Path("runs") / arguments.grid.stem
    where = {"scheduler": arguments.scheduler, "workers": arguments.workers}
    try:
        grid = read_grid(arguments.grid, arguments.parameters)
        plan = plan_sweep(grid, folder, **where)
    except ModuleNotFoundError:
        _check_extras(*_NEEDED)  # a grid of a notebook needs what a book needs
        raise
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if arguments.retries < 0:
        raise UsageError(f"--retries: got {arguments.retries}, need at least 0")
    if arguments.dry_run:
        for cell in grid.cells:
            print(f"{plan.states[cell.name]:8}{cell.name}", *(f"{name}={value}" for name, value in cell.varied.items()))
    _tell(plan, grid.description, folder)
    if arguments.dry_run:
        return 0
    try:
        print(sweep(grid, folder, **where, retries=arguments.retries))
    except (RuntimeError, ValueError, OSError) as error:
        _say(f"selfsim sweep: {error}")
        return 1
    return 0


def _tell(plan: Any, description: str, folder: Path) -> None:
    counts = ", ".join(f"{list(plan.states.values()).count(state)} {state}" for state in ("done", "begun", "missing"))
    _say(f"{len(plan.states)} cell(s){f' ({description})' if description else ''}: {counts}")
    if plan.left:
        time = disk = "unknown"
        if plan.seconds is not None:
            minutes = plan.seconds / 60 * (-(-plan.left // plan.workers) if plan.workers else plan.left)
            time = f"about {minutes:.2g} min" + ("" if plan.workers else " in all")
        if plan.megabytes is not None:
            disk = f"about {plan.left * plan.megabytes:.2g} MB"
        workers = f"{plan.workers} worker(s)" if plan.workers else "the scheduler's workers"
        _say(f"Still to do on {workers}: time {time}, disk {disk} ({plan.source})")
    _say(f"Result: {folder}")


def _check_extras(*names: str, extra: str = "book") -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f'there is no {", ".join(missing)}; install with: pip install ".[{extra}]" in the clone')


def _say(line: str) -> None:
    if line:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
