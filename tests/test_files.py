"""Files: atomic writes where directories cannot be synced, locks where there are none, YAML that cannot explode."""

from __future__ import annotations

import errno
import os

import pytest

from selfsim.files import locked_directory, read_yaml, write_atomic

NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL]


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl", reason="Windows has no locks of this kind")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with pytest.warns(UserWarning, match="this file system has no locks"), locked_directory(tmp_path):
            pass


def test_a_lock_names_its_owner_and_ends_with_the_block(tmp_path):
    pytest.importorskip("fcntl", reason="Windows has no locks of this kind")
    with locked_directory(tmp_path):
        owner = f"another process writes here .process {os.getpid()} on "
        with pytest.raises(BlockingIOError, match=owner), locked_directory(tmp_path):
            pass
    with locked_directory(tmp_path):
        pass


def test_another_error_of_the_lock_is_an_error(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="Windows has no locks of this kind")

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), locked_directory(tmp_path):
        pass


def test_a_file_is_saved_where_a_directory_cannot_be_opened(tmp_path, monkeypatch):
    opens = os.open

    def refuse(path, flags, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opens(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    write_atomic(tmp_path / "a", b"1", b"2")
    assert (tmp_path / "a").read_bytes() == b"12"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF])
def test_a_file_is_saved_where_a_directory_cannot_be_synced(tmp_path, monkeypatch, number):
    syncs = os.fsync

    def refuse(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        syncs(descriptor)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("only here can a descriptor be asked what it is")
    monkeypatch.setattr(os, "fsync", refuse)
    write_atomic(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_failed_write_leaves_the_old_content_and_no_partial_file(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a", b"old")

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="cannot write .*what was saved there before is intact") as caught:
        write_atomic(tmp_path / "a", b"new")
    assert caught.value.filename == str(tmp_path / "a")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "line 6: expands to more than 100,000 nodes"),
        (BOMB.partition("a11")[0] + "? *a10\n: 1\n", "expands to more than 100,000 nodes"),
        *(
            (f"a: {value}", "a value is not of the type of its tag")
            for value in ("!!int ''", "!!bool x", "!!timestamp x")
        ),
        ("a: &a [*a]", "line 1: an alias stands inside its own anchor"),
        ("a: 1\nb: &b {c: {d: *b}}", "line 2: an alias stands inside its own anchor"),
        ("a: 1\nb: " + "[" * 20_000, "line 2: nested more than 50 deep"),
        ("x: " + "{a: " * 20_000, "line 1: nested more than 50 deep"),
        ("- " * 20_000, "line 1: nested more than 50 deep"),
        ("a: 1\nb: 2\na: 3", "line 1 and after: the key 'a' occurs twice"),
        ("".join(f"key{n}: 1\n" for n in range(60_000)), "holds more than 100,000 characters"),
        ("a: [1\nb: 2", "line 2"),
        ("a: !!python/object/apply:os.system [x]", "line 1"),
        ("a: 2024-99-99", "month must be in"),
        ("a: " + "1" * 5000, "digits"),
        (b"a: \xff\xfe", "utf-8"),
        (b"a: \x00", "unacceptable character"),
    ],
)
def test_yaml_that_cannot_be_read_is_an_error_with_the_file_within_a_moment(tmp_path, content, message):
    path = tmp_path / "runs.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"^{path}: .*{message}"):
        read_yaml(path)


def test_yaml_reads_no_number_in_base_60_or_8(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("[1:30, -1:30, 1:30.5, 010, 0, 0x10, 10, -3, 0.5, 1.5e+3, 1_000, 190:20:30]")
    assert read_yaml(path) == ["1:30", "-1:30", "1:30.5", "010", 0, 16, 10, -3, 0.5, 1500.0, 1000, "190:20:30"]
    path.write_text("")
    assert read_yaml(path) is None
