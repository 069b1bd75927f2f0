"""From the sweeps of the study to the tables in results/study/, and runs made anew held against these.

    .venv/bin/python benchmarks/study.py                       # every stage that has runs in runs/study/
    .venv/bin/python benchmarks/study.py --layers              # and what takes weights and images: C5, comparison
    .venv/bin/python benchmarks/study.py --compare runs/again  # are the runs in this folder equal to the tables'?

Stages are the grids in notebooks/study/; the runs of a stage may lie in any folder of runs/study/. Give ``-p`` as
it was given to the sweeps.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from selfsim import load_run, load_runs
from selfsim.sweep.grid import read_grid
from selfsim.training.run_directory import is_finished
from study.comparison_tables import comparable
from study.invariance import write_invariance
from study.measures import STAGES, write_measures
from study.tables import agreement, read_stages, write_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="folder of the sweeps' folders")
    parser.add_argument("--results", type=Path, default=Path("results/study"))
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="only compare the runs in this folder")
    parser.add_argument("--layers", action="store_true", help="also measure the layers, from weights and images")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", metavar=("NAME", "VALUE"))
    arguments = parser.parse_args()
    if arguments.compare:
        stored = [run for runs in read_stages(arguments.results).values() for run in runs]
        print(agreement(load_runs(arguments.compare), stored).to_string())
        return
    folders = sorted(place for place in arguments.runs.iterdir() if place.is_dir())
    parameters = arguments.parameters or [("data_dir", "data/cifar10-jpeg")]
    grids = [read_grid(path, parameters) for path in sorted(Path("notebooks/study").glob("*.yml"))]
    asked = Counter(cell.name for grid in grids for cell in grid.cells)
    for grid in grids:
        # Stages share runs: one has begun when a run that is its own has.
        own = [cell.name for cell in grid.cells if asked[cell.name] == 1]
        if any((folder / name).is_dir() for folder in folders for name in own):
            table = write_stage(grid, folders, arguments.results, stage=grid.path.stem)
            print(grid.path.stem, table.status.value_counts().to_dict())
    if arguments.layers:
        families = [cell for grid in grids if grid.path.stem in STAGES for cell in grid.cells]
        places = [folder / cell.name for cell in families for folder in folders if is_finished(folder / cell.name)]
        runs = comparable([load_run(place) for place in places], {"target": 0.1, "weight": 10})
        table = write_invariance(runs, arguments.results)
        print(table.groupby("architecture", sort=False).run.nunique().to_string())
        measured = write_measures(runs, arguments.results)
        print(measured.groupby(["architecture", "training"], sort=False).seed.nunique().to_string())


if __name__ == "__main__":
    main()
