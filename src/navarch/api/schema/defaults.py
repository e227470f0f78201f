"""Constant defaults, from the schema facts: `apply_defaults(kind, obj)`.

What depends on other fields (a Service's targetPort, a rolling update's parameters) is the kind's
strategy's business. Compiled per type into a walk over only those fields below which a default
lies. Works in place on normalised objects and may run any number of times.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from navarch.api.quantity import parse_quantity
from navarch.api.schema.decode import HasKind
from navarch.api.schema.facts import FieldFacts, Shape, TypeFacts, schema_for
from navarch.api.schema.walker import walker_of

Object = dict[str, Any]
Step = Callable[[Any], None]


def apply_defaults(kind: HasKind, obj: Object) -> None:
    """Set every constant default the object lacks."""
    step = _struct_step(schema_for(kind.group, kind.version, kind.kind))
    if step is not None:
        step(obj)


class _Struct:
    """The defaults of one struct type and of those inside it."""

    def __init__(self) -> None:
        self.defaults: list[tuple[str, bool, Callable[[], Any]]] = []
        self.children: list[tuple[str, Step]] = []

    def __call__(self, obj: Object) -> None:
        for name, is_pointer, make in self.defaults:
            # Zero is a value for a pointer, and "not set" for anything else.
            if name not in obj or not (is_pointer or obj[name]):
                obj[name] = make()
        for name, step in self.children:
            value = obj.get(name)
            if value is not None:
                step(value)


_structs: dict[str, _Struct | None] = {}


def _struct_step(facts: TypeFacts) -> Step | None:
    if facts.name in _structs:
        return _structs[facts.name]
    if not _holds_defaults(facts, set()):
        _structs[facts.name] = None
        return None
    step = _structs[facts.name] = _Struct()
    for field in facts.fields.values():
        if _is_for_this_place(field):
            step.children.append((field.name, _members_step(field.default)))
        elif field.default is not None:
            step.defaults.append((field.name, field.pointer, _maker(field)))
    for field in facts.fields.values():
        child = _step(field.type)
        if child is not None:
            step.children.append((field.name, child))
    return step


def _is_for_this_place(field: FieldFacts) -> bool:
    """Members of a struct held by value that have defaults here and not wherever the type is used:
    a Job's spec has them, a CronJob's template of one has not."""
    return not field.pointer and field.type.shape is Shape.STRUCT and bool(field.default)


def _members_step(members: Object) -> Step:
    def set_members(value: Object) -> None:
        for name, default in members.items():
            value.setdefault(name, default)

    return set_members


def _maker(field: FieldFacts) -> Callable[[], Any]:
    default = field.default
    if default == {} and field.type.shape is Shape.STRUCT:
        return walker_of(field.type).empty
    if isinstance(default, dict | list):
        return lambda: copy.deepcopy(default)
    return lambda: default


def _holds_defaults(facts: TypeFacts, seen: set[str]) -> bool:
    """Whether the type or any type inside it has a default; types may contain themselves."""
    if facts.shape in (Shape.LIST, Shape.MAP):
        if facts.go_type == _RESOURCE_LIST:
            return True
        return facts.item is not None and _holds_defaults(facts.item, seen)
    if facts.shape is not Shape.STRUCT or facts.name in seen:
        return False
    seen.add(facts.name)
    return any(
        field.default is not None or _holds_defaults(field.type, seen)
        for field in facts.fields.values()
    )


def _step(facts: TypeFacts) -> Step | None:
    if facts.shape is Shape.STRUCT:
        return _struct_step(facts)
    if facts.go_type == _RESOURCE_LIST:
        return _round_resources
    if facts.item is None or facts.shape not in (Shape.LIST, Shape.MAP):
        return None
    item = _step(facts.item)
    if item is None:
        return None

    def each_item(value: Any) -> None:
        for element in value if facts.shape is Shape.LIST else value.values():
            item(element)

    return each_item


_RESOURCE_LIST = "v1.ResourceList"


def _round_resources(value: dict[str, str]) -> None:
    """Resource amounts are no finer than a thousandth."""
    for name, text in value.items():
        # Only the suffixes n and u, a long fraction or an exponent can be finer.
        if "n" in text or "u" in text or "." in text or "e-" in text or "E-" in text:
            value[name] = str(parse_quantity(text).round_up(-3))
