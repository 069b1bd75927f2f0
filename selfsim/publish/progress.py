"""How far the chapters of a book are, on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any


class Silent:
    """Progress that is not shown: what a runner reports, by chapter."""

    def started(self, name: str, total: int) -> None: ...
    def cell(self, name: str, number: int, cells: int) -> None: ...
    def done(self, name: str) -> None: ...
    def kept(self, name: str) -> None: ...
    def failed(self, name: str) -> None: ...
    def close(self) -> None: ...


class Lines(Silent):
    """Progress as one line for each chapter that ends."""

    def __init__(self) -> None:
        self.clock: dict[str, float] = {}
        self.total = self.ended = 0

    def started(self, name: str, total: int) -> None:
        self.clock[name], self.total = time.monotonic(), total

    def done(self, name: str) -> None:
        self._end(name, "done")

    def kept(self, name: str) -> None:
        self._say(f"{name}: kept from an earlier run")

    def failed(self, name: str) -> None:
        self._end(name, "failed")

    def _end(self, name: str, how: str) -> None:
        self.ended += 1
        seconds = time.monotonic() - self.clock[name]
        self._say(f"{name}: {how} in {seconds:.0f} s ({self.ended} of {self.total})")

    def _say(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class Bars(Lines):
    """Progress as one bar for each chapter under way; it counts cells."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: dict[str, Any] = {}

    def cell(self, name: str, number: int, cells: int) -> None:
        from tqdm import tqdm

        if name not in self.bars:
            self.bars[name] = tqdm(total=cells, desc=name, unit="cell", leave=False)
        self.bars[name].update(number - self.bars[name].n)

    def _end(self, name: str, how: str) -> None:
        if name in self.bars:
            self.bars.pop(name).close()
        super()._end(name, how)

    def _say(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        for bar in self.bars.values():
            bar.close()


@contextlib.contextmanager
def shown(progress: bool) -> Iterator[Silent]:
    """Give what shows progress here: bars on a terminal, lines elsewhere, nothing if not `progress`."""
    show = Silent() if not progress else Bars() if sys.stderr.isatty() else Lines()
    try:
        yield show
    finally:
        show.close()
