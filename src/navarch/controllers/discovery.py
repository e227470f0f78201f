"""What resources the API server has, for controllers that work on all kinds alike.

One aggregated discovery document for `/api` and one for `/apis` say everything (KEP-3352). They are
fetched anew whenever they are needed: two requests are cheaper than a cache that has to learn of
every new custom resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from navarch.client import Client

ACCEPT = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class _Kind(msgspec.Struct):
    kind: str = ""


class _Subresource(msgspec.Struct):
    subresource: str


class _Resource(msgspec.Struct):
    resource: str
    subresources: list[_Subresource] = []
    responseKind: _Kind | None = None
    scope: str = "Namespaced"
    verbs: list[str] = []


class _Version(msgspec.Struct):
    version: str
    resources: list[_Resource] = []
    freshness: str = "Current"


class _Meta(msgspec.Struct):
    name: str = ""


class _Group(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    versions: list[_Version] = []


class _Document(msgspec.Struct):
    items: list[_Group] = []


_decoder = msgspec.json.Decoder(_Document)


@dataclass(frozen=True, slots=True)
class ApiResource:
    """A resource in the version its group prefers."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool
    verbs: frozenset[str]
    subresources: frozenset[str] = frozenset()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True, slots=True)
class Discovered:
    """What a server has, and the groups that could not be asked (`group/version`)."""

    resources: Sequence[ApiResource]
    missing: Sequence[str] = ()
    kinds: dict[tuple[str, str], ApiResource] = field(default_factory=dict, repr=False)
    """By group and kind."""


async def discover(client: Client) -> Discovered:
    """Ask the server. Raises ApiError."""
    groups: list[_Group] = []
    for path in ("/api", "/apis"):
        async with client.stream("GET", path, accept=ACCEPT) as response:
            groups += _decoder.decode(await response.read()).items
    return preferred(groups)


def preferred(groups: Iterable[_Group]) -> Discovered:
    """Each resource once, in the first version of its group that has it."""
    resources: list[ApiResource] = []
    missing: list[str] = []
    for group in groups:
        name = group.metadata.name
        seen: set[str] = set()
        for version in group.versions:
            if version.freshness == "Stale":
                missing.append(f"{name}/{version.version}")
            for row in version.resources:
                if row.resource in seen:
                    continue
                seen.add(row.resource)
                kind = row.responseKind.kind if row.responseKind is not None else ""
                is_namespaced = row.scope == "Namespaced"
                resources.append(
                    ApiResource(
                        name,
                        version.version,
                        row.resource,
                        kind,
                        is_namespaced,
                        frozenset(row.verbs),
                        frozenset(each.subresource for each in row.subresources),
                    )
                )
    return Discovered(resources, missing, {(r.group, r.kind): r for r in resources})
