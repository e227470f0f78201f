"""The DNS component: informers of Services, slices and Ingresses in, a served zone out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from navarch.api.times import parse_time
from navarch.api.types.core_v1 import ConfigMap, Pod, Service, ServiceSpec, ServiceStatus
from navarch.api.types.discovery_v1 import Endpoint, EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import Ingress
from navarch.client.client import Client
from navarch.client.clock import Clock, RealClock
from navarch.client.config import ClientConfig
from navarch.client.events import EventRecorder
from navarch.client.informer import Informer, InformerFactory
from navarch.network.dns.corefile import (
    Address,
    Block,
    Corefile,
    CorefileError,
    parse_corefile,
    with_kube_dns,
)
from navarch.network.dns.default import default_corefile
from navarch.network.dns.figures import Collector, Gathered
from navarch.network.dns.forward import Forwarder
from navarch.network.dns.names import IngressHosts
from navarch.network.dns.responder import Path as ServedPath
from navarch.network.dns.responder import Responder
from navarch.network.dns.server import Clients, DnsServer
from navarch.network.dns.telling import Telling
from navarch.network.dns.zone import PodNames, Zone
from navarch.network.gateway import HOSTNAMES

log = logging.getLogger("navarch.network.dns")

NAMESPACE = "kube-system"
COREFILE_MAP, KUBE_DNS_MAP = "coredns", "kube-dns"
HOLD_SECONDS = 2.0
"""How long questions are held, unanswered, while the zone is being read: askers wait for 5 seconds,
and what is read by then is answered as if nothing had been. Later ones are told SERVFAIL."""
CONFIGURATION_SECONDS = 0.3
"""How long the configuration is waited for when the zone is there already."""
RELOAD_SECONDS = 5.0
"""How often the resolvers' file is looked at: a laptop changes networks."""
SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
"""The resolvers behind systemd's, which itself listens on a loopback address only."""
TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"


@dataclass(frozen=True, slots=True)
class DnsOptions:
    """`addresses` to listen on, `upstreams` (address, port) for names outside the cluster; where
    none are given, those the Corefile says, by default of `resolv_conf`, less loopback ones and our
    own. `clients` are the networks that are answered; without any, all private ones."""

    kubeconfig: str
    addresses: tuple[str, ...]
    port: int = 53
    domain: str = "cluster.local"
    upstreams: tuple[tuple[str, int], ...] | None = None
    resolv_conf: str = "/etc/resolv.conf"
    clients: tuple[str, ...] = ()
    node_name: str = ""


def upstreams_of(text: str, own: Sequence[str]) -> list[Address]:
    """The name servers in a resolv.conf that can be reached from here."""
    servers = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            address = words[1].partition("%")[0]
            if address not in own and not address.startswith("127.") and address != "::1":
                servers.append((address, 53))
    return servers


def read_upstreams(paths: Sequence[str], own: Sequence[str]) -> list[Address]:
    """Those of the first file that has any."""
    for path in paths:
        with contextlib.suppress(OSError):
            if found := upstreams_of(Path(path).read_text(), own):
                return found
    return []


def service_kept(service: Service) -> Service:
    """What DNS needs of a Service; the rest is memory."""
    meta, spec = service.metadata, service.spec
    hosts = meta.annotations.get(HOSTNAMES)
    return Service(
        metadata=ObjectMeta(
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            resourceVersion=meta.resourceVersion,
            annotations={HOSTNAMES: hosts} if hosts else {},
        ),
        status=service.status if hosts else ServiceStatus(),
        spec=ServiceSpec(
            type=spec.type,
            clusterIP=spec.clusterIP,
            clusterIPs=spec.clusterIPs,
            ports=spec.ports,
            externalName=spec.externalName,
            publishNotReadyAddresses=spec.publishNotReadyAddresses,
        ),
    )


