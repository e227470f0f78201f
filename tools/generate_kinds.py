"""Generates src/navarch/api/data/kinds.json, read by navarch.api.kinds.

Usage: python tools/generate_kinds.py <folder with the discovery documents of a cluster>

Facts come from an aggregated discovery document, storage versions from the storageVersionHash of
the plain ones. Alpha versions stay off. Row shape: see `Kind` in navarch.api.kinds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent.parent / "src/navarch/api/data"
STANDARD = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
STATUS = ["get", "patch", "update"]

PREFIXES = {
    ("", "replicationcontrollers"): "controllers",
    ("", "endpoints"): "services/endpoints",
    ("", "services"): "services/specs",
    ("", "nodes"): "minions",
    ("networking.k8s.io", "ingresses"): "ingress",
    ("apiregistration.k8s.io", "apiservices"): "apiregistration.k8s.io/apiservices",
    ("apiextensions.k8s.io", "customresourcedefinitions"): (
        "apiextensions.k8s.io/customresourcedefinitions"
    ),
}
"""Where etcd keys do not simply start with the resource's name."""

PRIORITIES = {
    "": (18000, {"v1": 1}),
    "apiregistration.k8s.io": (18000, {}),
    "apps": (17800, {}),
    "events.k8s.io": (17750, {}),
    "authentication.k8s.io": (17700, {}),
    "authorization.k8s.io": (17600, {}),
    "autoscaling": (17500, {"v2": 30}),
    "batch": (17400, {}),
    "certificates.k8s.io": (17300, {}),
    "networking.k8s.io": (17200, {}),
    "policy": (17100, {}),
    "rbac.authorization.k8s.io": (17000, {}),
    "storage.k8s.io": (16800, {}),
    "admissionregistration.k8s.io": (16700, {"v1beta1": 12}),
    "apiextensions.k8s.io": (16700, {}),
    "scheduling.k8s.io": (16600, {}),
    "coordination.k8s.io": (16500, {"v1beta1": 13}),
    "node.k8s.io": (16300, {}),
    "discovery.k8s.io": (16200, {}),
    "resource.k8s.io": (16200, {"v1": 21, "v1beta2": 15}),
    "flowcontrol.apiserver.k8s.io": (16100, {"v1": 21}),
    "storagemigration.k8s.io": (15800, {}),
}
"""Group priority and the version priorities other than v1: 15, v1beta1: 9, as APIServices say."""


OFF = frozenset({("resource.k8s.io", "devicetaintrules")})
"""Kinds behind a feature gate that is off: nothing would act on them (DRADeviceTaintRules)."""


def version_hash(group: str, version: str, kind: str) -> str:
    digest = hashlib.sha256(f"{group}/{version}/{kind}".encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def storage_of(group: str, resource: dict[str, Any], versions: list[str]) -> list[str]:
    """[group, version] the hash stands for; the preferred version where that one is not served."""
    for candidate in [*((group, version) for version in versions), ("", "v1")]:
        if resource["storageVersionHash"] == version_hash(*candidate, resource["kind"]):
            return list(candidate)
    return [group, versions[0]]


def subresource(row: dict[str, Any], kind: dict[str, Any]) -> list[Any]:
    """[name, verbs, group, version, kind], the last three empty for the parent's own kind."""
    name = row["name"].partition("/")[2]
    verbs = "gpu" if row["verbs"] == STATUS else row["verbs"]
    same = row["kind"] == kind["kind"] and "group" not in row
    if same:
        return [name, verbs]
    return [name, verbs, row.get("group", kind["group"]), row.get("version", "v1"), row["kind"]]


def rows_of(document: dict[str, Any], offers: dict[str, list[str]]) -> list[dict[str, Any]]:
    group, _, version = document["groupVersion"].rpartition("/")
    rows: dict[str, dict[str, Any]] = {}
    for resource in document["resources"]:
        if (group, resource["name"].partition("/")[0]) in OFF:
            continue
        if "/" in resource["name"]:
            parent = rows[resource["name"].partition("/")[0]]
            parent.setdefault("subresources", []).append(subresource(resource, parent))
            continue
        row: dict[str, Any] = {
            "group": group,
            "version": version,
            "kind": resource["kind"],
            "plural": resource["name"],
            "singular": resource["singularName"],
            "namespaced": resource["namespaced"],
        }
        for key, source in (("short_names", "shortNames"), ("categories", "categories")):
            if source in resource:
                row[key] = resource[source]
        if resource["verbs"] != STANDARD:
            row["verbs"] = resource["verbs"]
        if "storageVersionHash" in resource:
            row["storage_prefix"] = PREFIXES.get((group, resource["name"]), resource["name"])
            offered = offers[resource["name"]]
            storage = storage_of(group, resource, offered)
            if storage != [group, version]:
                row["stored_as"] = storage
        rows[resource["name"]] = row
    return list(rows.values())


def read(folder: Path, group: str, version: str) -> dict[str, Any]:
    name = f"apis__{group}__{version}.json" if group else "api__v1.json"
    result: dict[str, Any] = json.loads((folder / name).read_text())
    return result


def main() -> None:
    folder = Path(sys.argv[1])
    aggregated = json.loads((folder / "aggregated_v2.json").read_text())
    groups: list[tuple[str, list[str]]] = [("", ["v1"])]
    for item in aggregated["items"]:
        versions = [v["version"] for v in item["versions"] if "alpha" not in v["version"]]
        if versions:
            groups.append((item["metadata"]["name"], versions))
    table: dict[str, Any] = {"groups": [], "kinds": []}
    for group, versions in groups:
        priority, special = PRIORITIES[group]
        usual = {"v1": 15, "v1beta1": 9}
        table["groups"].append(
            [group, priority, {v: special.get(v, usual.get(v)) for v in versions}]
        )
        documents = {version: read(folder, group, version) for version in versions}
        offers: dict[str, list[str]] = {}
        for version, document in documents.items():
            for resource in document["resources"]:
                offers.setdefault(resource["name"], []).append(version)
        for document in documents.values():
            table["kinds"] += rows_of(document, offers)
    TARGET.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in table["kinds"])
    head = json.dumps(table["groups"], separators=(",", ":"))
    (TARGET / "kinds.json").write_text(f'{{"groups":{head},\n"kinds":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
