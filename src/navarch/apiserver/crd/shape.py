"""The form and the strategy of custom resources, built from a version of their definition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from navarch.api.errors import FieldError, bad_request, invalid, invalid_object
from navarch.api.kinds import Kind
from navarch.api.schema import structural
from navarch.api.schema.decode import (
    FieldValidation,
    as_warnings,
    cannot_handle,
    check_type_meta,
    parse_document,
    strictly,
    unrecognised,
)
from navarch.api.schema.facts import schema_for
from navarch.api.schema.ratchet import new_errors
from navarch.api.schema.walker import TypeProblem, Walk, type_problem, walker_of
from navarch.api.strategies.generic import GenericStrategy
from navarch.api.validation.meta import is_standard
from navarch.apiserver.registry.shape import Decoded

if TYPE_CHECKING:
    from navarch.api.cel.rule_check import Node

Object = dict[str, Any]

ANYTHING: Object = {"type": "object", structural.PRESERVE: True}


class CustomShape:
    """Decodes, prunes, defaults and validates the objects of one version."""

    def __init__(self, kind: Kind, schema: Object | None) -> None:
        self.kind = kind
        self.schema = schema or ANYTHING

    def decode(self, data: bytes, content_type: str, validation: FieldValidation) -> Decoded:
        """What comes from outside must say what it is; what built-in kinds have for it is guessed
        from the path."""
        value, problems = parse_document(data, content_type, self.kind)
        if value is not None:
            check_type_meta(self.kind, value, data)
        if not (value or {}).get("kind"):
            why = f"Object 'Kind' is missing in '{data.decode(errors='replace')}'"
            raise unrecognised(self.kind, data, why)
        if (given := value.get("apiVersion") or "") != self.kind.api_version:
            raise bad_request(
                f"the API version in the data ({given}) does not match the expected API version "
                f"({self.kind.api_version})"
            )
        return self._finish(value, problems, validation)

    def normalise(self, obj: Object, validation: FieldValidation) -> Decoded:
        check_type_meta(self.kind, obj, b"")
        return self._finish(obj, [], validation)

    def _finish(self, obj: Object, problems: list[str], validation: FieldValidation) -> Decoded:
        self._check_kind(obj)
        obj |= {"apiVersion": self.kind.api_version, "kind": self.kind.kind}
        structural.plain_numbers(obj)
        unknown = self._take_metadata(obj, "metadata") + structural.prune(obj, self.schema)
        for path, embedded in structural.embedded_objects(obj, self.schema):
            unknown += self._take_embedded(embedded, path)
        if validation is FieldValidation.IGNORE:
            return obj, []
        found = problems + [f'unknown field "{path}"' for path in unknown]
        if found and validation is FieldValidation.STRICT:
            raise strictly(self.kind, found)
        return obj, as_warnings(found)

    def _check_kind(self, obj: Object) -> None:
        errors = []
        for field, wanted in (("kind", self.kind.kind), ("apiVersion", self.kind.api_version)):
            given = obj.get(field) or wanted
            if given != wanted:
                errors.append(invalid(field, given, f"must be {wanted}"))
        if errors:
            metadata = obj.get("metadata")
            name = metadata.get("name", "") if isinstance(metadata, dict) else ""
            kind = obj.get("kind") or self.kind.kind
            raise invalid_object(kind, self.kind.group, str(name), errors)

    def _take_embedded(self, embedded: Object, path: str) -> list[str]:
        for field in ("apiVersion", "kind"):
            if not isinstance(embedded.get(field, ""), str):
                problem = invalid(f"{path}.{field}", embedded[field], "must be a string")
                raise cannot_handle(self.kind, str(problem))
        if "metadata" not in embedded:
            return []
        given = embedded["metadata"]
        try:
            return self._walk_metadata(embedded, f"{path}.metadata")
        except TypeProblem as problem:
            raise cannot_handle(
                self.kind, str(invalid(f"{path}.metadata", given, str(problem)))
            ) from None

    def _take_metadata(self, obj: Object, path: str) -> list[str]:
        """Bring an object's metadata into its own form; returns the unknown fields. Raises 400."""
        try:
            return self._walk_metadata(obj, path)
        except TypeProblem as problem:
            raise cannot_handle(self.kind, str(problem)) from problem

    def _walk_metadata(self, obj: Object, path: str) -> list[str]:
        metadata = obj.get("metadata")
        if metadata is None:
            obj["metadata"] = {}
            return []
        if not isinstance(metadata, dict):
            raise type_problem(metadata, "", "v1.ObjectMeta")
        walk = Walk()
        obj["metadata"] = walker_of(schema_for("", "v1", "ObjectMeta"))(metadata, None, walk)
        marker = 'unknown field "'
        return [
            f"{path}.{text[len(marker) : -1]}" for text in walk.problems if text.startswith(marker)
        ]

    def default(self, obj: Object) -> None:
        structural.default(obj, self.schema)
        structural.drop_nulls(obj, self.schema)

    @cached_property
    def _rules(self) -> Node | None:
        """The validation rules, compiled at the first write."""
        if not structural.has_rules(self.schema):
            return None
        from navarch.api.cel.rule_check import compile_tree  # late: it needs CEL

        return compile_tree(self.schema)

    def validate(
        self, obj: Object, old: Object | None, warn: Callable[[str], None]
    ) -> list[FieldError]:
        errors = self._schema_errors(obj, old)
        if self._rules is not None:
            from navarch.api.cel.rule_check import NOT_CHECKED, is_blocking, rule_errors

            if any(map(is_blocking, errors)):
                errors.append(invalid("<nil>", None, NOT_CHECKED))
            else:
                errors += rule_errors(self._rules, obj, old, warn)
        return errors

    def _schema_errors(self, obj: Object, old: Object | None) -> list[FieldError]:
        schema = {
            **self.schema,
            "properties": {
                name: inner
                for name, inner in (self.schema.get("properties") or {}).items()
                if name not in ("apiVersion", "kind", "metadata")
            },
        }
        errors = structural.validate(obj, schema) + structural.list_errors(obj, schema)
        embedded = [
            error
            for path, inner in structural.embedded_objects(obj, schema)
            for error in structural.embedded_errors(inner, path)
        ]
        if old is None or not errors:
            return errors + embedded
        before = structural.validate(old, schema) + structural.list_errors(old, schema)
        return new_errors(errors, before, schema, obj, old) + embedded


