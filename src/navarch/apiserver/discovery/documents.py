"""The discovery documents: which groups, versions and resources are served.

Two forms: the legacy ones (`/api`, `/apis`, one document per group and version) and the aggregated
one, a single answer on `/api` and `/apis` for clients that ask for it by Accept header. All are
derived from the kinds table, the catalog of custom resources and what is registered of extension
API servers, and kept until one of the latter changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from navarch.api.kinds import GROUPS, GROUPS_BY_NAME, KINDS, Kind, Subresource
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
class RemoteVersion:
    """A group version that an extension API server serves. `resources` are entries of the
    aggregated form, None before the server was asked; without them it is known to no one but the
    legacy documents."""

    resources: tuple[Object, ...] | None = None
    is_fresh: bool = False


class Registrations:
    """What the APIServices say: the priorities of group versions, and which are remote."""

    def __init__(self) -> None:
        self.generation = 0
        self.priorities: dict[tuple[str, str], tuple[int, int]] = {}
        """Of the group and of the version."""
        self.remote: dict[tuple[str, str], RemoteVersion] = {}

    def changed(self) -> None:
        self.generation += 1


@dataclass(frozen=True, slots=True)
class ServedGroup:
    """A group and its resources by version, the preferred version first."""

    name: str
    versions: dict[str, list[Kind]]
    remote: dict[str, RemoteVersion] = field(default_factory=dict)
    """Versions of extension servers; `versions` has an empty list for them."""


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


CUSTOM_PRIORITY = (1000, 100)
"""Of the groups and versions of custom resources."""


def arranged(groups: Iterable[ServedGroup], registered: Registrations) -> list[ServedGroup]:
    """The groups with those of extension servers among them, each in the place and with the
    versions in the order that the priorities say."""
    by_name = {group.name: dict(group.versions) for group in groups}
    remote: dict[str, dict[str, RemoteVersion]] = {}
    for (name, version), found in registered.remote.items():
        by_name.setdefault(name, {})[version] = []
        remote.setdefault(name, {})[version] = found

    def priority(name: str, version: str) -> tuple[int, int]:
        built_in = GROUPS_BY_NAME.get(name)
        known = built_in.versions.get(version) if built_in else None
        default = (built_in.priority, known) if built_in and known else CUSTOM_PRIORITY
        return registered.priorities.get((name, version), default)

    def group_order(name: str) -> tuple[bool, bool, int, str]:
        highest = max((priority(name, version)[0] for version in by_name[name]), default=0)
        return bool(name), name != "apiregistration.k8s.io", -highest, name

    result = []
    for name in sorted(by_name, key=group_order):
        versions = by_name[name]
        order = sorted(versions, key=lambda each: (-priority(name, each)[1], version_order(each)))
        ordered = {version: versions[version] for version in order}
        result.append(ServedGroup(name, ordered, remote.get(name, {})))
    return result


@dataclass(frozen=True, slots=True)
class Aggregated:
    """An aggregated document with its tag."""

    body: bytes
    etag: str


class Documents:
    """The documents, made anew when the catalog changes."""

    def __init__(self, catalog: Catalog, registered: Registrations | None = None) -> None:
        self.catalog = catalog
        self.registered = registered or Registrations()
        self._generation = (-1, -1)
        self._groups: dict[str, ServedGroup] = {}
        self._aggregated: dict[tuple[bool, str], Aggregated] = {}

    def groups(self) -> dict[str, ServedGroup]:
        generation = (self.catalog.generation, self.registered.generation)
        if self._generation != generation:
            custom = [each.kind for each in self.catalog.custom()]
            groups = arranged(served_groups(custom), self.registered)
            self._groups = {group.name: group for group in groups}
            self._aggregated.clear()
            self._generation = generation
        return self._groups

    def aggregated(self, is_core: bool, version: str) -> Aggregated:
        """`/api` (the core group alone) or `/apis` (all others), v2 or v2beta1."""
        groups = self.groups()
        found = self._aggregated.get((is_core, version))
        if found is None:
            items = [
                _aggregated_group(group) for group in groups.values() if (not group.name) == is_core
            ]
            items = [each for each in items if each["versions"]]
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
            # The document of the core group is older than the field.
            **({"apiVersion": "v1"} if group else {}),
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": sorted(resources, key=lambda each: str(each["name"])),
        }


def _group(group: ServedGroup) -> Object:
    versions = [
        {"groupVersion": f"{group.name}/{version}", "version": version}
        for version, kinds in group.versions.items()
        if kinds or version in group.remote
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
    versions: list[Object] = []
    for version, kinds in group.versions.items():
        remote = group.remote.get(version)
        if remote is not None and remote.resources is not None:
            freshness = "Current" if remote.is_fresh else "Stale"
            versions.append({"version": version, "freshness": freshness})
            if remote.resources:
                versions[-1]["resources"] = remote.resources
        elif kinds:
            resources = [_aggregated_resource(kind) for kind in kinds]
            versions.append({"version": version, "resources": resources, "freshness": "Current"})
    return {"metadata": {"name": group.name} if group.name else {}, "versions": versions}


def _aggregated_resource(kind: Kind) -> Object:
    entry: Object = {
        "resource": kind.plural,
        "responseKind": _response_kind(kind, kind),
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


def _response_kind(owner: Kind, answer: Kind | Subresource) -> Object:
    """What a resource answers with. Built-in ones name no group and version that are their own."""
    is_own = (answer.group, answer.version) == (owner.group, owner.version)
    if is_own and owner.group in GROUPS_BY_NAME:
        return {"group": "", "version": "", "kind": answer.kind}
    return {"group": answer.group, "version": answer.version, "kind": answer.kind}


def _aggregated_subresources(kind: Kind, rows: Sequence[Subresource]) -> list[Object]:
    result = []
    for row in rows:
        result.append(
            {
                "subresource": row.name,
                "responseKind": _response_kind(kind, row),
                "verbs": sorted(row.verbs),
            }
        )
    return result
