"""How the fields of a type are owned, compiled from its schema facts.

* A scalar, an atomic list, map or struct, and free JSON are owned as a whole.
* Structs and granular maps are owned field by field.
* Lists of type map are owned item by item, items told apart by their keys; sets value by value.

Data without facts (custom resources without a schema, unknown fields that are preserved) is owned
by what it looks like: objects field by field, everything else as a whole.
"""

from __future__ import annotations

import json
from typing import Any

from navarch.api.managedfields.sets import LEAF, SELF, Node
from navarch.api.schema.facts import FieldFacts, Shape, TypeFacts

LOCAL_REFERENCE = "core_v1.LocalObjectReference"
_ZEROS = {"string": "", "int32": 0, "int64": 0}
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


class KeyMissing(Exception):
    """An item of a list lacks all the fields that would identify it."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__(*keys)
        self.keys = keys


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def go_json(value: Any) -> str:
    """A key or value as Go's encoder writes it (which escapes for HTML)."""
    if value.__class__ is int:
        return str(value)
    text = _encode(value)
    if "<" in text or ">" in text or "&" in text:
        for plain, escaped in ESCAPES.items():
            text = text.replace(plain, escaped)
    return text


class FieldType:
    """A type as ownership sees it. `added` makes the set of everything in a value, containers
    included (what appears or disappears with it); `applied` the set that applying the value claims:
    its leaves, the items of its lists and the keys of its maps."""

    __slots__ = ()

    def added(self, value: Any) -> Node:
        return LEAF

    def applied(self, value: Any) -> Node | None:
        return LEAF

    def child(self, key: str) -> FieldType:
        """The type below a step of a path."""
        return DEDUCED


class Atomic(FieldType):
    """Owned as a whole."""

    __slots__ = ()


ATOMIC = Atomic()


class Fields(FieldType):
    """An object owned field by field: a struct, or a map whose keys are free."""

    __slots__ = ("_rest", "_types")

    def __init__(self, rest: FieldType | None) -> None:
        self._types: dict[str, tuple[str, FieldType]] = {}
        self._rest = rest
        """The type of keys that are not declared; None where there are none."""

    def declare(self, name: str, kind: FieldType) -> None:
        self._types[name] = (f"f:{name}", kind)

    def is_declared(self, name: str) -> bool:
        return name in self._types

    def of(self, name: str) -> FieldType:
        known = self._types.get(name)
        return known[1] if known is not None else self._rest or DEDUCED

    def child(self, key: str) -> FieldType:
        return self.of(key[2:])

    @property
    def is_open(self) -> bool:
        """Whether any key is allowed."""
        return self._rest is not None

    def added(self, value: Any) -> Node:
        if not value or value.__class__ is not dict:
            return LEAF
        result: Node = {SELF: LEAF}
        types = self._types
        for name in sorted(value):
            known = types.get(name)
            if known is None:
                result[f"f:{name}"] = (self._rest or DEDUCED).added(value[name])
            elif known[1] is ATOMIC:
                result[known[0]] = LEAF
            else:
                result[known[0]] = known[1].added(value[name])
        return result

    def applied(self, value: Any) -> Node | None:
        if not value or value.__class__ is not dict:
            return LEAF if value is None or value.__class__ is dict else None
        result: Node = {}
        types = self._types
        for name in sorted(value):
            known, item = types.get(name), value[name]
            if known is None:
                node = (self._rest or DEDUCED).applied(item)
                if node:
                    node = {SELF: LEAF, **node}
                result[f"f:{name}"] = node or LEAF
            elif known[1] is ATOMIC or item is None:
                result[known[0]] = LEAF
            else:
                node = known[1].applied(item)
                if node is not None:
                    result[known[0]] = node
        return result or None


class Deduced(FieldType):
    """Owned by what the value looks like."""

    __slots__ = ()

    def added(self, value: Any) -> Node:
        return _FREE.added(value) if value.__class__ is dict else LEAF

    def applied(self, value: Any) -> Node | None:
        return _FREE.applied(value) if value.__class__ is dict else LEAF


DEDUCED = Deduced()
_FREE = Fields(DEDUCED)


