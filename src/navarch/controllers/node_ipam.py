"""Node IPAM: each node gets a range of pod addresses, `spec.podCIDR`, out of the cluster's.

A range belongs to its node until the node is deleted; then it may be given again. The ranges in use
are read off the nodes themselves, so nothing is kept that could be lost.
Source: upstream's `pkg/controller/nodeipam` (RangeAllocator).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from navarch.api.types.core_v1 import Node
from navarch.client import Controller, ControllerContext


def free_range(cluster_cidr: str, mask_size: int, used: Iterable[str]) -> str | None:
    """The first range of that size which overlaps none in use; None when there is none left."""
    cluster = ipaddress.ip_network(cluster_cidr)
    size = max(mask_size, cluster.prefixlen)
    taken = {ipaddress.ip_network(cidr) for cidr in used}
    odd = [other for other in taken if other.prefixlen != size]
    for candidate in cluster.subnets(new_prefix=size):
        if candidate not in taken and not any(candidate.overlaps(other) for other in odd):
            return str(candidate)
    return None


class NodeIpamController(Controller):
    """Watches: nodes. One worker, for two must not pick the same range."""

    name = "node-ipam"
    workers = 1

    def __init__(self, context: ControllerContext, cluster_cidr: str, mask_size: int = 24) -> None:
        super().__init__(context)
        self.cluster_cidr = cluster_cidr
        self.mask_size = mask_size
        self.recorder = context.recorder("cidrAllocator")
        self.nodes = context.informers.informer(Node)
        self._given: dict[str, str] = {}
        self.watch(self.nodes)

    async def reconcile(self, key: str) -> None:
        node = self.nodes.cache.get(key)
        if node is None:
            self._given.pop(key, None)
            return
        if node.spec.podCIDR or node.metadata.deletionTimestamp:
            self._given.pop(key, None)
            return
        if key in self._given:
            return  # written, and not shown by the informer yet
        used = {other.spec.podCIDR for other in self.nodes.cache.list() if other.spec.podCIDR}
        cidr = free_range(self.cluster_cidr, self.mask_size, used | set(self._given.values()))
        if cidr is None:
            text = f"Node {key} status is now: CIDRNotAvailable"
            self.recorder.event(node, "Normal", "CIDRNotAvailable", text)
            return
        self._given[key] = cidr
        try:
            body = {
                "metadata": {"uid": node.metadata.uid},
                "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            }
            await self.client.resource(Node).patch(key, "", body)
        except BaseException:
            del self._given[key]
            raise
