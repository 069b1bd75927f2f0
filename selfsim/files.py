"""Files and folders: atomic writes, archives of arrays, a lock on a folder, YAML whose faults are named."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

LOCK = ".lock"
# File systems that cannot lock say so in one of these ways (NFS, SMB, some FUSE mounts).
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
# More nodes than any run list or grid has: aliases of aliases reach it within a few lines.
_MOST_NODES = 100_000
# Longer or deeper than any run list or grid: reading it would take minutes, or all of Python's stack.
_MOST_CHARACTERS = 100_000
_DEEPEST = 50
# Numbers in base 60 and base 8 to YAML 1.1.
_MISREAD = re.compile(r"[-+]?(\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?|0[\d_]+)")


def write_atomic(path: str | os.PathLike, *parts: bytes) -> None:
    """Write a file in one step: whenever the process or the machine stops, the old or the new content is there.

    Raises
    ------
    OSError
        Disk full, not writable, …: with the path. The previous content is intact.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        message = f"cannot write ({error.strerror}); what was saved there before is intact"
        raise OSError(error.errno, message, str(path)) from error


def walk(
    folder: str | os.PathLike, *, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder in a folder with the names of its files, following links; no link leads into a circle."""
    above: dict[str, tuple[str, ...]] = {}  # folder -> where those really are through which it was reached
    for place, folders, names in os.walk(os.fspath(folder), followlinks=True, onerror=onerror):
        way = (os.path.join(os.path.realpath(place), ""), *above.pop(place, ()))
        paths = {name: os.path.join(place, name) for name in folders}
        folders[:] = [name for name, path in paths.items() if not (os.path.islink(path) and _leads_back(path, way))]
        above |= {paths[name]: way for name in folders}
        yield place, names


def _leads_back(link: str, way: tuple[str, ...]) -> bool:
    target = os.path.join(os.path.realpath(link), "")
    return any(place.startswith(target) for place in way)


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
    """Write a compressed ``.npz`` file in one step: a full disk leaves the previous file intact."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())


@contextmanager
def read_arrays(path: str | os.PathLike, *, what: str) -> Iterator[Mapping[str, Any]]:
    """Open an ``.npz`` file for a block that reads and checks its arrays; nothing in it is executed.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; or the block, or the reading of an array, raised: `path` is not `what`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: no file {os.fspath(path)!r}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            yield stored
    except Exception as error:  # of zipfile, numpy and the block
        raise ValueError(f"path: {os.fspath(path)!r} is not {what} that save() wrote ({error})") from error


def sync_directory(directory: str | os.PathLike) -> None:
    """Flush a directory's names to disk, so that a renamed file survives a power cut.

    Does nothing where directories cannot be opened (Windows) or synced (some network file systems).
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked_directory(directory: str | os.PathLike, *, name: str = LOCK, wait: bool = False) -> Iterator[None]:
    """Lock a directory against other processes; the lock goes when this process ends, however it ends.

    With `wait`, it comes when no other process has it. Goes on with a warning where the file system has no locks, and
    without one on Windows.

    Raises
    ------
    BlockingIOError
        Another process holds the lock, without `wait`; says which one.
    OSError
        The directory cannot be written to.
    """
    try:
        lock = open(Path(directory) / name, "a+", encoding="utf-8")  # noqa: SIM115 - closed by `with lock` below
    except OSError as error:
        raise OSError(error.errno, f"cannot write ({error.strerror})", str(directory)) from error
    with lock:
        _lock(lock, directory, wait)
        yield


def _lock(file: Any, directory: str | os.PathLike, wait: bool) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        raise BlockingIOError(error.errno, f"another process writes here ({owner})", str(directory)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{directory}: this file system has no locks ({error.strerror}); start only one process that writes there",
            stacklevel=4,
        )
        return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()


def read_yaml(path: str | os.PathLike) -> Any:
    """Return the content of a YAML file, as `parse_yaml` reads it.

    Raises
    ------
    ValueError
        Not UTF-8, or what `parse_yaml` refuses; names the file.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_yaml(text: str) -> Any:
    """Return the content of YAML text.

    Numbers with colons or a leading zero stay text: YAML 1.1 reads ``1:30`` as 90 and ``010`` as 8.

    Raises
    ------
    ValueError
        Not YAML, a key that occurs twice, an alias inside its own anchor, aliases that expand to too many nodes, deep
        nesting (all with the line), or a text that is too long.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0
        sizes: ClassVar[dict[Any, int]] = {}  # how many nodes each node expands to

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.depth == _DEEPEST:
                raise ValueError(f"line {self.line + 1}: nested more than {_DEEPEST} deep")
            is_alias = self.check_event(yaml.AliasEvent)
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            if not is_alias:
                self.sizes[node] = _checked_size(node, self.sizes)
            elif node not in self.sizes:
                raise ValueError(f"line {node.start_mark.line + 1}: an alias stands inside its own anchor")
            return node

    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"holds more than {_MOST_CHARACTERS:,} characters")
    try:
        return Loader(text).get_single_data()
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (AttributeError, LookupError) as error:  # PyYAML's own, such as for `!!bool x`
        raise ValueError("a value is not of the type of its tag") from error


def _checked_size(node: Any, sizes: Mapping[Any, int]) -> int:
    """Number of nodes that a YAML node expands to; ``ValueError`` for what must not be constructed."""
    line = f"line {node.start_mark.line + 1}"
    if isinstance(node.value, str) and node.tag.endswith((":int", ":float")) and _MISREAD.fullmatch(node.value):
        node.tag = "tag:yaml.org,2002:str"
    children = node.value if isinstance(node.value, list) else []
    pairs = [child for child in children if isinstance(child, tuple)]
    # PyYAML keeps the last of two equal keys, and a chapter would vanish silently.
    keys = Counter(key.value for key, _ in pairs if isinstance(key.value, str))
    if twice := [key for key, count in keys.items() if count > 1]:
        raise ValueError(f"{line} and after: the key {min(twice)!r} occurs twice")
    parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
    size = 1 + sum(sizes[part] for part in parts)
    if size > _MOST_NODES:
        raise ValueError(f"{line}: expands to more than {_MOST_NODES:,} nodes")
    return size


def files_state(data_dir: str | os.PathLike | None) -> str | None:
    """Return a SHA-256 over names, sizes and times of all files in a data directory; None if there is no directory.

    It changes with the data, and costs one walk over the directory instead of decoding the images.
    """
    root = Path(data_dir).expanduser() if data_dir else None
    if root is None or not root.is_dir():
        return None
    facts = []
    for folder, names in walk(root):
        for name in names:
            path = Path(folder, name)
            if name.endswith(LOCK):
                continue
            with suppress(FileNotFoundError):  # removed meanwhile
                try:
                    status = path.stat()
                except OSError:  # a link to nothing, to itself, or to what may not be read
                    status = path.lstat()
                facts.append((path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()
