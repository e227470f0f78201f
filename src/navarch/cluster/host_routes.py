"""Keeps the host's way into a cluster: to Services by a node that is ready, to pods by their own.

`navarch start` leads all of it to the first node, which is enough while that one lives and
Services have no other range than at the start. This looks at the Node objects and leads around a
node that is cut off, so that the API server, which calls webhooks and extension servers from the
host, goes on reaching them. It looks at the ServiceCIDR objects, too, and leads to the ranges that
were added: without a way into the cluster, packets for them would leave the machine. A range that
is in use outside of the cluster gets no way, whatever an object says. It runs beside the
controllers.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from navarch.api.types.core_v1 import Node
from navarch.api.types.networking_v1 import ServiceCIDR
from navarch.client import Client, ClientConfig, InformerFactory, RealClock
from navarch.network.pods.plan import ranges

log = logging.getLogger("navarch.host_routes")

PROTOCOL = 77
"""Who made a route, as the kernel notes it (see /etc/iproute2/rt_protos). By it we know ours again
after a restart, and take away those for which the reason has gone meanwhile."""
PERIOD = 30.0
"""After so long at most the routes are as they shall be, whoever has changed them."""


@dataclass(frozen=True, slots=True)
class HostRoutesOptions:
    """`nodes` are those on the bridge, with their addresses in the order of the families, as
    `service_cidrs` and `pod_cidrs` are."""

    kubeconfig: str
    bridge: str
    service_cidrs: tuple[str, ...]
    pod_cidrs: tuple[str, ...]
    nodes: Mapping[str, tuple[str, ...]]


def is_ready(node: Node) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in node.status.conditions)


def plan(
    options: HostRoutesOptions, nodes: Iterable[Node], added: Iterable[str] = ()
) -> dict[str, str]:
    """Gateways by destination, `added` being the ranges of Services since the start. Where no node
    is ready, the first may be: it is asked."""
    found = {node.metadata.name: node for node in nodes}
    ready = [name for name in options.nodes if name in found and is_ready(found[name])]
    door = options.nodes[(ready or list(options.nodes))[0]]
    routes: dict[str, str] = {}
    for number, address in enumerate(door):
        routes[options.service_cidrs[number]] = address
        # Pods of machines that have joined are behind any node's tunnel.
        routes[options.pod_cidrs[number]] = address
        routes |= {cidr: address for cidr in added if (":" in address) == (":" in cidr)}
    for name, addresses in options.nodes.items():
        for cidr in ranges(found[name]) if name in found else ():
            for address in addresses:
                if (":" in address) == (":" in cidr):
                    routes[cidr] = address
    return routes


def added_ranges(
    options: HostRoutesOptions, objects: Iterable[ServiceCIDR], elsewhere: Iterable[str]
) -> list[str]:
    """Ranges that Services have been given since the start, but none of which the host already
    knows a way `elsewhere`: the host's neighbours stay reachable."""
    cidrs = {cidr for each in objects for cidr in each.spec.cidrs} - {*options.service_cidrs}
    taken = [ip_network(cidr, strict=False) for cidr in elsewhere]
    taken += [ip_network(cidr) for cidr in options.pod_cidrs]
    found = []
    for cidr in sorted(cidrs):
        network = ip_network(cidr)
        if any(network.version == each.version and network.overlaps(each) for each in taken):
            log.warning("no way from the host to %s: the range is in use outside", cidr)
        else:
            found.append(cidr)
    return found


async def run(options: HostRoutesOptions) -> None:
    """Keep the routes until cancelled."""
    changed, clock = asyncio.Event(), RealClock()
    ours = (await asyncio.to_thread(look, options.bridge)).ours
    told: dict[str, str] = {}

    def updated(old: Node, new: Node) -> None:
        if (is_ready(old), ranges(old)) != (is_ready(new), ranges(new)):
            changed.set()

    def extended(old: ServiceCIDR, new: ServiceCIDR) -> None:
        if old.spec.cidrs != new.spec.cidrs:
            changed.set()

    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        informers = InformerFactory(client)
        informer = informers.informer(Node)
        informer.add_handler(lambda _: changed.set(), updated, lambda _: changed.set())
        cidrs = informers.informer(ServiceCIDR)
        cidrs.add_handler(lambda _: changed.set(), extended, lambda _: changed.set())
        await informers.start()
        try:
            await informers.wait_synced()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(informers.join(), name="host routes informers")
                while True:
                    changed.clear()
                    objects = cidrs.cache.list()
                    # A lone node and the ranges of the start have their routes already.
                    if len(options.nodes) > 1 or len(objects) > 1 or ours:
                        there = await asyncio.to_thread(look, options.bridge)
                        added = added_ranges(options, objects, there.elsewhere)
                        wanted = plan(options, informer.cache.list(), added)
                        await asyncio.to_thread(apply, options.bridge, there.ours, wanted)
                        ours = frozenset(wanted)
                        if wanted != told:
                            log.info("ways into the cluster: %s", wanted)
                            told = wanted
                    timer = clock.call_later(PERIOD, changed.set)
                    await changed.wait()
                    timer.cancel()
        finally:
            await informers.stop()


@dataclass(frozen=True, slots=True)
class Ways:
    """Where the host's routes lead: by the bridge, being `ours`, and not by it, but for the default
    ones."""

    ours: frozenset[str]
    elsewhere: tuple[str, ...]


def look(bridge: str) -> Ways:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        index = next(iter(netlink.link_lookup(ifname=bridge)), 0)
        routes: list[Any] = list(netlink.get_routes(table=254))
    ours, elsewhere = set(), []
    for each in routes:
        to = each.get_attr("RTA_DST")
        if to is None or not each["dst_len"]:
            continue
        if each.get_attr("RTA_OIF") != index:
            elsewhere.append(f"{to}/{each['dst_len']}")
        elif each["proto"] == PROTOCOL:
            ours.add(f"{to}/{each['dst_len']}")
    return Ways(frozenset(ours), tuple(elsewhere))


def apply(bridge: str, ours: Iterable[str], wanted: Mapping[str, str]) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    kept = {str(ip_network(each)) for each in wanted}
    with IPRoute() as netlink:
        index = next(iter(netlink.link_lookup(ifname=bridge)), 0)
        if not index:
            # Somebody took it away. `navarch start` brings it back; controllers go on meanwhile.
            log.warning("no ways into the cluster: there is no %s", bridge)
            return
        for destination in ours:
            if destination in kept:
                continue
            try:
                netlink.route("del", dst=destination, oif=index)
            except NetlinkError as error:
                if error.code != errno.ESRCH:
                    raise
        for destination, gateway in wanted.items():
            netlink.route("replace", dst=destination, gateway=gateway, oif=index, proto=PROTOCOL)
