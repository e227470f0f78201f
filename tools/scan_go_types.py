"""Extracts from the Go types of Kubernetes what OpenAPI does not tell: order, pointers, omitempty.

Usage: python tools/scan_go_types.py <kubernetes checkout>   (writes tools/go_facts.json)

The OpenAPI definitions know names and types, but not whether a field is a Go pointer, whether
encoding omits it when empty, nor the name of its Go type, which decoding errors mention. Those bare
facts, and the `+default` markers, land in one small file, so that the generators need no Go source.

Shape: {package: {type: [field, ...]}}, a field being "name goType flags [default]"; flags are `o`
(omitempty) and `z` (omitzero). Embedded structs are flattened, named non-struct types are listed
under "=" as {name: underlying type}.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from definitions import raw_definitions

ROOTS = {
    "api": "io.k8s.api.",
    "apimachinery/pkg/apis/meta": "io.k8s.apimachinery.pkg.apis.meta.",
    "apiextensions-apiserver/pkg/apis/apiextensions": (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions."
    ),
    "kube-aggregator/pkg/apis/apiregistration": (
        "io.k8s.kube-aggregator.pkg.apis.apiregistration."
    ),
}
STRUCT = re.compile(r"^type (\w+) struct \{\s*$")
NAMED = re.compile(r"^type (\w+) ([\w.\[\]*]+)\s*(?://.*)?$")
FIELD = re.compile(r"^\s*(?:(\w+)\s+)?([\w.\[\]*{}]+)\s+`([^`]*)`")
JSON_TAG = re.compile(r'json:"([^"]*)"')
DEFAULT = re.compile(r"^\s*// \+default=(.+?)\s*$")


def scan_file(text: str, structs: dict[str, Any], named: dict[str, str]) -> None:
    """Collect the raw fields of every struct of one Go file."""
    current: list[tuple[str, str, str, str]] | None = None
    default = ""
    for line in text.splitlines():
        if current is None:
            if match := STRUCT.match(line):
                current = structs.setdefault(match[1], [])
            elif match := NAMED.match(line):
                named[match[1]] = match[2]
            continue
        if line.startswith("}"):
            current, default = None, ""
        elif match := DEFAULT.match(line):
            default = match[1]
        elif not line.lstrip().startswith("//") and (match := FIELD.match(line)):
            tag = JSON_TAG.search(match[3])
            if tag and tag[1] != "-":
                name, *options = tag[1].split(",")
                flags = "".join(o[4] if o == "omitempty" else "z" for o in options if "omit" in o)
                flags = flags.replace("e", "o")
                current.append((name, match[2], flags, default))
            default = ""


def flatten(name: str, structs: dict[str, Any], foreign: dict[str, Any]) -> list[str]:
    """The fields of a struct in encoding order, those of embedded structs in place under a dotted
    name: `VolumeSource.hostPath`."""
    result = []
    for field, go_type, flags, default in structs[name]:
        if field:
            result.append(" ".join(filter(None, (field, go_type, flags or "-", default))))
            continue
        embedded = go_type.rpartition(".")[2].lstrip("*")
        if embedded == "TypeMeta":
            result.extend(["kind string o", "apiVersion string o"])
            continue
        if embedded in structs:
            inner = flatten(embedded, structs, foreign)
        elif embedded in foreign:
            inner = flatten(embedded, foreign, {})
        else:
            raise SystemExit(f"{name}: cannot find the embedded {go_type}")
        result.extend(f"{embedded}.{line}" for line in inner)
    return result


def scan_package(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    structs: dict[str, Any] = {}
    named: dict[str, str] = {}
    for path in sorted(folder.glob("*.go")):
        if not path.name.endswith("_test.go") and not path.name.startswith(("zz_", "generated")):
            scan_file(path.read_text(), structs, named)
    return structs, named


def main() -> None:
    staging = Path(sys.argv[1]) / "staging/src/k8s.io"
    core, _ = scan_package(staging / "api/core/v1")
    facts: dict[str, Any] = {}
    for root, prefix in ROOTS.items():
        for types in sorted((staging / root).glob("**/types.go")):
            folder = types.parent
            package = prefix + ".".join(folder.relative_to(staging / root).parts)
            if not any(name.startswith(package + ".") for name in raw_definitions()):
                continue
            structs, named = scan_package(folder)
            stable, _ = scan_package(folder.parent / "v1")
            entry: dict[str, Any] = {
                name: flatten(name, structs, {**core, **stable}) for name in sorted(structs)
            }
            entry["="] = named
            facts[package] = entry
    target = Path(__file__).parent / "go_facts.json"
    target.write_text(
        json.dumps(facts, separators=(",", ":"), sort_keys=True).replace("},", "},\n")
    )


if __name__ == "__main__":
    main()
