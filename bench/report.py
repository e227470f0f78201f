"""How figures are printed: beside their budget and upstream's figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `budget` is a bound from above for times and sizes, from below for rates;
    `factor` is the budget as a multiple of what another server does."""

    what: str
    value: float
    unit: str
    budget: float | None = None
    upstream: float | None = None
    factor: float | None = None

    @property
    def is_rate(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def is_kept(self) -> bool:
        if self.budget is None:
            return True
        return self.value >= self.budget if self.is_rate else self.value <= self.budget

    @property
    def ratio(self) -> float | None:
        """How many times better than the other server."""
        if not self.upstream or not self.value:
            return None
        return self.value / self.upstream if self.is_rate else self.upstream / self.value

    def against(self, other: Row) -> Row:
        """Beside what another server did in the same run."""
        budget = self.budget if self.factor is None else self.factor * other.value
        return replace(self, upstream=other.value, budget=budget)


def show(rows: Iterable[Row]) -> None:
    print(f"\n{'what':<46} {'measured':>12} {'budget':>10} {'upstream':>10} {'ratio':>6}")
    for row in rows:
        budget = "" if row.budget is None else _number(row.budget)
        upstream = "" if row.upstream is None else _number(row.upstream)
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}×"
        mark = "" if row.is_kept else "  over" if not row.is_rate else "  under"
        value = _number(row.value)
        print(
            f"{row.what:<46} {value:>9} {row.unit:<3}{budget:>10} {upstream:>10} {ratio:>6}{mark}"
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
