"""What a table is: columns, and a function that makes the cells of one object.

Columns are written as one line of text: `Name|Ready|Status|Count:integer|Node*`. A type follows
the colon (string when there is none), a star marks a column that only `-o wide` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Object = dict[str, Any]
Cells = list[Any]
MakeCells = Callable[[Object, datetime], Cells]


@dataclass(frozen=True, slots=True)
class Table:
    """The table of one kind. `cells(object, now)` gives one cell per column."""

    columns: Sequence[Object]
    cells: MakeCells
    conditions: Callable[[Object], list[Object]] | None = None
    """What is to be said of a whole row: that a pod is at its end."""


def column(name: str, of_type: str = "string", format_: str = "", priority: int = 0) -> Object:
    """A `TableColumnDefinition`; all its fields are always written."""
    return {
        "name": name,
        "type": of_type,
        "format": format_,
        "description": "",
        "priority": priority,
    }


def columns(text: str) -> list[Object]:
    """Columns from their line of text. The one that is called Name has the format `name`."""
    result = []
    for each in text.split("|"):
        name, _, of_type = each.rstrip("*").partition(":")
        format_ = "name" if name == "Name" else ""
        result.append(column(name, of_type or "string", format_, int(each.endswith("*"))))
    return result
