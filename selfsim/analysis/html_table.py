"""The table of an analysis in a notebook: HTML with a small plot of each rate in its null bands."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..statistics.null_models import NullBand

Rows = Mapping[str, Mapping[str, Any]]
Bands = Mapping[str, Mapping[str, Mapping[str, NullBand]]]
_BANDS = "rate in its null bands"
_SHADES = (("dark", "#87909a"), ("light", "#c9ced3"), ("black", "#3d444b"))  # of the null models, in their order


def html_table(columns: Sequence[str], rows: Rows, bands: Bands) -> str:
    """Return one row a layer, with the bands of the rate drawn; the notes stand below, folded.

    The number of samples stands in the caption if all layers have the same.
    """
    samples = {row.get("samples") for row in rows.values()}
    columns = [column for column in columns if column != "samples" or len(samples) > 1]
    if "rate" in columns:
        columns.insert(columns.index("rate") + 1, _BANDS)
    names = [html.escape(column).replace("_", "_<wbr>") for column in ["layer", *columns]]
    header = "".join(f"<th scope='col'>{name}</th>" for name in names)
    axis = _axis(rows, bands)
    nulls = list(dict.fromkeys(null for of_layer in bands.values() for null in of_layer))
    shades = dict(zip(nulls, _SHADES, strict=False))
    body = []
    for layer, row in rows.items():
        drawn = _drawn(row.get("rate"), bands.get(layer, {}), axis, shades)
        cells = [drawn if column == _BANDS else html.escape(_text(row.get(column))) for column in columns]
        name = f"<th scope='row' style='white-space:nowrap'>{html.escape(layer)}</th>"
        body.append(f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    named = [f"{shade}: {null}" for null, (shade, _) in shades.items()]
    caption = f"{len(rows)} layers" + (f", {samples.pop()} samples." if len(samples) == 1 else ".")
    if nulls and _BANDS in columns:
        caption += f" Bars: null bands of the rate ({', '.join(named)}). Dot: the layer."
    notes = [
        f"<li><b>{html.escape(layer)}</b>: {html.escape(row['note'])}</li>"
        for layer, row in rows.items()
        if row["note"]
    ]
    folded = f"<details><summary>Missing numbers</summary><ul>{''.join(notes)}</ul></details>" if notes else ""
    return (
        # Wider than a phone: with a tab stop, the keyboard can scroll it.
        "<div style='overflow-x:auto' role='group' aria-label='Table of the layers' tabindex='0'><table>"
        f"<caption style='text-align:left'>{html.escape(caption)}</caption>"
        f"<thead><tr>{header}</tr></thead><tbody>{''.join(body)}</tbody></table>{folded}</div>"
    )


def _axis(rows: Rows, bands: Bands) -> tuple[float, float]:
    """Return the rates between which all small plots run."""
    of_rates = [band["rate"] for of_layer in bands.values() for band in of_layer.values() if "rate" in band]
    values = [row["rate"] for row in rows.values() if _text(row.get("rate")) != "–"]
    values += [end for band in of_rates for end in (band.low, band.high)]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _drawn(
    rate: float | None,
    bands: Mapping[str, Mapping[str, NullBand]],
    axis: tuple[float, float],
    shades: Mapping[str, tuple[str, str]],
) -> str:
    """Return a small plot as SVG: a grey bar for each null model, a dot for the layer."""
    if rate is None or math.isnan(rate):
        return ""
    length = max(axis[1] - axis[0], 1e-9)
    at = 6 + 108 * (rate - axis[0]) / length
    parts, words = [], [f"rate {rate:.3f}"]
    of_rate = {null: of_null["rate"] for null, of_null in bands.items() if "rate" in of_null}
    for k, (null, band) in enumerate(of_rate.items()):
        height = 14 / len(of_rate)
        left, width = 6 + 108 * (band.low - axis[0]) / length, max(108 * (band.high - band.low) / length, 1)
        place = f"x='{left:.1f}' y='{3 + k * height:.1f}' width='{width:.1f}' height='{height - 1:.1f}'"
        parts.append(f"<rect {place} fill='{shades[null][1]}'/>")
        words.append(f"{null} null {band.low:.3f} to {band.high:.3f}")
    label = html.escape("; ".join(words), quote=True)
    return (
        f"<svg width='120' height='20' role='img' aria-label='{label}'><title>{label}</title>"
        f"{''.join(parts)}<circle cx='{at:.1f}' cy='10' r='4' fill='#d55e00'/></svg>"
    )


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
