"""Pods that wait for a node, in four places.

*active*: to be tried now, by priority, then by how long they wait. *backoff*: to be tried again
once a delay is over that grows with each failure. *unschedulable*: tried without success; they wait
for a change that could help, as the plugins that rejected them judge it, and for five minutes at
most. *gated*: not to be tried before their gates are gone.

A pod that is being tried is in none of them. Changes that happen meanwhile are kept and judged when
it comes back, so that the one change that would have helped is not missed.

The rules and the numbers are upstream's (`pkg/scheduler/backend/queue`).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice, takewhile
from typing import NamedTuple

from navarch.client.clock import Clock
from navarch.scheduler.changes import Action, Change, Interests, Subject
from navarch.scheduler.podinfo import PodInfo

log = logging.getLogger(__name__)

INITIAL_BACKOFF = 1.0
MAX_BACKOFF = 10.0
LEFTOVER_SECONDS = 300.0
LEFTOVER_PERIOD = 30.0
FLUSH_PERIOD = 1.0
AT_ONCE = 300
"""So many pods are moved before others have their turn."""
CHANGES_ASKED = 50


Event = str | tuple[Subject, Action]
"""Why a pod comes to a place."""


class Hint(NamedTuple):
    """What may make a plugin accept a pod that it rejected."""

    interests: Interests
    """Other changes never do."""
    helps: Callable[[PodInfo, Change], bool]


class Place(Enum):
    ACTIVE = "active"
    BACKOFF = "backoff"
    UNSCHEDULABLE = "unschedulable"
    GATED = "gated"
    IN_FLIGHT = "in flight"


@dataclass(eq=False, slots=True)
class Waiting:
    """A pod and its history in the queue."""

    info: PodInfo
    place: Place = Place.ACTIVE
    since: float = 0.0
    """When it was last put into the queue."""
    rejections: int = 0
    errors: int = 0
    """Failures in a row that were no plugin's rejection."""
    rejected_by: frozenset[str] = frozenset()
    ticket: int = 0
    """Its entry in a heap; older entries count no more."""
    first_change: int = field(default=0)
    """The number of the first change after the attempt began."""
    attempts: int = 0
    first_attempt: float = 0.0
    """When it was first tried."""


