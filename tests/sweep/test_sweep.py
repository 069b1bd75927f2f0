"""Sweeps: deaths survived, failures told, finished cells kept, one table, plans, devices."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
import torch
from PIL import Image

from selfsim import load_run, train
from selfsim.command_line import main
from selfsim.sweep.cell import cell_progress, run_cell
from selfsim.sweep.grid import read_grid
from selfsim.sweep.sweep import SweepError, plan_sweep, sweep
from selfsim.sweep.table import RESULTS, cell_table, write_results
from selfsim.sweep.workers import connected, default_workers, visible_cards
from selfsim.training.evaluation import Row
from selfsim.training.runs import Run
from tests.conftest import PARAMETERS, write_notebook

# What it trains would live in the folder `runs`; here that is a made-up run. On its first attempt it kills what its
# name says: its kernel, the process that executes it, or the worker of the sweep.
MORTAL = """\
import hashlib, json, pathlib, time
import psutil
run = pathlib.Path(runs) / "a-run"
first = not run.is_dir()
run.mkdir(parents=True, exist_ok=True)
kernel = psutil.Process()
mortal = {"kernel": kernel, "process": kernel.parent(), "worker": kernel.parent().parent()}
if first and name in mortal:
    mortal[name].kill()
    time.sleep(60)
if name == "wrong":
    raise ValueError("a wrong name")
config = {"architecture": "mlp", "seed": epochs, "constraint": {"target": 0.5}, "layers": ["a", "b"]}
files = {
    "config.json": json.dumps(config),
    "history.csv": f"epoch,split,layer,metric,value\\n0,test,,loss,{epochs}\\n0,test,a,ss_rate,nan\\n",
    "environment.json": json.dumps({"seconds": 1}), "model.json": "{}", "weights.pt": "",
}
for file, text in files.items():
    (run / file).write_text(text)
