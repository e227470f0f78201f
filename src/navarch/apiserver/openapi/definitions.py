"""Schemas of the built-in types as OpenAPI definitions, from the facts that the decoder walks too.

Swagger 2.0 and OpenAPI 3.0 differ in little: where references point, that 3.0 wraps a reference
that has siblings in `allOf`, and that 2.0 knows neither defaults (by upstream's convention) nor
`oneOf`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from navarch.api.kinds import GROUPS
from navarch.api.schema.facts import FieldFacts, Shape, TypeFacts, module_of
from navarch.apiserver.openapi.descriptions import NOTHING, Descriptions

Object = dict[str, Any]

META = "io.k8s.apimachinery.pkg.apis.meta.v1"
EXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1"
GVK = "x-kubernetes-group-version-kind"
_ROOTS = {
    "meta": "io.k8s.apimachinery.pkg.apis.meta",
    "apiextensions": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
    "apiregistration": "io.k8s.kube-aggregator.pkg.apis.apiregistration",
}
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
RAW = "io.k8s.apimachinery.pkg.runtime.RawExtension"
PATCH = f"{META}.Patch"
STATUS = f"{META}.Status"
DELETE_OPTIONS = f"{META}.DeleteOptions"

_PLAIN: dict[str, Object] = {
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "double": {"type": "number", "format": "double"},
    "bytes": {"type": "string", "format": "byte"},
}
_NAMED = {
    "quantity": QUANTITY,
    "int-or-string": INT_OR_STRING,
    "time": f"{META}.Time",
    "micro-time": f"{META}.MicroTime",
}
_FREE_FIELDS = {
    "fieldsV1": f"{META}.FieldsV1",
    "items": f"{EXTENSIONS}.JSONSchemaPropsOrArray",
    "additionalItems": f"{EXTENSIONS}.JSONSchemaPropsOrBool",
    "additionalProperties": f"{EXTENSIONS}.JSONSchemaPropsOrBool",
    "dependencies": f"{EXTENSIONS}.JSONSchemaPropsOrStringArray",
}
"""Fields of types with a decoder of their own, which the facts do not name."""

_LEAVES: dict[str, Object] = {
    QUANTITY: {"type": "string"},
    INT_OR_STRING: {"type": "string", "format": "int-or-string"},
    f"{META}.Time": {"type": "string", "format": "date-time"},
    f"{META}.MicroTime": {"type": "string", "format": "date-time"},
    f"{META}.FieldsV1": {"type": "object"},
    PATCH: {"type": "object"},
    RAW: {"type": "object"},
    f"{EXTENSIONS}.JSON": {},
    f"{EXTENSIONS}.JSONSchemaPropsOrArray": {},
    f"{EXTENSIONS}.JSONSchemaPropsOrBool": {},
    f"{EXTENSIONS}.JSONSchemaPropsOrStringArray": {},
}
_LEAVES_V3: dict[str, Object] = {
    QUANTITY: {"oneOf": [{"type": "string"}, {"type": "number"}]},
    INT_OR_STRING: {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
}
_EVERYWHERE = ("DeleteOptions", "WatchEvent")
"""Meta types that belong to every group version."""

OWN_WORDS = {
    "apiVersion": "APIVersion defines the versioned schema of this representation of an object.",
    "kind": "Kind names the type of this object, in CamelCase. It cannot be changed.",
    "metadata": "Standard object's metadata.",
}
"""What the fields of every kind say when the package with the prose is not installed."""

_MODULES = {
    module_of(group.name, version): (group.name, version)
    for group in GROUPS
    for version in group.versions
}


def definition_name(name: str) -> str:
    """`io.k8s.api.apps.v1.Deployment` for the facts' `apps_v1.Deployment`."""
    module, _, type_name = name.partition(".")
    group, _, version = module.rpartition("_")
    return f"{_ROOTS.get(group, f'io.k8s.api.{group}')}.{version}.{type_name}"


