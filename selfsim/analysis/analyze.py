"""The whole analysis of a model in one call: every layer's statistics beside their null bands."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from tqdm.auto import tqdm

from ..checks import as_number, check_choice, check_flag, check_integer, check_number, check_seed, errors_named
from ..files import read_arrays, write_arrays
from ..models.probe import activations
from ..rate.network import FeatureNetwork
from ..rate.rate import ss_rate
from ..statistics.movement import movement
from ..statistics.null_models import NULLS, NullBand, null_band
from ..statistics.scaling import scaling_deviation
from .html_table import html_table
from .statistics import COLUMNS, STATISTICS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


# The statistics with null bands.
_BANDED: Mapping[str, Callable[[Any], Tensor]] = {
    "rate": ss_rate,
    "rate_median_unit": functools.partial(ss_rate, unit="median"),
    "deviation": scaling_deviation,
}
_OWN_COLUMNS = {"neurons", "samples", "note", *_BANDED, "dimension", "octaves", "scales"}
DEFAULT_STATISTICS = ("rate", "scaling", "dimension", "spectrum")


def analyze(
    model: nn.Module,
    loader: Iterable,
    *,
    layers: int | Sequence[str] | None = None,
    samples: int = 128,
    statistics: Sequence[str | Callable[[Tensor], Any]] | None = None,
    nulls: Sequence[str] = ("shuffled", "gauss"),
    draws: int = 40,
    level: float = 0.95,
    device: str | torch.device = "auto",
    progress: bool = True,
    seed: int = 0,
    **reading: Any,
) -> Analysis:
    """Analyze every layer of a model: its SS rate in null bands, its scaling range, dimension and spectrum.

    Parameters
    ----------
    model : nn.Module
        Any model: of images, tokens or graphs. It is left as it was, in its mode and on its device.
    loader : iterable
        Batches ``x``, ``(x, y)`` or dicts; see `selfsim.activations`.
    layers : int or sequence of str, optional
        Layers to read, by the rules of `selfsim.Probe`; by default every block.
    samples : int
        Number of samples, taken from the front of the loader. Rates depend on it: compare equally many.
    statistics : sequence of str or callable, optional
        Names from ``selfsim.analysis.statistics.STATISTICS``, and functions of activations ``(samples, neurons)``; the
        names of these become columns. By default "rate", "scaling", "dimension" and "spectrum".
    nulls : sequence of {"shuffled", "gauss", "gauss-covariance"}
        Null models of the bands, see `selfsim.null_activations`; empty for no bands. The columns of the first are
        ``null_low``, ``null_high`` and ``z``, those of the others begin with their names.
    draws : int
        Draws of each null model, at least 2. A level of 0.95 needs 39.
    level : float
        Probability that a band holds a fresh draw.
    device : str
        ``"auto"``: CUDA if there is a card, else the CPU.
    progress : bool
        Whether to show a progress bar over the layers.
    seed : int
        Seed of the null draws.
    **reading
        ``pooling``, ``channels``, ``part`` and ``mask`` of `selfsim.activations`.

    Returns
    -------
    Analysis
        One row a layer. What cannot be computed for a layer is missing in its row, with the reason in ``note``.

    Raises
    ------
    TypeError, ValueError
        A loader without batches or with too few samples, an unknown layer, statistic or null model.

    Notes
    -----
    Time: the forward passes, and for each layer and null model `draws` draws, in threads on a CPU (`null_band`).

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    >>> random = torch.Generator().manual_seed(0)
    >>> batches = [torch.randn(128, 20, generator=random)]
    >>> analysis = analyze(model, batches, draws=5, progress=False, device="cpu")
    >>> sorted(analysis.to_pandas().columns)[:4]
    ['deviation', 'deviation_gauss_high', 'deviation_gauss_low', 'deviation_gauss_z']
    """
    columns = _named(DEFAULT_STATISTICS if statistics is None else statistics)
    nulls = [check_choice(null, NULLS, name="nulls") for null in _sequence(nulls, name="nulls")]
    if len(set(nulls)) < len(nulls):
        raise ValueError(f"nulls: got {nulls!r}, need each null model once")
    draws = check_integer(draws, name="draws", least=2)
    level = check_number(level, name="level", within="(0, 1)")
    seed, progress = check_seed(seed), check_flag(progress, name="progress")
    hidden = activations(model, loader, layers=layers, samples=samples, device=device, **reading)

    band: Callable[..., Any] = functools.partial(null_band, draws=draws, level=level, seed=seed)
    rows, bands = {}, {}
    for layer in tqdm(hidden, desc="layers", disable=not progress, leave=False):
        with errors_named(f"layer {layer!r}"):
            rows[layer], bands[layer] = _analyzed(hidden[layer], columns, nulls, band)
    return Analysis(hidden, rows, bands)


def _sequence(values: Any, *, name: str) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: got {values!r}, need a sequence, such as [{values!r}]")
    return list(values)


def _named(statistics: Sequence[str | Callable]) -> dict[str, Callable[[Tensor], Any]]:
    named: dict[str, Callable[[Tensor], Any]] = {}
    for statistic in _sequence(statistics, name="statistics"):
        if callable(statistic):
            name, function = getattr(statistic, "__name__", type(statistic).__name__), statistic
            taken = {*named, *_OWN_COLUMNS, *STATISTICS, *_BAND_COLUMNS}
        else:
            name = check_choice(statistic, STATISTICS, name="statistics")
            function, taken = STATISTICS[name], set(named)
        if name in taken:
            raise ValueError(f"statistics: got a second {name!r}, need functions with names (`__name__`) of their own")
        named[name] = function
    return named


def _analyzed(
    activations: Tensor,
    statistics: Mapping[str, Callable[[Tensor], Any]],
    nulls: Sequence[str],
    band: Callable[..., Mapping[str, NullBand]],
) -> tuple[dict[str, Any], dict[str, dict[str, NullBand]]]:
    """Return the row of one layer, and its bands by null model and column."""
    samples, neurons = activations.shape
    row: dict[str, Any] = {"neurons": neurons, "samples": samples}
    notes: dict[str, str] = {}
    for name, statistic in statistics.items():
        try:
            values = statistic(activations if name in STATISTICS else activations.clone())  # it may change them
        except (ValueError, ArithmeticError, LinAlgError, ModuleNotFoundError) as error:
            row |= dict.fromkeys(COLUMNS.get(name, (name,)), math.nan)
            notes[name] = str(error)
            continue
        for column, value in (values if isinstance(values, Mapping) else {name: values}).items():
            own = name not in STATISTICS and column in {*_OWN_COLUMNS, *_BAND_COLUMNS, *STATISTICS}
            if column in row or own:
                raise ValueError(
                    f"statistics: {name!r} gives the column {column!r}, which is another's; need another name"
                )
            with errors_named(f"statistics: {name!r}"):
                row[column], reason = _number(value)
            if reason:
                notes[column] = reason
    banded = {column: compute for column, compute in _BANDED.items() if math.isfinite(row.get(column, math.nan))}
    bands: dict[str, dict[str, NullBand]] = {}
    for k, null in enumerate(nulls if banded else ()):
        try:
            bands[null] = dict(band(banded, activations, null=null))
        except ValueError as error:
            notes[f"null {null}"] = str(error)
            continue
        for column, of_column in bands[null].items():
            low, high, z = band_columns(column, null, first=k == 0)
            row[low], row[high] = of_column.low, of_column.high
            try:
                row[z] = of_column.z_score(row[column])
            except ValueError as error:
                notes[z] = str(error)
    row["note"] = "; ".join(f"{name}: {reason}" for name, reason in notes.items())
    return row, bands


def band_columns(column: str, null: str, *, first: bool) -> tuple[str, str, str]:
    """Return the names of the columns of one null band: its ends, and the z-score."""
    before = ("" if column == "rate" else f"{column}_") + ("null_" if first else f"{null}_")
    return f"{before}low", f"{before}high", f"{before}z".replace("null_z", "z")


_BAND_COLUMNS = {
    name
    for column, null, first in itertools.product(_BANDED, NULLS, (True, False))
    for name in band_columns(column, null, first=first)
}


def _number(value: Any) -> tuple[Any, str]:
    """Return a value for a table, and why there is none."""
    reason = getattr(value, "reason", "")
    if reason:
        return math.nan, reason
    if isinstance(value, str | bool):
        return value, ""
    number = as_number(value)
    return number, "" if math.isfinite(number) else f"got {number}, which is not finite"


def _is_numeric(value: Any) -> TypeGuard[float]:
    """Return whether a column holds such values as numbers, NaN among them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _band_as_json(band: Any) -> dict[str, Any]:
    if not isinstance(band, NullBand):
        raise TypeError(f"rows: got {type(band).__name__}, need text, numbers of Python and booleans")
    return {"values": band.values.tolist(), "level": band.level}


