"""How the API server writes the objects that every cluster has."""

from __future__ import annotations

from typing import Any

from navarch.api.errors import ApiError
from navarch.apiserver import bootstrap
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.hub.entry import Entry
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.security import system_context

Object = dict[str, Any]


def bootstrap_access(registry: Registry, lookup: Lookup) -> bootstrap.Access:
    """The bootstrap's reads and writes on this registry."""

    def resource_of(name: str) -> Resource:
        resource = registry.catalog.by_name(name)
        if resource is None:
            raise ApiError(404, "NotFound", f"the resource {name} is not served", {})
        return resource

    def entry_of(resource: Resource, obj: Object) -> Entry:
        metadata = obj["metadata"]
        return registry.get(resource, metadata.get("namespace", ""), metadata["name"])

    async def create(name: str, obj: Object) -> object:
        resource = resource_of(name)
        return await registry.create(resource, obj, system_context(resource, obj, "create"))

    async def replace(name: str, obj: Object) -> object:
        resource = resource_of(name)
        metadata = obj["metadata"]
        key = metadata.get("namespace", ""), metadata["name"]
        context = system_context(resource, obj, "update")
        return await registry.update(resource, key, lambda old: obj, context)

    async def recreate(name: str, obj: Object) -> object:
        resource = resource_of(name)
        await registry.remove(resource, entry_of(resource, obj))
        return await create(name, obj)

    return bootstrap.Access(lookup, create, replace, recreate)