class Definitions:
    """Makes definitions and remembers what they refer to; made for one document."""

    def __init__(
        self, is_v3: bool, descriptions: Descriptions, group_version: tuple[str, str] | None = None
    ) -> None:
        """`group_version` is that of a document of one group version."""
        self.is_v3 = is_v3
        self.prefix = "#/components/schemas/" if is_v3 else "#/definitions/"
        self._descriptions = descriptions
        self._group_version = group_version
        self._wanted: dict[str, TypeFacts | None] = {}

    def want(self, types: Iterable[TypeFacts], leaves: Iterable[str] = ()) -> None:
        """Types that the document must define; what they refer to follows."""
        for facts in types:
            self._wanted.setdefault(definition_name(facts.name), facts)
        for name in leaves:
            self._wanted.setdefault(name, None)

    def definitions(self) -> Iterator[tuple[str, Object]]:
        """Every definition that is wanted, or referred to by another."""
        done: set[str] = set()
        while len(done) < len(self._wanted):
            for name, facts in list(self._wanted.items()):
                if name not in done:
                    done.add(name)
                    yield name, self._leaf(name) if facts is None else self._struct(name, facts)

    def ref(self, name: str) -> Object:
        return {"$ref": self.prefix + name}

    def _leaf(self, name: str) -> Object:
        schema = dict(_LEAVES[name])
        if self.is_v3 and name in _LEAVES_V3:
            schema = dict(_LEAVES_V3[name])
        prose = self._descriptions.get(name, NOTHING).description
        return {"description": prose, **schema} if prose else schema

    def _struct(self, name: str, facts: TypeFacts) -> Object:
        prose = self._descriptions.get(name, NOTHING)
        properties = {
            field.name: self._field(field, prose.field(field.name))
            for field in sorted(facts.fields.values(), key=lambda each: each.name)
        }
        schema: Object = {"description": prose.description} if prose.description else {}
        schema["type"] = "object"
        required = [field.name for field in facts.fields.values() if field.required]
        if properties:
            schema["properties"] = properties
        if required:
            schema["required"] = sorted(required)
        if facts.map_type == "atomic":
            schema["x-kubernetes-map-type"] = "atomic"
        kinds = self._kinds(facts)
        if kinds:
            schema[GVK] = kinds
        return schema

    def _kinds(self, facts: TypeFacts) -> list[Object]:
        module, _, kind = facts.name.partition(".")
        is_kind = "kind" in facts.fields and "apiVersion" in facts.fields
        if not is_kind and kind not in _EVERYWHERE:
            return []
        if module != "meta_v1":
            served = [_MODULES[module]] if module in _MODULES else []
        elif kind not in _EVERYWHERE:
            served = [("", "v1")]
        elif self._group_version is not None:
            served = [self._group_version]
        else:
            served = sorted(_MODULES.values())
        return [{"group": group, "version": version, "kind": kind} for group, version in served]

    def _field(self, field: FieldFacts, prose: str) -> Object:
        schema = self._type(field.type, field.name)
        extras: Object = {}
        prose = prose or OWN_WORDS.get(field.name, "")
        if prose:
            extras["description"] = prose
        if self.is_v3 and field.default is not None:
            extras["default"] = field.default
        if field.patch_strategies:
            extras["x-kubernetes-patch-strategy"] = ",".join(field.patch_strategies)
        if field.patch_merge_key:
            extras["x-kubernetes-patch-merge-key"] = field.patch_merge_key
        if not extras:
            return schema
        if self.is_v3 and "$ref" in schema:
            schema = {"allOf": [schema]}
        return extras | schema

    def _type(self, facts: TypeFacts, field: str = "") -> Object:
        if facts.shape is Shape.STRUCT:
            name = definition_name(facts.name)
            self._wanted.setdefault(name, facts)
            return self.ref(name)
        if facts.shape is Shape.SCALAR:
            plain = _PLAIN.get(facts.scalar)
            return dict(plain) if plain is not None else self._named(_NAMED[facts.scalar])
        if facts.shape is Shape.ANY:
            return self._free(facts, field)
        assert facts.item is not None
        if facts.shape is Shape.MAP:
            schema = {"type": "object", "additionalProperties": self._type(facts.item, field)}
            if facts.map_type == "atomic":
                schema["x-kubernetes-map-type"] = "atomic"
            return schema
        schema = {
            "type": "array",
            "items": self._type(facts.item),
            "x-kubernetes-list-type": facts.list_type,
        }
        if facts.list_map_keys:
            schema["x-kubernetes-list-map-keys"] = list(facts.list_map_keys)
        return schema

    def _free(self, facts: TypeFacts, field: str) -> Object:
        if facts.scalar == "schema":
            assert facts.item is not None
            return self._named(_FREE_FIELDS[field])
        if not facts.scalar:
            return self._named(f"{EXTENSIONS}.JSON")
        return self._named(_FREE_FIELDS.get(field, RAW))

    def _named(self, name: str) -> Object:
        self._wanted.setdefault(name, None)
        return self.ref(name)
