"""The DNS component: informers of Services and slices in, a served zone out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.client.informer import InformerFactory
from navarch.network.dns.forward import Forwarder
from navarch.network.dns.responder import Responder
from navarch.network.dns.server import DnsServer
from navarch.network.dns.zone import Zone

log = logging.getLogger("navarch.network.dns")


@dataclass(frozen=True, slots=True)
class DnsOptions:
    """`addresses` to listen on, `upstreams` (address, port) for names outside the cluster; where
    none are given, those of `resolv_conf` are taken, less loopback ones and our own."""

    kubeconfig: str
    addresses: tuple[str, ...]
    port: int = 53
    domain: str = "cluster.local"
    upstreams: tuple[tuple[str, int], ...] | None = None
    resolv_conf: str = "/etc/resolv.conf"


def upstreams_of(text: str, own: tuple[str, ...]) -> list[tuple[str, int]]:
    """The name servers in a resolv.conf that can be reached from here."""
    servers = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            address = words[1].partition("%")[0]
            if address not in own and not address.startswith("127.") and address != "::1":
                servers.append((address, 53))
    return servers


def _find_upstreams(options: DnsOptions) -> list[tuple[str, int]]:
    if options.upstreams is not None:
        return list(options.upstreams)
    try:
        text = Path(options.resolv_conf).read_text()
    except OSError:
        return []
    return upstreams_of(text, options.addresses)


async def run(options: DnsOptions) -> None:
    """Serve until cancelled. Listening begins when the zone is complete, so that no name is denied
    that exists."""
    zone = Zone(options.domain)
    responder = Responder(zone)
    server = DnsServer(responder, Forwarder(_find_upstreams(options)))
    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        informers = InformerFactory(client)

        def put_service(service: Service) -> None:
            zone.put_service(service)
            responder.zone_changed()

        def remove_service(service: Service) -> None:
            zone.remove_service(service.metadata.namespace, service.metadata.name)
            responder.zone_changed()

        def put_slice(slice_: EndpointSlice) -> None:
            zone.put_slice(slice_)
            responder.zone_changed()

        def replace_slice(old: EndpointSlice, new: EndpointSlice) -> None:
            zone.remove_slice(old)
            put_slice(new)

        def remove_slice(slice_: EndpointSlice) -> None:
            zone.remove_slice(slice_)
            responder.zone_changed()

        informers.informer(Service).add_handler(
            on_add=put_service,
            on_update=lambda _, service: put_service(service),
            on_delete=remove_service,
        )
        informers.informer(EndpointSlice).add_handler(
            on_add=put_slice, on_update=replace_slice, on_delete=remove_slice
        )
        await informers.start()
        await informers.wait_synced()
        await server.start(options.addresses, options.port)
        log.info("answering for %s on %s", options.domain, ", ".join(options.addresses))
        try:
            await informers.join()
        finally:
            await server.stop()
            await informers.stop()
