"""Keeps a node's part of the pod network: its own ranges, and the way to the other nodes' pods.

The controllers give every Node a range of pod addresses (`spec.podCIDRs`). This component waits for
its own, writes it into the node's CNI configuration (until which the runtime says that its network
is not ready, and the node with it), publishes the node's tunnel end, and keeps the routes to every
other node's range as `plan.py` says: at each change of a Node, whenever the kernel tells that
somebody has taken a link or a route away, and now and then in any case.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from pathlib import Path

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Node
from navarch.client import Client, ClientConfig, InformerFactory, RealClock
from navarch.network.pods import cni, kernel, plan

log = logging.getLogger("navarch.podnetwork")

PERIOD = 60.0
"""The longest time between two looks at the kernel, in seconds."""
USUAL_MTU = 1500
"""What the plug-in takes when it is told nothing."""
GATHER = 0.02
"""What happens within this time is answered together."""


@dataclass(frozen=True, slots=True)
class PodNetworkOptions:
    """`kubeconfig` reads Nodes; `node_kubeconfig`, the node's own identity, publishes its tunnel
    end. `cni_directory` is where the runtime looks for its configuration, `sandboxes` where it has
    a directory for each sandbox."""

    kubeconfig: str
    node_name: str
    cni_directory: Path
    node_ips: tuple[str, ...] = ()
    node_kubeconfig: str = ""
    interface: str = ""
    """Of the node's own addresses; found by them when empty."""
    cluster_cidrs: tuple[str, ...] = ()
    mode: str = "auto"
    """`auto` wraps packets for nodes on other links only, `vxlan` all of them, `routes` none."""
    write_config: bool = True
    """Off where another plug-in does it all: then this does nothing."""
    bandwidth: bool = True
    prepare: bool = False
    """Whether the program for IPv6 (`cni.PREPARE`) is among the plug-ins."""
    sandboxes: Path | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "vxlan", "routes"):
            raise ValueError(f"mode {self.mode!r} is none of auto, vxlan, routes")


def _looks(node: Node) -> tuple[object, ...]:
    """What of a Node matters here; its heartbeats do not."""
    addresses = tuple((each.type, each.address) for each in node.status.addresses)
    return plan.ranges(node), addresses, node.metadata.annotations.get(plan.ANNOTATION)


async def run(options: PodNetworkOptions) -> None:
    """Keep the pod network as the nodes say until cancelled."""
    if not options.write_config:
        await asyncio.Event().wait()
    upkeep = Upkeep(options)
    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        informers = InformerFactory(client)
        informer = informers.informer(Node)

        def updated(old: Node, new: Node) -> None:
            if _looks(old) != _looks(new):
                upkeep.changed.set()

        informer.add_handler(
            on_add=lambda _: upkeep.changed.set(),
            on_update=updated,
            on_delete=lambda _: upkeep.changed.set(),
        )
        await informers.start()
        try:
            await informers.wait_synced()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(informers.join(), name="pod network informers")
                while True:
                    await upkeep.step(informer.cache.list())
        finally:
            await informers.stop()
            upkeep.close()


class Upkeep:
    """What is kept, and what is known of it."""

    def __init__(self, options: PodNetworkOptions) -> None:
        self.options = options
        self.changed = asyncio.Event()
        self.changed.set()
        self._clock = RealClock()
        self._events: socket.socket | None = None
        self._links: frozenset[int] = frozenset()
        self._mac = kernel.own_mac(options.cni_directory.parent / "tunnel-mac")
        self._told: frozenset[plan.Entry] = frozenset()

    def close(self) -> None:
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()

    async def step(self, nodes: list[Node]) -> None:
        """Bring everything about, then wait until there may be something to do."""
        self.changed.clear()
        options = self.options
        network = plan.observe(options.node_name, nodes, options.cluster_cidrs)
        if network.peers and self._events is None:
            self._events = kernel.events()
            asyncio.get_running_loop().add_reader(self._events, self._heard)
        if self._events is None:
            # A node that is alone needs nothing of the kernel, nor the memory it takes to ask.
            await asyncio.to_thread(self._write_config, network)
        else:
            await asyncio.to_thread(self._apply, network)
        for node in nodes:
            if node.metadata.name == options.node_name:
                await self._publish(node)
        await asyncio.to_thread(self._clean)
        timer = self._clock.call_later(PERIOD, self.changed.set)
        try:
            await self.changed.wait()
        finally:
            timer.cancel()
        await self._clock.sleep(GATHER)

    def _heard(self) -> None:
        assert self._events is not None
        if kernel.drain(self._events, self._links):
            self.changed.set()

    def _apply(self, network: plan.PodNetwork) -> None:
        options = self.options
        with kernel.Kernel(options.node_ips, self._mac, options.interface) as found:
            wanted = plan.entries(network, found.is_direct, always_wrap=options.mode == "vxlan")
            if options.mode == "routes":
                wanted = frozenset(each for each in wanted if not each.tunnelled)
            wrapped = plan.needs_tunnel(wanted)
            mtu = found.link_mtu()
            if options.node_ips:
                mtu = plan.pod_mtu(mtu, options.node_ips[0], wrapped=wrapped)
            self._write_config(network, mtu)
            if wrapped and network.cidrs:
                found.ensure_tunnel(network.cidrs)
            elif not wrapped:
                found.remove_tunnel()
            self._links = found.links()
            changes = plan.changes(wanted, found.present())
            found.apply(changes)
        if changes and wanted == self._told:
            log.warning("put right: %s", ", ".join(map(str, changes[:10])))
        elif wanted != self._told:
            log.info("ways to other nodes' pods: %s", ", ".join(sorted(map(str, wanted))))
        self._told = wanted

    def _write_config(self, network: plan.PodNetwork, mtu: int = USUAL_MTU) -> None:
        """Pods' packets are as large as the link's, less what wrapping adds if any are wrapped."""
        if not network.cidrs:
            return
        given = 0 if mtu == USUAL_MTU else mtu
        options = self.options
        content = cni.config(
            network.cidrs, given, bandwidth=options.bandwidth, prepare=options.prepare
        )
        if cni.write(self.options.cni_directory, content):
            log.info("pods of this node get addresses of %s", ", ".join(network.cidrs))

    async def _publish(self, node: Node) -> None:
        """Let the other nodes know of our tunnel end. Nobody but the node itself may say so."""
        options = self.options
        if not options.node_kubeconfig or not options.node_ips:
            return
        wanted = plan.Tunnel(self._mac, options.node_ips[0]).encode()
        if node.metadata.annotations.get(plan.ANNOTATION) == wanted:
            return
        body = {"metadata": {"annotations": {plan.ANNOTATION: wanted}}}
        try:
            async with Client(ClientConfig.from_kubeconfig(options.node_kubeconfig)) as client:
                await client.resource(Node).patch(options.node_name, "", body)
        except ApiError as error:
            log.warning("the tunnel end cannot be published yet: %s", error)
            self._clock.call_later(1.0, self.changed.set)

    def _clean(self) -> None:
        if self.options.sandboxes is None:
            return
        freed = cni.clean(self.options.sandboxes, self._clock.now().timestamp())
        if freed:
            log.warning("addresses of lost containers are free again: %s", ", ".join(freed))
