"""What a table is: columns, and how the cells of one object are made.

A table is written as a line of text, one column after the other:

    Name|Status=status.phase|Data:integer=count(data)|Age|Node*=spec.nodeName?<none>

A type follows the colon (string where there is none), and a star marks a column that only `-o wide`
shows. Behind `=` stands the cell: the text at a path of fields, or what a function makes of the
value there, or of the whole object where no path is given; `f(path, now)` tells it the time, too.
Behind `?` stands what is shown where the path leads to nothing. Name and Age need not be told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from navarch.apiserver.tables.text import FUNCTIONS

Object = dict[str, Any]
Cells = list[Any]
MakeCell = Callable[[Object, datetime], Any]
MakeCells = Callable[[Object, datetime], Cells]
_COLUMN = re.compile(r"([^:*=]+)(?::(\w+))?(\*?)(?:=(.*))?")
_CELL = re.compile(r"(?:(\w+)\()?([\w.]*)(, now)?\)?(?:\?(.*))?")
_KNOWN = {"Name": "metadata.name", "Age": "since(metadata.creationTimestamp, now)"}


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
    return [
        column(title, of_type or "string", "name" if title == "Name" else "", int(bool(star)))
        for title, of_type, star, _ in _parts(text)
    ]


def table(text: str, **functions: Callable[..., Any]) -> Table:
    """A table from its line of text, with the functions in it that only it has."""
    makers = [_maker(cell or _KNOWN[title], functions) for title, _, _, cell in _parts(text)]
    return Table(columns(text), lambda obj, now: [make(obj, now) for make in makers])


def _parts(text: str) -> list[tuple[str | Any, ...]]:
    found = [_COLUMN.fullmatch(each) for each in text.split("|")]
    return [each.groups() for each in found if each is not None]


def _maker(text: str, functions: Mapping[str, Callable[..., Any]]) -> MakeCell:
    found = _CELL.fullmatch(text)
    assert found is not None, text
    name, dotted, with_now, otherwise = found.groups()
    path = tuple(dotted.split(".")) if dotted else ()
    function = FUNCTIONS["text"] if name is None else functions.get(name) or FUNCTIONS[name]
    if name is None:
        otherwise = otherwise or ""

    def make(obj: Object, now: datetime) -> Any:
        value: Any = obj
        for field in path:  # once for every cell of every row: not worth a call
            value = value.get(field) if type(value) is dict else None
        if otherwise is not None and not value:
            return otherwise
        return function(value, now) if with_now else function(value)

    return make
