"""Generates src/navarch/network/gateway/crds.json from Gateway API's definitions.

Usage: python tools/generate_gateway_crds.py DIRECTORY

DIRECTORY is `config/crd/standard` of a release of github.com/kubernetes-sigs/gateway-api. Only the
API's facts are taken over: names, types, defaults, limits, validation rules and their messages, not
the descriptions. Versions with the same schema share it: {"versions": [...], "schema": {...}}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parent.parent / "src/navarch/network/gateway/crds.json"
PLURALS = ("gatewayclasses", "gateways", "httproutes", "referencegrants")


def bare(value: Any, *, are_names: bool = False) -> Any:
    """A schema without descriptions. In `properties` the keys are names of fields."""
    if isinstance(value, dict):
        return {
            key: bare(each, are_names=key == "properties" and not are_names)
            for key, each in value.items()
            if are_names or key != "description" or not isinstance(each, str)
        }
    return [bare(each) for each in value] if isinstance(value, list) else value


def packed(definition: dict[str, Any]) -> dict[str, Any]:
    spec = definition["spec"]
    rows: list[dict[str, Any]] = []
    for version in spec.pop("versions"):
        row = bare(version)
        name, storage = row.pop("name"), row.pop("storage")
        for other in rows:
            if other["row"] == row:
                other["versions"][name] = storage
                break
        else:
            rows.append({"versions": {name: storage}, "row": row})
    annotations = definition["metadata"]["annotations"]
    return {
        "name": definition["metadata"]["name"],
        "annotations": {key: annotations[key] for key in sorted(annotations)},
        "spec": spec,
        "rows": rows,
    }


def main() -> None:
    directory = Path(sys.argv[1])
    found = []
    for plural in PLURALS:
        text = (directory / f"gateway.networking.k8s.io_{plural}.yaml").read_text()
        found.append(packed(yaml.safe_load(text)))
    TARGET.write_text(json.dumps(found, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
