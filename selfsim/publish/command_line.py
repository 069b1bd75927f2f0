"""The command ``selfsim``: ``book`` makes a book of a run list, ``check-pages`` looks over a rendered one."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NEEDED = ("yaml", "nbformat", "nbclient", "papermill", "ipykernel", "jupyter_book")
_OWN_LIST = Path("notebooks") / "runs.yml"


class UsageError(Exception):
    """The command was asked for something that cannot be done; nothing was started."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of this process.

    Returns
    -------
    int
        0; 1 after a failure; 2 after wrong usage or parameters.
    """
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
    _add_book(commands)
    _add_check_pages(commands)
    return parser


def _add_book(commands: Any) -> None:
    parser = commands.add_parser(
        "book",
        help="execute the notebooks of a run list and render them as a book",
        description="Execute the notebooks of a run list and render them as a book, in the project's root.",
    )
    parser.add_argument(
        "runs", nargs="?", type=Path, default=_OWN_LIST, metavar="RUNS_YML", help="a run list (%(default)s)"
    )
    parser.add_argument("--preset", default="quick", help="one of the run list's presets (%(default)s)")
    parser.add_argument("--jobs", type=int, metavar="N", help="chapters at a time (the preset's)")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter for every chapter; wins over the run list's",
    )
    parser.add_argument("--only", nargs="+", action="extend", metavar="CHAPTER", help="make these chapters only")
    parser.add_argument("--publish", action="store_true", help="copy the checked chapters to book/chapters/")
    parser.add_argument("--no-render", action="store_true", help="execute, but render no pages")
    parser.add_argument("--build-dir", type=Path, default=Path("_build"), help="where the result goes (%(default)s)")
    parser.set_defaults(run=_book)


def _add_check_pages(commands: Any) -> None:
    parser = commands.add_parser(
        "check-pages",
        help="look over a rendered book",
        description="Look over a rendered book: pages, error outputs, alt texts, links. Faults are printed.",
    )
    parser.add_argument("html", type=Path, metavar="HTML_DIR", help="for example _build/quick/html")
    parser.add_argument(
        "--toc", type=Path, help="its table of contents (HTML_DIR/../source/_toc.yml if there, else _toc.yml)"
    )
    parser.set_defaults(run=_check_pages)


def _book(arguments: argparse.Namespace) -> int:
    _check_extras()
    from selfsim.publish.book import (
        RenderError,
        assemble,
        check_root,
        check_toc,
        is_project_list,
        publish,
        render,
    )
    from selfsim.publish.runner import ChapterError, execute

    root = Path.cwd()
    try:
        check_root(root)
        run_list = _read(arguments)
        check_toc(root, run_list)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError(f"--jobs: got {arguments.jobs}, need at least 1")
    own = is_project_list(root, run_list)
    if arguments.publish and not own:
        raise UsageError(f"--publish: only {_OWN_LIST} can be published; got {arguments.runs}")
    # Another list may have a preset of the same name.
    folder = arguments.build_dir / (run_list.preset if own else f"{run_list.path.stem}-{run_list.preset}")
    page = folder / "html" / "index.html"
    _announce(run_list, arguments.jobs or run_list.jobs, folder / "chapters" if arguments.no_render else page)
    try:
        executed = execute(run_list, folder / "chapters", jobs=arguments.jobs)
        if not arguments.no_render:
            left_out = assemble(root, run_list, executed, folder / "source")
            if left_out:
                _say(f"left out, neither executed nor published: {', '.join(left_out)}")
            # Prose may refer to chapters that this book does not have.
            warnings = render(folder / "source", folder / "html", strict=own and not left_out)
            if warnings:
                _say(warnings)
        if arguments.publish:
            for path in publish(executed, root):
                _say(f"published {path.relative_to(root)}")
    except (ChapterError, RenderError, ValueError, RuntimeError, OSError) as error:
        _say(f"selfsim book: {error}")
        return 1
    print(folder / "chapters" if arguments.no_render else page)
    return 0


def _read(arguments: argparse.Namespace) -> Any:
    from selfsim.publish.parameters import check_known, notebook_parameters, parse_value
    from selfsim.publish.run_list import read_run_list

    run_list = read_run_list(arguments.runs, arguments.preset, only=arguments.only)
    if not arguments.parameters:
        return run_list
    known = {}
    for notebook in {chapter.notebook: None for chapter in run_list.chapters}:
        known = notebook_parameters(notebook) | known
    overrides = {}
    for name, text in arguments.parameters:
        check_known(name, known, name="-p")
        overrides[name] = parse_value(text, known[name])
    return read_run_list(arguments.runs, arguments.preset, overrides, only=arguments.only)


def _announce(run_list: Any, jobs: int, result: Path) -> None:
    names = ", ".join(chapter.name for chapter in run_list.chapters)
    about = f" ({run_list.description})" if run_list.description else ""
    _say(f"Making {len(run_list.chapters)} chapter(s) of the preset {run_list.preset!r}{about}: {names}")
    cost = [f"{jobs} at a time"]
    if run_list.minutes is not None:
        cost.append(f"about {run_list.minutes:g} min on 2 cores")
    if run_list.disk:
        cost.append(f"about {run_list.disk} of disk")
    _say(", ".join(cost) + "; chapters made before are kept")
    _say(f"Result: {result}")


def _check_pages(arguments: argparse.Namespace) -> int:
    _check_extras("yaml")
    from selfsim.publish.page_check import check_pages

    beside = arguments.html.parent / "source" / "_toc.yml"
    toc = arguments.toc or (beside if beside.is_file() else Path("_toc.yml"))
    try:
        faults = check_pages(arguments.html, toc)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    for fault in faults:
        print(fault)
    if not faults:
        print(f"{arguments.html}: no faults")
    return 1 if faults else 0


def _check_extras(*names: str) -> None:
    missing = [name for name in names or _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f'there is no {", ".join(missing)}; install with: pip install "selfsim[book]"')


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
