"""Write the tables in results/study/ from the folders of the sweeps, or compare new runs with these tables.

    python -m study                       # every stage that has runs in runs/study/, then the text of the pages
    python -m study --layers              # and what needs weights and images: claim C5, the comparison
    python -m study --facts               # only the sentences, tables and figure that pages take from the tables
    python -m study --compare runs/again  # are the runs in this folder equal to those in the tables?

Stages are the grids in study/grids/; the runs of a stage may lie in any folder of runs/study/. Give ``-p`` as
it was given to the sweeps.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from selfsim import load_run, load_runs
from selfsim.sweep.grid import Grid, read_grid
from selfsim.training.runs import is_finished
from study.comparison import comparable
from study.facts import FILE, write_facts
from study.layers import MEASURED_STAGES, write_invariance, write_measures
from study.tables import agreement, read_stages, write_stage

GRIDS = sorted((Path(__file__).parent / "grids").glob("*.yml"))
RUNS = Path("runs/study")
BOOK = Path(__file__).parents[1] / "book"


def main() -> None:
    """Read the command line and write or compare the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the sweeps' folders")
    parser.add_argument("--results", type=Path, default=Path("results/study"), help="folder of the tables")
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="only compare the runs in this folder")
    parser.add_argument("--facts", action="store_true", help="only write what pages take from the tables")
    parser.add_argument("--layers", action="store_true", help="also measure the layers, from weights and images")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", metavar=("NAME", "VALUE"))
    arguments = parser.parse_args()
    if arguments.compare:
        stored = [run for runs in read_stages(arguments.results).values() for run in runs]
        print(agreement(load_runs(arguments.compare), stored).to_string())
        return
    if not arguments.facts:
        write_tables(parser, arguments)
    print(f"{len(write_facts(arguments.results, BOOK))} facts in {BOOK / '_ext' / FILE}")


def write_tables(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Write the tables of the first study from the folders of its sweeps, if they are here."""
    if not arguments.runs.is_dir():
        if arguments.layers or arguments.runs != RUNS:
            parser.error(
                f"--runs: got {str(arguments.runs)!r}, which is no folder; need the folder of the sweeps' folders"
            )
        return
    folders = sorted(place for place in arguments.runs.iterdir() if place.is_dir())
    grids = [read_grid(path, arguments.parameters or [("data_dir", "data/cifar10-jpeg")]) for path in GRIDS]
    write_stages(grids, folders, arguments.results)
    if arguments.layers:
        write_layers(grids, folders, arguments.results)


def write_stages(grids: list[Grid], folders: list[Path], results: Path) -> None:
    """Write the tables of every stage that has begun, and print how far each is."""
    uses = Counter(cell.name for grid in grids for cell in grid.cells)
    for grid in grids:
        # Stages share runs, so a stage has begun when a run that belongs to it alone has.
        unshared = [cell.name for cell in grid.cells if uses[cell.name] == 1]
        if any((folder / name).is_dir() for folder in folders for name in unshared):
            table = write_stage(grid, folders, results, stage=grid.path.stem)
            print(grid.path.stem, table.status.value_counts().to_dict())


def write_layers(grids: list[Grid], folders: list[Path], results: Path) -> None:
    """Measure the layers of the runs that the tables of layers do not have yet, and print the number of seeds."""
    cells = [cell for grid in grids if grid.path.stem in MEASURED_STAGES for cell in grid.cells]
    places = [[folder / cell.name for folder in folders if is_finished(folder / cell.name)] for cell in cells]
    runs = comparable([load_run(found[0]) for found in places if found], {"plain": True, "target": 0.1, "weight": 10})
    estimates = write_invariance(runs, results)
    print(estimates.groupby("architecture", sort=False).run.nunique().to_string())
    measures = write_measures(runs, results)
    print(measures.groupby(["architecture", "training"], sort=False).seed.nunique().to_string())


if __name__ == "__main__":
    main()
