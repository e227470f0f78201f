"""Follows Ingresses and what they refer to, has nginx serve them, and tells what came of it.

Whoever leads tells: an Ingress whose values are refused has a Warning event; one that is served for
the first time, or anew after a change, has upstream's Normal event `Sync`. The status of each
Ingress says what the addresses of the Service are that leads to nginx: those of its load balancer,
else external ones, else the nodes'.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from navarch.api.objects import to_object
from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.networking_v1 import (
    Ingress,
    IngressClass,
    IngressLoadBalancerIngress,
)
from navarch.client.controller import ControllerContext
from navarch.network.ingress import LEASE
from navarch.network.ingress.routes import Surroundings
from navarch.network.ingress.translate import Ports, Problem, Translation, is_ours, translate
from navarch.network.nginx.backends import Around, Services
from navarch.network.nginx.process import Nginx
from navarch.network.nginx.publish import Place, slices_of
from navarch.network.nginx.serving import Serving, Write

log = logging.getLogger("navarch.network.ingress")

COMPONENT = "nginx-ingress-controller"
NAMES_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Scope:
    """Which Ingresses are ours, and how they are served."""

    controller: str
    takes_classless: bool
    ports: Ports
    domain: str
    service: str
    """The Service that leads to nginx, namespace/name."""


class IngressServing(Serving[Translation]):
    name, manager = "ingress", "ingress.navarch.dev"
    lease, lease_namespace = LEASE, "ingress-nginx"

    def __init__(
        self, context: ControllerContext, nginx: Nginx, place: Place, scope: Scope
    ) -> None:
        super().__init__(context, nginx, place)
        self._scope = scope
        self._ingresses = context.informers.informer(Ingress)
        self._classes = context.informers.informer(IngressClass)
        self._told: dict[str, set[str]] = {}
        """By uid of an Ingress: the events it has, and the generation they are about."""
        self.follow(self._ingresses, self._classes)

    @property
    def ours(self) -> list[Ingress]:
        """The Ingresses that are served here."""
        classes = self._classes.cache.list()
        return [
            each
            for each in self._ingresses.cache.list()
            if is_ours(each, classes, self._scope.controller, self._scope.takes_classless)
        ]

    def translate(self, services: Services, secret: Any) -> tuple[Around, Translation]:
        around = Surroundings(services, secret)
        return around, translate(self.ours, around, self._scope.ports)

    # -- names of ExternalName Services -------------------------------------------------------

    async def lacks(self, around: Around, translation: Translation) -> bool:
        unknown = around.names_wanted - self.addresses.keys()
        for name in unknown:
            self.addresses[name] = await self._look_up(name)
        return bool(unknown)

    def besides(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        return {"external names": self._resolve()}

    async def _resolve(self) -> None:
        """Ask for the names again and again: nobody tells when an address changes."""
        while True:
            await self.clock.sleep(NAMES_SECONDS)
            for name in [*self.addresses]:
                addresses = await self._look_up(name)
                if addresses and addresses != self.addresses.get(name):
                    self.addresses[name] = addresses
                    self.wake()

    async def _look_up(self, name: str) -> tuple[str, ...]:
        """Names of the cluster are known here; others are asked of the node's resolver."""
        suffix = f".svc.{self._scope.domain}"
        if name.endswith(suffix):
            labels = name.removesuffix(suffix).split(".")
            service = self.services.cache.get("/".join(reversed(labels)))
            virtual = service.spec.clusterIP if service else ""
            return (virtual,) if virtual not in ("", "None") else ()
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError as error:
            log.warning("%s: %s", name, error)
            return ()
        return tuple(sorted({str(each[4][0]) for each in found}))

    # -- what users are told ------------------------------------------------------------------

    def tell(self) -> None:
        """Of the Ingresses one node tells; of its nginx each node."""
        if not (self.problem or self.leads):
            self._told.clear()
            return
        recorder = self.context.recorder(COMPONENT)
        ours = self.ours
        problems: dict[str, list[Problem]] = {}
        for each in self.translation.problems:
            problems.setdefault(each.ingress.metadata.uid, []).append(each)
        for ingress in ours:
            metadata = ingress.metadata
            told = self._told.get(metadata.uid, set())
            if self.problem:
                text = f"Error reloading NGINX: {self.problem}"
                current, keep = [Problem(ingress, "RELOAD", text)], told
            else:
                mark = f"generation {metadata.generation} {sorted(metadata.annotations.items())}"
                if mark not in told:
                    # Who has addresses already was told of by another leader.
                    if told or not ingress.status.loadBalancer.ingress:
                        recorder.event(ingress, "Normal", "Sync", "Scheduled for sync")
                    told = set()
                current, keep = problems.get(metadata.uid, []), {mark}
            for each in current:
                if each.message not in told:
                    recorder.event(ingress, "Warning", each.reason, each.message)
            self._told[metadata.uid] = keep | {each.message for each in current}
        for uid in self._told.keys() - {each.metadata.uid for each in ours}:
            del self._told[uid]

    def publishes(self, service: Service) -> bool:
        return f"{service.metadata.namespace}/{service.metadata.name}" == self._scope.service

    def own_slices(self) -> Iterable[EndpointSlice]:
        if (service := self.services.cache.get(self._scope.service)) is None:
            return ()
        ports = {"http": self._scope.ports.http, "https": self._scope.ports.https}
        return slices_of(service, self.place, ports, self.manager)

    def writes(self) -> Iterable[Write]:
        service = self.services.cache.get(self._scope.service)
        slices = self.slices.cache.by_index("service", self._scope.service)
        if not (slices or self.serves):
            return ()
        return self._statuses(addresses_of(service, slices, self.place.addresses))

    def farewell(self) -> Iterable[Write]:
        return self._statuses([])

    def _statuses(self, wanted: list[IngressLoadBalancerIngress]) -> Iterable[Write]:
        resource = self.context.client.resource(Ingress)
        for each in self.ours:
            if each.status.loadBalancer.ingress == wanted:
                continue
            meta = each.metadata
            patch = {
                "metadata": {"resourceVersion": meta.resourceVersion},
                "status": {"loadBalancer": {"ingress": [to_object(one) for one in wanted] or None}},
            }
            yield partial(resource.patch, meta.name, meta.namespace, patch, subresource="status")


def addresses_of(
    service: Service | None, endpoints: Sequence[EndpointSlice], own: Sequence[str]
) -> list[IngressLoadBalancerIngress]:
    """What the status of every Ingress says, by upstream's order of preference."""
    if service is not None:
        if balanced := service.status.loadBalancer.ingress:
            return [
                IngressLoadBalancerIngress(ip=each.ip, hostname=each.hostname) for each in balanced
            ]
        if service.spec.externalIPs:
            return [IngressLoadBalancerIngress(ip=each) for each in service.spec.externalIPs]
    nodes = {address for each in endpoints for one in each.endpoints for address in one.addresses}
    return [IngressLoadBalancerIngress(ip=each) for each in sorted(nodes or own)]
