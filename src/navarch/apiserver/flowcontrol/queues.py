"""Fair queues of one priority level (KEP-1040).

A flow (say, all requests of one user) may use a few of the level's queues, its hand, dealt from its
hash: two flows seldom have the same hand, so one that floods its queues leaves most others alone
(shuffle sharding). Between the queues, turns go by virtual time: a queue's clock advances by the
seats of what it starts, and the queue whose clock is furthest back is next (start-time fair
queueing). A queue that was empty starts at the present, so nobody saves up turns.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


def hash_of(*parts: str) -> int:
    """A flow's 64-bit hash."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little")


def deal(flow_hash: int, queues: int, hand_size: int) -> tuple[int, ...]:
    """A hand of different queues, all hands equally likely."""
    hand: list[int] = []
    rest = flow_hash
    for size in range(queues, queues - min(hand_size, queues), -1):
        rest, card = divmod(rest, size)
        for earlier in sorted(hand):
            if card >= earlier:
                card += 1
        hand.append(card)
    return tuple(hand)


@dataclass(slots=True)
class Queue(Generic[T]):
    """One queue: (item, seats) in order of arrival."""

    items: deque[tuple[T, int]] = field(default_factory=deque)
    seats: int = 0
    clock: float = 0.0


class FairQueues(Generic[T]):
    """The queues of a level."""

    def __init__(self, number: int, limit: int) -> None:
        self.queues: list[Queue[T]] = [Queue() for _ in range(number)]
        self.limit = limit
        self.waiting = 0
        """Items in all queues."""
        self.waiting_seats = 0
        self._now = 0.0
        self._busy: set[int] = set()

    def add(self, hand: Sequence[int], item: T, seats: int) -> int:
        """Put an item into the queue of the hand with the least in it; its index, or -1 when even
        that one is full."""
        queues = self.queues
        index = min(hand, key=lambda each: (queues[each].seats, queues[each].clock))
        queue = queues[index]
        if len(queue.items) >= self.limit:
            return -1
        if not queue.items:
            queue.clock = max(queue.clock, self._now)
            self._busy.add(index)
        queue.items.append((item, seats))
        queue.seats += seats
        self.waiting += 1
        self.waiting_seats += seats
        return index

    def peek(self) -> tuple[T, int] | None:
        """What is next, with its seats."""
        if not self._busy:
            return None
        return self.queues[self._next()].items[0]

    def _next(self) -> int:
        queues = self.queues
        return min(self._busy, key=lambda each: (queues[each].clock, each))

    def take(self) -> tuple[T, int]:
        """Remove and return what is next; its queue has had a turn."""
        index = self._next()
        queue = self.queues[index]
        item, seats = queue.items.popleft()
        self._now = queue.clock
        queue.clock += seats
        self._removed(index, seats)
        return item, seats

    def remove(self, index: int, item: T) -> bool:
        """Take an item out that no longer waits; False when it is not there."""
        queue = self.queues[index]
        for place, (each, seats) in enumerate(queue.items):
            if each is item:
                del queue.items[place]
                self._removed(index, seats)
                return True
        return False

    def drain(self) -> list[tuple[T, int]]:
        """Take everything out, in the order of turns."""
        found = []
        while self._busy:
            found.append(self.take())
        return found

    def _removed(self, index: int, seats: int) -> None:
        queue = self.queues[index]
        queue.seats -= seats
        self.waiting -= 1
        self.waiting_seats -= seats
        if not queue.items:
            self._busy.discard(index)
