"""APIServices as the aggregator sees them: which group version is whose, and in which order.

An APIService without a service names a group version that this server serves itself; one with a
service names an extension API server. The records are kept in step with the stored objects and are
what routing, discovery and OpenAPI go by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from navarch.apiserver.contracts import Lookup

Object = dict[str, Any]
GroupVersion = tuple[str, str]

API_SERVICES = "apiservices.apiregistration.k8s.io"
AVAILABLE = "Available"


@dataclass(frozen=True, slots=True)
class ServiceRef:
    """The Service in front of an extension API server."""

    namespace: str
    name: str
    port: int

    @property
    def server_name(self) -> str:
        """What the server's certificate has to be made out to."""
        return f"{self.name}.{self.namespace}.svc"


@dataclass(frozen=True, slots=True)
class Record:
    """One APIService. `ca_bundle` is base64 of PEM, as in the object."""

    name: str
    group: str
    version: str
    group_priority: int
    version_priority: int
    service: ServiceRef | None = None
    ca_bundle: str = ""
    is_unverified: bool = False
    is_available: bool = True

    @property
    def path(self) -> str:
        """Where the group version's documents are."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


def record_of(obj: Object) -> Record:
    """Read an APIService."""
    spec = obj.get("spec") or {}
    found = spec.get("service")
    service = None
    if found is not None:
        port = found.get("port") or 443
        service = ServiceRef(found.get("namespace", ""), found.get("name", ""), port)
    condition = available_condition(obj)
    return Record(
        name=obj["metadata"]["name"],
        group=spec.get("group", ""),
        version=spec.get("version", ""),
        group_priority=spec.get("groupPriorityMinimum") or 0,
        version_priority=spec.get("versionPriority") or 0,
        service=service,
        ca_bundle=spec.get("caBundle") or "",
        is_unverified=bool(spec.get("insecureSkipTLSVerify")),
        is_available=condition is not None and condition.get("status") == "True",
    )


def available_condition(obj: Object) -> Object | None:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == AVAILABLE), None)


class Records:
    """All APIServices, followed from the start. Listeners get (old, new), one of them None."""

    def __init__(self) -> None:
        self.by_name: dict[str, Record] = {}
        self.remote: dict[GroupVersion, Record] = {}
        """Those with a service."""
        self._listeners: list[Callable[[Record | None, Record | None], None]] = []

    def follow(self, lookup: Lookup) -> None:
        lookup.subscribe(API_SERVICES, self._changed)

    def on_change(self, listener: Callable[[Record | None, Record | None], None]) -> None:
        self._listeners.append(listener)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        before = self.by_name.pop(old["metadata"]["name"], None) if old is not None else None
        if before is not None:
            self.remote.pop((before.group, before.version), None)
        after = record_of(new) if new is not None else None
        if after is not None:
            self.by_name[after.name] = after
            if after.service is not None:
                self.remote[after.group, after.version] = after
        for listener in self._listeners:
            listener(before, after)
