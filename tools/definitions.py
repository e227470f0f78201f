"""The one model all generators read: OpenAPI definitions joined with the facts of the Go types.

The definitions come from the `kubernetes-validate` package (a development dependency), the Go facts
from `go_facts.json` next to this file (see `scan_go_types.py`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

SCHEMA_VERSION = "v1.36.0"
REF = "#/$defs/"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
EXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."

SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    META + "Time": "time",
    META + "MicroTime": "micro-time",
    META + "FieldsV1": "any-object",
    META + "Patch": "any-object",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "any-object",
    EXTENSIONS + "JSON": "any",
    EXTENSIONS + "JSONSchemaPropsOrArray": "schema-or-array",
    EXTENSIONS + "JSONSchemaPropsOrBool": "schema-or-bool",
    EXTENSIONS + "JSONSchemaPropsOrStringArray": "schema-or-strings",
}
"""Definitions with a decoder of their own in Go."""

GROUPS = {
    "core": "",
    "apiserverinternal": "internal.apiserver.k8s.io",
    "admissionregistration": "admissionregistration.k8s.io",
    "authentication": "authentication.k8s.io",
    "authorization": "authorization.k8s.io",
    "certificates": "certificates.k8s.io",
    "coordination": "coordination.k8s.io",
    "discovery": "discovery.k8s.io",
    "events": "events.k8s.io",
    "flowcontrol": "flowcontrol.apiserver.k8s.io",
    "networking": "networking.k8s.io",
    "node": "node.k8s.io",
    "rbac": "rbac.authorization.k8s.io",
    "resource": "resource.k8s.io",
    "scheduling": "scheduling.k8s.io",
    "storage": "storage.k8s.io",
    "storagemigration": "storagemigration.k8s.io",
}


@dataclass(frozen=True)
class FieldModel:
    """One field: its schema and how Go holds it."""

    name: str
    schema: dict[str, Any]
    go_type: str
    omit_empty: bool
    omit_zero: bool
    default: str
    required: bool
    within: str = ""
    """The embedded Go structs the field is part of: `RuleWithOperations.Rule`."""

    @property
    def pointer(self) -> bool:
        return self.go_type.startswith("*")


@dataclass(frozen=True)
class TypeModel:
    """One definition with properties."""

    name: str
    definition: str
    schema: dict[str, Any]
    fields: list[FieldModel] = field(default_factory=list)

    @property
    def module(self) -> str:
        return module_of(self.definition)

    @property
    def gvk(self) -> tuple[str, str, str] | None:
        entries = self.schema.get("x-kubernetes-group-version-kind")
        if not entries:
            return None
        core = [entry for entry in entries if not entry["group"] and entry["version"] == "v1"]
        entry = core[0] if core else entries[0]
        return entry["group"], entry["version"], entry["kind"]


def module_of(definition: str) -> str:
    """`core_v1` for io.k8s.api.core.v1.Pod."""
    *_, group, version, _ = definition.split(".")
    return f"{group}_{version}"


def is_served(definition: str) -> bool:
    """Alpha versions are off."""
    return not re.search(r"\.v\d+alpha\d+\.", definition) and ".version.Info" not in definition


@cache
def raw_definitions() -> dict[str, dict[str, Any]]:
    path = files("kubernetes_validate") / "kubernetes-json-schema" / f"{SCHEMA_VERSION}-local"
    loaded = json.loads((path / "_definitions.json").read_text())["$defs"]
    return {name: schema for name, schema in loaded.items() if is_served(name)}


@cache
def go_facts() -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = json.loads(
        (Path(__file__).parent / "go_facts.json").read_text()
    )
    return result


def load() -> dict[str, TypeModel]:
    """All definitions that are objects with fields of their own, by definition name."""
    result = {}
    for definition, schema in raw_definitions().items():
        if definition in SPECIAL:
            continue
        package, _, name = definition.rpartition(".")
        properties = schema.get("properties", {})
        required = set(schema.get("required", ()))
        fields = []
        for text in go_facts()[package].get(name, ()):
            dotted, go_type, flags, *default = text.split(" ", 3)
            within, _, field_name = dotted.rpartition(".")
            fields.append(
                FieldModel(
                    name=field_name,
                    schema=properties[field_name],
                    go_type=go_type,
                    omit_empty="o" in flags,
                    omit_zero="z" in flags,
                    default=default[0] if default else "",
                    required=field_name in required,
                    within=within,
                )
            )
        if {item.name for item in fields} != set(properties):
            raise SystemExit(f"{definition}: the Go facts and the definition disagree")
        result[definition] = TypeModel(name, definition, schema, fields)
    return result


def scalar_type(schema: dict[str, Any]) -> str:
    """The JSON type without the `null` the JSON schemas add."""
    kind = schema.get("type", "")
    if isinstance(kind, list):
        kind = next(item for item in kind if item != "null")
    return str(kind)


def reference(schema: dict[str, Any]) -> str:
    """The definition a schema refers to, or ""."""
    return str(schema.get("$ref", "")).removeprefix(REF)
