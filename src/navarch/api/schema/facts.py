"""The schema facts of the built-in types: fields, list and map types, merge keys, defaults.

Generated data (`data/<group>_<version>.json`, see tools/generate_schema.py) read at first use and
resolved lazily, so a process pays only for the types it touches. The decoder, the defaults, the
strategic merge and server-side apply all walk these facts. Custom resources build the same
`TypeFacts` from their structural schema.

    facts = schema_for("apps", "v1", "Deployment")     # the type of the kind
    spec = facts.fields["spec"].type                   # a struct
    containers = spec.at("template", "spec", "containers")
    containers.shape, containers.list_type, containers.list_map_keys   # LIST, "map", ("name",)
    containers.item.fields["image"].type.scalar        # "string"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import msgspec


class Shape(Enum):
    """What JSON a type is."""

    STRUCT = "struct"
    """An object with known fields."""
    MAP = "map"
    """An object with free keys and one type of values."""
    LIST = "list"
    SCALAR = "scalar"
    ANY = "any"
    """Free JSON (RawExtension, FieldsV1, JSON): kept as it is, replaced as a whole."""


SCALARS = {
    "s": "string",
    "b": "boolean",
    "i": "int32",
    "l": "int64",
    "f": "double",
    "B": "bytes",
    "q": "quantity",
    "is": "int-or-string",
    "t": "time",
    "u": "micro-time",
}


class TypeFacts:
    """One type. Struct types are shared by all their uses; lists and maps belong to one field."""

    __slots__ = (
        "_fields",
        "_load_fields",
        "go_type",
        "item",
        "list_map_keys",
        "list_type",
        "map_type",
        "name",
        "scalar",
        "shape",
    )

    def __init__(
        self,
        shape: Shape,
        *,
        name: str = "",
        scalar: str = "",
        go_type: str = "",
        item: TypeFacts | None = None,
        fields: Mapping[str, FieldFacts] | Callable[[], Mapping[str, FieldFacts]] | None = None,
        list_type: str = "atomic",
        list_map_keys: tuple[str, ...] = (),
        map_type: str = "granular",
    ) -> None:
        self.shape = shape
        self.name = name
        """Of a struct: module and type, `core_v1.Container`."""
        self.scalar = scalar
        """Of a scalar: string, boolean, int32, int64, double, bytes, quantity, int-or-string,
        time, micro-time. Of ANY: "" for any JSON, "object" where Go keeps a raw object."""
        self.go_type = go_type
        """The Go type as decoding errors name it."""
        self.item = item
        """Of a list or map: the type of its values."""
        self.list_type = list_type
        """Of a list: atomic (also when nothing is declared), set or map."""
        self.list_map_keys = list_map_keys
        """Of a list of type map: the fields that identify an item."""
        self.map_type = map_type
        """Of a struct or map: granular or atomic (server-side apply owns it as a whole)."""
        self._load_fields = fields if callable(fields) else None
        self._fields: Mapping[str, FieldFacts] = fields if isinstance(fields, Mapping) else {}

    @property
    def fields(self) -> Mapping[str, FieldFacts]:
        """Of a struct: its fields by name, in Go's encoding order."""
        if self._load_fields is not None:
            self._fields = self._load_fields()
            self._load_fields = None
        return self._fields

    def at(self, *path: str) -> TypeFacts:
        """The type below, by field names; lists are passed through to their items and maps to
        their values, except at the end. Raises KeyError for an unknown field."""
        current = self
        for name in path:
            while current.shape is Shape.LIST and current.item is not None:
                current = current.item
            if current.shape is Shape.MAP and current.item is not None:
                current = current.item
            else:
                current = current.fields[name].type
        return current

    def __repr__(self) -> str:
        return f"TypeFacts({self.shape.value}, {self.name or self.scalar or self.go_type})"


@dataclass(frozen=True, slots=True)
class FieldFacts:
    """One field of a struct."""

    name: str
    type: TypeFacts
    pointer: bool = False
    """A Go pointer: absent differs from zero, and zero is written out."""
    omit_empty: bool = True
    """Encoding leaves the field out when empty; otherwise it is always present."""
    omit_zero: bool = False
    required: bool = False
    default: Any = None
    """A constant default; `{}` creates an object in which further defaults apply."""
    patch_strategies: tuple[str, ...] = ()
    """Of strategic merge: merge, replace, retainKeys."""
    patch_merge_key: str = ""
    within: str = ""
    """The embedded Go structs the field is part of, which only the errors of Go's decoder show:
    `VolumeSource`, `RuleWithOperations.Rule`."""


