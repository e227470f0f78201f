"""Applies a cluster's wiring to the kernel, through netlink.

The only module of `cluster` that speaks netlink. Everything can be applied again at any time: what
is there is left alone, what is missing or wrong is put right, so a start after a crash, a reboot
or a half-finished stop needs no separate path.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from navarch.cluster import forwarding, kernel
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import ClusterError
from navarch.cluster.topology import SYSCTLS, NodeWiring, Route, Wiring

_BRIDGE = re.compile(r"navarch\d+")
IFA_F_NODAD = 0x02


def apply(wiring: Wiring, pins: Path) -> None:
    """Wire the host and every node. The nodes' namespaces exist already."""
    with IPRoute() as netlink:
        bridge = _bridge(netlink, wiring)
        for node in wiring.nodes:
            _attach(netlink, bridge, node, Pins(pins, node.node))
        for route in wiring.routes:
            _route(netlink, route)
        # Between the nodes and the world, on these interfaces only. The bridge's own goes with it.
        Path("/proc/sys", _forwarding(wiring.bridge)).write_text("1")
        uplinks = _uplinks(netlink, wiring.listen)
    forwarding.switch_on(map(_forwarding, uplinks), forwarding.machines_note())
    load_rules(wiring.rules)
    for node in wiring.nodes:
        with inside_network(Pins(pins, node.node)):
            _furnish(node)


def remove(wiring: Wiring) -> None:
    """Take everything off the host again. Routes go with the bridge."""
    with IPRoute() as netlink:
        if not _is_ours(netlink, wiring):
            return
        for name in [*(node.host_interface for node in wiring.nodes), wiring.bridge]:
            for index in netlink.link_lookup(ifname=name):
                netlink.link("del", index=index)
        # A veth whose other end is still held by a dying namespace bears a name of ours, too.
        for link in netlink.get_links():
            name = link.get_attr("IFLA_IFNAME") or ""
            if name.startswith(f"{wiring.bridge}n"):
                _ignore_missing(lambda found=link: netlink.link("del", index=found["index"]))
    load_rules("".join(f"add table {each}\ndelete table {each}\n" for each in wiring.tables))
    forwarding.switch_back(forwarding.machines_note(), is_needed=_is_a_cluster_there)


def _is_a_cluster_there() -> bool:
    return any(_BRIDGE.fullmatch(name) for _, name in socket.if_nameindex())


def _is_ours(netlink: Any, wiring: Wiring) -> bool:
    """Whether there is no bridge of that name, or it is this cluster's."""
    found = netlink.link_lookup(ifname=wiring.bridge)
    return not found or (
        netlink.get_links(found[0])[0].get_attr("IFLA_IFALIAS") in (wiring.owner, None)
    )


def lead_to_bridge(bridge: str, wanted: Iterable[str], unwanted: Iterable[str]) -> None:
    """Routes of the host to single addresses beyond its bridge, where somebody answers for them."""
    with IPRoute() as netlink:
        index = next(iter(netlink.link_lookup(ifname=bridge)), None)
        for address in unwanted if index is not None else ():
            with suppress(NetlinkError):
                netlink.route("del", dst=_single(address), oif=index, scope="link")
        for address in wanted:
            netlink.route("replace", dst=_single(address), oif=index, scope="link")


