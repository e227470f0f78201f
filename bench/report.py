"""How figures are printed: beside their budget and upstream's figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `budget` is a bound from above for times and sizes, from below for rates."""

    what: str
    value: float
    unit: str
    budget: float | None = None
    upstream: float | None = None

    @property
    def is_rate(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def is_kept(self) -> bool:
        if self.budget is None:
            return True
        return self.value >= self.budget if self.is_rate else self.value <= self.budget


def show(rows: Iterable[Row]) -> None:
    print(f"\n{'what':<46} {'measured':>12} {'budget':>10} {'upstream':>10}")
    for row in rows:
        budget = "" if row.budget is None else f"{row.budget:,.6g}"
        upstream = "" if row.upstream is None else f"{row.upstream:,.6g}"
        mark = "" if row.is_kept else "  over" if not row.is_rate else "  under"
        value = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.2f}"
        print(f"{row.what:<46} {value:>9} {row.unit:<3}{budget:>10} {upstream:>10}{mark}")