class CustomStrategy(GenericStrategy):
    """Custom resources count generations, insist on resourceVersions, and have a status of its own
    only when the definition says so."""

    has_generation = True
    allow_unconditional_update = False
    status_keeps_metadata = True

    def __init__(self, has_status: bool, selectable: tuple[str, ...]) -> None:
        self.status_is_subresource = has_status
        self._selectable = selectable

    def desired_state(self, obj: Object) -> Object:
        left_out = {"apiVersion", "kind", "metadata"}
        if self.status_is_subresource:
            left_out.add("status")
        return {key: value for key, value in obj.items() if key not in left_out}

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return {path: _text_at(obj, path) for path in self._selectable}

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        """Finalizers of custom resources may have any name; that of a domain keeps them apart."""
        before = ((old or {}).get("metadata") or {}).get("finalizers") or ()
        return [
            f'metadata.finalizers: "{each}": prefer a domain-qualified finalizer name '
            f"{'including a path (/) ' if '.' in each else ''}to avoid accidental conflicts with "
            "other finalizer writers"
            for each in sorted(obj["metadata"].get("finalizers") or ())
            if each not in before and not is_standard(each)
        ]


def _text_at(obj: Any, path: str) -> str:
    for name in path.split("."):
        obj = obj.get(name) if isinstance(obj, dict) else None
    if obj is None or isinstance(obj, dict | list):
        return ""
    if isinstance(obj, bool):
        return "true" if obj else "false"
    return str(obj)