@dataclass(frozen=True, eq=False)
class Analysis:
    """The statistics of every layer of a model, as `analyze` returns them.

    A notebook shows it as a table, with each rate drawn in its null bands.

    Attributes
    ----------
    activations : dict of str to Tensor, shape (samples, neurons)
        What was analyzed, by layer.
    rows : dict of str to dict
        The values of each layer by column, as in `to_pandas`.
    bands : dict of str to dict of str to dict of str to NullBand
        Null bands by layer, null model and column ("rate", "rate_median_unit", "deviation").

    Examples
    --------
    >>> Analysis({"fc": torch.eye(4)}, {"fc": {"neurons": 4, "samples": 4, "rate": 0.2, "note": ""}}, {"fc": {}})
    Analysis(1 layer: neurons, samples, rate)
    """

    activations: dict[str, Tensor]
    rows: dict[str, dict[str, Any]]
    bands: dict[str, dict[str, dict[str, NullBand]]]

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in the order of the model."""
        return list(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, ``note`` last."""
        names = dict.fromkeys(column for row in self.rows.values() for column in row if column != "note")
        return [*names, "note"]

    @property
    def measures(self) -> list[str]:
        """Names of the columns without those of the null bands and the notes."""
        return [name for name in self.columns if name not in {*_BAND_COLUMNS, "note"}]

    def __repr__(self) -> str:
        layers = f"{len(self.rows)} layer{'s' if len(self.rows) != 1 else ''}"
        return f"Analysis({layers}: {', '.join(self.measures)})"

    def to_pandas(self) -> pd.DataFrame:
        """Return one row a layer; the column ``note`` says why a number is missing.

        By default: ``neurons``, ``samples``, ``rate`` and its bands (``null_low``, ``null_high``, ``z``; ``gauss_low``,
        …), ``deviation`` and its bands, ``dimension``, ``octaves`` and ``scales`` (`scaling`), ``sample_dimension``
        (`correlation_dimension`), ``exponent`` and ``spectrum`` (`spectrum_exponent` and its verdict).
        """
        import pandas as pd

        return pd.DataFrame.from_dict(self.rows, orient="index", columns=self.columns).rename_axis("layer")

    def network(self, layer: str) -> FeatureNetwork:
        """Return the feature network of one layer."""
        return FeatureNetwork(self.activations[check_choice(layer, self.layers, name="layer")])

    def _check_banded(self, column: str) -> None:
        if check_choice(column, _BANDED, name="column") not in self.columns:
            raise ValueError(f"column: got {column!r}, need one of the columns {', '.join(self.columns)}")

    def bands_of(self, column: str = "rate") -> dict[str, list[NullBand]]:
        """Return the null bands by layer, one for each null model.

        `column` is "rate", "rate_median_unit" or "deviation", one that was asked for.
        """
        self._check_banded(column)
        return {
            layer: [of_null[column] for of_null in nulls.values() if column in of_null]
            for layer, nulls in self.bands.items()
        }

    def outside(self, column: str = "rate") -> dict[str, list[str]]:
        """Return the layers whose `column` lies outside its band, by null model; columns as in `bands_of`.

        A band of level 0.95 leaves out 1 of 20 draws without structure, so of many layers a few are outside by chance.
        """
        self._check_banded(column)
        found: dict[str, list[str]] = {}
        for layer, of_layer in self.bands.items():
            for null, bands in of_layer.items():
                outside = column in bands and not bands[column].low <= self.rows[layer][column] <= bands[column].high
                found.setdefault(null, []).extend([layer] if outside else [])
        return found

    def plot(self, other: Analysis | None = None) -> Figure:
        """Plot the rate, the deviation from a power law and the scaling range by layer, with the null bands.

        Parameters
        ----------
        other : Analysis, optional
            A second one to draw beside it: of another model, or of the same model before training. Layers are matched
            by name.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from ..figures.analysis import plot_analysis

        return plot_analysis(self.rows, self.bands, other=None if other is None else self._matched(other))

    def compare(self, other: Analysis) -> pd.DataFrame:
        """Compare with another analysis: of the same model before fine-tuning, or of another model.

        Parameters
        ----------
        other : Analysis
            Layers are matched by name. Those that only one of the two has are left out.

        Returns
        -------
        pandas.DataFrame
            One row a layer. For each column of numbers, the value here, in `other`, and the difference of the two.
            For layers of equal width, the share of nearest neighbours that are the same (see `selfsim.movement`).

        Raises
        ------
        ValueError
            No layer in common.
        """
        import pandas as pd

        rows = {}
        for layer, there in self._matched(other).items():
            here = self.rows[layer]
            row: dict[tuple[str, str], Any] = {}
            for column in self.columns:
                a, b = here.get(column), there.get(column)
                if _is_numeric(a) and _is_numeric(b):
                    row[column, "here"], row[column, "other"], row[column, "difference"] = a, b, a - b
            x, y = self.activations[layer], other.activations[layer]
            if x.shape[1] == y.shape[1]:
                with suppress(ValueError):  # a layer without a rate; its note says why
                    row["neighbours", "kept"] = movement(y.to(x), x).neighbours_kept
            rows[layer] = row
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")
        table.columns = pd.MultiIndex.from_tuples(table.columns)
        return table

    def _matched(self, other: Analysis) -> dict[str, dict[str, Any]]:
        """Return the rows of another analysis whose layers this one has too."""
        if not isinstance(other, Analysis):
            raise TypeError(f"other: got {type(other).__name__}, need an Analysis")
        if not (common := [layer for layer in self.layers if layer in other.rows]):
            raise ValueError(f"other: got the layers {other.layers}, need some of {self.layers}")
        return {layer: other.rows[layer] for layer in common}

    def save(self, path: str | os.PathLike) -> None:
        """Write to a ``.npz`` file of arrays and text, in one step; half precision is stored as float32."""
        arrays: dict[str, Any] = {}
        for k, values in enumerate(self.activations.values()):
            stored = values.detach().cpu()
            arrays[f"activations-{k}"] = (stored if stored.dtype == torch.float64 else stored.float()).numpy()
        as_json = json.dumps({"rows": self.rows, "bands": self.bands}, default=_band_as_json)
        write_arrays(path, arrays | {"analysis": np.array(as_json)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Analysis:
        """Read what `save` wrote; nothing in the file is executed.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file, or not one that `save` wrote.
        """
        with read_arrays(path, what="an analysis") as stored:
            text = json.loads(stored["analysis"].item())
            activations = {layer: torch.from_numpy(stored[f"activations-{k}"]) for k, layer in enumerate(text["rows"])}
            for null, bands in itertools.chain(*(of_layer.items() for of_layer in text["bands"].values())):
                for column, band in bands.items():
                    bands[column] = NullBand(np.array(band["values"]), null, band["level"])
        return cls(activations, text["rows"], text["bands"])

    def _repr_html_(self) -> str:
        return html_table(self.measures, self.rows, self.bands)
