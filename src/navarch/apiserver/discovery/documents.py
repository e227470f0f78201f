"""The discovery documents: which groups, versions and resources are served.

Two forms: the legacy ones (`/api`, `/apis`, one document per group and version) and the aggregated
one, a single answer on `/api` and `/apis` for clients that ask for it by Accept header. All are
derived from the kinds table and the catalog of custom resources, and kept until the latter changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from navarch.api.kinds import GROUPS, KINDS, Kind, Subresource
from navarch.apiserver.registry.resource import Catalog

Object = dict[str, Any]

_VERSION = re.compile(r"v([1-9][0-9]*)(?:(alpha|beta)([1-9][0-9]*))?")
_encode = msgspec.json.Encoder().encode


def version_order(version: str) -> tuple[int, int, int, str]:
    """Sort key that puts GA before beta before alpha, higher numbers first, other names last."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return 3, 0, 0, version
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return stage, -int(match[1]), -int(match[3] or 0), ""


@dataclass(frozen=True, slots=True)
class ServedGroup:
    """A group and its resources by version, the preferred version first."""

    name: str
    versions: dict[str, list[Kind]]


def served_groups(custom: Iterable[Kind]) -> list[ServedGroup]:
    """All groups in discovery order: the built-in ones by priority, then custom ones by name."""
    groups = {
        group.name: ServedGroup(group.name, {version: [] for version in group.versions})
        for group in GROUPS
    }
    for kind in KINDS:
        groups[kind.group].versions[kind.version].append(kind)
    added: dict[str, dict[str, list[Kind]]] = {}
    for kind in custom:
        if kind.group in groups:
            groups[kind.group].versions.setdefault(kind.version, []).append(kind)
        else:
            added.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
    for name in sorted(added):
        versions = added[name]
        ordered = {
            version: sorted(versions[version], key=lambda kind: kind.plural)
            for version in sorted(versions, key=version_order)
        }
        groups[name] = ServedGroup(name, ordered)
    return [group for group in groups.values() if any(group.versions.values())]


@dataclass(frozen=True, slots=True)
class Aggregated:
    """An aggregated document with its tag."""

    body: bytes
    etag: str


class Documents:
    """The documents, made anew when the catalog changes."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._generation = -1
        self._groups: dict[str, ServedGroup] = {}
        self._aggregated: dict[tuple[bool, str], Aggregated] = {}

    def groups(self) -> dict[str, ServedGroup]:
        if self._generation != self.catalog.generation:
            custom = [each.kind for each in self.catalog.custom()]
            self._groups = {group.name: group for group in served_groups(custom)}
            self._aggregated.clear()
            self._generation = self.catalog.generation
        return self._groups

    def aggregated(self, is_core: bool, version: str) -> Aggregated:
        """`/api` (the core group alone) or `/apis` (all others), v2 or v2beta1."""
        groups = self.groups()
        found = self._aggregated.get((is_core, version))
        if found is None:
            items = [
                _aggregated_group(group) for group in groups.values() if (not group.name) == is_core
            ]
            body = _encode(
                {
                    "kind": "APIGroupDiscoveryList",
                    "apiVersion": f"apidiscovery.k8s.io/{version}",
                    "metadata": {},
                    "items": items,
                }
            )
            tag = hashlib.sha512(body).hexdigest().upper()
            found = self._aggregated[is_core, version] = Aggregated(body, f'"{tag}"')
        return found

    def group_list(self) -> Object:
        groups = [_group(group) for group in self.groups().values() if group.name]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def group(self, name: str) -> Object | None:
        """The APIGroup document of a served group."""
        group = self.groups().get(name) if name else None
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)} if group else None

    def resource_list(self, group: str, version: str) -> Object | None:
        """The resources of a served group version."""
        served = self.groups().get(group)
        kinds = served.versions.get(version) if served else None
        if not kinds:
            return None
        resources: list[Object] = []
        for kind in kinds:
            resources.append(_resource(kind))
            resources += [_subresource(kind, each) for each in kind.subresources]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": sorted(resources, key=lambda each: str(each["name"])),
        }


def _group(group: ServedGroup) -> Object:
    versions = [
        {"groupVersion": f"{group.name}/{version}", "version": version}
        for version, kinds in group.versions.items()
        if kinds
    ]
    return {"name": group.name, "versions": versions, "preferredVersion": versions[0]}


def _resource(kind: Kind) -> Object:
    entry: Object = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": sorted(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.is_stored:
        entry["storageVersionHash"] = kind.storage_version_hash
    return entry


def _subresource(kind: Kind, subresource: Subresource) -> Object:
    entry: Object = {
        "name": f"{kind.plural}/{subresource.name}",
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": subresource.kind,
        "verbs": sorted(subresource.verbs),
    }
    if (subresource.group, subresource.version) != (kind.group, kind.version):
        entry |= {"group": subresource.group, "version": subresource.version}
    return entry


def _aggregated_group(group: ServedGroup) -> Object:
    return {
        "metadata": {"name": group.name} if group.name else {},
        "versions": [
            {
                "version": version,
                "resources": [_aggregated_resource(kind) for kind in kinds],
                "freshness": "Current",
            }
            for version, kinds in group.versions.items()
            if kinds
        ],
    }


def _aggregated_resource(kind: Kind) -> Object:
    entry: Object = {
        "resource": kind.plural,
        "responseKind": {"group": "", "version": "", "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": sorted(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.subresources:
        entry["subresources"] = _aggregated_subresources(kind, kind.subresources)
    return entry


def _aggregated_subresources(kind: Kind, rows: Sequence[Subresource]) -> list[Object]:
    result = []
    for row in rows:
        is_own = (row.group, row.version) == (kind.group, kind.version)
        result.append(
            {
                "subresource": row.name,
                "responseKind": {
                    "group": "" if is_own else row.group,
                    "version": "" if is_own else row.version,
                    "kind": row.kind,
                },
                "verbs": sorted(row.verbs),
            }
        )
    return result
