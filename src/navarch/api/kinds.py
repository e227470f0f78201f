"""The kinds table: every built-in resource, its names, verbs, subresources and place in the store.

Generated facts (tools/generate_kinds.py) in discovery order. Custom resources become the same
`Kind` rows at run time. Storage keys follow upstream's etcd layout, so that data can move over:
`/registry/<prefix>[/<namespace>]/<name>`.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

STANDARD_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_STATUS_VERBS = ("get", "patch", "update")


@dataclass(frozen=True, slots=True)
class Subresource:
    """`pods/eviction`: its name, verbs, and the kind its requests and responses carry."""

    name: str
    verbs: tuple[str, ...]
    group: str
    version: str
    kind: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource in one version."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = STANDARD_VERBS
    subresources: tuple[Subresource, ...] = ()
    storage_prefix: str = ""
    """`services/specs`; empty for what is never stored (reviews, bindings, component statuses)."""
    stored_as: tuple[str, str] = ("", "")
    """Group and version of the stored form; kinds served in several versions are stored in one."""
    _by_name: dict[str, Subresource] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._by_name.update((sub.name, sub) for sub in self.subresources)

    @property
    def api_version(self) -> str:
        """`apps/v1`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def gvk(self) -> tuple[str, str, str]:
        return self.group, self.version, self.kind

    @property
    def is_stored(self) -> bool:
        return bool(self.storage_prefix)

    @property
    def stored_kind(self) -> Kind:
        """The row of the version the store holds (itself for most)."""
        if self.stored_as == (self.group, self.version):
            return self
        return kind_by_resource(*self.stored_as, self.plural) or self

    @property
    def storage_version_hash(self) -> str:
        """As discovery shows it: clients compare it to learn that the stored version changed."""
        text = f"{self.stored_as[0]}/{self.stored_as[1]}/{self.kind}"
        return base64.b64encode(hashlib.sha256(text.encode()).digest()[:8]).decode()

    def subresource(self, name: str) -> Subresource | None:
        return self._by_name.get(name)

    def storage_range(self, namespace: str = "") -> str:
        """The key prefix, with a slash at its end, of all objects (in the namespace)."""
        middle = f"{namespace}/" if namespace and self.namespaced else ""
        return f"/registry/{self.storage_prefix}/{middle}"

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True)
class Group:
    """An API group: its served versions, the preferred one first, with their priorities."""

    name: str
    priority: int
    versions: dict[str, int]


def _subresource(kind: dict[str, Any], row: list[Any]) -> Subresource:
    name, verbs, *other = row
    group, version, name_of_kind = other or (kind["group"], kind["version"], kind["kind"])
    return Subresource(
        name, _STATUS_VERBS if verbs == "gpu" else tuple(verbs), group, version, name_of_kind
    )


def _kind(row: dict[str, Any]) -> Kind:
    verbs = tuple(row.get("verbs", STANDARD_VERBS))
    return Kind(
        group=row["group"],
        version=row["version"],
        kind=row["kind"],
        plural=row["plural"],
        singular=row["singular"],
        namespaced=row["namespaced"],
        list_kind=f"{row['kind']}List" if "list" in verbs else "",
        short_names=tuple(row.get("short_names", ())),
        categories=tuple(row.get("categories", ())),
        verbs=verbs,
        subresources=tuple(_subresource(row, sub) for sub in row.get("subresources", ())),
        storage_prefix=row.get("storage_prefix", ""),
        stored_as=tuple(row.get("stored_as", (row["group"], row["version"]))),
    )


_TABLE: dict[str, Any] = msgspec.json.decode(
    (Path(__file__).parent / "data" / "kinds.json").read_bytes()
)

GROUPS: tuple[Group, ...] = tuple(Group(*row) for row in _TABLE["groups"])
"""All groups in discovery order, the core group ("") first."""

KINDS: tuple[Kind, ...] = tuple(_kind(row) for row in _TABLE["kinds"])
"""All kinds in discovery order: groups as in GROUPS, the preferred version first."""

del _TABLE

_BY_RESOURCE = {(row.group, row.version, row.plural): row for row in KINDS}
_BY_NAME = {row.gvk: row for row in KINDS}
GROUPS_BY_NAME = {group.name: group for group in GROUPS}


def kind_by_resource(group: str, version: str, plural: str) -> Kind | None:
    return _BY_RESOURCE.get((group, version, plural))


def kind_by_name(group: str, version: str, kind: str) -> Kind | None:
    return _BY_NAME.get((group, version, kind))


def split_api_version(api_version: str) -> tuple[str, str]:
    """("apps", "v1") for `apps/v1`, ("", "v1") for `v1`."""
    group, _, version = api_version.rpartition("/")
    return group, version
