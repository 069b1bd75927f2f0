"""What made a result: versions, hardware and the package's own state, and the last lines of every executed page."""

from __future__ import annotations

import html
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Distributions whose version can move a number; the last two are named only when imported.
_LIBRARIES = ("torch", "numpy", "scipy", "networkx", "scikit-learn", "timm", "torchvision")


def environment_facts(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return versions, hardware and the package's commit.

    Parameters
    ----------
    device : str or torch.device
        Where the work ran: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or a ``device`` that this function returned before.

    Returns
    -------
    dict
        ``version`` (of this package), ``commit`` (str or None) and ``modified`` (bool or None) if it runs
        from a checkout, ``python``, ``platform``, ``device`` (with the name of the hardware), ``cores`` and
        ``libraries`` (name to version), all as JSON can hold them.

    Notes
    -----
    Versions are read from the installed metadata, without importing the libraries.

    Examples
    --------
    >>> sorted(environment_facts())
    ['commit', 'cores', 'device', 'libraries', 'modified', 'platform', 'python', 'version']
    """
    from selfsim import __version__

    commit, modified = checkout_state(Path(__file__).parents[1])
    libraries = {}
    for name in _LIBRARIES:
        if name not in ("timm", "torchvision") or name in sys.modules:
            with suppress(importlib.metadata.PackageNotFoundError):
                libraries[name] = importlib.metadata.version(name)
    return {
        "version": __version__,
        "commit": commit,
        "modified": modified,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "libraries": libraries,
    }


def device_name(device: str | torch.device) -> str:
    """Return a torch device with its hardware, such as ``cuda:0 (NVIDIA A100)``; such a name is returned unchanged."""
    device, hardware = str(device), ""
    if device == "cpu":
        with suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            hardware = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        hardware = hardware or platform.processor()
    elif device.startswith("cuda") and "(" not in device:
        import torch

        hardware = torch.cuda.get_device_name(device) if torch.cuda.is_available() else ""
    return f"{device} ({hardware})" if hardware else device


def checkout_state(package: Path) -> tuple[str | None, bool | None]:
    """Return the commit of a package's checkout (12 digits), and whether the package differs from it.

    Both are None if git does not track the package, as when it is installed in an environment inside some repository.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit, status = _git(package, "rev-parse", "--short=12", "HEAD"), _git(package, "status", "--porcelain", ".")
    return (commit, bool(status)) if commit and status is not None else (None, None)


def _git(folder: Path, *arguments: str) -> str | None:
    # Inside a git hook, these variables point to the hook's repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


@dataclass(frozen=True)
class Provenance:
    """What made a page, shown as a table in a notebook."""

    rows: dict[str, str]  # label and text

    def _repr_html_(self) -> str:
        left = 'style="text-align: left"'
        body = "\n".join(
            f'<tr><th scope="row" {left}>{label}</th><td {left}>{html.escape(text)}</td></tr>'
            for label, text in self.rows.items()
        )
        return f'<table class="provenance">\n<caption>What made this page</caption>\n{body}\n</table>'


def provenance(
    *,
    parameters: Mapping[str, Any],
    seeds: Sequence[int] | int,
    device: str | torch.device = "cpu",
    started: float | None = None,
) -> Provenance:
    """Return a table of what made a page, for its last cell.

    Parameters
    ----------
    parameters : mapping of str to object
        The notebook's parameters, with the values that were used.
    seeds : sequence of int, or int
    device : str or torch.device
        Where the work ran.
    started : float, optional
        ``time.time()`` at the start of the work. Without it, no run time is shown.

    Returns
    -------
    Provenance

    Raises
    ------
    ValueError
        `started` lies in the future.

    Examples
    --------
    >>> made = provenance(parameters={"epochs": 3}, seeds=[0, 1])
    >>> made.rows["Parameters"], made.rows["Seeds"]
    ('epochs=3', '0, 1')
    """
    facts = environment_facts(device)
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    versions = {"python": facts["python"]} | facts["libraries"]
    rows = {
        "Package": f"selfsim {facts['version']}{commit}" + (" (modified)" if facts["modified"] else ""),
        "Parameters": ", ".join(f"{name}={value!r}" for name, value in parameters.items()) or "none",
        "Seeds": ", ".join(map(str, seeds if isinstance(seeds, Iterable) else [seeds])) or "none",
        "Device": f"{facts['device']}, {facts['cores']} CPU cores, {facts['platform']}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if started is not None:
        seconds = time.time() - started
        if seconds < 0:
            raise ValueError(f"started: got {started!r}, which lies {-seconds:.0f} s in the future")
        whole = round(seconds)
        rows["Run time"] = f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"
    return Provenance(rows)
