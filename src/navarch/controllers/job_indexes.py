"""Sets of completion indexes and how a Job's status writes them: "0,2-4,7,8"."""

from __future__ import annotations

from collections.abc import Iterable

from navarch.api.numbers import natural


def parse_indexes(text: str | None, completions: int) -> frozenset[int]:
    """The indexes below `completions`. Parts that are no numbers are passed over, for a status can
    be written by anybody."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, dash, last = part.partition("-")
        begin, end = natural(first), natural(last if dash else first)
        if begin is not None and end is not None:
            found.update(range(begin, min(end, completions - 1) + 1))
    return frozenset(found)


def format_indexes(indexes: Iterable[int]) -> str:
    """In order; three or more in a row as a range."""
    runs: list[tuple[int, int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return ",".join(
        str(first) if first == last else f"{first}{',' if last == first + 1 else '-'}{last}"
        for first, last in runs
    )
