"""The options of the SS rate, checked in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from ..checks import check_choice, check_flag, check_integer, check_range


class RateKeywords(TypedDict, total=False):
    """The keywords of `ss_rate`, for type checkers and completion."""

    scales: int | None
    gradient: Literal["exact", "straight-through"]
    ends: Literal["attached", "detached"]
    count: Literal["surrogate", "complete-linkage", "greedy-coloring"]
    quantiles: tuple[float, float] | None
    unit: Literal["absolute", "median"]
    standardize: bool
    leave_out: int
    max_bytes: int | None
    check: bool


@dataclass(frozen=True)
class RateOptions:
    """The options of `ss_rate`, checked; see there for what each one means.

    Raises
    ------
    ValueError
        An option out of its range, or options that exclude each other.
    """

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

    def __post_init__(self) -> None:
        check_choice(self.gradient, ("exact", "straight-through"), name="gradient")
        check_choice(self.ends, ("attached", "detached"), name="ends")
        check_choice(self.count, ("surrogate", "complete-linkage", "greedy-coloring"), name="count")
        check_choice(self.unit, ("absolute", "median"), name="unit")
        check_flag(self.standardize, name="standardize")
        check_flag(self.check, name="check")
        check_integer(self.leave_out, name="leave_out", least=0)
        if self.scales is not None:
            check_integer(self.scales, name="scales", least=2)
        if self.max_bytes is not None:
            check_integer(self.max_bytes, name="max_bytes")
        if self.quantiles is not None:
            check_range(self.quantiles, name="quantiles", within="[0, 1]")
        published = self.count == "surrogate" and self.quantiles is None and self.unit == "absolute"
        if self.gradient == "straight-through" and not published:
            raise ValueError(
                "gradient: got 'straight-through', which is the published rate's; need count='surrogate', "
                f"quantiles=None and unit='absolute', got {self.count!r}, {self.quantiles!r} and {self.unit!r}"
            )
        if self.max_bytes is not None and (self.scales is None or not published):
            raise ValueError(
                "max_bytes: only the sum over scales works in blocks; need scales=256 (or another number), "
                "count='surrogate', quantiles=None and unit='absolute'"
            )
