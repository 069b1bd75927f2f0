"""Checkpoints: what is damaged is recognised, what cannot be written leaves what was there, nothing is executed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import random
from pathlib import Path

import pytest
import torch

from selfsim.files import write_atomic
from selfsim.training.runs import (
    checkpoint_files,
    last_checkpoint,
    read_checkpoint,
    save_checkpoint,
)


def state(number: int = 0) -> dict:
    generator = torch.Generator().manual_seed(number)
    return {"weights": torch.randn(40, 30, generator=generator), "number": number, "names": ["a", ("b", None)]}


@pytest.fixture
def two(tmp_path):
    """A directory with two checkpoints."""
    save_checkpoint(tmp_path, (0, 5), state(1))
    save_checkpoint(tmp_path, (1, 0), state(2))
    return tmp_path


def test_what_is_saved_comes_back_and_the_last_two_are_kept(tmp_path):
    for epochs, steps in ((0, 9), (0, 10), (1, 0), (1, 12), (10, 0), (9, 3)):
        save_checkpoint(tmp_path, (epochs, steps), state(10 * epochs + steps))
    assert list(checkpoint_files(tmp_path)) == [(9, 3), (10, 0)]
    found = last_checkpoint(tmp_path)
    assert found["number"] == 100 and found["names"] == ["a", ("b", None)]
    assert torch.equal(found["weights"], state(100)["weights"])
    assert not list(tmp_path.glob("*.partial"))


def test_no_flipped_bit_and_no_truncation_is_accepted(two):
    newest = list(checkpoint_files(two).values())[-1]
    intact, draw = newest.read_bytes(), random.Random(0)
    # The first line, where the digest is, in full; then all over the file.
    flips = list(range(0, 66 * 8, 8))[:60] + [draw.randrange(8 * len(intact)) for _ in range(240)]
    cuts = [0, 1, 64, 65, 66, len(intact) - 1] + [draw.randrange(len(intact)) for _ in range(14)]
    damaged = []
    for bit in flips:
        content = bytearray(intact)
        content[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(content))
    damaged += [intact[:cut] for cut in cuts]
    assert len(damaged) == 320
    for content in damaged:
        newest.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged, its SHA-256"):
            read_checkpoint(newest)
    newest.write_bytes(intact)
    assert read_checkpoint(newest)["number"] == 2


def test_a_damaged_checkpoint_warns_and_the_one_before_it_is_used(two):
    newest = list(checkpoint_files(two).values())[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=rf"{newest.name}' is damaged.*the checkpoint before it"):
        assert last_checkpoint(two)["number"] == 1
    # It is out of the way: the two that are kept from now on are intact.
    save_checkpoint(two, (0, 7), state(3))
    assert [read_checkpoint(path)["number"] for path in checkpoint_files(two).values()] == [1, 3]


def test_all_damaged_is_as_none(two):
    for path in checkpoint_files(two).values():
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        assert last_checkpoint(two) is None
    assert last_checkpoint(two / "nowhere") is None


class Malice:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"weights": Malice()}, buffer) if how == "torch" else pickle.dump(Malice(), buffer)
    payload = buffer.getvalue()
    path = Path("checkpoint-00001-0000000.pt")
    path.write_bytes(hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)  # and its digest is right
    with pytest.raises(ValueError, match="is not one of selfsim's"):
        read_checkpoint(path)
    assert not Path("executed").exists()


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(two, monkeypatch, broken):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match=r"cannot write \(No space left.*checkpoint-00002-0000000.pt") as caught:
        save_checkpoint(two, (2, 0), state(3))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert last_checkpoint(two)["number"] == 2
    assert not list(two.glob("*.partial"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is Linux's")
def test_a_disk_that_is_really_full(two):
    (two / "checkpoint-00002-0000000.pt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write \(No space left.*checkpoint-00002-0000000.pt"):
        save_checkpoint(two, (2, 0), state(3))
    assert last_checkpoint(two)["number"] == 2


def test_a_name_that_cannot_be_written_is_in_the_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/config.json"):
        write_atomic(tmp_path / "file" / "config.json", b"{}")
