"""Follows Gateways, routes and what they refer to, has nginx serve them, and tells what came of it.

Whoever leads looks at the whole translation and writes what is not as it should be: each Gateway's
Service, and every status.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from navarch.api.named_secrets import GATEWAY_LABEL
from navarch.api.objects import Object, to_object
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Namespace, Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.client.controller import ControllerContext
from navarch.client.objects import drop_managed_fields
from navarch.client.resource import ResourceClient
from navarch.network.gateway import LEASE, MANAGER
from navarch.network.gateway.around import Around
from navarch.network.gateway.listeners import GatewayState
from navarch.network.gateway.objects import Gateway, GatewayClass, HTTPRoute, Resources
from navarch.network.gateway.publish import port_name, service_name, service_of
from navarch.network.gateway.status import class_status, gateway_status, route_status
from navarch.network.gateway.translate import Translation, View, is_ours, translate
from navarch.network.nginx.backends import Services
from navarch.network.nginx.process import Nginx
from navarch.network.nginx.publish import Place, slices_of
from navarch.network.nginx.serving import Serving, Write, is_same

PORTS_SECONDS = 5.0


class GatewayServing(Serving[Translation]):
    name, manager = "gateway", MANAGER
    lease = LEASE

    def __init__(self, context: ControllerContext, nginx: Nginx, place: Place) -> None:
        super().__init__(context, nginx, place)
        self._resources = Resources(context.client)
        informers = context.informers
        self._classes = informers.of(self._resources.classes, drop_managed_fields)
        self._gateways = informers.of(self._resources.gateways, drop_managed_fields)
        self._routes = informers.of(self._resources.routes, drop_managed_fields)
        self._grants = informers.of(self._resources.grants, drop_managed_fields)
        self._namespaces = informers.informer(Namespace)
        self.follow(self._classes, self._gateways, self._routes, self._grants, self._namespaces)
        self._ports: Mapping[tuple[str, int], int] = {}
        self._applied: dict[str, Object] = {}

    def translate(self, services: Services, secret: Any) -> tuple[Around, Translation]:
        around = Around(services, secret, self._labels, self._grants.cache.list())
        listening = self.nginx.listening()
        view = View(
            self._classes.cache.list(),
            self._gateways.cache.list(),
            self._routes.cache.list(),
            around,
            self._ports,
            lambda port: port not in listening and self.nginx.obstacle(port),
        )
        translation = translate(view)
        self._ports = translation.ports
        return around, translation

    def besides(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        return {"ports": self._wait_for_ports()}

    async def _wait_for_ports(self) -> None:
        """Nobody tells when a port of the node becomes free."""
        while True:
            await self.clock.sleep(PORTS_SECONDS)
            if any(map(self.translation.unplaced, self.translation.gateways.values())):
                self.wake()

    def _labels(self, namespace: str) -> dict[str, str] | None:
        found = self._namespaces.cache.get(namespace)
        return found.metadata.labels if found is not None else None

    # -- what comes of it ---------------------------------------------------------------------

    def publishes(self, service: Service) -> bool:
        labels = service.metadata.labels
        return (
            GATEWAY_LABEL in labels
            and labels.get("app.kubernetes.io/managed-by") == "navarch"
            and any(
                each.kind == "Gateway" and each.controller
                for each in service.metadata.ownerReferences
            )
        )

    def own_slices(self) -> Iterable[EndpointSlice]:
        listening = self.nginx.listening()
        for state in self.translation.gateways.values():
            service = self._service_of(state)
            ports = {
                port_name(port): inner
                for (key, port), inner in sorted(self.translation.ports.items())
                if key == state.key and inner in listening
            }
            if ports and service is not None and _belongs(service, state):
                yield from slices_of(service, self.place, ports, self.manager)

    def _service_of(self, state: GatewayState) -> Service | None:
        return self.services.cache.get(_service_key(state))

    def writes(self) -> Iterable[Write]:
        translation = self.translation
        now = format_time(self.clock.now())
        for state in translation.gateways.values():
            yield from self._gateway_writes(state, now)
        yield from self._removals()
        for each in self._classes.cache.list():
            if is_ours(each):
                yield from _status(self._resources.classes, each, class_status(each, now))
        states = {
            f"{each.route.metadata.namespace}/{each.route.metadata.name}": each
            for each in translation.routes
        }
        for route in self._routes.cache.list():
            found = states.get(f"{route.metadata.namespace}/{route.metadata.name}")
            if found is None or is_same(found.route, route):
                status = route_status(route, found, now)
                yield from _status(self._resources.routes, route, status)

    def _gateway_writes(self, state: GatewayState, now: str) -> Iterable[Write]:
        gateway = self._gateways.cache.get(state.key)
        if gateway is None or not is_same(state.gateway, gateway):
            return  # a new translation is on its way
        there = self._service_of(state)
        problem = "" if self._is_served_elsewhere(state) else self.problem
        if ports := self.translation.unplaced(state):
            problem = f"node {self.place.node} has no port to serve {', '.join(map(str, ports))} on"
        wanted = service_of(state, self.translation.hostnames(state))
        addresses: list[str] = []
        if wanted is not None:
            if there is not None and not _belongs(there, state):
                name = f"{wanted.metadata.namespace}/{wanted.metadata.name}"
                problem = f"Service {name} is there and not this Gateway's"
            else:
                yield from self._service_writes(wanted, there)
            if there is not None and _belongs(there, state):
                addresses = [each.ip for each in there.status.loadBalancer.ingress if each.ip]
        status = gateway_status(state, addresses, problem, now)
        yield from _status(self._resources.gateways, gateway, status)

    def _is_served_elsewhere(self, state: GatewayState) -> bool:
        """Whether this node's nginx does not run, but others' do."""
        slices = self.slices.cache.by_index("service", _service_key(state))
        nodes = {one.nodeName for each in slices for one in each.endpoints}
        return not self.serves and bool(nodes - {self.place.node})

    def _service_writes(self, wanted: Service, there: Service | None) -> Iterable[Write]:
        value = to_object(wanted) | {"apiVersion": "v1", "kind": "Service"}
        key = f"{wanted.metadata.namespace}/{wanted.metadata.name}"
        if there is not None and self._applied.get(key) == value and _has(there, wanted):
            return
        self._applied[key] = value
        yield self.applying(self.context.client.resource(Service), value)

    def _removals(self) -> Iterable[Write]:
        """Services of Gateways that are served no more, or under another name, or were of a Gateway
        of the same name before."""
        wanted = {
            (each.metadata.namespace, each.metadata.name): state
            for state in self.translation.gateways.values()
            if (each := service_of(state)) is not None
        }
        for service in self.services.cache.list():
            meta = service.metadata
            state = wanted.get((meta.namespace, meta.name))
            if self.publishes(service) and (state is None or not _belongs(service, state)):
                self._applied.pop(f"{meta.namespace}/{meta.name}", None)
                resource = self.context.client.resource(Service)
                yield partial(resource.delete, meta.name, meta.namespace, uid=meta.uid)


def _status(
    resource: ResourceClient[Any], each: Gateway | GatewayClass | HTTPRoute, status: Object
) -> Iterable[Write]:
    old = each.status or {}
    if all(old.get(key) == value or not (value or old.get(key)) for key, value in status.items()):
        return
    metadata = each.metadata
    patch = {"metadata": {"resourceVersion": metadata.resourceVersion}, "status": status}
    yield partial(resource.patch, metadata.name, metadata.namespace, patch, subresource="status")


def _service_key(state: GatewayState) -> str:
    return f"{state.gateway.metadata.namespace}/{service_name(state.gateway)}"


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
