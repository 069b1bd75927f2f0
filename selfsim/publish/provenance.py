"""The last lines of every executed page: what made it."""

from __future__ import annotations

import datetime
import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selfsim.training.environment import environment_facts


@dataclass(frozen=True)
class Provenance:
    """What made a page; shown as a table in a notebook.

    Parameters
    ----------
    facts : dict
        Of :func:`selfsim.training.environment.environment_facts`.
    parameters : dict
        By name.
    seeds : tuple of int
    date : str
        ISO 8601, UTC, to the minute.
    seconds : float or None
        Run time.
    """

    facts: dict[str, Any]
    parameters: dict[str, Any]
    seeds: tuple[int, ...]
    date: str
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in types that JSON has."""
        return asdict(self) | {"seeds": list(self.seeds)}

    def rows(self) -> list[tuple[str, str]]:
        """Return label and text of each line of the table."""
        facts = self.facts
        package = f"selfsim {facts['version']}"
        if facts["commit"]:
            package += f", commit {facts['commit']}" + (" (modified)" if facts["modified"] else "")
        parameters = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        versions = {"python": facts["python"]} | facts["libraries"]
        rows = [
            ("Package", package),
            ("Parameters", parameters or "none"),
            ("Seeds", ", ".join(map(str, self.seeds)) or "none"),
            ("Device", f"{facts['device']}, {facts['cores']} CPU cores, {facts['platform']}"),
            ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
            ("Date", self.date.replace("T", " ").replace("+00:00", " UTC")),
        ]
        if self.seconds is not None:
            rows.append(("Run time", _duration(self.seconds)))
        return rows

    def _repr_html_(self) -> str:
        body = "\n".join(
            f'<tr><th scope="row" style="text-align: left">{html.escape(label)}</th>'
            f'<td style="text-align: left">{html.escape(text)}</td></tr>'
            for label, text in self.rows()
        )
        caption = "<caption>What made this page</caption>"
        return f'<table class="provenance">\n{caption}\n<tbody>\n{body}\n</tbody>\n</table>'

    def _repr_markdown_(self) -> str:
        lines = ["| | What made this page |", "|---|---|"]
        lines += [f"| **{label}** | {_markdown(text)} |" for label, text in self.rows()]
        return "\n".join(lines)


def provenance(
    *,
    parameters: Mapping[str, Any],
    seeds: Sequence[int] | int,
    device: Any = "cpu",
    started: float | datetime.datetime | None = None,
) -> Provenance:
    """Gather what made a page, to be the value of its last cell.

    Parameters
    ----------
    parameters : mapping of str to object
        The notebook's parameters as they were used.
    seeds : sequence of int, or int
    device : str or torch.device
        Where the work ran.
    started : float or datetime, optional
        When the work started: seconds since the epoch (``time.time()``), or a datetime (a naive one is local
        time). Without it no run time is shown.

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
    >>> made.rows()[1:3]
    [('Parameters', 'epochs=3'), ('Seeds', '0, 1')]
    """
    now = datetime.datetime.now(datetime.UTC)
    seconds = None
    if started is not None:
        then = started.timestamp() if isinstance(started, datetime.datetime) else float(started)
        seconds = round(now.timestamp() - then, 1)
        if seconds < -1:
            raise ValueError(f"started: got {started!r}, which lies {-seconds:.0f} s in the future")
    return Provenance(
        facts=environment_facts(device),
        parameters={name: _plain(value) for name, value in parameters.items()},
        seeds=(seeds,) if isinstance(seeds, int) else tuple(int(seed) for seed in seeds),
        date=now.isoformat(timespec="minutes"),
        seconds=None if seconds is None else max(0.0, seconds),
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _markdown(text: str) -> str:
    for character in r"\|*_`<>[]$":
        text = text.replace(character, "\\" + character)
    return text