class Items(FieldType):
    """A list owned item by item."""

    __slots__ = ("item",)

    def __init__(self) -> None:
        self.item: FieldType = ATOMIC

    def key_of(self, item: Any) -> str:
        """The step to an item; raises KeyMissing."""
        return f"v:{go_json(item)}"

    def child(self, key: str) -> FieldType:
        return self.item

    def keys(self, value: list[Any]) -> list[str]:
        return [self.key_of(item) for item in value]

    def added(self, value: Any) -> Node:
        if not value or value.__class__ is not list:
            return LEAF
        result: Node = {SELF: LEAF}
        try:
            for item in value:
                result[self.key_of(item)] = self.item.added(item)
        except KeyMissing:
            return LEAF
        return result

    def applied(self, value: Any) -> Node | None:
        if not value or value.__class__ is not list:
            return None if value.__class__ is list else LEAF
        result: Node = {}
        for item in value:
            below = self.item.applied(item)
            result[self.key_of(item)] = {SELF: LEAF, **below} if below else LEAF
        return result


class KeyedItems(Items):
    """A list whose items are told apart by some of their fields. An item without one of them (and
    without a default for it) is another item than all that have it."""

    __slots__ = ("_declared", "_defaults", "_names", "_prefix")

    def __init__(self, names: tuple[str, ...], defaults: dict[str, Any]) -> None:
        super().__init__()
        self._declared = names
        self._names = tuple(sorted(names))
        self._defaults = defaults
        self._prefix = f'k:{{"{self._names[0]}":' if len(names) == 1 else ""

    def key_of(self, item: Any) -> str:
        if item.__class__ is not dict:
            raise KeyMissing(self._declared)
        if self._prefix:
            value = item.get(self._names[0])
            if value.__class__ is str and value.isidentifier():
                # The common name needs no encoder.
                return f'{self._prefix}"{value}"}}'
            if value is not None:
                return f"{self._prefix}{go_json(value)}}}"
        parts = []
        for name in self._names:
            value = item.get(name)
            if value is None:
                value = self._defaults.get(name)
            if value is not None:
                parts.append(f'"{name}":{go_json(value)}')
        if not parts:
            raise KeyMissing(self._declared)
        return f"k:{{{','.join(parts)}}}"


_structs: dict[int, tuple[TypeFacts, Fields]] = {}
"""Compiled structs by the identity of their facts, which are kept alive with them."""


def field_type(facts: TypeFacts | None) -> FieldType:
    """The ownership of a type; facts None: deduced."""
    if facts is None:
        return DEDUCED
    if facts.shape is Shape.STRUCT:
        return ATOMIC if facts.map_type == "atomic" else _struct(facts)
    if facts.shape is Shape.MAP:
        return ATOMIC if facts.map_type == "atomic" else Fields(field_type(facts.item))
    if facts.shape is Shape.LIST and facts.list_type in ("set", "map"):
        return _items(facts)
    return ATOMIC


def _struct(facts: TypeFacts) -> Fields:
    known = _structs.get(id(facts))
    if known is not None:
        return known[1]
    result = Fields(None)
    _structs[id(facts)] = (facts, result)
    for name, field in facts.fields.items():
        result.declare(name, field_type(field.type))
    return result


def _items(facts: TypeFacts) -> FieldType:
    item = facts.item
    result: Items
    if facts.list_type == "map" and facts.list_map_keys and item is not None:
        fields = item.fields if item.shape is Shape.STRUCT else {}
        defaults = {
            name: _default(fields[name], item) for name in facts.list_map_keys if name in fields
        }
        result = KeyedItems(facts.list_map_keys, defaults)
        result.item = field_type(item)
    else:
        result = Items()
    return result


def _default(field: FieldFacts, struct: TypeFacts) -> Any:
    """What stands for a key that is absent: a declared default, or the zero value of what Go always
    writes out (and of the name in a reference to an object in the same namespace)."""
    if field.default is None and (not field.omit_empty or struct.name == LOCAL_REFERENCE):
        return _ZEROS.get(field.type.scalar)
    return field.default
