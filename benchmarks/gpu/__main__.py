"""Check and time the package on a graphics card, in a given number of minutes.

    python -m benchmarks.gpu --minutes 9 --output results/benchmarks   # writes results/benchmarks/gpu.json
    python -m benchmarks.gpu --minutes 2.5 --only checks,timings,step,stacked --output out
    python -m benchmarks.gpu --minutes 8 --only study,defaults --data DIR --output results/benchmarks
    python -m benchmarks.gpu --dry-run --output out                    # tiny, on the CPU, about a minute
    python -m benchmarks.gpu --list                                    # the files that another machine needs
    python -m benchmarks.gpu --page                                    # book/gpu.md from results/benchmarks/gpu.json

It needs torch, numpy, scipy, networkx, scikit-learn, tqdm, numba, timm, torchvision and pandas, no network, and the
repository as the working directory. The file is written after every row, so a run that is cut short keeps what it has.
The exit status is 1 if a check or a section failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from pathlib import Path

import torch

from .alone import KINDS, Alone
from .check import run_checks
from .checks import all_checks
from .page import summary, write_page
from .report import Report, Section
from .stacked import run_stacked
from .step import run_step
from .timings import run_timings

# Of the time that is left, how much a section may use, when others follow.
SHARES = {"checks": 0.4, "timings": 0.6, "step": 0.6, "stacked": 0.3, "study": 0.6, "defaults": 1.0}
PACKAGES = ("torch", "numpy", "scipy", "networkx", "sklearn", "tqdm", "numba", "timm", "torchvision", "pandas")
MOST_BYTES = 64 * 2**20


def checks(section: Section, device: torch.device, arguments: argparse.Namespace) -> None:
    """Run the checks here, and those that could take the process down beside them."""
    processes = [Alone(kind, device) for kind in KINDS if device.type == "cuda" or kind != "graphs"]
    try:
        run_checks(section, all_checks(device))
        for process in processes:
            process.collect(section)
    finally:
        for process in processes:
            process.end()


def timings(section: Section, device: torch.device, arguments: argparse.Namespace) -> None:
    run_timings(section, device, small=arguments.dry_run)


def step(section: Section, device: torch.device, arguments: argparse.Namespace) -> None:
    run_step(section, device, small=arguments.dry_run)


def stacked(section: Section, device: torch.device, arguments: argparse.Namespace) -> None:
    run_stacked(section, device, small=arguments.dry_run)


def study(section: Section, device: torch.device, arguments: argparse.Namespace) -> None:
    """Run as many batches of the second study as the minutes allow; finished ones in its folder are not run again."""
    if arguments.data is None:
        section.leave_out("study", "needs --data, the folder of CIFAR-10")
        return
    from study import convergence

    options = ["--data", arguments.data, "--results", str(arguments.output / "convergence"), "--device", str(device)]
    options += ["--minutes", f"{section.left() / 60:.3f}", "--commit", arguments.commit or ""]
    convergence.main([*options, *shlex.split(arguments.study)])


def defaults(section: Section, device: torch.device, arguments: argparse.Namespace) -> None:
    """Train the small networks of the check of defaults, those that its file in the folder does not have."""
    if arguments.data is None:
        section.leave_out("defaults", "needs --data, the folder of CIFAR-10")
        return
    from benchmarks import defaults

    options = ["--size", "small", "--data-dir", arguments.data, "--device", str(device)]
    options += ["--minutes", f"{section.left() / 60:.3f}", "--output", str(arguments.output / "defaults.json")]
    defaults.main(options)


SECTIONS = {
    "checks": checks, "timings": timings, "step": step, "stacked": stacked, "study": study, "defaults": defaults
}  # fmt: skip


def show_needed(folder: Path | None) -> None:
    """Print the files of a folder (archives of images, wheels) with their sizes, and the packages not found here."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder else []
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    total = sum(path.stat().st_size for path in files)
    for path in files:
        print(f"{path.stat().st_size / 2**20:8.1f} MiB  {path}")
    print(f"{total / 2**20:8.1f} MiB  together, of {MOST_BYTES / 2**20:.0f}")
    print("packages that are missing here:", ", ".join(missing) or "none")
    print("images: checks, timings and step need none; study and defaults need an archive of CIFAR-10")
    if total > MOST_BYTES:
        raise SystemExit(f"--carry: got {total} bytes, need at most {MOST_BYTES}")


def sections_named(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"got {', '.join(unknown)}, need some of {','.join(SECTIONS)}")
    return [name for name in SECTIONS if name in names]


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="folder for gpu.json")
    parser.add_argument("--only", type=sections_named, default=list(SECTIONS), metavar="SECTION,…")
    parser.add_argument("--data", help="folder of CIFAR-10, for study and defaults")
    parser.add_argument(
        "--study", default="", metavar="OPTIONS", help="further options of `python -m study.convergence`"
    )
    parser.add_argument("--commit", help="of this code, where git cannot tell")
    parser.add_argument("--device", help="by default cuda, and cpu for a dry run")
    parser.add_argument("--dry-run", action="store_true", help="everything once, tiny, on the CPU")
    parser.add_argument("--list", action="store_true", help="print what another machine needs")
    parser.add_argument("--page", action="store_true", help="write the table of the book's page")
    parser.add_argument("--carry", type=Path, help="for --list: folder with images and wheels for the other machine")
    arguments = parser.parse_args(given)
    if arguments.list:
        show_needed(arguments.carry)
        return
    if arguments.page:
        write_page()
        return
    device = torch.device(arguments.device or ("cpu" if arguments.dry_run else "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device: torch sees no CUDA card on this machine; need --dry-run")
    report = Report(arguments.output / "gpu.json", device, 60 * arguments.minutes)
    if arguments.commit:
        report.card["environment"]["commit"] = arguments.commit
    for name in arguments.only:
        last = name == arguments.only[-1]
        with report.section(name, 1.0 if last else SHARES[name]) as section:
            SECTIONS[name](section, device, arguments)
        print(f"{name}: {section.content['seconds']:.0f} s", file=sys.stderr, flush=True)
    print(summary({"card": report.card} | report.sections))
    for section in report.sections.values():
        if "failed" in section or not all(row.get("passed", True) for row in section["rows"]):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
