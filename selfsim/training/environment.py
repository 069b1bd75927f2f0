"""The facts about an environment that a result may depend on: versions, device, the package's own state."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# Distributions whose version can move a number; the last two are named only when imported.
_LIBRARIES = ("torch", "numpy", "scipy", "networkx", "scikit-learn", "timm", "torchvision")


def environment_facts(device: Any = "cpu") -> dict[str, Any]:
    """Return versions and hardware, as they are now.

    Parameters
    ----------
    device : str or torch.device
        Where the work ran: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; or a ``device`` that this function returned.

    Returns
    -------
    dict
        ``version`` (of this package), ``commit`` (str or None) and ``modified`` (bool or None) if it runs
        from a checkout, ``python``, ``platform``, ``device`` (with the name of the hardware), ``cores`` and
        ``libraries`` (name to version). All of it can be written as JSON.

    Notes
    -----
    Versions are read from the installed metadata; nothing is imported for them.

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


def device_name(device: Any) -> str:
    """Return a torch device with the name of its hardware, such as ``cuda:0 (NVIDIA A100)``; that stays as it is."""
    device, hardware = str(device), ""
    if device == "cpu":
        with suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    hardware = line.partition(":")[2].strip()
                    break
        hardware = hardware or platform.processor()
    elif device.startswith("cuda") and "(" not in device:
        import torch

        hardware = torch.cuda.get_device_name(device) if torch.cuda.is_available() else ""
    return f"{device} ({hardware})" if hardware else device


def checkout_state(package: Path) -> tuple[str | None, bool | None]:
    """Return the commit of a package's checkout (12 digits), and whether the package differs from it.

    Both are None if the package is not tracked by git: one that is installed in an environment inside some
    repository is not that repository's.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit, status = _git(package, "rev-parse", "--short=12", "HEAD"), _git(package, "status", "--porcelain", ".")
    return (commit, bool(status)) if commit and status is not None else (None, None)


def _git(folder: Path, *arguments: str) -> str | None:
    # Inside a git hook, variables of these names point to whatever repository the hook belongs to.
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
