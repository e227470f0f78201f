"""Structs as upstream's errors show them: as Go encodes its internal types, which carry no JSON
names, so that every field is there under its Go name. Types of `meta/v1` have no internal form and
look as they do in a manifest.
"""

from __future__ import annotations

import json
from typing import Any

from navarch.api.errors import Verbatim
from navarch.api.schema.facts import Shape, TypeFacts, type_facts
from navarch.api.validation.fields import Field

_GO_NAMES = {
    "cidrs": "CIDRs",
    "seLinuxOptions": "SELinuxOptions",
    "int": "IntValue",
    "bool": "BoolValue",
    "string": "StringValue",
    "version": "VersionValue",
    "ints": "IntValues",
    "bools": "BoolValues",
    "strings": "StringValues",
    "versions": "VersionValues",
}
"""Where Go's name is not just the manifest's with a capital."""
_ZEROS: dict[str, Any] = {"boolean": False, "string": "", "quantity": "0"}
_NULLS = frozenset({"bytes", "time", "micro-time"})


def shown_as(field: Field, type_name: str) -> Field:
    """The field as an error shows it, given its type: `core_v1.Toleration`."""
    facts = type_facts(*type_name.split("."))
    text = json.dumps(_encoded(facts, field.value), ensure_ascii=False, separators=(",", ":"))
    return field.showing(Verbatim(text))


def _encoded(facts: TypeFacts, value: Any, pointer: bool = False) -> Any:
    if facts.shape is Shape.STRUCT and facts.name.startswith("meta_v1."):
        return _in_order(facts, value)
    if facts.shape is Shape.STRUCT and not (value is None and pointer):
        given = value or {}
        return {
            _GO_NAMES.get(name) or name[:1].upper() + name[1:]: _encoded(
                field.type, given.get(name), field.pointer
            )
            for name, field in facts.fields.items()
        }
    if value is None or value == []:
        if pointer or facts.shape is not Shape.SCALAR or facts.scalar in _NULLS:
            return None
        return _ZEROS.get(facts.scalar, 0)
    if facts.shape is Shape.LIST and facts.item is not None:
        return [_encoded(facts.item, item) for item in value]
    return value


def _in_order(facts: TypeFacts, value: Any) -> Any:
    """A value as it stands in a manifest, its fields in Go's order."""
    if facts.shape is Shape.LIST and facts.item is not None and value is not None:
        return [_in_order(facts.item, item) for item in value]
    if facts.shape is not Shape.STRUCT or value is None:
        return value
    return {
        name: _in_order(field.type, value[name])
        for name, field in facts.fields.items()
        if name in value
    }
