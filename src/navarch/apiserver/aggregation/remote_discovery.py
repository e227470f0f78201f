"""What an extension API server serves, in the aggregated form of discovery.

Servers of our time answer `/apis` with everything at once; older ones are asked for each group
version, and their lists are brought into the same form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from navarch.api.errors import ApiError, service_unavailable
from navarch.apiserver.aggregation.extension import Extensions
from navarch.apiserver.aggregation.records import GroupVersion, Record, ServiceRef

Object = dict[str, Any]

ACCEPT = ",".join(
    f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
    for version in ("v2", "v2beta1")
)
_NO_KIND = {"group": "", "version": "", "kind": ""}


@dataclass(frozen=True, slots=True)
class KeptDocument:
    """The last document of a server, with its tag."""

    etag: str
    versions: dict[GroupVersion, tuple[Object, ...]]


class RemoteDiscovery:
    """Asks servers and keeps their documents by tag. Several APIServices often name one server."""

    def __init__(self, extensions: Extensions) -> None:
        self._extensions = extensions
        self._kept: dict[ServiceRef, KeptDocument] = {}

    def forget_others(self, used: set[ServiceRef]) -> None:
        """Drop what was kept of servers that no APIService names any longer."""
        self._kept = {ref: kept for ref, kept in self._kept.items() if ref in used}

    async def resources(self, record: Record) -> tuple[Object, ...]:
        """The resources of the record's group version. Raises ApiError when there is no answer."""
        assert record.service is not None
        kept = self._kept.get(record.service)
        etag = kept.etag if kept is not None else ""
        answer = await self._extensions.fetch(record, "/apis", ACCEPT, etag)
        if answer.status == 304 and kept is not None:
            return kept.versions.get((record.group, record.version), ())
        if answer.status == 503:
            raise service_unavailable(f"{record.name}: the server is not available")
        if answer.status == 200 and "as=APIGroupDiscoveryList" in answer.content_type:
            kept = KeptDocument(answer.etag, versions_of(decode(answer.body)))
            self._kept[record.service] = kept
            return kept.versions.get((record.group, record.version), ())
        answer = await self._extensions.fetch(record, record.path)
        if answer.status != 200:
            raise service_unavailable(f"{record.name}: discovery answered {answer.status}")
        return tuple(from_legacy(decode(answer.body)))


def decode(body: bytes) -> Object:
    """A JSON object. Raises ApiError for anything else."""
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ApiError(502, "", f"the server's document is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(502, "", "the server's document is no object")
    return value


def versions_of(document: Object) -> dict[GroupVersion, tuple[Object, ...]]:
    """The resources of every group version in an aggregated document. Clients expect a
    `responseKind` everywhere."""
    result = {}
    for group in _objects(document.get("items")):
        name = str((group.get("metadata") or {}).get("name") or "")
        for version in _objects(group.get("versions")):
            resources = _objects(version.get("resources"))
            for each in resources:
                each["responseKind"] = each.get("responseKind") or dict(_NO_KIND)
                for row in _objects(each.get("subresources")):
                    row["responseKind"] = row.get("responseKind") or dict(_NO_KIND)
            result[name, str(version.get("version"))] = tuple(resources)
    return result


def _objects(value: object) -> list[Object]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def from_legacy(document: Object) -> list[Object]:
    """An APIResourceList in the aggregated form: subresources go below their resources; one whose
    resource is not listed gets an entry to hang on."""
    found: dict[str, Object] = {}
    rows = _objects(document.get("resources"))
    for row in sorted(rows, key=lambda each: "/" in str(each.get("name"))):
        name, _, subresource = str(row.get("name", "")).partition("/")
        kind = {
            "group": row.get("group", ""),
            "version": row.get("version", ""),
            "kind": row.get("kind", ""),
        }
        scope = "Namespaced" if row.get("namespaced") else "Cluster"
        if not subresource:
            entry = {
                "resource": name,
                "responseKind": kind,
                "scope": scope,
                "singularResource": row.get("singularName", ""),
                "verbs": row.get("verbs") or [],
            }
            optional = ("shortNames", "categories")
            found[name] = entry | {key: row[key] for key in optional if row.get(key)}
            continue
        parent = found.setdefault(
            name,
            {
                "resource": name,
                "responseKind": dict(_NO_KIND),
                "scope": scope,
                "singularResource": "",
                "verbs": [],
            },
        )
        entry = {"subresource": subresource, "responseKind": kind, "verbs": row.get("verbs") or []}
        parent.setdefault("subresources", []).append(entry)
    return list(found.values())
