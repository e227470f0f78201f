"""Tables as kubectl prints them: columns of plain text, capital headings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of one shape; the keys of the first one are the headings."""
    if not rows:
        return ""
    headings = list(rows[0])
    cells = [[heading.upper() for heading in headings]]
    cells += [[str(row[heading]) for heading in headings] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(headings))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
