"""Train in child processes that are killed, and say what was left of them, as JSON: run by test_kills.py.

    python -m tests.training.killed_runs FOLDER --random 50 --stage-step 1

The children are forked from this one process, which has imported everything and never ran two threads: fifty
interpreters would take minutes to start.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import threading
import time
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

from selfsim import TrainConfig, load_run, train
from selfsim.training import loop
from selfsim.training.runs import checkpoint_files, is_finished, read_checkpoint

SAVE_EVERY = 2
# tqdm's own lock is shared by forked processes: one that is killed while it holds the lock would stop all others.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0
# Everything that draws random numbers or has a state of its own is in it; three steps an epoch.
CONFIG = TrainConfig(
    "vit_small", train_images=60, test_images=50, samples=50, epochs=3, batch_size=20, augment=True, mixup=0.5,
    rand_augment=3, random_erasing=0.5, ema=0.9, select="best", clip_gradient=1.0,
    constraint={"plain": True, "layers_per_step": 1, "gate": 0.05, "gate_every": 1},
)  # fmt: skip
STEPS = 3
REACHED = mmap.mmap(-1, 8)  # shared with the children: steps that were done


def reached() -> int:
    return struct.unpack("q", REACHED[:8])[0]


def step_and_count(state, *batch, _step=loop.training_step):
    _step(state, *batch)
    REACHED[:8] = struct.pack("q", state.epoch * STEPS + state.step + 1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(call: int, when: str) -> None:
    """Die at this call of those that change the disk: before it (half of a file written) or after it."""
    calls = 0

    def deadly(function):
        def called(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == call and when == "before":
                if function is os_fsync:
                    with contextlib.suppress(OSError):  # a directory
                        os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
                die()
            result = function(*arguments, **options)
            if calls == call:
                die()
            return result

        return called

    os_fsync = os.fsync
    os.fsync, os.replace, Path.unlink = deadly(os.fsync), deadly(os.replace), deadly(Path.unlink)


def child(directory: Path, images, *, call: int | None = None, when: str = "before") -> int:
    """The id of a process that trains in this directory."""
    REACHED[:8] = struct.pack("q", 0)
    pid = os.fork()
    if pid:
        return pid
    try:
        warnings.simplefilter("error")  # nothing that a kill leaves may count as damaged
        loop.training_step = step_and_count
        if call is not None:
            kill_at(call, when)
        train(CONFIG, images=images, directory=directory, device="cpu", save_every=SAVE_EVERY)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> str:
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return "finished" if os.waitstatus_to_exitcode(status) == 0 else "failed"


def left(directory: Path) -> dict:
    """What a kill left: can all checkpoints be read, and how many steps are lost?"""
    if is_finished(directory):
        return {"readable": True, "lost": 0}
    files = checkpoint_files(directory) if directory.is_dir() else {}
    for path in files.values():
        read_checkpoint(path)  # or it raises
    epochs, steps = max(files, default=(0, 0))
    return {"readable": True, "lost": max(reached() - epochs * STEPS - steps, 0)}


def result(directory: Path) -> str:
    """One digest of a run's history and weights."""
    run = load_run(directory)
    digest = hashlib.sha256(repr(run.history).encode())
    for name, value in sorted(torch.load(run.weights, weights_only=True).items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def at_random(folder: Path, images, kills: int, longest: float) -> list[dict]:
    """Kill, and go on, until so many kills are done; each run is finished in the end."""
    draw, found, directory = random.Random(0), [], folder / "0"
    while len(found) < kills or not is_finished(directory):
        pid = child(directory, images)
        if len(found) < kills:
            time.sleep(draw.uniform(0, longest))
            os.kill(pid, signal.SIGKILL)
        end = ended(pid)
        if end == "killed":
            found.append({"run": directory.name, **left(directory)})
        elif end == "failed":
            return [*found, {"run": directory.name, "failed": True}]
        elif len(found) < kills:
            directory = folder / str(int(directory.name) + 1)
    for entry in found:
        entry["result"] = result(folder / entry["run"])
    return found


def at_every_stage(folder: Path, images, step: int) -> list[dict]:
    """Kill once before and once after each (or each n-th) call that changes the disk, and go on from there."""
    found, call = [], 1
    while True:
        for when in ("before", "after"):
            directory = folder / f"{call}-{when}"
            end = ended(child(directory, images, call=call, when=when))
            if end == "finished":
                return found
            entry = {"call": call, "when": when, "end": end, **left(directory)}
            entry["then"] = ended(child(directory, images))
            entry["result"] = result(directory) if entry["then"] == "finished" else None
            entry["files"] = sorted(path.name for path in directory.iterdir())
            shutil.rmtree(directory)
            found.append(entry)
        call += step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--random", type=int, default=5)
    parser.add_argument("--stage-step", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = CONFIG.load_images()
    # Here first, so that the children find everything imported.
    train(CONFIG, images=images, device="cpu")
    start = time.perf_counter()
    ended(child(arguments.folder / "uninterrupted", images))
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "seconds": seconds,
                "uninterrupted": result(arguments.folder / "uninterrupted"),
                "files": sorted(path.name for path in (arguments.folder / "uninterrupted").iterdir()),
                "random": at_random(arguments.folder / "random", images, arguments.random, seconds),
                "stages": at_every_stage(arguments.folder / "stages", images, arguments.stage_step),
            }
        )
    )


if __name__ == "__main__":
    main()
