"""How the write path treats an object's form: decoding, defaults, and what the schema demands.

Built-in kinds walk the generated schema facts, custom resources their structural schema; the write
path sees no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from navarch.api.errors import FieldError
from navarch.api.kinds import Kind
from navarch.api.schema.decode import FieldValidation, decode_object, normalise_object
from navarch.api.schema.defaults import apply_defaults
from navarch.api.schema.protobuf import decode_protobuf
from navarch.apiserver.http.body import PROTOBUF

Object = dict[str, Any]
Decoded = tuple[Object, list[str]]
"""An object in canonical form, and the warnings to give."""


class Shape(Protocol):
    """The form of one kind in one version."""

    def decode(self, data: bytes, content_type: str, validation: FieldValidation) -> Decoded:
        """The object in a request body. Raises ApiError 400."""
        ...

    def normalise(self, obj: Object, validation: FieldValidation) -> Decoded:
        """The same for an object that is decoded already (a patch's result), which becomes the
        callee's. Raises ApiError 400."""
        ...

    def default(self, obj: Object) -> None:
        """Fill in constant defaults, in place."""
        ...

    def validate(
        self, obj: Object, old: Object | None, warn: Callable[[str], None]
    ) -> list[FieldError]:
        """What the schema itself forbids; `warn` is told what was wrong before and may stay."""
        ...


class BuiltInShape:
    """A built-in kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def decode(self, data: bytes, content_type: str, validation: FieldValidation) -> Decoded:
        if content_type == PROTOBUF:
            return self.normalise(decode_protobuf(self.kind, data), validation)
        return decode_object(self.kind, data, content_type, validation)

    def normalise(self, obj: Object, validation: FieldValidation) -> Decoded:
        return normalise_object(self.kind, obj, validation)

    def default(self, obj: Object) -> None:
        apply_defaults(self.kind, obj)

    def validate(
        self, obj: Object, old: Object | None, warn: Callable[[str], None]
    ) -> list[FieldError]:
        return []


def built_in_shape(kind: Kind) -> Shape:
    return BuiltInShape(kind)
