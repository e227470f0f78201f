"""Generate the field numbers of the protobuf encoding: `api/schema/data/protobuf.json`.

    python tools/generate_protobuf.py <upstream source tree>

Reads upstream's `generated.proto` files. A field whose name the JSON form of its type does not know
holds a struct that JSON inlines; it gets an empty name. (Of a type that exists only inlined, all
field names are those of JSON.)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "src/navarch/api/schema/data"
_FIELD = re.compile(
    r"^\s*(optional|repeated)?\s*(map<string,\s*[\w.]+>|[\w.]+)\s+(\w+)\s*=\s*(\d+);"
)
_MESSAGE = re.compile(r"^message (\w+) \{")
_PACKAGE = re.compile(r"^package ([\w.]+);")
_SCALARS = {
    "string": "s",
    "bytes": "B",
    "bool": "b",
    "int32": "v",
    "int64": "v",
    "uint32": "v",
    "double": "d",
}
_SPECIAL = {
    "k8s.io.apimachinery.pkg.apis.meta.v1.Time": "t",
    "k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime": "u",
    "k8s.io.apimachinery.pkg.apis.meta.v1.Duration": "D",
    "k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1": "j",
    "k8s.io.apimachinery.pkg.apis.meta.v1.Verbs": "l",
    "k8s.io.apimachinery.pkg.api.resource.Quantity": "q",
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": "i",
    "k8s.io.apimachinery.pkg.runtime.RawExtension": "j",
    "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON": "j",
    "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray": "sa",
    "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool": "sb",
    "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": "ss",
    "k8s.io.api.authentication.v1.ExtraValue": "l",
    "k8s.io.api.authorization.v1.ExtraValue": "l",
    "k8s.io.api.certificates.v1.ExtraValue": "l",
    "k8s.io.api.certificates.v1beta1.ExtraValue": "l",
}


def module_of(package: str) -> str:
    """`core_v1` for k8s.io.api.core.v1."""
    *_, group, version = package.split(".")
    return f"{group}_{version}"


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def type_code(text: str, package: str) -> str:
    if text.startswith("map<"):
        return "{}" + type_code(text[4:-1].split(",")[1].strip(), package)
    if text in _SCALARS:
        return _SCALARS[text]
    full = text.lstrip(".")
    if "." not in full:
        full = f"{package}.{full}"
    if full in _SPECIAL:
        return _SPECIAL[full]
    owner, _, name = full.rpartition(".")
    return f".{name}" if owner == package else f"{module_of(owner)}.{name}"


def read(path: Path, result: dict[str, dict[str, Any]]) -> None:
    package = module = message = ""
    known: dict[str, Any] = {}
    for line in path.read_text().splitlines():
        if match := _PACKAGE.match(line):
            package, module = match[1], module_of(match[1])
            if not (DATA / f"{module}.json").exists():
                return
            known = json.loads((DATA / f"{module}.json").read_text())
        elif match := _MESSAGE.match(line):
            message = match[1]
            result.setdefault(module, {})[message] = {}
        elif (match := _FIELD.match(line)) and message:
            label, text, name, number = match.groups()
            code = type_code(text, package)
            code = "[]" + code if label == "repeated" else code
            names = {plain(each): each for each in known.get(message, {}).get("f", {})}
            shown = names.get(plain(name), "")
            if not shown and ("." not in code or message not in known):
                shown = name
            result[module][message][number] = [shown, code]


def main() -> None:
    root = Path(sys.argv[1]) / "staging/src/k8s.io"
    result: dict[str, dict[str, Any]] = {}
    for path in sorted(root.rglob("generated.proto")):
        read(path, result)
    kept = {module: result[module] for module in sorted(result)}
    target = DATA / "protobuf.json"
    target.write_text(json.dumps(kept, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
