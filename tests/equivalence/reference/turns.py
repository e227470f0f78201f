"""In which order nodes are looked at, how many, and which of equals is taken."""

from __future__ import annotations

from navarch.api.types.core_v1 import Node

BETA = "failure-domain.beta.kubernetes.io"
NOW = "topology.kubernetes.io"


def zone_key(node: Node) -> tuple[str, str]:
    labels = node.metadata.labels
    zone = labels.get(f"{BETA}/zone", labels.get(f"{NOW}/zone", ""))
    region = labels.get(f"{BETA}/region", labels.get(f"{NOW}/region", ""))
    return (region, zone)


class NodeOrder:
    """Zones, and nodes in zones, in the order in which they came."""

    def __init__(self) -> None:
        self.zones: list[tuple[str, str]] = []
        self.members: dict[tuple[str, str], list[str]] = {}
        self.known: dict[str, tuple[str, str]] = {}

    def follow(self, nodes: list[Node]) -> None:
        """Nodes that went leave, then all others come or move."""
        names = {node.metadata.name for node in nodes}
        for name in [name for name in self.known if name not in names]:
            self._remove(name)
        for node in nodes:
            name, zone = node.metadata.name, zone_key(node)
            if self.known.get(name) == zone:
                continue
            if name in self.known:
                self._remove(name)
            if zone not in self.members:
                self.zones.append(zone)
                self.members[zone] = []
            self.members[zone].append(name)
            self.known[name] = zone

    def _remove(self, name: str) -> None:
        zone = self.known.pop(name)
        self.members[zone].remove(name)
        if not self.members[zone]:
            del self.members[zone]
            self.zones.remove(zone)

    def names(self) -> list[str]:
        """One of each zone in turn."""
        result: list[str] = []
        place = 0
        while len(result) < len(self.known):
            for zone in self.zones:
                if place < len(self.members[zone]):
                    result.append(self.members[zone][place])
            place += 1
        return result


def nodes_wanted(count: int) -> int:
    if count < 100:
        return count
    percentage = max(5, 50 - count // 125)
    return max(100, count * percentage // 100)


def top_of_heap(scores: list[int]) -> int:
    """The place, in the list, of what is on top when the list is made a heap."""
    heap = list(range(len(scores)))

    def above(one: int, other: int) -> bool:
        return scores[heap[one]] > scores[heap[other]]

    for start in range(len(heap) // 2 - 1, -1, -1):
        parent = start
        while (child := 2 * parent + 1) < len(heap):
            if child + 1 < len(heap) and above(child + 1, child):
                child += 1
            if not above(child, parent):
                break
            heap[parent], heap[child] = heap[child], heap[parent]
            parent = child
    return heap[0]
