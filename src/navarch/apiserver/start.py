"""What the API server does once at its start: the objects that every cluster has."""

from __future__ import annotations

import asyncio
from typing import Any

from navarch.api.errors import ApiError
from navarch.apiserver import bootstrap
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.flow_objects import SCHEMAS, flow_objects, found_condition
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


async def make_own_objects(registry: Registry, lookup: Lookup) -> None:
    """Make the objects that belong to the API server itself and are missing: flow control and
    the records of its own groups."""
    access = bootstrap_access(registry, lookup)
    wanted = [*flow_objects()]
    missing = [
        (name, obj)
        for name, obj in wanted
        if lookup.get(name, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) is None
    ]
    for result in await asyncio.gather(
        *(_make(registry, access, name, obj) for name, obj in missing), return_exceptions=True
    ):
        if isinstance(result, ApiError) and result.is_already_exists:
            continue
        if isinstance(result, BaseException):
            raise result


async def _make(registry: Registry, access: bootstrap.Access, name: str, obj: Object) -> None:
    await access.create(name, obj)
    now = registry.timestamp()
    if name == SCHEMAS:
        level = obj["spec"]["priorityLevelConfiguration"]["name"]
        await _set_status(registry, name, obj, found_condition(level, now))


async def _set_status(registry: Registry, name: str, obj: Object, status: Object) -> None:
    resource = registry.catalog.by_name(name)
    assert resource is not None

    def change(current: Object) -> None:
        current["status"] = status

    await registry.modify(resource, ("", obj["metadata"]["name"]), change)
