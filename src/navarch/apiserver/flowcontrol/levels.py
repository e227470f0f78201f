"""Priority levels: how many seats each may use at a time, and lends to or borrows from the others.

The server's seats are divided by shares. What a level does not need it lends, up to its lendable
percentage; a level in need borrows, up to its borrowing limit. Every few seconds the limits are set
anew from the demand since the last time. Where upstream integrates demand over time, the highest
demand of the interval is taken here: the same in a flood, and more generous after a short one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from navarch.apiserver.flowcontrol.queues import FairQueues

Object = dict[str, Any]

SMOOTHING = 0.977
"""How much of an earlier, higher demand is remembered from one adjustment to the next."""


@dataclass(frozen=True, slots=True)
class LevelSpec:
    """A PriorityLevelConfiguration with its defaults filled in. No queues: excess is refused."""

    is_exempt: bool = False
    shares: int = 30
    lendable_percent: int = 0
    borrowing_percent: int | None = None
    queues: int = 0
    hand_size: int = 0
    queue_limit: int = 0


def level_spec(obj: Object) -> LevelSpec:
    """Read a PriorityLevelConfiguration."""
    spec = obj.get("spec") or {}
    if spec.get("type") == "Exempt":
        part = spec.get("exempt") or {}
        shares, lendable = part.get("nominalConcurrencyShares"), part.get("lendablePercent")
        return LevelSpec(is_exempt=True, shares=shares or 0, lendable_percent=lendable or 0)
    part = spec.get("limited") or {}
    response = part.get("limitResponse") or {}
    queuing = (response.get("queuing") or {}) if response.get("type") == "Queue" else None
    shares = part.get("nominalConcurrencyShares")
    queues = hand = limit = 0
    if queuing is not None:
        queues = queuing.get("queues") or 64
        hand = queuing.get("handSize") or 8
        limit = queuing.get("queueLengthLimit") or 50
    return LevelSpec(
        shares=30 if shares is None else shares,
        lendable_percent=part.get("lendablePercent") or 0,
        borrowing_percent=part.get("borrowingLimitPercent"),
        queues=queues,
        hand_size=hand,
        queue_limit=limit,
    )


class Level:
    """A level at work. `queues` hold the requests that wait."""

    def __init__(self, name: str, uid: str, spec: LevelSpec) -> None:
        self.name = name
        self.uid = uid
        self.spec = spec
        self.queues: FairQueues[Any] | None = None
        self.is_exempt = spec.is_exempt
        self.nominal = self.minimum = self.maximum = self.limit = 0
        self.in_use = 0
        """Seats taken."""
        self.freed = 0
        """Seats whose requests are done, given back at the next turn of the event loop."""
        self.executing = 0
        self.peak = 0
        """The highest demand, in seats, since the limits were last set."""
        self.smoothed = 0.0
        self.configure(uid, spec)

    def configure(self, uid: str, spec: LevelSpec) -> list[tuple[Any, int]]:
        """Take up a changed specification. Returns who waited in queues that are no longer."""
        self.uid, self.spec, self.is_exempt = uid, spec, spec.is_exempt
        former = self.queues
        if former is not None and len(former.queues) == spec.queues:
            former.limit = spec.queue_limit
            return []
        self.queues = FairQueues(spec.queues, spec.queue_limit) if spec.queues else None
        return former.drain() if former is not None else []

    @property
    def waiting(self) -> int:
        return self.queues.waiting if self.queues is not None else 0

    @property
    def demand(self) -> int:
        return self.in_use + (self.queues.waiting_seats if self.queues is not None else 0)

    def fits(self, seats: int) -> bool:
        """Whether a request may start. One that is wider than the level has it to itself."""
        return self.is_exempt or self.in_use + seats <= self.limit or not self.in_use


def divide(levels: Iterable[Level], server_seats: int) -> None:
    """Give every level its nominal, lowest and highest limit, by the shares."""
    found = list(levels)
    total = sum(each.spec.shares for each in found)
    for each in found:
        spec = each.spec
        each.nominal = math.ceil(server_seats * spec.shares / total) if total else 0
        each.minimum = each.nominal - round(each.nominal * spec.lendable_percent / 100)
        borrowing = spec.borrowing_percent
        each.maximum = (
            server_seats
            if borrowing is None
            else each.nominal + round(each.nominal * borrowing / 100)
        )
        each.limit = each.nominal


def adjust(levels: Iterable[Level]) -> None:
    """Set the limits anew, by the demand since the last time."""
    found = list(levels)
    left = sum(each.nominal for each in found)
    for each in found:
        each.smoothed = max(each.peak, SMOOTHING * each.smoothed + (1 - SMOOTHING) * each.peak)
    limited = []
    for each in found:
        if each.is_exempt:
            each.limit = max(each.minimum, each.peak)
            left -= each.limit
        else:
            limited.append(each)
    wanted = [max(each.minimum, min(each.nominal, each.peak)) for each in limited]
    least = sum(each.minimum for each in limited)
    if left <= least:
        limits: Sequence[float] = [each.minimum for each in limited]
    elif left <= sum(wanted):
        part = (left - least) / (sum(wanted) - least)
        limits = [
            each.minimum + (want - each.minimum) * part
            for each, want in zip(limited, wanted, strict=True)
        ]
    else:
        bounds = [
            (float(want), float(max(each.maximum, want)), max(float(want), each.smoothed, 0.001))
            for each, want in zip(limited, wanted, strict=True)
        ]
        limits = allocate(left, bounds)
    for each, limit in zip(limited, limits, strict=True):
        each.limit = round(limit)
    for each in found:
        each.peak = each.demand


def allocate(total: float, bounds: Sequence[tuple[float, float, float]]) -> list[float]:
    """Divide `total` in proportion to targets, each within its bounds (low, high, target). When all
    are at their upper bounds, the rest is left over."""

    def at(proportion: float) -> list[float]:
        return [min(max(proportion * target, low), high) for low, high, target in bounds]

    low, high = 0.0, max((upper / target for _, upper, target in bounds), default=0.0)
    for _ in range(60):
        middle = (low + high) / 2
        if sum(at(middle)) < total:
            low = middle
        else:
            high = middle
    return at(high)