sums = (f"{hashlib.sha256(text.encode()).hexdigest()}  {file}\\n" for file, text in files.items())
(run / "SHA256SUMS").write_text("".join(sums))
"""
TINY = "{architecture: mlp, train_images: 100, test_images: 64, samples: 16, batch_size: 64, epochs: 1}"


@pytest.fixture(autouse=True)
def _package_at_rest(monkeypatch):
    """The package counts as unchanged while these tests run, though somebody may be editing it."""
    monkeypatch.setattr("selfsim.publish.digests.page_digest", lambda: "unchanged")
    # With one thread each, runs here and in workers are the same to the last bit.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def written(tmp_path, monkeypatch):
    write_notebook(tmp_path / "mortal.ipynb", MORTAL, parameters=PARAMETERS + 'runs: str = ""\n')
    monkeypatch.chdir(tmp_path)

    def written(text):
        (tmp_path / "grid.yml").write_text(text)
        return read_grid(tmp_path / "grid.yml")

    return written


def finish(cell, out, *, seconds=6.0, size=1000, value=0.5):
    """Save a finished training run of a cell, and return its directory."""
    weights = {"w": torch.zeros(size // 4)}
    history = [Row(1, "test", "", "accuracy", value)]
    return Run(cell.work, history, {}, {"seconds": seconds}, weights).save(out / cell.name)


@pytest.mark.long
def test_a_sweep_survives_deaths_tells_failures_and_keeps_what_is_done(written, tmp_path, capfd):
    grid = written("notebook: mortal.ipynb\ngrid: {name: [kernel, worker, wrong]}")
    kernel, worker, wrong = (cell.name for cell in grid.cells)
    before = dict(os.environ)
    assert main(["sweep", "grid.yml", "--workers", "2", "--output", "out"]) == 1
    said = capfd.readouterr()
    assert {*os.environ} - {*before} <= {"TORCHINDUCTOR_CACHE_DIR"}  # which torch sets when it is imported
    lines = said.err.splitlines()
    assert lines[:3] == [
        "3 cell(s): 0 done, 0 begun, 3 missing",
        "Still to do on 2 worker(s): time unknown, disk unknown (neither minutes nor megabytes in grid.yml)",
        "Result: out",
    ]
    told = lines[3:]
    for name, what in ((kernel, "kernel"), (worker, "worker")):
        assert f"{name}: its {what} died; attempt 2" in told
        assert sum(line.startswith(f"{name}: done in ") for line in told) == 1
    # Nothing else reaches the terminal: no log of a worker that is lost, no warning.
    mine = (f"{kernel}: ", f"{worker}: ", f"{wrong}: ", "selfsim sweep: 1 of 3 cells failed; their tracebacks are in")
    assert [line for line in told if not line.startswith(mine)] == []
    assert told[-1] == f"{wrong}: ValueError: a wrong name"
    assert said.out == ""

    out = tmp_path / "out"
    assert [path.name for path in (out / "failed").iterdir()] == [f"{wrong}.txt"]
    assert "cell 3 of " in (out / "failed" / f"{wrong}.txt").read_text()
    table = pd.read_parquet(out / RESULTS)
    history = ["epoch", "split", "layer", "metric", "value"]
    assert list(table.columns)[:4] == ["cell", "run", "status", "name"]
    assert list(table.columns)[-5:] == history
    assert dict(zip(table.cell, table.status, strict=True)) == {kernel: "done", worker: "done", wrong: "failed"}
    assert list(table.metric.fillna("")) == ["loss", "ss_rate", "loss", "ss_rate", ""]
    row = table[table.cell == worker].iloc[0]
    shown = row[["cell", "run", "status", "name", "seed", "constraint.target", "layers", *history]]
    assert list(shown) == [worker, "a-run", "done", "worker", 3, 0.5, '["a", "b"]', 0, "test", "", "loss", 3]

    # Again, with the cause of the failure gone: only what is missing is done.
    made = (out / f"{kernel}.ipynb").stat().st_mtime_ns
    assert main(["sweep", "grid.yml", "--output", "out", "-p", "name", "kernel"]) == 0
    said = capfd.readouterr()
    assert said.out == f"{out / RESULTS}\n"
    assert said.err.startswith("1 cell(s): 1 done, 0 begun, 0 missing\nResult: out\n")
    assert (out / f"{kernel}.ipynb").stat().st_mtime_ns == made
    assert set(pd.read_csv(out / "results.csv").cell) == {kernel}
    assert [path.name for path in (out / "failed").iterdir()] == [f"{wrong}.txt"]  # of a cell that was not tried


@pytest.mark.long
def test_attempts_are_limited(written, tmp_path, capfd):
    grid = written("notebook: mortal.ipynb\ngrid: {name: [process]}")
    with pytest.raises(SweepError, match=r"1 of 1 cells failed.*\n.*: its process ended with exit code -9"):
        sweep(grid, tmp_path / "out", workers=1, retries=0)
    assert "attempt" not in capfd.readouterr().err


@pytest.mark.long
def test_a_notebook_that_kills_its_kernel_gets_few_attempts(written, tmp_path, capfd):
    write_notebook(tmp_path / "deadly.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    grid = written("notebook: deadly.ipynb")
    with pytest.raises(SweepError, match="1 of 1 cells failed"):
        sweep(grid, tmp_path / "out", workers=1, kernel_retries=1)
    attempts = [line for line in capfd.readouterr().err.splitlines() if "attempt" in line]
    assert attempts == [f"{grid.cells[0].name}: its kernel died; attempt 2"]


@pytest.mark.long
def test_training_runs_on_any_scheduler_give_what_train_gives(written, tmp_path, capfd):
    from distributed import LocalCluster

    from selfsim import train

    grid = written(f"parameters: {TINY}\ngrid: {{seed: [0, 1], data_dir: [null]}}\n")
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        assert sweep(grid, tmp_path / "out", scheduler=cluster.scheduler_address) == tmp_path / "out" / RESULTS
    table = pd.read_parquet(tmp_path / "out" / RESULTS)
    for cell in grid.cells:
        rows = table[table.run == cell.name]
        found = list(rows[["epoch", "split", "layer", "metric", "value"]].itertuples(index=False, name=None))
        assert found == [tuple(row) for row in train(cell.work, device="cpu").history]
        assert set(rows.seed) == {cell.work.seed}
        assert set(rows.status) == {"done"}


def test_a_worker_with_several_threads_is_refused(written, tmp_path, capfd):
    from distributed import LocalCluster

    grid = written(f"parameters: {TINY}\n")
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(ValueError, match="scheduler: its workers have up to 2 threads.*--nthreads 1"),
    ):
        sweep(grid, tmp_path / "out", scheduler=cluster.scheduler_address)
    assert list(pd.read_csv(tmp_path / "out" / "results.csv").status) == ["missing"]


def answers(place):
    with contextlib.suppress(OSError), socket.create_connection(place, timeout=1):
        return True
    return False


@pytest.mark.long
def test_a_lost_scheduler_is_told(written, tmp_path, capfd):
    grid = written("notebook: mortal.ipynb\ngrid: {name: [kernel]}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = free.getsockname()
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", str(place[1]), "--no-dashboard"]
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not answers(place):
            time.sleep(0.2)
        # It has no workers, so the sweep waits for some; meanwhile the scheduler goes.
        threading.Timer(10, scheduler.kill).start()
        with pytest.raises(ConnectionError, match="the scheduler was lost; start the sweep again"):
            sweep(grid, tmp_path / "out", scheduler="tcp://{}:{}".format(*place))
    finally:
        scheduler.kill()
        scheduler.wait()
    assert "the scheduler has no workers yet; cells start when some come" in capfd.readouterr().err
    assert list(pd.read_csv(tmp_path / "out" / "results.csv").status) == ["missing"]


def test_wrong_calls_start_nothing(written, tmp_path, capsys):
    written("notebook: mortal.ipynb\ngrid: {name: [fine]}")
    for arguments, message in [
        (["--workers", "0"], "--workers: got 0, need an integer of at least 1"),
        (["--workers", "2", "--scheduler", "tcp://127.0.0.1:9"], "workers: got 2 beside a scheduler"),
        (["--retries", "-1"], "--retries: got -1, need an integer of at least 0"),
        (["--kernel-retries", "x"], "--kernel-retries: got x, need an integer of at least 0"),
        (["-p", "nam", "x"], "-p: got 'nam'"),
    ]:
        assert main(["sweep", "grid.yml", "--output", "out", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["sweep", "none.yml"]) == 2
    assert "none.yml: no such grid" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_plan_tells_what_is_done_and_what_the_rest_takes(written, tmp_path, capsys):
    grid = written(f"minutes: 2\nmegabytes: 3\nparameters: {TINY}\ngrid: {{seed: [0, 1, 2, 3, 4]}}")
    plan = plan_sweep(grid, tmp_path / "out", workers=2)
    assert (plan.left, plan.workers, plan.seconds, plan.megabytes) == (5, 2, 120, 3)
    assert main(["sweep", "grid.yml", "--output", "out", "--workers", "2", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[4] == f"missing {grid.cells[4].name} seed=4"
    assert "2 worker(s): time about 6 min, disk about 15 MB (by minutes and megabytes in grid.yml)" in said.err
    assert not (tmp_path / "out").exists()

    finish(grid.cells[0], tmp_path / "out", seconds=10, size=1_000_000)
    finish(grid.cells[1], tmp_path / "out", seconds=20, size=3_000_000)
    (tmp_path / "out" / grid.cells[2].name).mkdir()
    plan = plan_sweep(grid, tmp_path / "out", scheduler="tcp://somewhere:8786")
    assert list(plan.states.values()) == ["done", "done", "begun", "missing", "missing"]
    assert (plan.left, plan.workers, plan.seconds, plan.source) == (3, None, 15, "the mean of 2 done")
    assert plan.megabytes == pytest.approx(2, abs=0.01)
    assert main(["sweep", "grid.yml", "--output", "out", "--scheduler", "tcp://somewhere:8786", "--dry-run"]) == 0
    assert "the scheduler's workers: time about 0.75 min in all, disk about 6 MB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("minutes: 0", "by minutes in grid.yml"),
        ("megabytes: 2", "by megabytes in grid.yml"),
        ("description: none", "neither minutes nor megabytes in grid.yml"),
    ],
)
def test_a_plan_tells_only_of_sizes_that_the_grid_gives(written, tmp_path, given, told):
    plan = plan_sweep(written(f"{given}\nparameters: {TINY}"), tmp_path / "out", workers=1)
    assert plan.source == told
    assert plan.seconds == (0 if "minutes" in given else None)


def test_the_table_is_whole_and_tidy_though_cells_differ(written, tmp_path):
    grid = written(f"parameters: {TINY}\ngrid: {{constraint: [null, {{target: 0.1}}], layers: [null, [input]]}}")
    finish(grid.cells[0], tmp_path, value=float("nan"))
    tables = [cell_table(cell, tmp_path, cell_progress(cell, tmp_path)[0])[0] for cell in grid.cells]
    write_results(tables, tmp_path)
    table = pd.read_parquet(tmp_path / RESULTS)
    assert list(table.columns)[:3] == ["cell", "run", "status"]
    assert list(table.columns)[-5:] == ["epoch", "split", "layer", "metric", "value"]
    assert list(table.status) == ["done", "missing", "missing", "missing"]
    assert list(table["constraint.target"].dropna()) == [0.1, 0.1]
    assert list(table.layers.dropna()) == ['["input"]', '["input"]']
    assert table.layer[0] == ""
    again = pd.read_csv(tmp_path / "results.csv", keep_default_na=False)
    assert list(again.columns) == list(table.columns)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["history.csv", "config.json", "weights.pt", "environment.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["flipped", "edited", "emptied", "removed"])
def test_a_damaged_run_is_named_and_kept_out_of_the_table(written, tmp_path, name, damage):
    if (name, damage) == ("SHA256SUMS", "removed"):
        return  # without it, the run is not finished
    grid = written(f"parameters: {TINY}\ngrid: {{seed: [0, 1, 2]}}")
    for cell in grid.cells:
        directory = finish(cell, tmp_path / "out")
    file = directory / name
    content = file.read_bytes()
    flipped = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
    changes = {"edited": content.replace(b"0", b"9"), "emptied": b"", "flipped": flipped}
    file.unlink()
    if damage in changes:
        file.write_bytes(changes[damage])
    plan = plan_sweep(grid, tmp_path / "out")
    assert (list(plan.states.values()), plan.left) == (["done", "done", "damaged"], 0)
    assert plan.source == "the mean of 2 done"
    with pytest.raises(SweepError, match=f"1 training runs are damaged(?s:.*){grid.cells[2].name}.*{name}"):
        sweep(grid, tmp_path / "out", progress=False)
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert list(table.cell) == [cell.name for cell in grid.cells]
    assert list(table.status) == ["done", "done", "damaged"]
    assert list(table.value.fillna(-1)) == [0.5, 0.5, -1]


def test_a_damaged_unfinished_run_is_named_too(written, tmp_path):
    grid = written(f"parameters: {TINY}\ngrid: {{seed: [0, 1]}}")
    finish(grid.cells[0], tmp_path / "out")
    unfinished = tmp_path / "out" / grid.cells[1].name
    unfinished.mkdir()
    (unfinished / "config.json").write_text("")
    with pytest.raises(SweepError, match=r"1 training runs are damaged(?s:.*)config.json"):
        sweep(grid, tmp_path / "out", progress=False)
    assert list(pd.read_csv(tmp_path / "out" / "results.csv").status) == ["done", "damaged"]


def test_home_is_the_home_directory_and_cells_of_an_earlier_grid_are_told(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for seed in (0, 1):
        grid = written(f"parameters: {TINY}\ngrid: {{seed: [{seed}]}}")
        finish(grid.cells[0], tmp_path / "out")
        assert sweep(grid, "~/out") == tmp_path / "out" / RESULTS
        told = "cells of an earlier grid leave the table: 1" in capsys.readouterr().err
        assert told == (seed == 1)
    assert list(pd.read_csv(tmp_path / "out" / "results.csv").seed) == [1]


def test_a_notebook_parameter_named_like_a_column_is_refused(written, tmp_path):
    write_notebook(tmp_path / "taken.ipynb", "pass", parameters='layer: str = "a"\n')
    with pytest.raises(ValueError, match="got 'layer', which is a column of the table; need another name"):
        written("notebook: taken.ipynb\ngrid: {layer: [a, b]}")


def test_results_that_no_sweep_wrote_are_refused(written, tmp_path):
    grid = written(f"parameters: {TINY}")
    finish(grid.cells[0], tmp_path / "out")
    mine = tmp_path / "out" / "results.csv"
    mine.write_text("name,value\n")
    with pytest.raises(FileExistsError, match="it has results that no sweep wrote"):
        sweep(grid, tmp_path / "out", progress=False)
    assert mine.read_text() == "name,value\n"
    mine.rename(tmp_path / "out" / RESULTS)
    with pytest.raises(FileExistsError, match="it has results that no sweep wrote"):
        sweep(grid, tmp_path / "out", progress=False)


def test_tracebacks_of_other_cells_are_kept(written, tmp_path):
    grid = written(f"parameters: {TINY}")
    finish(grid.cells[0], tmp_path / "out")
    (tmp_path / "out" / "failed").mkdir()
    (tmp_path / "out" / "failed" / "another.txt").write_text("Traceback")
    for _ in range(2):
        sweep(grid, tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "failed" / "another.txt").read_text() == "Traceback"


def test_the_traceback_of_a_cell_that_something_else_finished_is_removed(written, tmp_path):
    grid = written(f"parameters: {TINY}")
    finish(grid.cells[0], tmp_path / "out")
    (tmp_path / "out" / "failed").mkdir()
    (tmp_path / "out" / "failed" / f"{grid.cells[0].name}.txt").write_text("Traceback")
    sweep(grid, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "failed").exists()


def test_columns_of_two_kinds_become_text(tmp_path):
    write_results([pd.DataFrame({"cell": ["a"], "t": [0.1]}), pd.DataFrame({"cell": ["b"], "t": ["late"]})], tmp_path)
    assert list(pd.read_parquet(tmp_path / RESULTS).t) == ["0.1", "late"]


def test_a_worker_tells_what_went_wrong(written, tmp_path):
    (cell,) = written("parameters: {architecture: mlp, dataset: folder, data_dir: nowhere}").cells
    outcome = run_cell(cell, tmp_path)
    assert outcome.traceback.splitlines()[0] == "Traceback (most recent call last):"
    assert "nowhere" in outcome.traceback
    assert outcome.death == ""
    outcome = run_cell(cell, tmp_path / "elsewhere")
    assert "this worker does not see the sweep's folder" in outcome.traceback


def test_cells_that_share_their_images_load_them_once(written, tmp_path, monkeypatch):
    import sklearn.datasets

    loaded, load_digits = [], sklearn.datasets.load_digits
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: loaded.append(1) or load_digits())
    grid = written(f"parameters: {TINY}\ngrid: {{seed: [0, 1]}}".replace("100", "90"))
    assert [run_cell(cell, tmp_path).traceback for cell in grid.cells] == ["", ""]
    assert len(loaded) == 1


def test_images_that_have_changed_are_loaded_again(written, tmp_path):
    def write(brightness):
        for part in ("train", "val", "test"):
            for name in ("a", "b"):
                (tmp_path / "data" / part / name).mkdir(parents=True, exist_ok=True)
                for k in range(8):
                    picture = Image.new("L", (8, 8), brightness + k + 9 * (name == "b"))
                    picture.save(tmp_path / "data" / part / name / f"{k}.png")

    few = f"dataset: folder, data_dir: {tmp_path / 'data'}, size: tiny, epochs: 1, samples: 16, batch_size: 4"
    (cell,) = written(f"parameters: {{architecture: mlp, {few}}}").cells
    for folder, brightness in (("one", 10), ("two", 100)):
        write(brightness)
        (tmp_path / folder).mkdir()
        assert run_cell(cell, tmp_path / folder).traceback == ""
    records = [load_run(tmp_path / folder / cell.name).environment["data"] for folder in ("one", "two")]
    assert records[0] != records[1]


@pytest.mark.long
def test_a_worker_that_does_not_come_back_is_replaced():
    import dask

    # As on a machine so slow that no worker starts again in the time that it is given.
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "0s"}), connected(None, workers=1) as client:
        ((address, worker),) = client.run(os.getpid).items()
        os.kill(worker, signal.SIGKILL)
        end = time.monotonic() + 120
        while address in client.scheduler_info()["workers"]:
            assert time.monotonic() < end, "the scheduler never noticed that its worker died"
            time.sleep(0.05)
        assert client.submit(len, "survived").result(timeout=120) == 8


@pytest.mark.long
def test_every_card_gets_a_worker_and_every_worker_its_share(monkeypatch):
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5e")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_cards() == ["3", "GPU-5e"]
    assert default_workers() == 2
    with connected(None, workers=3) as client:
        found = client.run(lambda: [os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]])
    assert sorted(card for card, _ in found.values()) == ["3", "3", "GPU-5e"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {threads for _, threads in found.values()} == {str(max(1, cores // 3))}
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_cards() == ["0", "1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_cards() == []
    assert default_workers() == cores


def test_done_cells_of_other_data_are_refused(written, tmp_path):
    data = tmp_path / "data"
    for name in ("cats", "dogs"):
        (data / name).mkdir(parents=True)
        for number in range(40):
            Image.new("L", (8, 8), number).save(data / name / f"{number}.png")
    grid = written(
        f"parameters: {{architecture: mlp, dataset: folder, data_dir: {data}, samples: 4, batch_size: 16, epochs: 1}}\n"
        "grid: {seed: [0, 1]}"
    )
    train(grid.cells[0].work, runs=tmp_path / "out", device="cpu")
    assert list(plan_sweep(grid, tmp_path / "out").states.values()) == ["done", "missing"]
    for picture in data.rglob("*.png"):
        os.utime(picture)
    assert list(plan_sweep(grid, tmp_path / "out").states.values()) == ["done", "missing"]  # the same pixels
    Image.new("L", (8, 8), 200).save(data / "cats" / "40.png")
    for call in (plan_sweep, sweep):
        with pytest.raises(ValueError, match="images: not the data of .*mlp-"):
            call(grid, tmp_path / "out")


def test_numbers_of_different_types_stay_numbers(tmp_path):
    columns = {"epoch": 0, "split": "", "layer": "", "metric": "", "value": 0.0}
    caps = (None, 1, 0.5)
    write_results([pd.DataFrame([columns | {"constraint.cap": cap}]) for cap in caps], tmp_path)
    assert pd.read_parquet(tmp_path / RESULTS)["constraint.cap"].dropna().tolist() == [1.0, 0.5]
