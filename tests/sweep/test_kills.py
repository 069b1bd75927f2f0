"""Sweeps whose processes are killed at random moments, are interrupted, or lose the process that started them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from selfsim import train
from selfsim.publish.kernels import HOW
from selfsim.sweep.grid import read_grid
from selfsim.sweep.table import RESULTS
from tests.conftest import PARAMETERS, write_notebook

pytestmark = pytest.mark.long

RUNS = """\
parameters: {architecture: mlp, train_images: 400, test_images: 64, samples: 16, batch_size: 8, epochs: EPOCHS}
grid: {seed: [0, 1], constraint: [null, {target: 0.1}]}
"""
# Each second leaves a trace in the folder that the sweep gives it, so that a test sees it go on.
STEADY = """\
import os, pathlib, time
pathlib.Path(runs).mkdir(exist_ok=True)
for second in range(epochs):
    time.sleep(1)
    (pathlib.Path(runs) / f"second-{second}-{os.getpid()}").write_text("")
print("made it")"""


class Sweep:
    """The command, running by itself in a session of its own."""

    def __init__(self, folder: Path, *arguments: str):
        self.out, self.said = folder / "out", folder / "said.txt"
        command = [sys.executable, "-m", "selfsim.command_line", "sweep", "grid.yml", "--output", "out"]
        with open(self.said, "a") as said:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                stdout=said,
                stderr=said,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def end(self) -> None:
        """Kill the command and what it started: a test that fails must not leave them running beside the next."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def family(self, kind: str = "") -> list[psutil.Process]:
        """Its processes, whose command lines tell their kind."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if kind in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def traces(self) -> set[str]:
        """What the cells have saved so far; it changes when one of them goes on."""
        names = ("checkpoint-", "SHA256SUMS", "second-")
        # os.walk passes over folders that vanish meanwhile, as those of unfinished runs do.
        return {
            os.path.join(at, name) for at, _, files in os.walk(self.out) for name in files if name.startswith(names)
        }

    def wait_for_progress(self, before: set, limit: float) -> float:
        """Wait until a cell has gone on, or all is done; the seconds that it took."""
        started = time.monotonic()
        while self.process.poll() is None and not self.traces() - before:
            assert time.monotonic() - started < limit, f"nothing went on for {limit:.0f} s:\n{self.said.read_text()}"
            time.sleep(0.05)
        return time.monotonic() - started


WORKER = "spawn_main"
# A fork has the command line of its parent, the process that starts kernels; either may be killed.
KERNEL = "selfsim.publish.kernels" if HOW == "fork" else "ipykernel_launcher"


@pytest.fixture
def sweep_in():
    """Start sweeps that end with the test."""
    started = []

    def start(folder: Path, *arguments: str) -> Sweep:
        started.append(Sweep(folder, *arguments))
        return started[-1]

    yield start
    for sweep in started:
        sweep.end()


def patience() -> float:
    """Three minutes on an idle machine: a worker that imports everything anew may need one."""
    return 180 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def kill_at_random(sweep: Sweep, kinds: list[str], *, seed: int) -> tuple[int, float]:
    """Kill a process of each kind in turn, each after some cell went on; how many, and the longest standstill."""
    chance, killed, longest = random.Random(seed), 0, 0.0
    for kind in kinds:
        victims = []
        while not victims and sweep.process.poll() is None:
            longest = max(longest, sweep.wait_for_progress(sweep.traces(), patience()))
            time.sleep(chance.uniform(0, 1))
            victims = sweep.family(kind) if sweep.process.poll() is None else []
        if victims:
            chance.choice(victims).kill()
            killed += 1
    return killed, longest


def test_12_kills_of_workers_that_train(tmp_path, sweep_in):
    (tmp_path / "grid.yml").write_text(RUNS.replace("EPOCHS", "12"))
    sweep = sweep_in(tmp_path, "--retries", "30", "--workers", "2")
    killed, longest = kill_at_random(sweep, [WORKER] * 12, seed=0)
    assert sweep.process.wait(timeout=10 * patience()) == 0, sweep.said.read_text()
    assert killed == 12, f"the sweep was over after {killed} kills"
    print(f"{killed} kills of workers, longest standstill {longest:.1f} s")
    table = pd.read_parquet(sweep.out / RESULTS)
    for cell in read_grid(tmp_path / "grid.yml").cells:
        rows = table[table.run == cell.name][["epoch", "split", "layer", "metric", "value"]]
        assert list(rows.itertuples(index=False, name=None)) == [tuple(row) for row in train(cell.work).history]


def test_8_kills_of_kernels_and_their_workers(tmp_path, sweep_in):
    write_notebook(tmp_path / "steady.ipynb", STEADY, parameters=PARAMETERS + 'runs: str = ""\n')
    (tmp_path / "grid.yml").write_text(
        "notebook: steady.ipynb\nparameters: {epochs: 12}\ngrid: {seeds: [[0], [1], [2]]}"
    )
    sweep = sweep_in(tmp_path, "--retries", "30", "--kernel-retries", "30", "--workers", "2")
    killed, longest = kill_at_random(sweep, [KERNEL, KERNEL, KERNEL, WORKER] * 2, seed=1)
    assert sweep.process.wait(timeout=10 * patience()) == 0, sweep.said.read_text()
    assert killed == 8, f"the sweep was over after {killed} kills"
    print(f"{killed} kills of kernels and workers, longest standstill {longest:.1f} s")
    assert set(pd.read_parquet(sweep.out / RESULTS).status) == {"done"}
    for cell in read_grid(tmp_path / "grid.yml").cells:
        page = json.loads((sweep.out / f"{cell.name}.ipynb").read_text())
        assert page["cells"][-1]["outputs"][0]["text"] == ["made it\n"]


@pytest.mark.parametrize("how", ["ctrl-c", "kill -9"])
def test_when_it_ends_early_so_do_its_workers_and_it_goes_on_later(tmp_path, sweep_in, how):
    write_notebook(tmp_path / "steady.ipynb", STEADY, parameters=PARAMETERS + 'runs: str = ""\n')
    cells = "cells: [{epochs: 1}, {epochs: 500}]"
    (tmp_path / "grid.yml").write_text(f"notebook: steady.ipynb\n{cells}\n")
    short, long = read_grid(tmp_path / "grid.yml").cells
    sweep = sweep_in(tmp_path, "--workers", "2")
    end = time.monotonic() + patience()
    while not ((sweep.out / f"{short.name}.ipynb").is_file() and list((sweep.out / long.name).glob("second-0-*"))):
        assert time.monotonic() < end, sweep.said.read_text()
        time.sleep(0.1)
    family = sweep.family()
    assert sweep.family(WORKER)
    assert sweep.family(KERNEL)
    if how == "ctrl-c":
        # As on a terminal, where it reaches the whole group of processes.
        os.killpg(sweep.process.pid, signal.SIGINT)
        assert sweep.process.wait(timeout=patience()) == 1
        assert sweep.said.read_text().splitlines()[-1] == "selfsim sweep: interrupted"
        assert "Traceback" not in sweep.said.read_text()
    else:
        sweep.process.kill()
        sweep.process.wait()
    assert psutil.wait_procs(family, timeout=patience())[1] == []
    made = (sweep.out / f"{short.name}.ipynb").stat().st_mtime_ns
    (tmp_path / "grid.yml").write_text(f"notebook: steady.ipynb\n{cells.replace('500', '2')}\n")
    again = sweep_in(tmp_path)
    assert again.process.wait(timeout=2 * patience()) == 0, again.said.read_text()
    assert (again.out / f"{short.name}.ipynb").stat().st_mtime_ns == made
