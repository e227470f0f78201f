"""The proxy's loop: changed Services and slices in, one transaction out.

Changes that come while a transaction runs are gathered into the next one. After a failure the whole
table is made anew, because what the kernel holds is no longer known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.client.clock import Clock
from navarch.network.proxy.health import ServiceHealth
from navarch.network.proxy.kernel import Flow, Kernel, NftError
from navarch.network.proxy.model import (
    Endpoint,
    Place,
    PortKey,
    ServicePort,
    endpoints_of,
    ports_of,
    select,
)
from navarch.network.proxy.rules import Addresses, PortRules, rules_of
from navarch.network.proxy.table import Table

log = logging.getLogger("navarch.network.proxy")
MIN_INTERVAL = 0.05
"""Seconds between two transactions: a burst of changes costs a few of them, not hundreds."""
RETRY_SECONDS = 1.0
SWEEP_SECONDS = 1.0
STALE_SECONDS = 60.0
ServiceKey = tuple[str, str]


@dataclass
class Proxier:
    """One address family's proxy. Informers call `put_…` and `remove_…`, `run` does the rest."""

    family: str
    addresses: Addresses
    place: Place
    kernel: Kernel
    clock: Clock

    def __post_init__(self) -> None:
        self._table = Table(self.family, self.addresses)
        self._services: dict[ServiceKey, Service] = {}
        self._slices: dict[ServiceKey, dict[str, EndpointSlice]] = {}
        self._ports: dict[ServiceKey, list[ServicePort]] = {}
        self._endpoints: dict[ServiceKey, Mapping[PortKey, list[Endpoint]]] = {}
        self._dirty: set[ServiceKey] = set()
        self._udp_changed = False
        self._wake = asyncio.Event()
        self._oldest_change: float | None = None

    def put_service(self, service: Service) -> None:
        key = (service.metadata.namespace, service.metadata.name)
        self._services[key] = service
        self._touch(key)

    def remove_service(self, service: Service) -> None:
        key = (service.metadata.namespace, service.metadata.name)
        self._services.pop(key, None)
        self._touch(key)

    def put_slice(self, slice_: EndpointSlice) -> None:
        key = _service_of(slice_)
        self._slices.setdefault(key, {})[slice_.metadata.name] = slice_
        self._touch(key)

    def remove_slice(self, slice_: EndpointSlice) -> None:
        key = _service_of(slice_)
        slices = self._slices.get(key, {})
        slices.pop(slice_.metadata.name, None)
        if not slices:
            self._slices.pop(key, None)
        self._touch(key)

    def replace_slice(self, old: EndpointSlice, new: EndpointSlice) -> None:
        if _service_of(old) != _service_of(new):
            self.remove_slice(old)
        self.put_slice(new)

    def set_zone(self, zone: str) -> None:
        """The node's zone has changed, so every Service may use other endpoints."""
        if zone != self.place.zone:
            self.place = Place(self.place.node, zone)
            for key in self._services:
                self._touch(key)

    def _touch(self, key: ServiceKey) -> None:
        self._dirty.add(key)
        if self._oldest_change is None:
            self._oldest_change = self.clock.monotonic()
        self._wake.set()

    def is_healthy(self) -> bool:
        """Whether no change has waited too long for its rules."""
        if self._oldest_change is None:
            return self._table.is_known
        return self.clock.monotonic() - self._oldest_change < STALE_SECONDS

    def health_states(self) -> dict[int, ServiceHealth]:
        """The Services with a health-check node port, and their ready endpoints on this node."""
        states = {}
        for (namespace, name), ports in self._ports.items():
            for port in ports:
                if not port.health_check_node_port or not port.external_local:
                    continue
                here = {
                    endpoint.address
                    for endpoints in self._endpoints[(namespace, name)].values()
                    for endpoint in endpoints
                    if endpoint.ready and endpoint.node == self.place.node
                }
                health = ServiceHealth(namespace, name, len(here))
                states[port.health_check_node_port] = health
        return states

    async def run(self) -> None:
        """Keep the table up until cancelled. Call it when the informers are synced: rules made from
        half the Services would refuse the others."""
        while True:
            try:
                await self.sync()
            except NftError as error:
                log.error("nft refused the rules, they are made anew: %s", error)
                self._table.is_known = False
                await self.clock.sleep(RETRY_SECONDS)
                continue
            await self.clock.sleep(MIN_INTERVAL)
            timeout = SWEEP_SECONDS if self._table.has_leftovers else None
            try:
                await asyncio.wait_for(self._wake.wait(), timeout)
            except TimeoutError:
                await self._sweep()

    async def _sweep(self) -> None:
        transaction = self._table.sweep()
        if transaction:
            await self.kernel.apply(transaction)

    async def sync(self) -> None:
        """Bring the kernel to what the API says. Raises NftError."""
        self._wake.clear()
        dirty, self._dirty = self._dirty, set()
        changes = self._plan(dirty)
        if self._table.is_known:
            transaction = self._table.change(changes)
        else:
            every = self._plan(self._services.keys() | dirty)
            transaction = self._table.replace({k: v for k, v in every.items() if v is not None})
        if transaction:
            await self.kernel.apply(transaction)
            self._table.is_known = True
        if not self._dirty:
            self._oldest_change = None
        if self._udp_changed:
            self._udp_changed = False
            await self._forget_stale_flows()

    def _plan(self, keys: set[ServiceKey]) -> dict[PortKey, PortRules | None]:
        changes: dict[PortKey, PortRules | None] = {}
        for key in keys:
            before = self._ports.get(key, [])
            service = self._services.get(key)
            ports = ports_of(service, self.family) if service is not None else []
            endpoints = endpoints_of(self._slices.get(key, {}).values(), self.family)
            for port in before:
                changes[port.key] = None
            for port in ports:
                backends = select(endpoints.get(port.key, []), self.place)
                changes[port.key] = rules_of(
                    port, backends, self.family, self.addresses, self.place.node
                )
            if any(port.key.protocol == "udp" for port in (*before, *ports)):
                self._udp_changed = True
            if ports:
                self._ports[key], self._endpoints[key] = ports, endpoints
            else:
                self._ports.pop(key, None)
                self._endpoints.pop(key, None)
        return changes

    async def _forget_stale_flows(self) -> None:
        """UDP knows no end of a connection: a flow that is tracked to an endpoint that is gone, or
        from before there was one, would go there for ever."""
        by_address: dict[tuple[str, int], set[tuple[str, int]]] = {}
        by_node_port: dict[int, set[tuple[str, int]]] = {}
        for key, ports in self._ports.items():
            for port in ports:
                if port.key.protocol != "udp":
                    continue
                serving = {
                    (endpoint.address, endpoint.port)
                    for endpoint in self._endpoints[key].get(port.key, [])
                    if endpoint.serving
                }
                if not serving:
                    continue
                for address in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips):
                    by_address[(address, port.port)] = serving
                if port.node_port:
                    by_node_port[port.node_port] = serving

        def is_stale(flow: Flow) -> bool:
            serving = by_address.get((flow.destination, flow.port))
            if serving is None:
                serving = by_node_port.get(flow.port)
            return serving is not None and (flow.backend, flow.backend_port) not in serving

        if by_address or by_node_port:
            deleted = await self.kernel.delete_udp_flows(is_stale)
            if deleted:
                log.info("forgot %d UDP connections to endpoints that are gone", deleted)


def _service_of(slice_: EndpointSlice) -> ServiceKey:
    labels = slice_.metadata.labels
    return (slice_.metadata.namespace, labels.get("kubernetes.io/service-name", ""))