def slice_kept(slice_: EndpointSlice) -> EndpointSlice:
    """What DNS needs of a slice."""
    meta = slice_.metadata
    trigger = meta.annotations.get(TRIGGER_ANNOTATION)
    return EndpointSlice(
        metadata=ObjectMeta(
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            resourceVersion=meta.resourceVersion,
            labels=meta.labels,
            annotations={TRIGGER_ANNOTATION: trigger} if trigger else {},
        ),
        addressType=slice_.addressType,
        ports=slice_.ports,
        endpoints=[
            Endpoint(
                addresses=endpoint.addresses,
                hostname=endpoint.hostname,
                conditions=endpoint.conditions,
            )
            for endpoint in slice_.endpoints
        ],
    )


@dataclass(slots=True)
class _Configuration:
    """The Corefile in force, made of two ConfigMaps."""

    options: DnsOptions
    maps: dict[str, ConfigMap] = field(default_factory=dict)
    corefile: Corefile = field(default_factory=Corefile)
    upstreams: list[Address] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, map_: ConfigMap) -> None:
        self.maps[map_.metadata.name] = map_
        self.changed.set()

    def lose(self, map_: ConfigMap) -> None:
        self.maps.pop(map_.metadata.name, None)
        self.changed.set()

    def read(self) -> Corefile:
        """What the maps say. Raises CorefileError."""
        text = default_corefile(self.options.domain)
        if (map_ := self.maps.get(COREFILE_MAP)) is not None:
            text = map_.data.get("Corefile", text)
        corefile = parse_corefile(text)
        if (older := self.maps.get(KUBE_DNS_MAP)) is not None:
            corefile = with_kube_dns(corefile, older.data)
        return checked(corefile, self.options.domain)

    def read_upstreams(self) -> list[Address]:
        paths = (self.options.resolv_conf, SYSTEMD_RESOLV_CONF)
        return read_upstreams(paths, self.options.addresses)

    def forwarder(self, block: Block, clock: Clock) -> Forwarder | None:
        rules = block.forward
        if rules is None:
            return None
        if self.options.upstreams is not None and not rules.upstreams:
            return Forwarder(rules, self.options.upstreams, clock)
        found = list(rules.upstreams)
        if rules.resolv_conf:
            default = rules.resolv_conf == "/etc/resolv.conf"
            own = self.options.addresses
            found += self.upstreams if default else read_upstreams([rules.resolv_conf], own)
        return Forwarder(rules, found, clock)


def checked(corefile: Corefile, domain: str) -> Corefile:
    """Raises CorefileError for a zone that the kubelets do not tell pods of."""
    for block in corefile.blocks:
        for zone in block.kubernetes.zones if block.kubernetes else ():
            if zone != domain.lower() and not zone.endswith((".arpa", "arpa")) and zone:
                raise CorefileError(f"kubernetes: the cluster's domain is {domain}, not {zone}")
    return corefile


