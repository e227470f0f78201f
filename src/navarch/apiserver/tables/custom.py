"""The tables of custom resources: the columns that their definition asks for, or the age."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from navarch.api.jsonpath import JsonPathError, parse_jsonpath
from navarch.apiserver.tables.cluster import PLAIN as BUILT_IN
from navarch.apiserver.tables.table import Cells, Object, Table, column
from navarch.apiserver.tables.text import name, since

_NAME = column("Name", format_="name")
_AGE = column("Age", "date") | {"description": "How long ago the object was made."}
_encode = msgspec.json.Encoder(order="deterministic").encode
PLAIN = Table([_NAME, _AGE], BUILT_IN.cells)


def custom_table(printer_columns: list[Object] | None) -> Table:
    """The table that a version's `additionalPrinterColumns` describe."""
    return _table(_encode(printer_columns)) if printer_columns else PLAIN


@lru_cache(maxsize=256)
def _table(encoded: bytes) -> Table:
    wanted: list[Object] = msgspec.json.decode(encoded)
    shown = [
        {
            "name": each.get("name", ""),
            "type": each.get("type", ""),
            "format": each.get("format", ""),
            "description": each.get("description")
            or f"Custom resource definition column (in JSONPath format): {each.get('jsonPath')}",
            "priority": each.get("priority", 0),
        }
        for each in wanted
    ]
    paths = [(each.get("type", ""), each.get("jsonPath", "")) for each in wanted]

    def cells(obj: Object, now: datetime) -> Cells:
        return [name(obj), *(_cell(of_type, path, obj, now) for of_type, path in paths)]

    return Table([_NAME, *shown], cells)


def _cell(of_type: str, path: str, obj: Object, now: datetime) -> Any:
    """The first value that the path finds, if it is of the column's type."""
    try:
        found = parse_jsonpath(path).find(obj)
    except JsonPathError:
        return None
    if not found or found[0] is None:
        return None
    value = found[0]
    if of_type == "string":
        return _text(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if of_type == "integer":
        return int(value) if is_number else None
    if of_type == "number":
        return float(value) if is_number else None
    if of_type == "boolean":
        return value if isinstance(value, bool) else None
    return since(value, now) if of_type == "date" and isinstance(value, str) else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return _encode(value).decode()
