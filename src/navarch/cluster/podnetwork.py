"""A node's part of the pod network: its own range, and the way to the other nodes' pods.

The controllers give every Node a range of pod addresses (`spec.podCIDR`). This component waits for
its own, writes it into the node's CNI configuration (until which the runtime says that its network
is not ready, and the node with it), and keeps a route to every other node's range. All nodes are
on one link, so a plain route does it and nothing is wrapped in anything (flannel calls this
host-gw).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from navarch.api.types.core_v1 import Node
from navarch.client import Client, ClientConfig, InformerFactory
from navarch.cluster.containerd import cni_config
from navarch.cluster.profile import write_file

log = logging.getLogger("navarch.podnetwork")

CONFIG_NAME = "10-navarch.conflist"


@dataclass(frozen=True, slots=True)
class PodNetworkOptions:
    """`cni_directory` is where the runtime looks for its configuration."""

    kubeconfig: str
    node_name: str
    cni_directory: Path
    interface: str = "eth0"


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """What a node's pod network shall look like."""

    pod_cidr: str = ""
    routes: frozenset[tuple[str, str]] = frozenset()
    """Range and gateway of every other node."""


def plan(own: str, nodes: Iterable[Node]) -> PodNetwork:
    """The pod network of the node `own`, among all nodes. What is not IPv4 or not said yet is left
    out."""
    pod_cidr = ""
    routes = set()
    for node in nodes:
        if not _is_ipv4_range(node.spec.podCIDR):
            continue
        if node.metadata.name == own:
            pod_cidr = node.spec.podCIDR
            continue
        addresses = [entry.address for entry in node.status.addresses if entry.type == "InternalIP"]
        if addresses:
            routes.add((node.spec.podCIDR, addresses[0]))
    return PodNetwork(pod_cidr, frozenset(routes))


def _is_ipv4_range(text: str) -> bool:
    try:
        return ipaddress.ip_network(text).version == 4
    except ValueError:
        return False


async def run(options: PodNetworkOptions) -> None:
    """Keep the pod network as the nodes say until cancelled."""
    changed = asyncio.Event()
    changed.set()
    applied = PodNetwork()
    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        informers = InformerFactory(client)
        informer = informers.informer(Node)
        informer.add_handler(
            on_add=lambda _: changed.set(),
            on_update=lambda old, new: changed.set(),
            on_delete=lambda _: changed.set(),
        )
        await informers.start()
        await informers.wait_synced()
        while True:
            await changed.wait()
            changed.clear()
            wanted = plan(options.node_name, informer.cache.list())
            if wanted != applied:
                await asyncio.to_thread(_apply, options, applied, wanted)
                applied = wanted


def _apply(options: PodNetworkOptions, old: PodNetwork, new: PodNetwork) -> None:
    if new.pod_cidr and new.pod_cidr != old.pod_cidr:
        write_config(options, new.pod_cidr)
        log.info("pods of this node get addresses of %s", new.pod_cidr)
    if old.routes == new.routes:
        return
    # Only clusters of several nodes need netlink, and its memory.
    from navarch.cluster.netns import change_routes

    change_routes(options.interface, new.routes, old.routes - new.routes)
    log.info("routes to other nodes' pods: %s", sorted(new.routes))


def write_config(options: PodNetworkOptions, pod_cidr: str) -> None:
    """Write the CNI configuration, if it differs: the runtime loads it anew at each change."""
    path = options.cni_directory / CONFIG_NAME
    content = cni_config(pod_cidr).encode()
    if not path.is_file() or path.read_bytes() != content:
        # The runtime loads the directory anew when a file in it is written or renamed, but not
        # when one is moved in. So the file is written elsewhere, whole, and renamed once inside.
        beside = options.cni_directory.parent / CONFIG_NAME
        write_file(beside, content, 0o644)
        beside.replace(path.with_suffix(".new")).replace(path)
