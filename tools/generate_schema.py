"""Generates src/navarch/api/schema/data/<group>_<version>.json, read by navarch.api.schema.facts.

Usage: python tools/generate_schema.py

Shape: {type: {"f": {field: [type text, flags, extras]}, "m": map type}}; the module
`navarch.api.schema.facts` explains the type texts and flags.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from definitions import SPECIAL, FieldModel, load, reference, scalar_type
from schema_defaults import DEFAULTS

TARGET = Path(__file__).parent.parent / "src/navarch/api/schema/data"
SPECIAL_CODES = {
    "quantity": "q",
    "int-or-string": "is",
    "time": "t",
    "micro-time": "u",
    "any-object": "o",
    "any": "a",
    "schema-or-array": "sa",
    "schema-or-bool": "sb",
    "schema-or-strings": "ss",
}
GO_SCALARS = {
    "s": "string",
    "b": "bool",
    "i": "int32",
    "l": "int64",
    "f": "float64",
    "B": "[]uint8",
    "q": "resource.Quantity",
    "is": "intstr.IntOrString",
    "t": "v1.Time",
    "u": "v1.MicroTime",
}
GO_PACKAGES = {
    "metav1": "v1",
    "corev1": "v1",
    "apiv1": "v1",
    "autoscalingv1": "v1",
    "authenticationv1": "v1",
    "api": "v1",
}


def type_text(schema: dict[str, Any], module: str) -> str:
    """The compact text of a type."""
    if target := reference(schema):
        if special := SPECIAL.get(target):
            return SPECIAL_CODES[special]
        *_, group, version, name = target.split(".")
        return f".{name}" if f"{group}_{version}" == module else f"{group}_{version}.{name}"
    kind = scalar_type(schema)
    if kind == "array":
        return "[]" + type_text(schema["items"], module)
    if kind == "object":
        inner = schema.get("additionalProperties")
        return "{}" + (type_text(inner, module) if inner else "a")
    if kind == "integer":
        return "i" if schema.get("format") == "int32" else "l"
    if kind == "string":
        return "B" if schema.get("format") == "byte" else "s"
    return {"boolean": "b", "number": "f"}[kind]


def go_name(go_type: str, version: str) -> str:
    """A Go type as reflection prints it: with the package's name, without a leading pointer."""
    go_type = go_type.lstrip("*")
    for prefix in ("[]", "map[string]"):
        if go_type.startswith(prefix):
            rest = go_type.removeprefix(prefix)
            star = "*" if rest.startswith("*") else ""
            return prefix + star + go_name(rest, version)
    if go_type.startswith("map["):
        key, _, rest = go_type[4:].partition("]")
        return f"map[{go_name(key, version)}]{go_name(rest, version)}"
    package, dot, name = go_type.rpartition(".")
    if dot:
        return f"{GO_PACKAGES.get(package, package)}.{name}"
    if name == "byte":
        return "uint8"
    return f"{version}.{name}" if name[:1].isupper() else name


def derived_go_name(text: str, version: str) -> str:
    """The Go type the type text alone suggests."""
    if text.startswith("[]"):
        return "[]" + derived_go_name(text[2:], version)
    if text.startswith("{}"):
        return "map[string]" + derived_go_name(text[2:], version)
    if "." in text:
        module, _, name = text.partition(".")
        return f"{module.rpartition('_')[2] or version}.{name}"
    return GO_SCALARS.get(text, "?")


def render_field(item: FieldModel, module: str, default: Any) -> list[Any]:
    text = type_text(item.schema, module)
    flags = "".join(
        flag
        for flag, on in (
            ("p", item.pointer),
            ("o", item.omit_empty),
            ("z", item.omit_zero),
            ("r", item.required),
        )
        if on
    )
    schema = item.schema
    extras: dict[str, Any] = {}
    for key, name in (
        ("lt", "x-kubernetes-list-type"),
        ("lk", "x-kubernetes-list-map-keys"),
        ("ps", "x-kubernetes-patch-strategy"),
        ("pk", "x-kubernetes-patch-merge-key"),
        ("mt", "x-kubernetes-map-type"),
    ):
        if name in schema:
            extras[key] = schema[name]
    version = module.rpartition("_")[2]
    go_type = go_name(item.go_type, version)
    if text not in ("o", "a") and go_type != derived_go_name(text, version):
        extras["g"] = go_type
    if default is not None:
        extras["d"] = default
    if item.within:
        extras["e"] = item.within
    result: list[Any] = [text, flags]
    if extras:
        result.append(extras)
    return result


def default_of(item: FieldModel, table: dict[str, Any]) -> Any:
    """The field's constant default: from the table, or the `+default` marker of the Go type."""
    if item.name in table:
        return table[item.name]
    if not item.default or item.default.startswith("ref("):
        return None
    value = json.loads(item.default)
    # A zero default of a field that is no pointer changes nothing.
    return value if value or item.pointer else None


def render_all() -> dict[str, str]:
    """Every generated file by name."""
    modules: dict[str, list[str]] = {}
    used: set[tuple[str, str, str]] = set()
    for _, model in sorted(load().items()):
        table = DEFAULTS.get(model.module, {}).get(model.name, {})
        used |= {(model.module, model.name, item.name) for item in model.fields}
        entry: dict[str, Any] = {
            "f": {
                item.name: render_field(item, model.module, default_of(item, table))
                for item in model.fields
            }
        }
        if "x-kubernetes-map-type" in model.schema:
            entry["m"] = model.schema["x-kubernetes-map-type"]
        line = f"{json.dumps(model.name)}:{json.dumps(entry, separators=(',', ':'))}"
        modules.setdefault(model.module, []).append(line)
    wanted = {(m, t, f) for m, types in DEFAULTS.items() for t, fs in types.items() for f in fs}
    if wanted - used:
        raise SystemExit(f"defaults of unknown fields: {sorted(wanted - used)}")
    return {f"{name}.json": "{\n" + ",\n".join(lines) + "\n}\n" for name, lines in modules.items()}


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    for old in TARGET.glob("*_v*.json"):
        old.unlink()
    for name, text in render_all().items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()
