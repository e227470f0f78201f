"""How figures are printed: beside their budget and upstream's figure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
ROWS_FILE = "BENCH_ROWS"
"""Names a file, in the environment, that takes what is shown, for who runs several modules."""


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
    def figure(self) -> str:
        return f"{_number(self.value)} {self.unit}".strip()

    @property
    def bound(self) -> str:
        return "" if self.budget is None else f"{_number(self.budget)} {self.unit}".strip()

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
    rows = list(rows)
    if file := os.environ.get(ROWS_FILE):
        with Path(file).open("a") as out:
            out.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
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


def rows_of(module: str, *options: str) -> list[Row]:
    """Run a module, which shows its figures; returns them."""
    with tempfile.NamedTemporaryFile("r", prefix="bench-rows-") as file:
        subprocess.run(
            [sys.executable, "-m", module, *options],
            env={**os.environ, ROWS_FILE: file.name},
            check=True,
        )
        return [Row(**json.loads(line)) for line in file]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head."""
    head, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])


def figures(rows: Iterable[Row]) -> str:
    """Rows as a table of the page."""
    return markdown(
        [("", "budget", "measured"), *((row.what.strip(), row.bound, row.figure) for row in rows)]
    )


def write_section(name: str, body: str) -> None:
    """Put figures where the page has room for them."""
    begin, end = f"<!-- {name}: from here", f"<!-- {name}: to here -->"
    head, found, rest = PAGE.read_text().partition(begin)
    first, _, _ = rest.partition("\n")
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{PAGE} has no room for {name}")
    PAGE.write_text(f"{head}{begin}{first}\n\n{body}\n\n{end}{tail}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
