"""Node IPAM: each node gets a range of pod addresses of each family out of the cluster's,
`spec.podCIDRs`.

A range belongs to its node until the node is deleted; then it may be given again. The ranges in use
are read off the nodes themselves, so nothing is kept that could be lost.
Source: upstream's `pkg/controller/nodeipam` (RangeAllocator).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from navarch.api.types.core_v1 import Node
from navarch.client import Controller, ControllerContext


class Ranges:
    """The ranges of one size within the cluster's, by number, and who has which. A range of another
    size takes all that it overlaps."""

    def __init__(self, cluster_cidr: str, mask_size: int) -> None:
        self._cluster = ipaddress.ip_network(cluster_cidr)
        self._prefix = max(mask_size, self._cluster.prefixlen)
        self._step = 1 << (self._cluster.max_prefixlen - self._prefix)
        self._count = self._cluster.num_addresses // self._step
        self.version = self._cluster.version
        self._of: dict[str, range] = {}
        self._users: dict[int, int] = {}
        self._lowest = 0
        """No number below is free."""

    def take(self, owner: str, cidr: str) -> None:
        """This owner has this range, and no other."""
        self.release(owner)
        taken = ipaddress.ip_network(cidr)
        start = int(taken.network_address) - int(self._cluster.network_address)
        end = start + taken.num_addresses
        first, last = start // self._step, -(-end // self._step)
        numbers = range(max(first, 0), min(last, self._count))
        self._of[owner] = numbers
        for number in numbers:
            self._users[number] = self._users.get(number, 0) + 1

    def release(self, owner: str) -> None:
        for number in self._of.pop(owner, ()):
            self._users[number] -= 1
            if not self._users[number]:
                del self._users[number]
                self._lowest = min(self._lowest, number)

    def free(self) -> str | None:
        """The first range that overlaps none in use; None when there is none left."""
        while self._lowest in self._users:
            self._lowest += 1
        if self._lowest >= self._count:
            return None
        return f"{self._cluster.network_address + self._lowest * self._step}/{self._prefix}"


def ranges_of(cluster_cidrs: str, mask_size: int, mask_size_ipv6: int) -> tuple[Ranges, ...]:
    """The ranges of a list with commas: at most one of each family. Raises ValueError."""
    parts = [part.strip() for part in cluster_cidrs.split(",")]
    found = tuple(
        Ranges(part, mask_size if ipaddress.ip_network(part).version == 4 else mask_size_ipv6)
        for part in parts
    )
    if len({each.version for each in found}) != len(found):
        raise ValueError(f"{cluster_cidrs}: at most one range of each family")
    return found


class NodeIpamController(Controller):
    """Watches: nodes. A range is chosen and taken in one go, so that two workers never pick the
    same."""

    name = "node-ipam"
    workers = 8

    def __init__(
        self,
        context: ControllerContext,
        cluster_cidr: str,
        mask_size: int = 24,
        mask_size_ipv6: int = 64,
    ) -> None:
        super().__init__(context)
        self.ranges = ranges_of(cluster_cidr, mask_size, mask_size_ipv6)
        self.recorder = context.recorder("cidrAllocator")
        self.nodes = context.informers.informer(Node)
        self._given: set[str] = set()
        """Nodes whose range is written, and not shown by the informer yet."""
        self.nodes.add_handler(self._seen, lambda _, new: self._seen(new), self._gone)
        self.watch(self.nodes)

    def _seen(self, node: Node) -> None:
        cidrs = node.spec.podCIDRs or [node.spec.podCIDR]
        if cidrs[0]:
            self._given.discard(node.metadata.name)
            self._take(node.metadata.name, cidrs)

    def _take(self, owner: str, cidrs: Iterable[str]) -> None:
        for cidr in cidrs:
            version = ipaddress.ip_network(cidr).version
            for each in self.ranges:
                if each.version == version:
                    each.take(owner, cidr)

    def _release(self, owner: str) -> None:
        for each in self.ranges:
            each.release(owner)

    def _gone(self, node: Node) -> None:
        self._given.discard(node.metadata.name)
        self._release(node.metadata.name)

    async def reconcile(self, key: str) -> None:
        node = self.nodes.cache.get(key)
        if node is None or node.spec.podCIDR or node.metadata.deletionTimestamp:
            return
        if key in self._given:
            return
        free = [each.free() for each in self.ranges]
        cidrs = [cidr for cidr in free if cidr is not None]
        if len(cidrs) < len(free):
            text = f"Node {key} status is now: CIDRNotAvailable"
            self.recorder.event(node, "Normal", "CIDRNotAvailable", text)
            return
        self._take(key, cidrs)
        self._given.add(key)
        try:
            body = {
                "metadata": {"uid": node.metadata.uid},
                "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
            }
            await self.client.resource(Node).patch(key, "", body)
        except BaseException:
            if key in self._given:
                self._given.discard(key)
                self._release(key)
            raise