class _Component:
    """Everything that lives while the component runs."""

    def __init__(self, options: DnsOptions, client: Client) -> None:
        self.clock = RealClock()
        self.zone = Zone(options.domain, synced=False)
        self.ingresses = IngressHosts()
        self.responder = Responder(self.zone, self.ingresses, self.clock)
        self.server = DnsServer(self.responder, Clients.of(options.clients))
        self.configuration = _Configuration(options)
        self.informers = InformerFactory(client)
        self.recorder = EventRecorder(client, "coredns", options.node_name)
        collector = Collector(self.responder.figures, self.gather)
        self.telling = Telling(options.addresses[0], collector, self.missing)
        self._pods: Informer[Pod] | None = None
        self._wrong = ""

    # Following the API ---------------------------------------------------------------------------

    def follow(self) -> list[Informer[Service] | Informer[EndpointSlice]]:
        """Set the informers up. Returns those without which nothing can be answered."""
        zone, informers = self.zone, self.informers
        services = informers.informer(Service, transform=service_kept)
        services.add_handler(
            on_add=zone.put_service,
            on_update=lambda _, service: zone.put_service(service),
            on_delete=lambda gone: zone.remove_service(gone.metadata.namespace, gone.metadata.name),
        )
        services.add_handler(
            on_add=self.ingresses.put,
            on_update=lambda _, service: self.ingresses.put(service),
            on_delete=self.ingresses.remove,
        )
        slices = informers.informer(EndpointSlice, transform=slice_kept)
        slices.add_handler(
            on_add=self.put_slice, on_update=self.replace_slice, on_delete=zone.remove_slice
        )
        informers.metadata("", "v1", "namespaces", namespaced=False).add_handler(
            on_add=lambda each: zone.set_namespace(each.metadata.name, exists=True),
            on_delete=lambda each: zone.set_namespace(each.metadata.name, exists=False),
        )
        informers.informer(Ingress).add_handler(
            on_add=self.ingresses.put,
            on_update=lambda _, ingress: self.ingresses.put(ingress),
            on_delete=self.ingresses.remove,
        )
        for name in (COREFILE_MAP, KUBE_DNS_MAP):
            selector = f"metadata.name={name}"
            informers.informer(ConfigMap, NAMESPACE, field_selector=selector).add_handler(
                on_add=self.configuration.see,
                on_update=lambda _, map_: self.configuration.see(map_),
                on_delete=self.configuration.lose,
            )
        return [services, slices]

    def put_slice(self, slice_: EndpointSlice) -> None:
        self.zone.put_slice(slice_)
        trigger = slice_.metadata.annotations.get(TRIGGER_ANNOTATION)
        if trigger and self.zone.synced:
            with contextlib.suppress(ValueError):
                took = (self.clock.now() - parse_time(trigger)).total_seconds()
                self.responder.figures.programming.add(max(took, 0.0))

    def replace_slice(self, old: EndpointSlice, new: EndpointSlice) -> None:
        if old.metadata.labels != new.metadata.labels:
            self.zone.remove_slice(old)
        self.put_slice(new)

    async def wait_ready(
        self, needed: Sequence[Informer[Service] | Informer[EndpointSlice]]
    ) -> None:
        """Until nothing that exists can be denied any more."""
        for informer in needed:
            await informer.wait_synced()
        self.zone.synced = True
        self.responder.forget_all()

    async def wait_namespaces(self) -> None:
        await self.informers.metadata("", "v1", "namespaces", namespaced=False).wait_synced()
        self.zone.namespaces_synced = True

    async def wait_configured(self) -> None:
        for name in (COREFILE_MAP, KUBE_DNS_MAP):
            selector = f"metadata.name={name}"
            await self.informers.informer(
                ConfigMap, NAMESPACE, field_selector=selector
            ).wait_synced()

    # Configuration -------------------------------------------------------------------------------

    async def configure(self) -> None:
        """Take up what the ConfigMaps say. What cannot be understood changes nothing."""
        configuration = self.configuration
        configuration.changed.clear()
        try:
            corefile = configuration.read()
        except CorefileError as error:
            self._tell_wrong(str(error))
            corefile = configuration.corefile
            if not corefile.blocks:
                corefile = parse_corefile(default_corefile(configuration.options.domain))
        else:
            self._wrong = ""
        upstreams = configuration.read_upstreams()
        if corefile == configuration.corefile and upstreams == configuration.upstreams:
            return
        configuration.corefile, configuration.upstreams = corefile, upstreams
        old = self.responder.configure(
            corefile, lambda block: configuration.forwarder(block, self.clock)
        )
        await self._close(old)
        await self._follow_pods(corefile.kubernetes.pods is PodNames.VERIFIED)
        await self.telling.apply(corefile)
        log.info(
            "configured: %s", ", ".join(zone or "." for b in corefile.blocks for zone in b.zones)
        )

    def _tell_wrong(self, error: str) -> None:
        """Once for each mistake: the maps are looked at again and again."""
        if error == self._wrong:
            return
        self._wrong = error
        log.error("the Corefile is not taken up: %s", error)
        for map_ in self.configuration.maps.values():
            message = f"the last good configuration stays in force: {error}"
            self.recorder.event(map_, "Warning", "InvalidCorefile", message)

    async def _close(self, paths: Sequence[ServedPath]) -> None:
        for path in paths:
            if path.forwarder is not None:
                await path.forwarder.close()

    async def _follow_pods(self, wanted: bool) -> None:
        if wanted and self._pods is None:
            zone = self.zone
            self._pods = self.informers.informer(
                Pod, field_selector="status.phase!=Succeeded,status.phase!=Failed"
            )

            def set_pod(pod: Pod, exists: bool) -> None:
                for each in pod.status.podIPs:
                    zone.set_pod(pod.metadata.namespace, each.ip, exists=exists)

            def replace_pod(old: Pod, new: Pod) -> None:
                if old.status.podIPs != new.status.podIPs:
                    set_pod(old, False)
                    set_pod(new, True)

            self._pods.add_handler(
                on_add=lambda pod: set_pod(pod, True),
                on_update=replace_pod,
                on_delete=lambda pod: set_pod(pod, False),
            )
            zone.pods_synced = lambda: self._pods is not None and self._pods.synced
            await self.informers.start()
        elif not wanted and self._pods is not None:
            await self.informers.stop_informer(self._pods)
            self._pods = None
            self.zone.forget_pods()

    async def keep_configured(self) -> None:
        """Follow the ConfigMaps and the resolvers' file."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELOAD_SECONDS):
                    await self.configuration.changed.wait()
            await self.configure()

    async def probe_loops(self) -> None:
        """Ask each resolver once whether it asks us in turn."""
        while True:
            for path in self.responder.paths:
                if path.probe is not None and not path.probe.is_sent:
                    path.probe.seen = self._loop_seen
                    await path.probe.run()
            await self.clock.sleep(RELOAD_SECONDS)

    def _loop_seen(self) -> None:
        log.error("an upstream resolver asks us in turn: nothing is passed on to it any more")
        for map_ in self.configuration.maps.values():
            message = "an upstream resolver asks this server in turn; nothing is passed on to it"
            self.recorder.event(map_, "Warning", "ForwardingLoop", message)

    # Telling -------------------------------------------------------------------------------------

    def missing(self) -> list[str]:
        return [] if self.zone.synced else ["kubernetes"]

    def gather(self) -> Gathered:
        self.responder.flush()
        paths = self.responder.paths
        caches = [path.cache for path in paths if path.cache]
        forwarders = [path.forwarder for path in paths if path.forwarder]
        return Gathered(
            {
                "success": sum(len(each.success) for each in caches),
                "denial": sum(len(each.denial) for each in caches),
            },
            sum(each.hits for each in caches),
            sum(each.misses for each in caches),
            {
                f"{upstream.address[0]}:{upstream.address[1]}": upstream.requests
                for each in forwarders
                for upstream in each.upstreams
            },
            sum(each.rejected for each in forwarders),
            tuple(
                name
                for name in ("cache", "forward", "hosts", "kubernetes", "ingress", "log", "loop")
                if any(getattr(path.block, name) not in (None, False) for path in paths)
            ),
        )

    async def stop(self) -> None:
        await self.server.stop()
        await self.telling.stop()
        await self._close(self.responder.paths)
        await self.informers.stop()
        await self.recorder.close()


async def run(options: DnsOptions) -> None:
    """Serve until cancelled. The ports are taken at once, so what is asked during a start waits in
    the kernel and is answered when the zone is there."""
    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        component = _Component(options, client)
        try:
            component.server.bind(options.addresses, options.port)
            needed = component.follow()
            await component.informers.start()
            async with asyncio.TaskGroup() as group:
                ready = group.create_task(component.wait_ready(needed), name="dns zone")
                known = group.create_task(component.wait_configured(), name="dns configuration")
                group.create_task(component.wait_namespaces(), name="dns namespaces")
                group.create_task(component.informers.join(), name="dns informers")
                await asyncio.wait([ready], timeout=HOLD_SECONDS)
                # In a new cluster it may be long until it may be read, and it says the same.
                await asyncio.wait([known], timeout=CONFIGURATION_SECONDS)
                await component.configure()
                await component.server.serve()
                log.info("answering for %s on %s", options.domain, ", ".join(options.addresses))
                group.create_task(component.keep_configured(), name="dns configuration kept")
                group.create_task(component.probe_loops(), name="dns loop probes")
        finally:
            await component.stop()
