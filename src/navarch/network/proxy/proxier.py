"""The proxy's loop: changed Services and slices in, transactions out.

Changes that come while a transaction runs are gathered into the next one. After a failure, after a
stranger's change and each hour all of the table is laid again over what is there, in transactions
of some Services each, so that the kernel is never held up for long and no Service is half there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.client.clock import Clock
from navarch.network.proxy import metrics
from navarch.network.proxy.kernel import Flow, Kernel, NftError
from navarch.network.proxy.metrics import FAMILY_NAMES
from navarch.network.proxy.model import (
    HEADLESS_LABEL,
    PROXY_NAME_LABEL,
    Backends,
    Endpoint,
    Place,
    PortKey,
    ServiceHealth,
    ServicePort,
    endpoints_of,
    ports_of,
    select,
)
from navarch.network.proxy.rules import Network, PortRules, rules_of
from navarch.network.proxy.table import Table

log = logging.getLogger("navarch.network.proxy")
MIN_INTERVAL = 0.05
"""Seconds between two runs: a burst of changes costs a few of them, not hundreds."""
FIRST_RETRY, LAST_RETRY = 1.0, 30.0
SWEEP_SECONDS = 1.0
REPAIR_DELAY, REPAIR_INTERVAL = 0.2, 1.0
"""A stranger's change is mended that soon; one who does not stop gets us to rest as long as the
work took, and at least that long."""
FULL_INTERVAL = 3600.0
STALE_SECONDS = 60.0
SERVICES_AT_ONCE = 100
TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
SERVICE_LABEL = "kubernetes.io/service-name"
ServiceKey = tuple[str, str]


@dataclass(slots=True)
class _Pending:
    """What has changed since the last run."""

    services: set[ServiceKey] = field(default_factory=set)
    triggers: list[datetime] = field(default_factory=list)
    """When the changes began, as the slices tell."""
    fixed: bool = False


class Proxier:
    """One address family's proxy. Informers call `put_…` and `remove_…`, `run` does the rest."""

    def __init__(
        self, family: str, network: Network, place: Place, kernel: Kernel, clock: Clock
    ) -> None:
        self.family, self.place, self.kernel, self.clock = family, place, kernel, clock
        self.last_updated: datetime | None = None
        self.synced = asyncio.Event()
        """Set after each run; whoever waits for it clears it."""
        self._network = network.of(family)
        self._name = FAMILY_NAMES[family]
        self._table = Table(family, self._network)
        self._services: dict[ServiceKey, Service] = {}
        self._slices: dict[ServiceKey, dict[str, EndpointSlice]] = {}
        self._ports: dict[ServiceKey, list[ServicePort]] = {}
        self._health: dict[ServiceKey, ServiceHealth] = {}
        self._no_local: dict[str, set[PortKey]] = {"internal": set(), "external": set()}
        self._pending = _Pending()
        self._udp: set[ServiceKey] = set()
        """Services whose tracked connections have to be looked at."""
        self._wake = asyncio.Event()
        self._oldest_change: float | None = None
        self._started = clock.now()
        self._full_due = 0.0
        self._rested = 0.0
        """Before this no stranger's change is looked at."""
        self._is_blocked = False

    def put_service(self, service: Service) -> None:
        key = (service.metadata.namespace, service.metadata.name)
        known = self._services.get(key)
        self._services[key] = service
        if known is None or _said(known) != _said(service):
            self._touch_service(key)

    def replace_service(self, _: Service, new: Service) -> None:
        self.put_service(new)

    def remove_service(self, service: Service) -> None:
        key = (service.metadata.namespace, service.metadata.name)
        if self._services.pop(key, None) is not None:
            self._touch_service(key)

    def put_slice(self, slice_: EndpointSlice) -> None:
        if not self._is_mine(slice_):
            return
        key, name = _service_of(slice_), slice_.metadata.name
        slices = self._slices.setdefault(key, {})
        known, slices[name] = slices.get(name), slice_
        if known is not None and known == slice_:
            return
        started = slice_.metadata.annotations.get(TRIGGER_ANNOTATION, "")
        if started and (at := _time(started)) is not None and at > self._started:
            self._pending.triggers.append(at)
        self._touch_slice(key)

    def remove_slice(self, slice_: EndpointSlice) -> None:
        key = _service_of(slice_)
        slices = self._slices.get(key, {})
        if slices.pop(slice_.metadata.name, None) is None:
            return
        if not slices:
            del self._slices[key]
        self._touch_slice(key)

    def replace_slice(self, old: EndpointSlice, new: EndpointSlice) -> None:
        if _service_of(old) != _service_of(new) or not self._is_mine(new):
            self.remove_slice(old)
        self.put_slice(new)

    def set_zone(self, zone: str) -> None:
        """The node's zone has changed, so every Service may use other endpoints."""
        if zone != self.place.zone:
            self.place = Place(self.place.node, zone)
            self._pending.services |= self._services.keys()
            self._queue()

    def set_local_pods(self, cidrs: Sequence[str]) -> None:
        """The node has got its ranges, which Services with the Local policy ask for."""
        network = dataclasses.replace(self._network, local_pods=tuple(cidrs)).of(self.family)
        if network != self._network:
            self._network = network
            self._pending.services |= self._services.keys()
            self._queue()

    def set_service_cidrs(self, cidrs: Sequence[str]) -> None:
        network = dataclasses.replace(self._network, service_cidrs=tuple(cidrs)).of(self.family)
        if network != self._network:
            self._network = network
            self._pending.fixed = True
            self._queue()

    def distrust(self) -> None:
        """Somebody else has changed the table."""
        log.warning("somebody else has changed the %s rules, they are laid anew", self._name)
        soon = max(self.clock.monotonic() + REPAIR_DELAY, self._rested)
        self._full_due = min(self._full_due, soon)
        self._wake.set()

    def _is_mine(self, slice_: EndpointSlice) -> bool:
        return slice_.addressType == self._name and HEADLESS_LABEL not in slice_.metadata.labels

    def _touch_service(self, key: ServiceKey) -> None:
        metrics.service_changes.inc()
        metrics.service_pending.inc()
        self._pending.services.add(key)
        self._queue()

    def _touch_slice(self, key: ServiceKey) -> None:
        metrics.endpoint_changes.inc()
        metrics.endpoint_pending.inc()
        self._pending.services.add(key)
        self._queue()

    def _queue(self) -> None:
        metrics.last_queued.labels(self._name).set(self.clock.now().timestamp())
        if self._oldest_change is None:
            self._oldest_change = self.clock.monotonic()
        self._wake.set()

    @property
    def is_healthy(self) -> bool:
        """Whether no change has waited too long for its rules."""
        if self._oldest_change is None:
            return True
        return self.clock.monotonic() - self._oldest_change < STALE_SECONDS

    def health_states(self) -> dict[ServiceKey, ServiceHealth]:
        """The Services with a health-check node port, and their ready endpoints on this node."""
        return self._health

    async def run(self) -> None:
        """Keep the table up until cancelled. Call it when the informers are synced: rules made from
        half the Services would refuse the others."""
        retry = FIRST_RETRY
        while True:
            try:
                await self.sync()
                retry = FIRST_RETRY
            except NftError as error:
                log.error("the %s rules were refused and are laid anew: %s", self._name, error)
                await self.clock.sleep(retry)
                retry = min(2 * retry, LAST_RETRY)
                continue
            await self.clock.sleep(MIN_INTERVAL)
            await self._wait()

    async def _wait(self) -> None:
        """Until something has changed, or something is due."""
        due = self._full_due
        leftover = self._table.oldest_leftover
        if leftover is not None:
            due = min(due, leftover + SWEEP_SECONDS)
        timer = self.clock.call_later(max(0.0, due - self.clock.monotonic()), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def sync(self) -> None:
        """Bring the kernel to what the API says. Raises NftError."""
        self._wake.clear()
        begin = self.clock.monotonic()
        pending, self._pending = self._pending, _Pending()
        oldest, self._oldest_change = self._oldest_change, None
        metrics.service_pending.set(0)
        metrics.endpoint_pending.set(0)
        is_full = not self._table.is_known or begin >= self._full_due
        try:
            if is_full:
                await self._lay_all(pending.services)
            else:
                await self._sweep(begin)
                await self._lay(pending)
        except BaseException:
            # What was to be done is lost, and what was done is not known.
            self._table.is_known = False
            self._oldest_change = oldest if oldest is not None else begin
            metrics.sync_failures.labels(self._name).inc()
            raise
        self._record(begin, pending.triggers, is_full=is_full)
        self.synced.set()
        if self._udp:
            await self._forget_stale_flows()

    async def _lay(self, pending: _Pending) -> None:
        if pending.fixed:
            await self._apply(self._table.refix(self._network))
        for keys in _some(sorted(pending.services)):
            await self._apply(self._table.change(self._plan(keys), self.clock.monotonic()))

    async def _lay_all(self, changed: Iterable[ServiceKey]) -> None:
        """The whole table, over the one that is there; where that stands in the way (a stranger
        made a map of ours with other keys), instead of it and in one transaction."""
        self._table.is_known = False
        begin = self.clock.monotonic()
        self._full_due = begin + FULL_INTERVAL
        # The oldest first: whoever has an address now keeps it all the while.
        known = self._services.keys() | self._ports.keys() | set(changed)
        every = sorted(known, key=lambda key: (self._created(key), key))
        self._table.network = self._network
        if self._is_blocked:
            commands = self._table.remake()
            for keys in _some(every):
                commands += self._table.change(self._plan(keys), begin)
                await asyncio.sleep(0)
            await self._apply(commands + self._table.finish(begin))
        else:
            existing = await self.kernel.read(self.family)
            self._is_blocked = True
            await self._apply(self._table.begin(existing))
            for keys in _some(every):
                await self._apply(self._table.change(self._plan(keys), begin))
            await self._apply(self._table.finish(self.clock.monotonic()))
        self._is_blocked = False
        self._table.is_known = True
        now = self.clock.monotonic()
        self._rested = now + max(REPAIR_INTERVAL, now - begin)

    def _created(self, key: ServiceKey) -> str:
        service = self._services.get(key)
        return service.metadata.creationTimestamp or "" if service is not None else ""

    async def _sweep(self, now: float) -> None:
        """Delete chains that are emptied for long enough."""
        try:
            await self._apply(self._table.sweep(now - SWEEP_SECONDS))
        except NftError:
            metrics.cleanup_failures.labels(self._name).inc()
            raise

    async def _apply(self, commands: Sequence[str]) -> None:
        if commands:
            await self.kernel.apply(commands)

    def _record(self, begin: float, triggers: Iterable[datetime], *, is_full: bool) -> None:
        now = self.clock.now()
        seconds = self.clock.monotonic() - begin
        metrics.sync.labels(self._name).observe(seconds)
        kind = metrics.sync_full if is_full else metrics.sync_partial
        kind.labels(self._name).observe(seconds)
        metrics.last_sync.labels(self._name).set(now.timestamp())
        for trigger in triggers:
            waited = max(0.0, (now - trigger).total_seconds())
            metrics.network_programming.labels(self._name).observe(waited)
        for policy, ports in self._no_local.items():
            metrics.no_local_endpoints.labels(policy, self._name).set(len(ports))
        self.last_updated = now

    def _plan(self, keys: Iterable[ServiceKey]) -> dict[PortKey, PortRules | None]:
        changes: dict[PortKey, PortRules | None] = {}
        for key in keys:
            before = self._ports.pop(key, [])
            self._health.pop(key, None)
            service = self._services.get(key)
            ports = ports_of(service, self.family) if service is not None else []
            endpoints = endpoints_of(self._slices.get(key, {}).values(), self.family)
            for port in before:
                changes[port.key] = None
                for policy in self._no_local.values():
                    policy.discard(port.key)
            for port in ports:
                backends = select(endpoints.get(port.key, []), self.place)
                changes[port.key] = rules_of(
                    port, backends, self.family, self._network, self.place.node
                )
                self._count_no_local(port, backends)
            if any(port.key.protocol == "udp" for port in (*before, *ports)):
                self._udp.add(key)
            if ports:
                self._ports[key] = ports
                self._note_health(key, ports[0], endpoints)
        return changes

    def _note_health(
        self, key: ServiceKey, port: ServicePort, endpoints: Mapping[PortKey, list[Endpoint]]
    ) -> None:
        if not port.health_check_node_port:
            return
        here = {
            endpoint.address
            for backends in endpoints.values()
            for endpoint in backends
            if endpoint.ready and endpoint.node == self.place.node
        }
        self._health[key] = ServiceHealth(*key, port.health_check_node_port, len(here))

    def _count_no_local(self, port: ServicePort, backends: Backends) -> None:
        if backends.any_usable and not backends.local:
            if port.internal_local:
                self._no_local["internal"].add(port.key)
            if port.external_local and port.is_external:
                self._no_local["external"].add(port.key)

    async def _forget_stale_flows(self) -> None:
        """UDP knows no end of a connection: a flow that is tracked to an endpoint that is gone, or
        from before there was one, would go there for ever. This comes after the rules, as else the
        next packet would bring the old flow back."""
        by_address: dict[tuple[str, int], set[tuple[str, int]]] = {}
        by_node_port: dict[int, set[tuple[str, int]]] = {}
        keys, self._udp = self._udp, set()
        for key in keys:
            endpoints = endpoints_of(self._slices.get(key, {}).values(), self.family)
            for port in self._ports.get(key, []):
                backends = endpoints.get(port.key, [])
                serving = {(e.address, e.port) for e in backends if e.serving}
                if port.key.protocol != "udp" or not serving:
                    continue
                for address in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips):
                    by_address[(address, port.port)] = serving
                if port.node_port:
                    by_node_port[port.node_port] = serving

        def is_stale(flow: Flow) -> bool:
            backend = (flow.backend, flow.backend_port)
            at_address = by_address.get((flow.destination, flow.port), {backend})
            at_node_port = by_node_port.get(flow.port, {backend})
            return backend not in at_address or backend not in at_node_port

        if not by_address and not by_node_port:
            return
        begin = self.clock.monotonic()
        try:
            deleted = await self.kernel.delete_udp_flows(self.family, is_stale)
        except NftError as error:
            log.warning("old UDP connections may go on: %s", error)
            self._udp |= keys
            return
        metrics.conntrack.labels(self._name).observe(self.clock.monotonic() - begin)
        metrics.conntrack_deleted.labels(self._name).inc(deleted)
        if deleted:
            log.info("forgot %d UDP connections to endpoints that are gone", deleted)


def _some(keys: Sequence[ServiceKey]) -> Iterator[Sequence[ServiceKey]]:
    for at in range(0, len(keys), SERVICES_AT_ONCE):
        yield keys[at : at + SERVICES_AT_ONCE]


def _said(service: Service) -> tuple[object, ...]:
    """What of a Service the rules depend on."""
    is_ours = PROXY_NAME_LABEL not in service.metadata.labels
    return service.spec, service.status, service.metadata.creationTimestamp, is_ours


def _time(text: str) -> datetime | None:
    try:
        return parse_time(text)
    except ValueError:
        return None


def _service_of(slice_: EndpointSlice) -> ServiceKey:
    return (slice_.metadata.namespace, slice_.metadata.labels.get(SERVICE_LABEL, ""))
