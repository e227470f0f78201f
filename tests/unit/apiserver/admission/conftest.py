"""A small world for plug-ins: objects in memory, quota status written as the store would."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.api.errors import OBJECT_MODIFIED, conflict
from navarch.apiserver.admission.base import AdmissionAccess, Plugin
from navarch.apiserver.contracts import AdmissionRequest, RequestInfo, UserInfo

Object = dict[str, Any]
Run = Callable[..., Any]


class World:
    """The lookup, and the access built on it."""

    def __init__(self) -> None:
        self.lookup = MemoryLookup()
        self.access = AdmissionAccess(self.lookup, self.get, self.update_status)
        self.before_write: Callable[[], None] = lambda: None
        self.writes = 0

    async def get(self, resource: str, namespace: str, name: str) -> Object | None:
        return self.lookup.get(resource, namespace, name)

    async def update_status(self, resource: str, obj: Object) -> Object:
        hook, self.before_write = self.before_write, lambda: None
        hook()
        metadata = obj["metadata"]
        held = self.lookup.get(resource, metadata["namespace"], metadata["name"]) or {}
        version = held.get("metadata", {}).get("resourceVersion", "1")
        if metadata.get("resourceVersion", "1") != version:
            raise conflict(resource, "", metadata["name"], OBJECT_MODIFIED)
        self.writes += 1
        written = copy.deepcopy(obj)
        written["metadata"]["resourceVersion"] = str(int(version) + 1)
        return self.lookup.put(resource, written)

    def add(self, resource: str, name: str, namespace: str = "", **fields: Any) -> Object:
        metadata = {"name": name, **fields.pop("metadata", {})}
        if namespace:
            metadata["namespace"] = namespace
        return self.lookup.put(resource, {"metadata": metadata, **fields})

    async def run(
        self,
        plugin: Plugin,
        path: str,
        obj: Object | None,
        old: Object | None = None,
        *,
        operation: str = "",
        user: UserInfo | None = None,
        dry_run: bool = False,
    ) -> AdmissionRequest:
        """Both phases. `path` is `[group:]resource[/subresource]`; cluster-scoped resources have no
        namespace in their metadata."""
        group, _, rest = path.rpartition(":")
        resource, _, subresource = rest.partition("/")
        metadata = (obj or old or {}).get("metadata", {})
        operation = operation or ("CREATE" if old is None else "UPDATE")
        named = metadata.get("name", "") if operation != "CREATE" or subresource else ""
        namespace = metadata.get("namespace", "")
        verb = {"CREATE": "create", "UPDATE": "update", "DELETE": "delete"}[operation]
        info = RequestInfo(True, "", verb, group, "v1", resource, subresource, namespace, named)
        user = user or UserInfo("alice", groups=("system:authenticated",))
        request = AdmissionRequest(operation, info, "", user, obj, old, dry_run)
        if plugin.handles(request):
            await plugin.admit(request)
            await plugin.validate(request)
        return request


@pytest.fixture
def world() -> World:
    return World()
