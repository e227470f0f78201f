"""The proxy component: informers in, the node's nftables out."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from navarch.api.types.core_v1 import Node, ObjectReference, Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.networking_v1 import ServiceCIDR
from navarch.client.client import Client
from navarch.client.clock import Clock, RealClock
from navarch.client.config import ClientConfig
from navarch.client.events import EventRecorder
from navarch.client.informer import Informer, InformerFactory
from navarch.network.proxy import settings
from navarch.network.proxy.health import Places, ProxyHealth, ServiceHealthServers
from navarch.network.proxy.kernel import LinuxKernel
from navarch.network.proxy.model import HEADLESS_LABEL, PROXY_NAME_LABEL, Place, ServiceHealth
from navarch.network.proxy.proxier import STALE_SECONDS, Proxier
from navarch.network.proxy.rules import PRIMARY, Network
from navarch.network.proxy.settings import Conntrack

log = logging.getLogger("navarch.network.proxy")
ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """`node_ips`, `service_cidrs` and `pod_cidrs` (the whole cluster's) are of one address family
    or both; each family that the node or the Services have gets a table of its own."""

    kubeconfig: str
    node_name: str
    node_ips: tuple[str, ...]
    service_cidrs: tuple[str, ...] = ()
    """More may come with ServiceCIDR objects."""
    pod_cidrs: tuple[str, ...] = ()
    node_port_addresses: tuple[str, ...] = (PRIMARY,)
    """Where node ports answer: "primary", or address ranges (0.0.0.0/0: everywhere)."""
    masquerade_all: bool = False
    refuses_unassigned: bool = False
    """What is sent to addresses of the Service ranges that nobody has is refused, not dropped."""
    local_pod_cidrs: bool = False
    """This node's pods have addresses of its `spec.podCIDRs`, as not all CNI plug-ins see to."""
    health_address: str = "0.0.0.0:10256"
    metrics_address: str = "127.0.0.1:10249"
    conntrack: Mapping[str, int] = field(default_factory=dict)
    """What differs from the defaults of `Conntrack`, by its names."""

    def __post_init__(self) -> None:
        known = {field.name for field in dataclasses.fields(Conntrack)}
        if unknown := sorted(self.conntrack.keys() - known):
            raise ValueError(f"conntrack has no setting {', '.join(unknown)}")

    @property
    def tracking(self) -> Conntrack:
        return Conntrack(**self.conntrack)

    @property
    def network(self) -> Network:
        return Network(
            self.node_ips,
            self.service_cidrs,
            self.pod_cidrs,
            self.node_port_addresses,
            self.masquerade_all,
            self.refuses_unassigned,
        )

    def configuration(self) -> dict[str, Any]:
        """As upstream's KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) says it."""
        tracked = self.tracking
        return {
            "mode": "nftables",
            "bindAddress": self.node_ips[0] if self.node_ips else "",
            "clientConnection": {"kubeconfig": self.kubeconfig},
            "hostnameOverride": self.node_name,
            "healthzBindAddress": self.health_address,
            "metricsBindAddress": self.metrics_address,
            "detectLocalMode": "ClusterCIDR",
            "detectLocal": {"clusterCIDRs": list(self.pod_cidrs)},
            "nodePortAddresses": list(self.node_port_addresses),
            "syncPeriod": f"{STALE_SECONDS / 2:g}s",
            "nftables": {"masqueradeBit": 14},
            "linux": {
                "masqueradeAll": self.masquerade_all,
                "conntrack": {
                    "maxPerCore": tracked.max_per_core,
                    "min": tracked.min,
                    "tcpEstablishedTimeout": f"{tracked.tcp_established_timeout}s",
                    "tcpCloseWaitTimeout": f"{tracked.tcp_close_wait_timeout}s",
                    "tcpBeLiberal": bool(tracked.tcp_be_liberal),
                    "udpTimeout": f"{tracked.udp_timeout}s",
                    "udpStreamTimeout": f"{tracked.udp_stream_timeout}s",
                },
            },
        }


async def run(options: ProxyOptions) -> None:
    """Keep the node's rules until cancelled; they stay in the kernel afterwards."""
    network, clock = options.network, RealClock()
    settings.apply(options.tracking, network.families)
    kernel = LinuxKernel()
    place = Place(options.node_name)
    proxiers = [Proxier(family, network, place, kernel, clock) for family in network.families]
    strangers = kernel.strangers(lambda family: _distrust(proxiers, family))
    strangers.start()
    health = ProxyHealth(proxiers, clock, options.configuration())
    places = Places(options.health_address, options.metrics_address)
    try:
        async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
            await health.start(places)
            await _follow(client, options, proxiers, health, clock)
    finally:
        await health.stop()
        strangers.close()
        kernel.close()


async def _follow(
    client: Client,
    options: ProxyOptions,
    proxiers: list[Proxier],
    health: ProxyHealth,
    clock: Clock,
) -> None:
    recorder = EventRecorder(client, component="kube-proxy", host=options.node_name)

    def refused(state: ServiceHealth, error: str) -> None:
        about = ObjectReference(
            apiVersion="v1", kind="Service", namespace=state.namespace, name=state.name
        )
        message = (
            f'node {options.node_name} failed to start healthcheck "{state.namespace}/{state.name}"'
            f" on port {state.port}: {error}"
        )
        log.warning("%s", message)
        recorder.event(about, "Warning", "FailedToStartServiceHealthcheck", message)

    services = ServiceHealthServers(options.network, lambda: health.is_healthy, refused)
    informers = InformerFactory(client)
    _watch(informers, options, proxiers, health)
    await informers.start()
    try:
        await informers.wait_synced()
        async with asyncio.TaskGroup() as group:
            for proxier in proxiers:
                group.create_task(proxier.run(), name=f"proxier {proxier.family}")
            group.create_task(services.run(proxiers, clock), name="health checks")
            group.create_task(informers.join(), name="proxy informers")
    finally:
        await informers.stop()
        await recorder.close()


def _watch(
    informers: InformerFactory,
    options: ProxyOptions,
    proxiers: list[Proxier],
    health: ProxyHealth,
) -> None:
    """What the API says goes to every family's proxier."""
    services = informers.informer(
        Service,
        label_selector=f"!{PROXY_NAME_LABEL}",
        field_selector="spec.clusterIP!=None",
    )
    slices = informers.informer(EndpointSlice, label_selector=f"!{HEADLESS_LABEL}")
    cidrs = informers.informer(ServiceCIDR)
    for proxier in proxiers:
        services.add_handler(
            on_add=proxier.put_service,
            on_update=proxier.replace_service,
            on_delete=proxier.remove_service,
        )
        slices.add_handler(
            on_add=proxier.put_slice,
            on_update=proxier.replace_slice,
            on_delete=proxier.remove_slice,
        )
    given = options.service_cidrs

    def see_cidrs() -> None:
        every = _merged(given, cidrs)
        for proxier in proxiers:
            proxier.set_service_cidrs(every)

    cidrs.add_handler(
        on_add=lambda _: see_cidrs(),
        on_update=lambda _, __: see_cidrs(),
        on_delete=lambda _: see_cidrs(),
    )

    def see_node(node: Node | None) -> None:
        health.node = node
        if node is not None:
            for proxier in proxiers:
                proxier.set_zone(node.metadata.labels.get(ZONE_LABEL, ""))
                if options.local_pod_cidrs:
                    proxier.set_local_pods(node.spec.podCIDRs)

    informers.informer(Node, field_selector=f"metadata.name={options.node_name}").add_handler(
        on_add=see_node,
        on_update=lambda _, node: see_node(node),
        on_delete=lambda _: see_node(None),
    )


def _merged(given: Iterable[str], cidrs: Informer[ServiceCIDR]) -> tuple[str, ...]:
    """The ranges from the options, and those of the API."""
    found = [cidr for known in cidrs.cache.list() for cidr in known.spec.cidrs]
    return tuple(dict.fromkeys((*given, *sorted(found))))


def _distrust(proxiers: Iterable[Proxier], family: str) -> None:
    for proxier in proxiers:
        if family in ("", proxier.family):
            proxier.distrust()
