"""Follows Gateways, routes and what they refer to, has nginx serve them, and tells what came of it.

Everything is translated anew after any change; the data plane finds out what is different. Writing
is a task of its own and looks at the whole translation, too: each Gateway's Service and where it
leads, and every status that does not say what it should.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.objects import Object, to_object
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Namespace, Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.client.controller import ControllerContext
from navarch.client.objects import drop_managed_fields
from navarch.client.resource import PatchType, ResourceClient
from navarch.network.gateway.around import Around
from navarch.network.gateway.listeners import GatewayState
from navarch.network.gateway.objects import (
    Gateway,
    GatewayClass,
    HTTPRoute,
    ReferenceGrant,
    Resources,
)
from navarch.network.gateway.publish import (
    GATEWAY_LABEL,
    MANAGED_BY,
    MANAGED_LABEL,
    service_of,
    slices_of,
)
from navarch.network.gateway.status import class_status, gateway_status, route_status
from navarch.network.gateway.translate import Translation, View, is_ours, translate
from navarch.network.ingress.backends import SERVICE_NAME, Reference, Services, endpoints_of
from navarch.network.ingress.secrets import Secrets
from navarch.network.nginx.model import DataPlane
from navarch.network.nginx.process import Nginx, NginxError

log = logging.getLogger("navarch.network.gateway")

MANAGER = "navarch-gateway"
GATHER_SECONDS = 0.05
RETRY_SECONDS = 2.0
START_SECONDS = 5.0
ROTATION_SECONDS = 30.0

Kind = Gateway | GatewayClass | HTTPRoute | ReferenceGrant | Namespace


@dataclass(frozen=True, slots=True)
class Node:
    """Where nginx listens."""

    name: str
    addresses: tuple[str, ...]


class GatewayController:
    """`run` serves until it is cancelled."""

    def __init__(self, context: ControllerContext, nginx: Nginx, node: Node) -> None:
        self._context = context
        self._clock = context.clock
        self._nginx = nginx
        self._node = node
        self._resources = Resources(context.client)
        informers = context.informers
        self._classes = informers.of(self._resources.classes, drop_managed_fields)
        self._gateways = informers.of(self._resources.gateways, drop_managed_fields)
        self._routes = informers.of(self._resources.routes, drop_managed_fields)
        self._grants = informers.of(self._resources.grants, drop_managed_fields)
        self._namespaces = informers.informer(Namespace)
        self._services = informers.informer(Service)
        self._slices = informers.informer(EndpointSlice)
        self._slices.add_index("service", _service_of)
        self._secrets = Secrets(informers, context.clock, self._wake)
        self._changed = asyncio.Event()
        self._due = asyncio.Event()
        self._stale = True
        """Whether more than endpoints may be different."""
        self._wanted_services: set[str] = set()
        self._targets: dict[str, Reference] = {}
        self._taken: set[int] = set()
        self._translation = Translation(DataPlane(), {}, ())
        self._problem = ""
        """Why nginx does not serve the translation."""
        self._applied: dict[str, Object] = {}
        for informer in (
            self._classes,
            self._gateways,
            self._routes,
            self._grants,
            self._namespaces,
        ):
            informer.add_handler(self._wake, self._wake_if_other, self._wake)
        for other in (self._services, self._slices):
            other.add_handler(self._wake_for, self._wake_for, self._wake_for)

    async def run(self) -> None:
        await self._context.informers.start()
        await self._context.informers.wait_synced()
        await self._start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._context.informers.join(), name="gateway informers")
            group.create_task(self._nginx.run(), name="gateway nginx")
            group.create_task(self._follow(), name="gateway changes")
            group.create_task(self._write_again_and_again(), name="gateway statuses")
            group.create_task(self._rotate(), name="gateway log")

    # -- serving ------------------------------------------------------------------------------

    async def _start(self) -> None:
        """A node goes on without nginx; what is wrong may be mended."""
        # One that ran before us holds its own ports: they are looked at only if it cannot be told.
        served: AbstractSet[int] | None = None
        while True:
            translation = await self._translated(served)
            try:
                await self._nginx.start(translation.plane)
            except (NginxError, OSError) as error:
                log.error("nginx does not start, trying again: %s", error)
                await self._nginx.stop()
                await self._clock.sleep(START_SECONDS)
                served = frozenset()
                continue
            self._show(translation, "")
            log.info("serving %d gateways", len(translation.gateways))
            return

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._changed.clear()
            stale, self._stale = self._stale, False
            try:
                if stale:
                    await self._apply_all()
                else:
                    endpoints = endpoints_of(self._known_services(), self._targets)
                    await self._nginx.apply_endpoints(endpoints)
            except NginxError as error:
                log.error("what was served before is served on: %s", error)
                self._show(self._translation, str(error))
                await self._clock.sleep(RETRY_SECONDS)
                self._wake()

    async def _apply_all(self) -> None:
        served = frozenset(self._translation.ports.values())
        self._translation = await self._translated(served)
        broken = await self._nginx.apply(self._translation.plane)
        self._show(self._translation, "")
        for each in broken:
            log.warning("a path of %s is no pattern: %s", each.get("labels"), each["problem"])

    def _show(self, translation: Translation, problem: str) -> None:
        self._translation, self._problem = translation, problem
        self._due.set()

    async def _translated(self, served: AbstractSet[int] | None) -> Translation:
        """The translation, with all Secrets that it wants at hand. Ports that nginx does not have
        yet are looked at, unless it is not known which it has."""
        while True:
            around = Around(
                self._known_services(),
                self._secrets.get,
                self._labels,
                self._grants.cache.list(),
            )
            view = View(
                self._classes.cache.list(),
                self._gateways.cache.list(),
                self._routes.cache.list(),
                around,
                frozenset(self._taken),
            )
            translation = translate(view)
            self._wanted_services, self._targets = around.services_wanted, around.targets
            if await self._secrets.follow(around.secrets_wanted):
                continue
            taken = {
                port
                for port in translation.ports.values()
                if served is not None and port not in served and not self._is_free(port)
            }
            if not taken:
                return translation
            self._taken |= taken

    def _known_services(self) -> Services:
        return Services(
            self._services.cache.get, lambda key: self._slices.cache.by_index("service", key)
        )

    def _is_free(self, port: int) -> bool:
        """Whether nothing listens there."""
        for address in self._node.addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, port))
                except OSError:
                    return False
        return True

    def _labels(self, namespace: str) -> dict[str, str] | None:
        found = self._namespaces.cache.get(namespace)
        return found.metadata.labels if found is not None else None

    async def _rotate(self) -> None:
        while True:
            await self._clock.sleep(ROTATION_SECONDS)
            self._nginx.rotate_log()

    # -- what comes of it ---------------------------------------------------------------------

    async def _write_again_and_again(self) -> None:
        while True:
            await self._due.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._due.clear()
            if not await self._write():
                await self._clock.sleep(RETRY_SECONDS)
                self._due.set()

    async def _write(self) -> bool:
        """Bring the API up to date. Tells whether everything could be written."""
        translation = self._translation
        now = format_time(self._clock.now())
        writes: list[Awaitable[None]] = []
        for state in translation.gateways.values():
            writes += await self._gateway_writes(state, now)
        writes += self._removals()
        for each in self._classes.cache.list():
            if is_ours(each):
                status = class_status(each, now)
                writes += self._status(self._resources.classes, each, status)
        states = {
            f"{each.route.metadata.namespace}/{each.route.metadata.name}": each
            for each in translation.routes
        }
        for route in self._routes.cache.list():
            state_of = states.get(f"{route.metadata.namespace}/{route.metadata.name}")
            if state_of is None or _is_same(state_of.route, route):
                status = route_status(route, state_of, now)
                writes += self._status(self._resources.routes, route, status)
        return await _all(writes)

    async def _gateway_writes(self, state: GatewayState, now: str) -> list[Awaitable[None]]:
        gateway = self._gateways.cache.get(state.key)
        if gateway is None or not _is_same(state.gateway, gateway):
            return []  # a new translation is on its way
        problem = self._problem
        wanted = service_of(state, self._translation.hostnames(state))
        addresses: list[str] = []
        writes: list[Awaitable[None]] = []
        if wanted is not None:
            key = f"{wanted.metadata.namespace}/{wanted.metadata.name}"
            there = self._services.cache.get(key)
            if there is not None and not _belongs(there, state):
                problem = f"Service {key} is there and not this Gateway's"
            else:
                writes += self._service_writes(wanted, there)
                if there is not None:
                    addresses = [each.ip for each in there.status.loadBalancer.ingress if each.ip]
                    writes += self._slice_writes(there, state)
        status = gateway_status(state, addresses, problem, now)
        return [*writes, *self._status(self._resources.gateways, gateway, status)]

    def _service_writes(self, wanted: Service, there: Service | None) -> Iterable[Awaitable[None]]:
        value = to_object(wanted) | {"apiVersion": "v1", "kind": "Service"}
        key = f"{wanted.metadata.namespace}/{wanted.metadata.name}"
        if there is not None and self._applied.get(key) == value and _has(there, wanted):
            return
        self._applied[key] = value
        yield self._apply(self._context.client.resource(Service), value)

    def _slice_writes(self, service: Service, state: GatewayState) -> Iterable[Awaitable[None]]:
        ports = {
            port: inner
            for (key, port), inner in self._translation.ports.items()
            if key == state.key
        }
        for wanted in slices_of(service, self._node.name, self._node.addresses, ports):
            key = f"{wanted.metadata.namespace}/{wanted.metadata.name}"
            there = self._slices.cache.get(key)
            if (
                there is not None
                and there.metadata.ownerReferences == wanted.metadata.ownerReferences
                and [(each.name, each.port) for each in there.ports]
                == [(each.name, each.port) for each in wanted.ports]
                and [each.addresses for each in there.endpoints]
                == [each.addresses for each in wanted.endpoints]
            ):
                continue
            value = to_object(wanted)
            value |= {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}
            yield self._apply(self._context.client.resource(EndpointSlice), value)

    def _removals(self) -> Iterable[Awaitable[None]]:
        """Services of Gateways that are served no more, or under another name, or were of a Gateway
        of the same name before."""
        wanted = {
            (each.metadata.namespace, each.metadata.name): state
            for state in self._translation.gateways.values()
            if (each := service_of(state)) is not None
        }
        for service in self._services.cache.list():
            meta = service.metadata
            state = wanted.get((meta.namespace, meta.name))
            if _is_published(service) and (state is None or not _belongs(service, state)):
                self._applied.pop(f"{meta.namespace}/{meta.name}", None)
                yield self._context.client.resource(Service).delete(
                    meta.name, meta.namespace, uid=meta.uid
                )

    async def _apply(self, resource: ResourceClient[Any], value: Object) -> None:
        metadata = value["metadata"]
        await resource.patch(
            metadata["name"],
            metadata["namespace"],
            value,
            patch_type=PatchType.APPLY,
            field_manager=MANAGER,
            force=True,
        )

    def _status(
        self,
        resource: ResourceClient[Any],
        each: Gateway | GatewayClass | HTTPRoute,
        status: Object,
    ) -> Iterable[Awaitable[None]]:
        old = each.status or {}
        if all(
            old.get(key) == value or not (value or old.get(key)) for key, value in status.items()
        ):
            return
        metadata = each.metadata
        patch = {"metadata": {"resourceVersion": metadata.resourceVersion}, "status": status}
        yield resource.patch(metadata.name, metadata.namespace, patch, subresource="status")

    # -- waking -------------------------------------------------------------------------------

    def _wake(self, *_: object) -> None:
        self._stale = True
        self._changed.set()

    def _wake_if_other(self, old: Kind, new: Kind) -> None:
        """A status, most often our own, is no reason to translate anew."""
        if _is_same(old, new) and old.metadata.labels == new.metadata.labels:
            self._due.set()
        else:
            self._wake()

    def _wake_for(self, *objects: Service | EndpointSlice) -> None:
        """Only what some route refers to is a reason to look again, or what we made ourselves."""
        for each in objects:
            if _is_published(each):
                self._due.set()
            keys = (
                _service_of(each)
                if isinstance(each, EndpointSlice)
                else [f"{each.metadata.namespace}/{each.metadata.name}"]
            )
            if not self._wanted_services.isdisjoint(keys):
                self._stale = self._stale or isinstance(each, Service)
                self._changed.set()


def _service_of(slice_: EndpointSlice) -> list[str]:
    name = slice_.metadata.labels.get(SERVICE_NAME, "")
    return [f"{slice_.metadata.namespace}/{name}"] if name else []


def _is_published(each: Service | EndpointSlice) -> bool:
    labels = each.metadata.labels
    if isinstance(each, EndpointSlice):
        return labels.get(MANAGED_LABEL) == MANAGED_BY
    owners = each.metadata.ownerReferences
    return (
        GATEWAY_LABEL in labels
        and any(each.kind == "Gateway" and each.controller for each in owners)
        and labels.get("app.kubernetes.io/managed-by") == "navarch"
    )


def _is_same(one: Kind, other: Kind) -> bool:
    """Whether nothing that its user wrote is different."""
    old, new = one.metadata, other.metadata
    return (old.uid, old.generation, old.deletionTimestamp) == (
        new.uid,
        new.generation,
        new.deletionTimestamp,
    )


def _belongs(service: Service, state: GatewayState) -> bool:
    uid = state.gateway.metadata.uid
    return any(each.uid == uid for each in service.metadata.ownerReferences)


def _has(there: Service, wanted: Service) -> bool:
    """Whether what somebody may have changed is as it should be."""
    return (
        {(each.name, each.port) for each in wanted.spec.ports}
        <= {(each.name, each.port) for each in there.spec.ports}
        and wanted.metadata.labels.items() <= there.metadata.labels.items()
        and wanted.metadata.annotations.items() <= there.metadata.annotations.items()
        and there.spec.type == wanted.spec.type
    )


async def _all(writes: Sequence[Awaitable[None]]) -> bool:
    """Do all of them; what is newer than we knew comes again with the next event."""
    good = True
    for write in writes:
        try:
            await write
        except ApiError as error:
            if not (error.is_conflict or error.is_not_found):
                log.warning("%s", error)
                good = False
    return good
