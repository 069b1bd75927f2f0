"""The facts about an environment that a result may depend on: versions, device, the package's own state."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

# Distributions whose version can move a number; others are named only when imported.
_ALWAYS = ("torch", "numpy", "scipy", "networkx", "scikit-learn")
_IF_IMPORTED = {"timm": "timm", "torchvision": "torchvision"}


def environment_facts(device: Any = "cpu") -> dict[str, Any]:
    """Return versions and hardware, as they are now.

    Parameters
    ----------
    device : str or torch.device
        Where the work ran: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Returns
    -------
    dict
        ``version`` (of this package), ``commit`` (str or None) and ``modified`` (bool or None) if it runs
        from a checkout, ``python``, ``platform``, ``device`` (name of the hardware), ``cores`` and
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
    names = [*_ALWAYS, *(name for name, module in _IF_IMPORTED.items() if module in sys.modules)]
    return {
        "version": __version__,
        "commit": commit,
        "modified": modified,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "cores": _cores(),
        "libraries": {name: version for name in names if (version := _version(name)) is not None},
    }


def device_name(device: Any) -> str:
    """Return the name of the hardware behind a torch device, such as ``cuda:0 (NVIDIA A100)``."""
    device = str(device)
    if device.startswith("cuda"):
        import torch

        if torch.cuda.is_available():
            return f"{device} ({torch.cuda.get_device_name(device)})"
        return device
    model = _processor() if device == "cpu" else platform.processor()
    return f"{device} ({model})" if model else device


def checkout_state(package: Path) -> tuple[str | None, bool | None]:
    """Return commit and whether the package differs from it; (None, None) if it is not in a checkout.

    Parameters
    ----------
    package : Path
        Folder of the package.

    Returns
    -------
    commit : str or None
        The first 12 digits.
    modified : bool or None
    """
    # A package installed in an environment inside some repository is not tracked by it.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "--short=12", "HEAD")
    status = _git(package, "status", "--porcelain", "--", ".")
    return (commit, bool(status)) if commit and status is not None else (None, None)


def _git(folder: Path, *arguments: str) -> str | None:
    # Inside a git hook these point to whatever repository the hook belongs to.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
