"""The proxy component: informers in, the node's nftables out."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from navarch.api.types.core_v1 import Node, Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.client.client import Client
from navarch.client.clock import RealClock
from navarch.client.config import ClientConfig
from navarch.client.informer import InformerFactory
from navarch.network.proxy.health import HealthServers
from navarch.network.proxy.kernel import LinuxKernel
from navarch.network.proxy.model import PROXY_NAME_LABEL, Place
from navarch.network.proxy.proxier import Proxier
from navarch.network.proxy.rules import Addresses

log = logging.getLogger("navarch.network.proxy")
ZONE_LABEL = "topology.kubernetes.io/zone"
HEALTH_INTERVAL = 1.0
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/route_localnet": "0",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait": "3600",
    "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
}
"""Kernel settings of the node's network namespace that proxying relies on."""


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """`node_ips` are the addresses where node ports answer, `pod_cidr` is the whole cluster's."""

    kubeconfig: str
    node_name: str
    node_ips: tuple[str, ...]
    service_cidrs: tuple[str, ...]
    pod_cidr: str
    family: str = "ip"


def _set_sysctls() -> None:
    for name, value in SYSCTLS.items():
        path = Path("/proc/sys", name)
        try:
            if path.read_text().strip() != value:
                path.write_text(value)
        except OSError as error:
            log.warning("%s cannot be set to %s: %s", name.replace("/", "."), value, error)


async def run(options: ProxyOptions) -> None:
    """Keep the node's rules until cancelled; they stay in the kernel afterwards."""
    _set_sysctls()
    proxier = Proxier(
        family=options.family,
        addresses=Addresses(options.node_ips, options.service_cidrs, options.pod_cidr),
        place=Place(options.node_name),
        kernel=LinuxKernel(),
        clock=RealClock(),
    )
    health = HealthServers(
        options.node_ips[0] if options.node_ips else "127.0.0.1", proxier.is_healthy
    )
    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        informers = InformerFactory(client)
        informers.informer(Service, label_selector=f"!{PROXY_NAME_LABEL}").add_handler(
            on_add=proxier.put_service,
            on_update=lambda _, service: proxier.put_service(service),
            on_delete=proxier.remove_service,
        )
        informers.informer(EndpointSlice).add_handler(
            on_add=proxier.put_slice,
            on_update=proxier.replace_slice,
            on_delete=proxier.remove_slice,
        )

        def see_node(node: Node) -> None:
            proxier.set_zone(node.metadata.labels.get(ZONE_LABEL, ""))

        informers.informer(Node, field_selector=f"metadata.name={options.node_name}").add_handler(
            on_add=see_node, on_update=lambda _, node: see_node(node)
        )
        await informers.start()
        await informers.wait_synced()
        await health.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(proxier.run(), name="proxier")
                group.create_task(_serve_health(health, proxier), name="health checks")
                group.create_task(informers.join(), name="proxy informers")
        finally:
            await health.stop()
            await informers.stop()


async def _serve_health(health: HealthServers, proxier: Proxier) -> None:
    clock = RealClock()
    while True:
        await health.update(proxier.health_states())
        await clock.sleep(HEALTH_INTERVAL)