class SchedulingQueue:
    """`pop` the next pod to try; afterwards tell how it went with `done` or `put_back`."""

    def __init__(
        self,
        clock: Clock,
        hints: Mapping[str, Hint],
        *,
        initial_backoff: float = INITIAL_BACKOFF,
        max_backoff: float = MAX_BACKOFF,
        held_by: Callable[[PodInfo], str] = lambda _: "",
    ) -> None:
        self._clock = clock
        self._held_by = held_by
        """The plugin that knows without looking at nodes that it would reject the pod."""
        self._hints = hints
        self._interested: dict[tuple[Subject, Action], list[str]] = {}
        """The plugins that want to be asked about a kind of change."""
        for name, hint in hints.items():
            for interest in hint.interests:
                self._interested.setdefault(interest, []).append(name)
        self._initial_backoff = initial_backoff
        self._max_backoff = max_backoff
        self._pods: dict[str, Waiting] = {}
        self._parked: dict[str, Waiting] = {}
        """Those of `_pods` that are unschedulable."""
        self._rejected: dict[str, dict[str, Waiting]] = {name: {} for name in hints}
        """The same by the plugins that rejected them."""
        self._active: list[tuple[int, float, int, Waiting]] = []
        self._backoff: list[tuple[float, int, float, int, Waiting]] = []
        self._failed: list[tuple[float, int, float, int, Waiting]] = []
        """Like backoff, of pods whose last attempt ended with an error: those are not tried
        early, whatever is wrong needs its time."""
        self._tickets = itertools.count(1)
        self._in_flight: dict[str, Waiting] = {}
        self._changes: deque[Change] = deque()
        self._first_change = 0
        self._wakeup = asyncio.Event()
        self._incoming: Counter[tuple[Place, Event]] = Counter()
        self._event: Event = ""
        self._unsifted: dict[str, list[Change]] = {}
        """Changes that plugins are still to be asked about, on behalf of pods they rejected."""
        self._sifting = asyncio.Event()

    def place_of(self, uid: str) -> Place | None:
        """Where a pod is, for tests and metrics."""
        entry = self._pods.get(uid)
        return entry.place if entry is not None else None

    def __len__(self) -> int:
        return len(self._pods)

    def counts(self) -> Mapping[Place, int]:
        result = dict.fromkeys(Place, 0)
        for entry in self._pods.values():
            result[entry.place] += 1
        return result

    def add(self, info: PodInfo) -> None:
        """A new pod without a node."""
        self._event = "PodAdd"
        entry = self._pods[info.uid] = Waiting(info, since=self._clock.monotonic())
        self._activate(entry)

    def update(self, old: PodInfo, new: PodInfo) -> None:
        """A waiting pod changed."""
        self._event = "PodUpdate"
        entry = self._pods.get(new.uid)
        if entry is None:
            self.add(new)
            return
        entry.info = new
        change = Change(Subject.OWN_POD, Action.UPDATE, old, new)
        if entry.place is Place.GATED:
            if not new.gates:
                entry.since = self._clock.monotonic()
                self._activate(entry)
        elif entry.place is Place.UNSCHEDULABLE:
            if self._helps(entry, change):
                self._requeue(entry)
        elif entry.place is Place.IN_FLIGHT:
            self._record(change)
        elif entry.place is Place.ACTIVE and old.priority != new.priority:
            self._activate(entry)

    def remove(self, uid: str) -> None:
        """The pod is gone, or has its node."""
        entry = self._pods.pop(uid, None)
        if entry is None:
            return
        self._unpark(entry)
        entry.ticket = 0
        if uid in self._in_flight:
            self._land(entry)

    def incoming(self) -> dict[tuple[str, str], int]:
        """How often pods came to a place, and after which event, by upstream's names."""
        return {
            (
                place.value,
                event
                if isinstance(event, str)
                else f"{event[0].value}{event[1].value.capitalize()}",
            ): count
            for (place, event), count in self._incoming.items()
        }

    def pending(self) -> dict[str, int]:
        """How many pods wait at each place."""
        found = Counter(entry.place for entry in self._pods.values())
        return {p.value: found[p] for p in Place if p is not Place.IN_FLIGHT}

    def rejected(self) -> dict[str, int]:
        """How many pods are unschedulable because of each plugin."""
        return {name: len(entries) for name, entries in self._rejected.items() if entries}

    def history(self, uid: str) -> tuple[int, float]:
        """How often a pod was tried, and since when."""
        entry = self._pods.get(uid)
        return (entry.attempts, entry.first_attempt) if entry is not None else (0, 0.0)

    async def pop(self) -> PodInfo:
        """The next pod to try; waits until there is one."""
        while True:
            entry = self._next()
            if entry is not None:
                break
            self._wakeup.clear()
            await self._wakeup.wait()
        entry.place = Place.IN_FLIGHT
        entry.ticket = 0
        if not entry.attempts:
            entry.first_attempt = self._clock.monotonic()
        entry.attempts += 1
        entry.first_change = self._first_change + len(self._changes)
        self._in_flight[entry.info.uid] = entry
        return entry.info

    def done(self, uid: str) -> None:
        """The pod has its node."""
        self.remove(uid)

    def decided(self, uid: str) -> None:
        """A node is chosen, but it may be long until the pod is bound. Should that fail, then not
        for a reason that any change could do away with: none is kept for it from now on."""
        entry = self._in_flight.get(uid)
        if entry is not None:
            self._land(entry)

    def put_back(self, uid: str, rejected_by: Iterable[str]) -> None:
        """The attempt failed: plugins rejected the pod or, if none did, there was an error."""
        self._event = "ScheduleAttemptFailure"
        entry = self._pods.get(uid)
        if entry is None or entry.place is not Place.IN_FLIGHT:
            return
        changes: list[Change] = []
        if uid in self._in_flight:
            changes = self._changes_since(entry)
            self._land(entry)
        entry.since = self._clock.monotonic()
        entry.rejected_by = frozenset(rejected_by)
        if not entry.rejected_by:
            entry.errors += 1
            self._requeue(entry)
            return
        entry.rejections += 1
        entry.errors = 0
        if any(self._helps(entry, change) for change in changes):
            self._requeue(entry)
        else:
            self._park(entry)

    def retry(self, uid: str) -> None:
        """Try a pod anew that is unschedulable, as soon as its delay is over."""
        self._event = "ForceActivate"
        if (entry := self._parked.get(uid)) is not None:
            self._requeue(entry)

    def changed(self, change: Change) -> None:
        """Something happened in the cluster: try again those that it may help."""
        self._event = kind = change[:2]
        self._record(change)
        for name in self._interested.get(kind, ()):
            waiting = self._rejected[name]
            if len(waiting) <= AT_ONCE and name not in self._unsifted:
                self._sift([*waiting.values()], name, [change])
            elif waiting:
                self._unsifted.setdefault(name, []).append(change)
                self._sifting.set()

    def _sift(self, entries: Iterable[Waiting], name: str, changes: Sequence[Change]) -> None:
        """Try again those that a change helps to please this plugin. When very many came, all:
        that is less work than asking about each."""
        self._event = changes[-1][:2]
        for entry in entries:
            # Meanwhile it may have left, or even be back.
            if self._rejected[name].get(entry.info.uid) is entry and (
                len(changes) > CHANGES_ASKED
                or any(self._says_yes(name, entry.info, change) for change in changes)
            ):
                self._requeue(entry)

    async def sift(self) -> None:
        """Ask about changes that many pods might be waiting for, a few pods at a time, so that
        others have their turn. Changes that come in the meantime are asked about together."""
        while True:
            await self._sifting.wait()
            self._sifting.clear()
            while self._unsifted:
                name = next(iter(self._unsifted))
                changes = self._unsifted.pop(name)
                entries = [*self._rejected[name].values()]
                step = max(AT_ONCE // len(changes), 10)
                for start in range(0, len(entries), step):
                    self._sift(entries[start : start + step], name, changes)
                    await asyncio.sleep(0)

    async def run(self) -> None:
        """Let delays end, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.sift(), name="scheduler queue's changes")
            group.create_task(self._flush_for_ever(), name="scheduler queue's delays")

    async def _flush_for_ever(self) -> None:
        waited = 0.0
        while True:
            now = self._clock.monotonic()
            delay = math.floor(now) + FLUSH_PERIOD - now
            await self._clock.sleep(delay)
            waited += delay
            await _in_turns(self.flush_backoff)
            if waited >= LEFTOVER_PERIOD:
                waited = 0.0
                await _in_turns(self.flush_leftovers)

    def flush_backoff(self) -> bool:
        """Activate pods whose delay is over; returns whether there may be more."""
        self._event = "BackoffComplete"
        now = math.floor(self._clock.monotonic())
        left = AT_ONCE
        for heap in (self._backoff, self._failed):
            while heap:
                if not left:
                    return True
                left -= 1
                expiry, _, _, ticket, entry = heap[0]
                if entry.ticket != ticket:
                    heapq.heappop(heap)
                elif expiry < now:
                    heapq.heappop(heap)
                    self._activate(entry)
                else:
                    break
        return False

    def flush_leftovers(self) -> bool:
        """Try once more what nothing has helped for long; a hint may have been wrong. Returns
        whether there may be more."""
        self._event = "UnschedulableTimeout"
        limit = self._clock.monotonic() - LEFTOVER_SECONDS
        # Those that were parked first come first.
        old = takewhile(lambda entry: entry.since < limit, self._parked.values())
        found = [*islice(old, AT_ONCE)]
        for entry in found:
            self._requeue(entry)
        return len(found) == AT_ONCE

    def _next(self) -> Waiting | None:
        while self._active:
            _, _, ticket, entry = heapq.heappop(self._active)
            if entry.ticket == ticket:
                return entry
        # There is nothing better to do than trying a pod before its delay is over.
        while self._backoff:
            _, _, _, ticket, entry = heapq.heappop(self._backoff)
            if entry.ticket == ticket:
                return entry
        return None

    def _activate(self, entry: Waiting) -> None:
        self._unpark(entry)
        if entry.info.gates:
            entry.place = Place.GATED
            entry.ticket = 0
            return
        if plugin := self._held_by(entry.info):
            entry.ticket = 0
            entry.rejected_by = frozenset([plugin])
            self._park(entry)
            return
        entry.place = Place.ACTIVE
        self._incoming[Place.ACTIVE, self._event] += 1
        entry.ticket = next(self._tickets)
        heapq.heappush(self._active, (-entry.info.priority, entry.since, entry.ticket, entry))
        self._wakeup.set()

    def _requeue(self, entry: Waiting) -> None:
        """To active if the pod has waited long enough, else to backoff."""
        expiry = self._expiry(entry)
        if expiry < math.floor(self._clock.monotonic()):
            self._activate(entry)
            return
        self._unpark(entry)
        entry.place = Place.BACKOFF
        self._incoming[Place.BACKOFF, self._event] += 1
        entry.ticket = next(self._tickets)
        heap = self._failed if entry.errors else self._backoff
        item = (expiry, -entry.info.priority, entry.since, entry.ticket, entry)
        heapq.heappush(heap, item)
        self._wakeup.set()

    def _expiry(self, entry: Waiting) -> float:
        """The whole second in which the delay ends; -inf without a delay."""
        count = entry.errors or entry.rejections
        if not count or not self._max_backoff:
            return -math.inf
        delay = min(self._initial_backoff * 2.0 ** min(count - 1, 60), self._max_backoff)
        return math.floor(entry.since + delay)

    def _helps(self, entry: Waiting, change: Change) -> bool:
        if change.subject is Subject.OWN_POD and change.new.uid != entry.info.uid:
            return False
        return any(self._says_yes(name, entry.info, change) for name in entry.rejected_by)

    def _says_yes(self, name: str, info: PodInfo, change: Change) -> bool:
        hint = self._hints[name]
        if change[:2] not in hint.interests:
            return False
        try:
            return hint.helps(info, change)
        except Exception:
            # A hint only saves work; when in doubt the pod is tried.
            log.exception("the hint of %s failed for %s", name, info.key)
            return True

    def _park(self, entry: Waiting) -> None:
        self._incoming[Place.UNSCHEDULABLE, self._event] += 1
        entry.place = Place.UNSCHEDULABLE
        self._parked[entry.info.uid] = entry
        for name in entry.rejected_by:
            self._rejected[name][entry.info.uid] = entry

    def _unpark(self, entry: Waiting) -> None:
        if self._parked.pop(entry.info.uid, None) is not None:
            for name in entry.rejected_by:
                self._rejected[name].pop(entry.info.uid, None)

    def _record(self, change: Change) -> None:
        if self._in_flight:
            self._changes.append(change)

    def _changes_since(self, entry: Waiting) -> list[Change]:
        start = entry.first_change - self._first_change
        return list(islice(self._changes, start, None))

    def _land(self, entry: Waiting) -> None:
        """The pod is in flight no more: forget the changes that were kept for it alone."""
        self._in_flight.pop(entry.info.uid, None)
        oldest = next(iter(self._in_flight.values()), None)
        if oldest is None:
            self._first_change += len(self._changes)
            self._changes.clear()
            return
        while self._first_change < oldest.first_change:
            self._changes.popleft()
            self._first_change += 1


async def _in_turns(step: Callable[[], bool]) -> None:
    """Until it says that there is no more to do; others have their turn in between."""
    has_more = step()
    while has_more:
        await asyncio.sleep(0)
        has_more = step()
