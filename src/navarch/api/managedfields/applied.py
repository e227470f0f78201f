"""Whether an applied configuration fits its schema, before anything is merged."""

from __future__ import annotations

from typing import Any

from navarch.api.errors import bad_request
from navarch.api.managedfields.fieldtypes import Fields, FieldType, Items, KeyMissing
from navarch.api.managedfields.sets import paths

Object = dict[str, Any]


def applied_problems(applied: Object, kind: FieldType) -> list[str]:
    """What does not fit the schema."""
    problems: list[str] = []
    _check(applied, kind, "", problems)
    return problems


def check_applied(applied: Object, kind: FieldType, api_version: str) -> None:
    """Raises 400 with all complaints, worded as upstream's (which answers 500)."""
    problems = applied_problems(applied, kind)
    if not problems:
        return
    metadata = applied.get("metadata") or {}
    group_version = api_version if "/" in api_version else f"/{api_version}"
    named = (
        f"{metadata.get('namespace') or ''}/{metadata.get('name') or ''}; "
        f"{group_version}, Kind={applied.get('kind') or ''}"
    )
    text = (
        problems[0]
        if len(problems) == 1
        else "errors:\n" + "\n".join(f"  {problem}" for problem in problems)
    )
    raise bad_request(f"failed to create typed patch object ({named}): {text}")


def _go_type(value: Any) -> str:
    names = {dict: "map", list: "list", str: "string", bool: "boolean", int: "number"}
    return names.get(type(value), "number")


def _check(value: Any, kind: FieldType, path: str, problems: list[str]) -> None:
    if value is None:
        return
    if isinstance(kind, Fields):
        if not isinstance(value, dict):
            problems.append(f"{path}: expected map, got {_go_type(value)}")
            return
        for name, item in value.items():
            if not kind.is_declared(name) and not kind.is_open:
                problems.append(f"{path}.{name}: field not declared in schema")
            else:
                _check(item, kind.of(name), f"{path}.{name}", problems)
    elif isinstance(kind, Items):
        if not isinstance(value, list):
            problems.append(f"{path}: expected list, got {_go_type(value)}")
        else:
            _check_items(value, kind, path, problems)


def _check_items(value: list[Any], kind: Items, path: str, problems: list[str]) -> None:
    seen: set[str] = set()
    for index, item in enumerate(value):
        try:
            key = kind.key_of(item)
        except KeyMissing as missing:
            keys = " ".join(f'"{key}"' for key in missing.keys)
            problems.append(
                f"{path}: element {index}: associative list with keys has an element that omits "
                f"all key fields [{keys}] (and doesn't have default values for any key fields)"
            )
            continue
        step = next(iter(paths({key: {}})))
        if key in seen:
            problems.append(f"{path}: duplicate entries for key {step}")
        seen.add(key)
        _check(item, kind.item, path + step, problems)
