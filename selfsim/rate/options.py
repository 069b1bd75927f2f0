"""The options of the SS rate, checked in one place."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_choice

PAPER_SCALES = 256


@dataclass(frozen=True)
class RateOptions:
    """Which SS rate: the options of `ss_rate`, checked."""

    scales: int | None = None
    gradient: str = "exact"
    ends: str = "attached"
    count: str = "surrogate"
    quantiles: tuple[float, float] | None = None
    unit: str = "absolute"
    standardize: bool = False
    leave_out: int = 0
    max_bytes: int | None = None
    check: bool = True

    def __post_init__(self):
        check_choice(self.gradient, ("exact", "straight-through"), name="gradient")
        check_choice(self.ends, ("attached", "detached"), name="ends")
        check_choice(self.count, ("surrogate", "complete-linkage", "greedy-coloring"), name="count")
        check_choice(self.unit, ("absolute", "median"), name="unit")
        for name, least in (("scales", 2), ("max_bytes", 1), ("leave_out", 0)):
            value = getattr(self, name)
            if value is None and name != "leave_out":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                none = "" if name == "leave_out" else "None or "
                raise ValueError(f"{name}: got {value!r}, need {none}a integer of at least {least}")
        if self.quantiles is not None:
            pair = isinstance(self.quantiles, (tuple, list)) and len(self.quantiles) == 2
            if not pair or not 0 <= self.quantiles[0] < self.quantiles[1] <= 1:
                raise ValueError(f"quantiles: got {self.quantiles!r}, need (low, high) with 0 <= low < high <= 1")
        plain = self.count == "surrogate" and self.quantiles is None and self.unit == "absolute"
        if self.gradient == "straight-through" and not plain:
            raise ValueError(
                "gradient: got 'straight-through', which is the published rate's; need count='surrogate', "
                f"quantiles=None and unit='absolute', got {self.count!r}, {self.quantiles!r} and {self.unit!r}"
            )
        if self.max_bytes is not None and (self.scales is None or not plain):
            raise ValueError(
                "max_bytes: only the sum over scales works in blocks; need scales=256 (or another number), "
                "count='surrogate', quantiles=None and unit='absolute'"
            )

    @property
    def at_scales(self) -> int:
        """Number of scales where a number is needed."""
        return self.scales or PAPER_SCALES
