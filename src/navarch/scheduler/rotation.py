"""In which order nodes are looked at, and how many.

In a large cluster not every node is scored for every pod: filters go round until they have found
enough nodes, and the next pod begins where they stopped, so that all nodes have their turn. The
order takes one node of each zone in turn, so that whatever part of it is looked at is spread over
zones. All numbers are upstream's (`schedule_one.go` and `backend/cache/node_tree.go`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_NODES = 100
"""So many are looked for at least."""
LEAST_PERCENTAGE = 5

REGION = ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region")
ZONE = ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone")

Slots = NDArray[np.int64]


def nodes_wanted(nodes: int, percentage: int = 0) -> int:
    """How many feasible nodes are enough; percentage 0 chooses by the number of nodes."""
    if nodes < LEAST_NODES:
        return nodes
    if percentage == 0:
        percentage = max(LEAST_PERCENTAGE, 50 - nodes // 125)
    return max(LEAST_NODES, nodes * percentage // 100)


class Rotation:
    """All living nodes in their order, and where the next round begins."""

    def __init__(self) -> None:
        self.start = 0
        self._zones: dict[tuple[str, str], dict[int, None]] = {}
        """The slots of each zone; zones and slots in the order in which they came."""
        self._zone_of: dict[int, tuple[str, str]] = {}
        self._twice: Slots | None = None

    def put(self, slot: int, labels: Mapping[str, str]) -> None:
        """A node came, or has new labels."""
        zone = (_first(labels, REGION), _first(labels, ZONE))
        if self._zone_of.get(slot) == zone:
            return
        self.remove(slot)
        self._zone_of[slot] = zone
        self._zones.setdefault(zone, {})[slot] = None

    def remove(self, slot: int) -> None:
        self._twice = None
        zone = self._zone_of.pop(slot, None)
        if zone is not None:
            del self._zones[zone][slot]
            if not self._zones[zone]:
                del self._zones[zone]

    def order(self, among: NDArray[np.bool_] | None = None) -> Slots:
        """All slots, or those of them that come into question, in the order of the next round."""
        slots = self._round()[: len(self._zone_of)]
        if among is not None:
            slots = slots[among[slots]]
        return np.roll(slots, -(self.start % len(slots))) if len(slots) else slots

    def next_feasible(
        self, feasible: NDArray[np.bool_], among: NDArray[np.bool_] | None, percentage: int = 0
    ) -> Slots:
        """As many feasible slots as are wanted, in the order in which they are come upon. The next
        round begins after them. `among` leaves all others out of the round."""
        count = len(self._zone_of)
        if not count:
            return np.empty(0, np.int64)
        order, size = self._round(), count
        if among is not None:
            order = order[:count][among[order[:count]]]
            size = len(order)
            if not size:
                return order
            order = np.concatenate((order, order))
        first = self.start % size
        wanted = nodes_wanted(size, percentage)
        # Mostly nearly all nodes are feasible: look at a few more than are wanted, then at all.
        for length in (min(size, wanted + wanted // 4 + 1), size):
            slots = order[first : first + length]
            places = feasible[slots].nonzero()[0]
            if len(places) > wanted:
                # Upstream stops when it comes upon one more than it wants.
                self.start = (self.start + int(places[wanted])) % count
                return slots[places[:wanted]]
        self.start = (self.start + size) % count
        return slots[places]

    def _round(self) -> Slots:
        """All slots in order, twice, so that a round is a slice wherever it begins."""
        if self._twice is None:
            rows = zip_longest(*self._zones.values())
            order = [slot for slot in chain.from_iterable(rows) if slot is not None]
            self._twice = np.array(order + order, np.int64)
        return self._twice


def best_of(totals: NDArray[Any]) -> int:
    """The place of the highest total. Of equals that one which ends on top of upstream's heap."""
    best = np.flatnonzero(totals == totals.max())
    if len(best) == 1:
        return int(best[0])
    return int(best[_heap_ranks(len(totals))[best].argmin()])


@lru_cache(maxsize=64)
def _heap_ranks(size: int) -> Slots:
    """When a binary heap is built, an entry rises only past lesser ones. Of equals that one gets to
    the top which comes first when the heap is walked parent first, then left before right."""
    ranks = np.zeros(size, np.int64)
    stack, rank = [0], 0
    while stack:
        place = stack.pop()
        if place < size:
            ranks[place] = rank
            rank += 1
            stack += [2 * place + 2, 2 * place + 1]
    return ranks


def _first(labels: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((labels[key] for key in keys if key in labels), "")
