"""The last lines of every executed page: what made it."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .environment import environment_facts


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
    device: Any = "cpu",
    started: float | None = None,
) -> Provenance:
    """Gather what made a page, to be the value of its last cell.

    Parameters
    ----------
    parameters : mapping of str to object
        The notebook's parameters as they were used.
    seeds : sequence of int, or int
    device : str or torch.device
        Where the work ran.
    started : float, optional
        When the work started, as ``time.time()`` gave it. Without it no run time is shown.

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
        "Seeds": str(seeds) if isinstance(seeds, int) else ", ".join(map(str, seeds)) or "none",
        "Device": f"{facts['device']}, {facts['cores']} CPU cores, {facts['platform']}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if started is not None:
        seconds = time.time() - started
        if seconds < 0:
            raise ValueError(f"started: got {started!r}, which lies {-seconds:.0f} s in the future")
        rows["Run time"] = f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return Provenance(rows)
