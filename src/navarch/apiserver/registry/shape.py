"""How the write path treats an object's form: decoding, defaults, and what the schema demands.

Built-in kinds walk the generated schema facts, custom resources their structural schema; the write
path sees no difference.
"""

from __future__ import annotations

from typing import Any, Protocol

from navarch.api.errors import FieldError
from navarch.api.kinds import Kind

Object = dict[str, Any]


class Shape(Protocol):
    """The form of one kind in one version."""

    def decode(self, obj: Object) -> tuple[Object, list[str]]:
        """The object in canonical form without unknown fields, and the paths of those. Raises
        ApiError 400 for values of a wrong type."""
        ...

    def default(self, obj: Object) -> None:
        """Fill in constant defaults, in place."""
        ...

    def validate(self, obj: Object, old: Object | None) -> list[FieldError]:
        """What the schema itself forbids."""
        ...


class BuiltInShape:
    """A built-in kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def decode(self, obj: Object) -> tuple[Object, list[str]]:
        return obj, []

    def default(self, obj: Object) -> None:
        return

    def validate(self, obj: Object, old: Object | None) -> list[FieldError]:
        return []


def built_in_shape(kind: Kind) -> Shape:
    return BuiltInShape(kind)
