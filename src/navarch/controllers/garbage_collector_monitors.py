"""The garbage collector's eyes: one informer for each resource that can be listed and deleted.

Where another controller of the process follows all objects of a resource already, its informer is
used; the others keep no more of an object than the collector needs. Which resources there are is
learnt from discovery, at the start, when custom resource definitions or API services change, and
from time to time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from msgspec import field

from navarch.api.objects import ApiStruct
from navarch.api.types.meta_v1 import OwnerReference
from navarch.client import ControllerContext, Informer, ResourceClient
from navarch.client.objects import Codec
from navarch.client.resource import ResourcePath
from navarch.controllers.discovery import ApiResource, Discovered, discover
from navarch.controllers.garbage_collector_graph import Graph, Identity

log = logging.getLogger(__name__)

IGNORED = frozenset({("", "events"), ("events.k8s.io", "events")})
"""Too many, too short-lived, and nobody owns them."""
CATALOGS = frozenset(
    {
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("apiregistration.k8s.io", "apiservices"),
    }
)
"""Resources whose changes change what resources there are."""
FIRST_SYNC_SECONDS = 30.0
"""A resource that cannot be listed holds up the others no longer than this."""


class SlimMetadata(ApiStruct, kw_only=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    ownerReferences: list[OwnerReference] = field(default_factory=list)
    finalizers: list[str] = field(default_factory=list)
    deletionTimestamp: str | None = None


class SlimObject(ApiStruct, kw_only=True):
    """An object reduced to what garbage collection is about."""

    apiVersion: str = ""
    kind: str = ""
    metadata: SlimMetadata = field(default_factory=SlimMetadata)


def untouched(obj: SlimObject) -> SlimObject:
    return obj


def path_of(resource: ApiResource) -> ResourcePath:
    return ResourcePath(resource.group, resource.version, resource.plural, resource.is_namespaced)


class Monitors:
    """Feeds the graph. `rediscover` is called when the catalog of resources has changed."""

    def __init__(
        self, context: ControllerContext, graph: Graph, rediscover: Callable[[], None]
    ) -> None:
        self._context = context
        self._graph = graph
        self._rediscover = rediscover
        self._codec = Codec(SlimObject)
        self._followed: dict[ResourcePath, Informer[Any]] = {}
        self.discovered = Discovered(())

    def client_of(self, resource: ApiResource) -> ResourceClient[SlimObject]:
        return ResourceClient(self._context.client, path_of(resource), self._codec)

    def resource_of(self, identity: Identity) -> ApiResource | None:
        return self.discovered.kinds.get((identity.group, identity.kind))

    async def sync(self) -> None:
        """Follow what the server has now, and no more what it had. Raises ApiError."""
        self.discovered = await discover(self._context.client)
        wanted = {
            path_of(resource): resource
            for resource in self.discovered.resources
            if {"list", "watch", "delete"} <= resource.verbs
            and (resource.group, resource.plural) not in IGNORED
        }
        for path in [*self._followed]:
            if path not in wanted and not self._is_undiscovered(path):
                await self._leave(path)
        for path, resource in wanted.items():
            if path not in self._followed:
                self._follow(path, resource)
        await self._context.informers.start()

    async def wait_synced(self) -> None:
        """Until everything is known, or some of it could not be listed for too long."""
        waiting = [
            asyncio.create_task(informer.wait_synced(), name=f"sync {informer}")
            for informer in self._followed.values()
        ]
        try:
            _, late = await asyncio.wait(waiting, timeout=FIRST_SYNC_SECONDS)
            for task in late:
                log.warning("garbage collector: no list yet (%s)", task.get_name())
        finally:
            for task in waiting:
                task.cancel()

    def _is_undiscovered(self, path: ResourcePath) -> bool:
        return f"{path.group}/{path.version}" in self.discovered.missing

    def _follow(self, path: ResourcePath, resource: ApiResource) -> None:
        informer: Informer[Any] | None = self._context.informers.existing(path)
        if informer is None:
            informer = self._context.informers.of(self.client_of(resource), untouched)
        self._followed[path] = informer
        api_version, kind = resource.api_version, resource.kind
        is_catalog = (path.group, path.plural) in CATALOGS

        def seen(obj: Any) -> None:
            meta = obj.metadata
            identity = Identity(kind, api_version, meta.namespace, meta.name, meta.uid)
            self._graph.observe(identity, meta)
            if is_catalog:
                self._rediscover()

        def gone(obj: Any) -> None:
            self._graph.forget(obj.metadata.uid)
            if is_catalog:
                self._rediscover()

        informer.add_handler(seen, lambda _, new: seen(new), gone)

    async def _leave(self, path: ResourcePath) -> None:
        """The resource is gone, and with it all its objects; nobody else can follow it either."""
        informer = self._followed.pop(path)
        await self._context.informers.stop_informer(informer)
        for obj in informer.cache.list():
            self._graph.forget(obj.metadata.uid)