def go_scalar(scalar: str) -> str:
    """The Go type behind a scalar that has no named type of its own."""
    return {
        "boolean": "bool",
        "double": "float64",
        "bytes": "[]uint8",
        "quantity": "resource.Quantity",
        "int-or-string": "intstr.IntOrString",
        "time": "v1.Time",
        "micro-time": "v1.MicroTime",
    }.get(scalar, scalar)


class _Module:
    """The types of one generated data file."""

    def __init__(self, name: str) -> None:
        self.name = name
        path = Path(__file__).parent / "data" / f"{name}.json"
        self.raw: dict[str, dict[str, Any]] = msgspec.json.decode(path.read_bytes())
        self.types: dict[str, TypeFacts] = {}

    def struct(self, name: str) -> TypeFacts:
        facts = self.types.get(name)
        if facts is None:
            entry = self.raw[name]
            facts = self.types[name] = TypeFacts(
                Shape.STRUCT,
                name=f"{self.name}.{name}",
                go_type=f"{self.name.rpartition('_')[2]}.{name}",
                fields=lambda: {
                    field: self._field(field, *row) for field, row in entry["f"].items()
                },
                map_type=entry.get("m", "granular"),
            )
        return facts

    def _field(
        self, name: str, text: str, flags: str, extras: dict[str, Any] | None = None
    ) -> FieldFacts:
        extras = extras or {}
        strategies = extras.get("ps", "")
        return FieldFacts(
            name,
            self._type(text, extras),
            pointer="p" in flags,
            omit_empty="o" in flags,
            omit_zero="z" in flags,
            required="r" in flags,
            default=extras.get("d"),
            patch_strategies=tuple(strategies.split(",")) if strategies else (),
            patch_merge_key=extras.get("pk", ""),
            within=extras.get("e", ""),
        )

    def _type(self, text: str, extras: dict[str, Any]) -> TypeFacts:
        go_type = extras.get("g", "")
        if text.startswith("[]"):
            item = self._type(text[2:], {"g": go_type[2:]} if go_type.startswith("[]") else {})
            return TypeFacts(
                Shape.LIST,
                item=item,
                go_type=go_type or f"[]{item.go_type}",
                list_type=extras.get("lt", "atomic"),
                list_map_keys=tuple(extras.get("lk", ())),
            )
        if text.startswith("{}"):
            item = self._type(text[2:], {})
            return TypeFacts(
                Shape.MAP,
                item=item,
                go_type=go_type or f"map[string]{item.go_type}",
                map_type=extras.get("mt", "granular"),
            )
        if "." in text:
            return self._reference(text, extras.get("mt", ""))
        if text in ("o", "a", "sa", "sb", "ss"):
            return self._free(text)
        scalar = SCALARS[text]
        return TypeFacts(Shape.SCALAR, scalar=scalar, go_type=go_type or go_scalar(scalar))

    def _reference(self, text: str, map_type: str) -> TypeFacts:
        module, _, name = text.partition(".")
        facts = (load_module(module) if module else self).struct(name)
        if not map_type or map_type == facts.map_type:
            return facts
        # The field overrides how the type is owned, so it gets a variant of its own.
        return TypeFacts(
            Shape.STRUCT,
            name=facts.name,
            go_type=facts.go_type,
            fields=lambda: facts.fields,
            map_type=map_type,
        )

    def _free(self, text: str) -> TypeFacts:
        if text == "a":
            return TypeFacts(Shape.ANY, go_type="v1.JSON")
        if text == "o":
            return TypeFacts(Shape.ANY, scalar="object", go_type="runtime.RawExtension")
        # JSONSchemaProps or a list of them, a boolean, a list of strings: the decoder follows
        # `item` where it meets an object.
        return TypeFacts(Shape.ANY, scalar="schema", item=self.struct("JSONSchemaProps"))


@cache
def load_module(name: str) -> _Module:
    """The types of a group version, `core_v1`; raises FileNotFoundError for an unknown one."""
    return _Module(name)


def type_facts(module: str, name: str) -> TypeFacts:
    """A type by module and name, e.g. ("core_v1", "PodSpec")."""
    return load_module(module).struct(name)


MODULE_GROUPS = {"": "core", "internal.apiserver.k8s.io": "apiserverinternal"}


def module_of(group: str, version: str) -> str:
    """The module of a group version: `apps_v1`, `core_v1`, `rbac_v1`."""
    return f"{MODULE_GROUPS.get(group) or group.partition('.')[0]}_{version}"


@cache
def schema_for(group: str, version: str, kind: str) -> TypeFacts:
    """The type of a built-in kind; raises KeyError if there is none."""
    for module in (module_of(group, version), "meta_v1"):
        try:
            loaded = load_module(module)
        except FileNotFoundError:
            continue
        if kind in loaded.raw:
            return loaded.struct(kind)
    raise KeyError((group, version, kind))
