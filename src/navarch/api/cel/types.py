"""The types of CEL, as the checker sees them and as `type(x)` returns them.

Typing is gradual: `DYN` accepts every operation when checked and is resolved when run. Types are
values that compare by structure; object types compare by name, as upstream's type provider does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Kind(Enum):
    """What family a type belongs to."""

    INT = "int"
    UINT = "uint"
    DOUBLE = "double"
    BOOL = "bool"
    STRING = "string"
    BYTES = "bytes"
    NULL = "null_type"
    DYN = "dyn"
    TIMESTAMP = "google.protobuf.Timestamp"
    DURATION = "google.protobuf.Duration"
    TYPE = "type"
    LIST = "list"
    MAP = "map"
    OPAQUE = "opaque"
    OBJECT = "object"
    PARAMETER = "parameter"
    ERROR = "error"

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a slow Python function


@dataclass(frozen=True, slots=True)
class CelType:
    """One type. Make them with the constants and functions of this module.

    `name` is the name the type has in expressions (`type(x) == net.IP`). `find_field` returns the
    type of a field of an object type or None if there is no such field; `construct` makes a value
    from a literal `T{f: v}` (None: the type cannot be written as a literal).
    """

    kind: Kind
    name: str
    parameters: tuple[CelType, ...] = ()
    find_field: Callable[[str], CelType | None] | None = field(
        default=None, compare=False, repr=False
    )
    construct: Callable[[dict[str, Any]], Any] | None = field(
        default=None, compare=False, repr=False
    )

    def __str__(self) -> str:
        """The text of the type in compile errors: `map(string, int)`, `timestamp`, `net.IP`."""
        name = _DISPLAY.get(self.kind, self.name)
        if not self.parameters:
            return name
        return f"{name}({', '.join(map(str, self.parameters))})"

    @property
    def is_optional(self) -> bool:
        return self.name == "optional_type"


_DISPLAY = {
    Kind.NULL: "null",
    Kind.TIMESTAMP: "timestamp",
    Kind.DURATION: "duration",
    Kind.ERROR: "!error!",
}

INT = CelType(Kind.INT, "int")
UINT = CelType(Kind.UINT, "uint")
DOUBLE = CelType(Kind.DOUBLE, "double")
BOOL = CelType(Kind.BOOL, "bool")
STRING = CelType(Kind.STRING, "string")
BYTES = CelType(Kind.BYTES, "bytes")
NULL = CelType(Kind.NULL, "null_type")
DYN = CelType(Kind.DYN, "dyn")
TIMESTAMP = CelType(Kind.TIMESTAMP, "google.protobuf.Timestamp")
DURATION = CelType(Kind.DURATION, "google.protobuf.Duration")
TYPE = CelType(Kind.TYPE, "type")
ERROR = CelType(Kind.ERROR, "!error!")


def list_of(element: CelType) -> CelType:
    return CelType(Kind.LIST, "list", (element,))


def map_of(key: CelType, value: CelType) -> CelType:
    return CelType(Kind.MAP, "map", (key, value))


def type_of(instance: CelType) -> CelType:
    """The type of the expression that names `instance`: `int` has type `type(int)`."""
    return CelType(Kind.TYPE, "type", (instance,))


def opaque(name: str, *parameters: CelType) -> CelType:
    """A type with functions but no fields, such as `net.IP`."""
    return CelType(Kind.OPAQUE, name, parameters)


def optional_of(value: CelType) -> CelType:
    return opaque("optional_type", value)


def parameter(name: str) -> CelType:
    """A type parameter of a function signature: every use within one call means the same type."""
    return CelType(Kind.PARAMETER, name)


def object_type(
    name: str,
    fields: Mapping[str, CelType] | Callable[[str], CelType | None],
    construct: Callable[[dict[str, Any]], Any] | None = None,
) -> CelType:
    """A type with named fields; `fields` may be a function, so that schemas can be read lazily."""
    find = fields if callable(fields) else fields.get
    return CelType(Kind.OBJECT, name, (), find, construct)


LIST = list_of(DYN)
MAP = map_of(DYN, DYN)
OPTIONAL = optional_of(DYN)
