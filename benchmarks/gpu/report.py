"""The rows of a run on disk, and the time that it has left."""

from __future__ import annotations

import contextlib
import json
import re
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from selfsim.files import write_atomic
from selfsim.training.provenance import environment_facts

ROOT = Path(__file__).parents[2]


class Report:
    """Results by section, written to a file after every row, within a number of seconds from its making."""

    def __init__(self, path: Path, device: torch.device, seconds: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._end = path, time.monotonic() + seconds
        self.sections: dict[str, dict[str, Any]] = {}
        self.card = card(device)
        self.write()

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._end - time.monotonic()

    def write(self) -> None:
        write_atomic(self.path, (json.dumps({"card": self.card} | self.sections, indent=1) + "\n").encode())

    @contextlib.contextmanager
    def section(self, name: str, share: float) -> Iterator[Section]:
        """Keep the traceback of what fails in this section. It may use `share` of the time that is left."""
        section = Section(self, share * self.left())
        self.sections[name] = section.content
        began = time.monotonic()
        try:
            yield section
        except (Exception, SystemExit):  # a parser of arguments ends by the latter
            section.content["failed"] = short_traceback()
        section.content["seconds"] = round(time.monotonic() - began, 2)
        self.write()


class Section:
    """The rows of one section."""

    def __init__(self, report: Report, seconds: float) -> None:
        self._report, self._end = report, time.monotonic() + seconds
        self.content: dict[str, Any] = {"rows": [], "left out": []}

    def left(self) -> float:
        """Return the seconds that are left to this section."""
        return self._end - time.monotonic()

    def passed(self, section: str, name: str) -> bool:
        """Return whether a check of an earlier section passed."""
        rows = self._report.sections.get(section, {"rows": []})["rows"]
        return any(row["name"] == name and row["passed"] for row in rows)

    def add(self, **row: Any) -> None:
        self.content["rows"].append(row)
        self._report.write()

    def leave_out(self, name: str, reason: str) -> None:
        self.content["left out"].append({"name": name, "reason": reason})
        self._report.write()


def card(device: torch.device) -> dict[str, Any]:
    """Return what the results were measured on."""
    facts: dict[str, Any] = {"environment": environment_facts(device), "cuda": torch.version.cuda}
    facts |= {"driver": None, "name": None}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"name": properties.name, "bytes": properties.total_memory, "driver": _driver()}
    return facts


def _driver() -> str | None:
    import subprocess

    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    return None


def short_traceback() -> str:
    """Return the last lines of the present exception's traceback, with paths below the repository."""
    return without_root("".join(traceback.format_exc().splitlines(keepends=True)[-14:]))


def without_root(text: str) -> str:
    """Return a text with the repository's path and those of installed packages shortened."""
    return re.sub(r"/[^\s\"':]*/(site|dist)-packages/", "", text.replace(f"{ROOT}/", ""))
