"""What mutating policies have in addition: `jsonpatch.escapeKey`, and the types of patches.

`Object{spec: Object.spec{...}}` builds a part of any object; the names of the types are the path of
the field, nothing more is known of them when an expression is compiled. `JSONPatch{...}` is one
operation of a JSON Patch (RFC 6902).
"""

from __future__ import annotations

from typing import Any

from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import Library, call, estimate_traversal, traversal
from navarch.api.cel.types import DYN, STRING, CelType, object_type, opaque
from navarch.api.cel.values import MISSING, ObjectValue, equals

_STRINGS = ("op", "path", "from")


class BuiltObject(ObjectValue):
    """An object made by a literal of a type `Object...`."""

    def __init__(self, type: CelType, fields: dict[str, Any]) -> None:
        self.type = type
        self.fields = fields

    @property
    def cel_type(self) -> CelType:
        return self.type

    def get(self, name: str) -> Any:
        return self.fields.get(name, MISSING)

    def cel_equals(self, other: Any) -> bool:
        return (
            isinstance(other, BuiltObject)
            and self.type == other.type
            and equals(self.fields, other.fields)
        )


class JsonPatchValue(ObjectValue):
    """One operation."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    @property
    def cel_type(self) -> CelType:
        return JSON_PATCH

    def get(self, name: str) -> Any:
        return self.fields.get(name) or "" if name in _STRINGS else self.fields.get(name, MISSING)

    def cel_equals(self, other: Any) -> bool:
        return isinstance(other, JsonPatchValue) and equals(self.fields, other.fields)


def _patch(fields: dict[str, Any]) -> JsonPatchValue:
    for name, value in fields.items():
        if name not in (*_STRINGS, "value"):
            raise EvaluationError(f"unexpected JSONPatchType field: {name}")
        if name in _STRINGS and not isinstance(value, str):
            raise EvaluationError(f"unexpected type for JSONPatchType '{name}' field")
    return JsonPatchValue(fields)


_FIELDS = {**dict.fromkeys(_STRINGS, STRING), "value": DYN}
_NO_TYPE = opaque("")
"""Upstream lets every field pass and gives those that are none no type at all."""

JSON_PATCH = object_type("JSONPatch", lambda name: _FIELDS.get(name, _NO_TYPE), _patch)


def find_object_type(name: str) -> CelType | None:
    """The types that mutations can build, by name."""
    if name == "JSONPatch":
        return JSON_PATCH
    if name == "Object":
        return OBJECT
    if not name.startswith("Object."):
        return None
    own = object_type(name, lambda field: DYN, lambda fields: BuiltObject(own, fields))
    return own


OBJECT: CelType = object_type(
    "Object", lambda field: DYN, lambda fields: BuiltObject(OBJECT, fields)
)


def type_problems(value: Any, path: str = "Object") -> list[str]:
    """Objects in the wrong place: their types must spell the fields that lead to them."""
    found: list[str] = []
    if isinstance(value, BuiltObject):
        if value.type.name != path:
            found.append(
                f'unexpected type name "{value.type.name}", expected "{path}", which matches field '
                "name path from root Object type"
            )
        for name, item in value.fields.items():
            found += type_problems(item, f"{path}.{name}")
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            found += type_problems(item, path)
    return found


JSON_PATCHES = Library(
    name="kubernetes.jsonpatch",
    functions=(
        call(
            "jsonpatch.escapeKey",
            "string_jsonpatch_escapeKey_string",
            (STRING,),
            STRING,
            lambda key: key.replace("~", "~0").replace("/", "~1"),
            traversal(),
            estimate_traversal(result_size=True),
        ),
    ),
)
