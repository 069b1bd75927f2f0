"""The box dimension d_B: the slope of ln N_B against ln size, its interval, and a comparison with exponential decay."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..checks import check_integer, check_number, check_range
from .counts import BoxCounts

FEWEST_SIZES = 3


@dataclass(frozen=True)
class FractalDimension:
    """A fitted box dimension.

    Attributes
    ----------
    d_B : float
        Minus the slope of ln N_B against ln size.
    low, high : float
        Its interval: Student's t for the slope, widened to the slopes of all shorter windows that span at least half
        of the window's range of ln size. It covers scatter and curvature, not a bias that all sizes share.
    level : float
        Nominal coverage of the Student part.
    size_name : {"l_B", "r_B"}
        What the fit is against.
    sizes, counts : ndarray, shape (points,)
        The points fitted.
    intercept : float
        ln N_B of the fit at ln size = 0.
    chosen : str
        How the window was chosen.
    r_squared, r_squared_exponential : float
        Share of the variance of ln N_B explained by a power of the size, and by an exponential decay with it.
    verdict : {"power law", "exponential", "undecided"}
        The fit that is better by more than 2 units of Akaike's criterion.
    """

    d_B: float
    low: float
    high: float
    level: float
    size_name: str
    sizes: NDArray
    counts: NDArray
    intercept: float
    chosen: str
    r_squared: float
    r_squared_exponential: float
    verdict: str

    @property
    def window(self) -> tuple[float, float]:
        """Smallest and largest size of the fit."""
        return float(self.sizes[0]), float(self.sizes[-1])

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        return f"{self.d_B:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def fractal_dimension(
    counts: BoxCounts,
    *,
    window: tuple[float, float] | None = None,
    fewest_boxes: int = 20,
    level: float = 0.95,
) -> FractalDimension:
    """Fit the box dimension to box counts, against the size as it was named, and compare with exponential decay.

    Parameters
    ----------
    counts : BoxCounts
        Of `box_counts`. Counts over r_B are fitted against r_B, counts over l_B against l_B: the same boxes give
        another slope against another size.
    window : (float, float), optional
        Smallest and largest size to fit. By default all sizes whose count is below the number of nodes, and at least
        `fewest_boxes` and twice the number of components: fewer boxes say more about the network's boundary than
        about its dimension.
    fewest_boxes : int
        See `window`.
    level : float
        Nominal coverage of the Student part of the interval; where its other part is wider, the level changes nothing.

    Returns
    -------
    FractalDimension
        With a verdict: a network whose counts fall exponentially has no dimension, whatever number is fitted.

    Raises
    ------
    TypeError, ValueError
        Not box counts; fewer than three sizes in the window; a level outside (0, 1).

    Warns
    -----
    UserWarning
        The components beyond the first may make up more than a tenth of the boxes at a fitted size. Each small one adds
        a box at every size: the counts fall too slowly, and an exponential decay can pass for a power law.

    Notes
    -----
    A size is fitted only if its count is below those of all smaller sizes, so a plateau is one point. The fit is
    least squares of ln N_B on ln size. For lengths, give `box_counts` sizes that are evenly spaced in ln size: its
    default ones are evenly spaced in ln(1 + size), so that the unit of length decides how many of them are short. Time
    O(points³), memory O(points).

    References
    ----------
    .. [1] C. Song, S. Havlin, H. A. Makse, Self-similarity of complex networks, Nature 433 (2005).
    .. [2] A. Clauset, C. R. Shalizi, M. E. J. Newman, Power-law distributions in empirical data, SIAM Review 51
       (2009): why a straight line in a log-log plot is not enough.

    Examples
    --------
    >>> from selfsim.boxes.fractals import flower
    >>> from selfsim.boxes.counts import box_counts
    >>> fit = fractal_dimension(box_counts(flower(2, 2, 6), method="memb"))
    >>> f"{fit:.2f}", fit.window, fit.verdict
    ('1.98 [1.89, 2.07]', (1.0, 4.0), 'power law')
    """
    if not isinstance(counts, BoxCounts):
        raise TypeError(f"counts: got {type(counts).__name__}, need BoxCounts, as box_counts returns them")
    level = check_number(level, name="level", within="(0, 1)")
    fewest_boxes = check_integer(fewest_boxes, name="fewest_boxes")
    sizes, boxes = counts.sizes, np.asarray(counts.counts, dtype=np.float64)
    falls = np.r_[True, boxes[1:] < np.minimum.accumulate(boxes)[:-1]]
    if window is None:
        floor = max(fewest_boxes, 2 * counts.components)
        keep = falls & (boxes < counts.n) & (boxes >= floor)
        chosen = f"counts below {counts.n} (all nodes) and at least {floor}; each count at its smallest size"
    else:
        low, high = check_range(window, name="window", within="[0, inf]")
        keep = falls & (sizes >= low) & (sizes <= high)
        chosen = f"given: {low:g} to {high:g}; each count at its smallest size"
    if keep.sum() < FEWEST_SIZES:
        raise ValueError(
            f"counts: got {keep.sum()} sizes in the fit window ({chosen}), need at least {FEWEST_SIZES}: a larger "
            "network, a wider window or fewer fewest_boxes"
        )
    sizes, boxes = sizes[keep], boxes[keep]
    if counts.components - 1 > boxes.min() / 10:
        warnings.warn(
            f"counts: {counts.components} components need at least as many boxes, and the fit has only "
            f"{boxes.min():g} to {boxes.max():g}; if most components are small, the dimension is too low: take the "
            "largest component",
            stacklevel=2,
        )
    x, y = np.log(sizes), np.log(boxes)
    from scipy.stats import linregress  # scipy.stats takes a second to import

    power, decay = linregress(x, y), linregress(sizes, y)
    half = special.stdtrit(len(x) - 2, (1 + level) / 2) * power.stderr
    slopes = [-power.slope - half, -power.slope + half, *_slopes_of_windows(x, y)]
    return FractalDimension(
        d_B=float(-power.slope),
        low=float(min(slopes)),
        high=float(max(slopes)),
        level=level,
        size_name=counts.size_name,
        sizes=sizes,
        counts=boxes,
        intercept=float(power.intercept),
        chosen=chosen,
        r_squared=float(power.rvalue**2),
        r_squared_exponential=float(decay.rvalue**2),
        verdict=_verdict(power.rvalue**2, decay.rvalue**2, len(x)),
    )


def _slopes_of_windows(x: NDArray, y: NDArray) -> list[float]:
    """Return minus the slopes of all windows of three and more points that span at least half the range of x."""
    span = (x[-1] - x[0]) / 2
    sums = np.concatenate([np.zeros((1, 4)), np.cumsum(np.stack([x, y, x * x, x * y], 1), 0)])
    slopes = []
    for i in range(len(x)):
        stops = np.arange(max(i + FEWEST_SIZES, int(np.searchsorted(x, x[i] + span * (1 - 1e-12))) + 1), len(x) + 1)
        sx, sy, sxx, sxy = (sums[stops] - sums[i]).T
        k = stops - i
        slopes += ((sx * sy - k * sxy) / (k * sxx - sx * sx)).tolist()
    return slopes


def _verdict(power: float, decay: float, points: int) -> str:
    """Compare the fits by Akaike's criterion; both have two parameters, so only the residuals count."""
    gain = points * math.log(max(1 - decay, 1e-15) / max(1 - power, 1e-15))
    return "power law" if gain > 2 else "exponential" if gain < -2 else "undecided"
