"""The network of a machine that has joined a cluster: its own, and what the cluster needs on it.

The machine keeps its interfaces, addresses and routes. It gets the guard that every node has, an
unreachable route for pods' addresses that are nobody's, and a route by way of the API server to
nodes that live in namespaces there, where the machine would not find them otherwise. Leaving takes
all of it away again.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from navarch.cluster import forwarding, joining, netns, topology
from navarch.cluster.api import parse_server
from navarch.cluster.profile import ClusterError, Paths, Profile
from navarch.cluster.topology import NODE_TABLE, Route

PROTOCOL = 78
"""Of the routes made here (rtm_protocol), which are told from all others by it. Those of the pod
network, which come and go with nodes, bear another one."""
FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
OWN_LINKS = (topology.TUNNEL, "cni0")
OWN_TABLES = (NODE_TABLE, "kube-proxy", "navarch-policy")


def routes(profile: Profile, server: str) -> Iterator[Route]:
    """What the machine's routing table needs; `server` is the API server's address."""
    address = ipaddress.ip_address(server)
    for each in topology.ranges(profile):
        yield Route(each.pods)
    for subnet in profile.subnets:
        network = ipaddress.ip_network(subnet)
        if network.version == address.version and address not in network:
            yield Route(subnet, server)


def rules(profile: Profile, interface: str) -> str:
    """The guard of a node whose addresses are not of the subnet of the others: these see its pods
    under its own address, as the rest of the world does."""
    families = [replace(each, subnet="") for each in topology.ranges(profile)]
    return topology.rules_for(families, interface, metadata_blocked=profile.metadata_blocked)


def apply(profile: Profile, paths: Paths) -> None:
    from pyroute2 import IPRoute

    families = [ipaddress.ip_network(cidr).version for cidr in profile.pod_cidrs]
    forwarding.switch_on([FORWARDING[family] for family in families], _note(paths))
    with IPRoute() as netlink:
        for route in routes(profile, server_address(profile)):
            via = {"gateway": route.gateway} if route.gateway else {"type": "unreachable"}
            netlink.route("replace", dst=route.destination, proto=PROTOCOL, **via)
    netns.load_rules(rules(profile, joining.uplink(profile.joined_addresses)))


def remove(profile: Profile, paths: Paths) -> None:
    """Take off the machine what `apply` and the node's processes have put there."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    def quietly(action: Any, *arguments: Any, **values: Any) -> None:
        with suppress(NetlinkError):  # it is gone already
            action(*arguments, **values)

    with IPRoute() as netlink:
        for name in OWN_LINKS:
            for index in netlink.link_lookup(ifname=name):
                quietly(netlink.link, "del", index=index)
        netlink.flush_routes(proto=PROTOCOL)
    for family in ("ip", "ip6", "inet"):
        netns.load_rules(
            "".join(
                f"add table {family} {name}\ndelete table {family} {name}\n" for name in OWN_TABLES
            )
        )
    _remove_host_ports()
    forwarding.switch_back(_note(paths))


def _remove_host_ports() -> None:
    """The rules of the plug-in for host ports, which only tells of them pod by pod: `CNI-DN-...`
    chains, and the one that leads to them."""
    listed = subprocess.run(
        ["nft", "-j", "list", "chains"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        return
    chains = [each["chain"] for each in json.loads(listed.stdout)["nftables"] if "chain" in each]
    for chain in chains:
        if chain["name"].startswith("CNI-") and chain["table"] == "nat":
            place = f"{chain['family']} {chain['table']} {chain['name']}"
            subprocess.run(["nft", "flush", "chain", *place.split()], check=False)


def server_address(profile: Profile) -> str:
    host, port = parse_server(profile.joined)
    try:
        return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise ClusterError(
            f"the API server's name {host} has no address: {error}", "Try again: navarch start"
        ) from error


def _note(paths: Paths) -> Path:
    return paths.root / "forwarding.json"