def _single(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def load_rules(rules: str) -> None:
    """Hand one transaction to nft. It is taken as a whole or not at all."""
    try:
        subprocess.run(
            ["nft", "-f", "-"], input=rules.encode(), check=True, capture_output=True, timeout=30
        )
    except FileNotFoundError as error:
        raise ClusterError("nft is not installed", "Run: navarch setup") from error
    except subprocess.CalledProcessError as error:
        raise ClusterError(
            f"nft refused the cluster's rules: {error.stderr.decode(errors='replace').strip()}",
            "Check the kernel's nftables support: navarch doctor",
        ) from error


@contextmanager
def inside_network(pins: Pins) -> Iterator[None]:
    """This thread, for a while, in a node's network namespace. Sockets opened inside stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(pins.file("net"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.setns(target, kernel.CLONE_NEWNET)
        finally:
            os.close(target)
        yield
    finally:
        kernel.setns(home, kernel.CLONE_NEWNET)
        os.close(home)


def _bridge(netlink: Any, wiring: Wiring) -> int:
    found = netlink.link_lookup(ifname=wiring.bridge)
    if not found:
        # Without a spanning tree and its delay: the first packet passes at once.
        netlink.link("add", ifname=wiring.bridge, kind="bridge", br_stp_state=0)
        found = netlink.link_lookup(ifname=wiring.bridge)
        # Its MAC address is its own. Otherwise it were that of some port and changed with nodes
        # that come and go, which would cut off those that stay until they ask again.
        own = netlink.get_links(found[0])[0].get_attr("IFLA_ADDRESS")
        netlink.link("set", index=found[0], address=own)
    index = int(found[0])
    owner = netlink.get_links(index)[0].get_attr("IFLA_IFALIAS")
    if owner is None:
        netlink.link("set", index=index, ifalias=wiring.owner)
    elif owner != wiring.owner:
        raise ClusterError(
            f"the bridge {wiring.bridge} and its addresses belong to another cluster: {owner}",
            "Stop that one first, or delete this one and start it anew in another range.",
        )
    for address in wiring.addresses:
        _address(netlink, index, address)
    netlink.link("set", index=index, state="up")
    return index


def _uplinks(netlink: Any, listen: Collection[str]) -> list[str]:
    """The interfaces that lead out of this machine, and those by which other machines come in."""
    indices = {
        message["index"]
        for message in netlink.get_addr(family=socket.AF_INET)
        if message.get_attr("IFA_ADDRESS") in listen
    }
    indices |= {
        index
        for route in netlink.get_default_routes(family=socket.AF_INET)
        if (index := route.get_attr("RTA_OIF")) is not None
    }
    return [name for number, name in socket.if_nameindex() if number in indices]


def _forwarding(interface: str) -> str:
    return f"net/ipv4/conf/{interface}/forwarding"


def _attach(netlink: Any, bridge: int, node: NodeWiring, pins: Pins) -> None:
    """Give the node its interface. A leftover host end without a peer in this very namespace is
    replaced: it belonged to an earlier life of the node."""
    found = netlink.link_lookup(ifname=node.host_interface)
    if found and not _has_interface(pins):
        netlink.link("del", index=found[0])
        found = []
    if not found:
        descriptor = os.open(pins.file("net"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            peer = {"ifname": "eth0", "net_ns_fd": descriptor}
            netlink.link("add", ifname=node.host_interface, kind="veth", peer=peer)
        finally:
            os.close(descriptor)
        found = netlink.link_lookup(ifname=node.host_interface)
    netlink.link("set", index=found[0], master=bridge, state="up")


def _has_interface(pins: Pins) -> bool:
    with inside_network(pins):
        return any(name == "eth0" for _, name in socket.if_nameindex())


def _furnish(node: NodeWiring) -> None:
    """Addresses, routes, settings and rules inside a node."""
    for setting, value in SYSCTLS.items():
        path = Path("/proc/sys", setting)
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)
    with IPRoute() as netlink:
        loopback = netlink.link_lookup(ifname="lo")[0]
        netlink.link("set", index=loopback, state="up")
        interface = netlink.link_lookup(ifname="eth0")[0]
        for address in node.addresses:
            _address(netlink, interface, address)
        netlink.link("set", index=interface, state="up")
        for route in node.routes:
            _route(netlink, route)
    load_rules(node.rules)


def _address(netlink: Any, index: int, text: str) -> None:
    address, length = text.split("/")
    there = {
        (message.get_attr("IFA_ADDRESS"), message["prefixlen"])
        for message in netlink.get_addr(index=index)
    }
    if (address, int(length)) in there:
        return
    # Nobody else can have an address of our own ranges: it is good at once.
    flags = {"flags": IFA_F_NODAD} if ":" in address else {}
    try:
        netlink.addr("add", index=index, address=address, prefixlen=int(length), **flags)
    except NetlinkError as error:
        if ":" not in address or error.code not in (errno.EACCES, errno.EPERM):
            raise
        raise ClusterError(
            "the kernel takes no IPv6 addresses", "Switch IPv6 on, or use --ip-family ipv4."
        ) from error


def _route(netlink: Any, route: Route) -> None:
    if not route.interface:
        netlink.route("replace", dst=route.destination, type="unreachable")
        return
    index = netlink.link_lookup(ifname=route.interface)[0]
    via = {"gateway": route.gateway} if route.gateway else {}
    netlink.route("replace", dst=route.destination, oif=index, **via)


def _ignore_missing(action: Any) -> None:
    try:
        action()
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
