"""What is wrong with a custom resource and was wrong before it was touched may stay (KEP-4008).

Whether a place was touched can be told where it can be found again in the old object: fields by
their names, items of a list by their keys if the list is a map. Of any other list the whole is
compared. A complaint is passed over if the place it is about, or any place around it, is what it
was; a complaint that something is missing is about what it is missing from.
"""

from __future__ import annotations

import re
from typing import Any

from navarch.api.errors import FieldError
from navarch.api.patch.common import json_equal

Schema = dict[str, Any]

_INDEX = re.compile(r"\[(\d+)\]\.?")
_MISSING = object()


def new_errors(
    errors: list[FieldError], before: list[FieldError], schema: Schema, new: Any, old: Any
) -> list[FieldError]:
    """The complaints about an object that the old one cannot excuse. Doubled items are excused by
    any in the old object, wherever."""
    had_doubles = any(error.reason == "FieldValueDuplicate" for error in before)
    return [
        error
        for error in errors
        if not (
            had_doubles
            if error.reason == "FieldValueDuplicate"
            else is_unchanged(error.field, schema, new, old)
        )
    ]


def is_unchanged(field: str, schema: Schema, new: Any, old: Any) -> bool:
    """Whether a place, or one around it, is what it was."""
    while not json_equal(new, old):
        inner: Any
        if isinstance(new, dict) and isinstance(old, dict):
            key, field = _first_key(new, field)
            inner = (schema.get("properties") or {}).get(key, schema.get("additionalProperties"))
            new, old = new.get(key, _MISSING), old.get(key, _MISSING)
        elif isinstance(new, list) and isinstance(old, list) and (found := _INDEX.match(field)):
            field, inner = field[found.end() :], schema.get("items")
            new, old = _same_item(schema, new, old, int(found[1]))
        else:
            return False
        if new is _MISSING or old is _MISSING:
            return False
        schema = inner if isinstance(inner, dict) else {}
    return True


def _first_key(obj: dict[str, Any], path: str) -> tuple[str, str]:
    """The field of an object that a path begins with, and the rest; "" for none. Keys may have dots
    in them, so the longest is meant."""
    keys = [key for key in obj if path == key or path.startswith((f"{key}.", f"{key}["))]
    if not keys:
        return "", ""
    key = max(keys, key=len)
    return key, path[len(key) :].removeprefix(".")


def _same_item(schema: Schema, new: list[Any], old: list[Any], index: int) -> tuple[Any, Any]:
    """An item of a list that is a map, and the old one with the same keys."""
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    item = new[index] if index < len(new) else _MISSING
    if schema.get("x-kubernetes-list-type") != "map" or not isinstance(item, dict):
        return item, _MISSING
    for each in old:
        if isinstance(each, dict) and all(json_equal(each.get(key), item.get(key)) for key in keys):
            return item, each
    return item, _MISSING
