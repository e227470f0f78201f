"""How fast pods may be chased from nodes that fail, zone by zone.

One machine that dies is replaced. When half of a zone is silent, it is more likely the network, and
pods that are moved from machines that work only make things worse: then nodes are given up more
slowly, or, in a small zone, no more at all. When nobody in the whole cluster is heard of, the fault
is on this side, and pods stay where they are until somebody is heard again. A zone that has failed
as a whole is given up at the normal rate while there are others.

Pure: what is counted and what time it is, is handed in. Source: upstream's `handleDisruption` in
`pkg/controller/nodelifecycle`, and its flags `--node-eviction-rate` and its kin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from navarch.api.types.core_v1 import Node

Zone = tuple[str, str]
EXCLUDED = "node.kubernetes.io/exclude-disruption"
_LABELS = (
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
)
FEW = 2
"""So many nodes that are not ready make no disruption of a zone, whatever its size."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Nodes given up per second."""

    normal: float = 0.1
    reduced: float = 0.01
    """In a large zone that is disrupted; in a small one it is none at all."""
    unhealthy: float = 0.55
    """A zone in which this share of the nodes is not ready is disrupted."""
    large: int = 50
    """A zone with more nodes is large."""


class State(Enum):
    """Of a zone."""

    NORMAL = "Normal"
    PARTIAL = "PartialDisruption"
    FULL = "FullDisruption"


class Change(Enum):
    """What an observation changed for the cluster as a whole."""

    NONE = 0
    LOST = 1
    """Now nobody is ready."""
    FOUND = 2
    """Now somebody is again."""


@dataclass(slots=True)
class Count:
    """The nodes of a zone."""

    ready: int = 0
    unready: int = 0

    def state(self, rates: Rates) -> State:
        if not self.ready:
            return State.FULL
        share = self.unready / (self.ready + self.unready)
        is_disrupted = self.unready > FEW and share >= rates.unhealthy
        return State.PARTIAL if is_disrupted else State.NORMAL


@dataclass(slots=True)
class _Limit:
    """One node at a time; `free_at` is when the next may go."""

    rate: float
    free_at: float = 0.0

    def set_rate(self, rate: float, now: float) -> None:
        """Whoever had to wait under the old rate waits a whole turn of the new one."""
        if rate != self.rate and rate and (not self.rate or self.free_at > now):
            self.free_at = now + 1.0 / rate
        self.rate = rate

    def take(self, now: float) -> bool:
        if not self.rate or self.free_at > now:
            return False
        self.free_at = now + 1.0 / self.rate
        return True


@dataclass(slots=True)
class Zones:
    """What is known of the zones, and whose turn it is."""

    rates: Rates = Rates()
    is_lost: bool = False
    """Nobody in the cluster is ready."""
    _limits: dict[Zone, _Limit] = field(default_factory=dict)

    def observe(self, counts: Mapping[Zone, Count], now: float) -> Change:
        """Take note of how many nodes are ready, and set the rates."""
        states = {zone: count.state(self.rates) for zone, count in counts.items()}
        was_lost = self.is_lost
        self.is_lost = bool(states) and all(state is State.FULL for state in states.values())
        for zone, state in states.items():
            count = counts[zone]
            limit = self._limits.setdefault(zone, _Limit(self.rates.normal))
            limit.set_rate(self._rate(state, count.ready + count.unready), now)
        for zone in self._limits.keys() - counts.keys():
            del self._limits[zone]
        if self.is_lost == was_lost:
            return Change.NONE
        return Change.LOST if self.is_lost else Change.FOUND

    def _rate(self, state: State, size: int) -> float:
        if self.is_lost:
            return 0.0
        if state is State.PARTIAL:
            return self.rates.reduced if size > self.rates.large else 0.0
        return self.rates.normal

    def grant(self, waiting: Iterable[tuple[str, Zone]], now: float) -> list[str]:
        """Of the nodes that wait, first come first, those that are given up now."""
        return [name for name, zone in waiting if self._limit(zone).take(now)]

    def wait(self, zones: Iterable[Zone], now: float) -> float | None:
        """Seconds until the next node of one of these zones can be given up; None if none can."""
        limits = [self._limit(zone) for zone in zones]
        return min((max(0.0, each.free_at - now) for each in limits if each.rate), default=None)

    def _limit(self, zone: Zone) -> _Limit:
        # Nodes that do not count as disrupted may be alone in their zone.
        rate = 0.0 if self.is_lost else self.rates.normal
        return self._limits.get(zone) or self._limits.setdefault(zone, _Limit(rate))


def zone_of(node: Node) -> Zone:
    """Region and zone by the node's labels, of which the older ones come first."""
    labels = node.metadata.labels
    region, zone = (next((labels[key] for key in keys if key in labels), "") for keys in _LABELS)
    return region, zone


def count_zones(nodes: Iterable[tuple[Node, bool]]) -> dict[Zone, Count]:
    """The nodes by zone, each with whether it is ready; some take no part by a label."""
    counts: dict[Zone, Count] = {}
    for node, ready in nodes:
        if EXCLUDED not in node.metadata.labels:
            count = counts.setdefault(zone_of(node), Count())
            count.ready += ready
            count.unready += not ready
    return counts
