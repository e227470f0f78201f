"""API priority and fairness at work: who may start at once, who waits, who is turned away.

A request is classified (the result is kept, so that the next one of its like costs a lookup), takes
seats in its priority level if there are any, and else waits in one of the level's fair queues, for
a quarter of a request's time at most. Everything happens in one event loop, so the seats that are
taken bound not only what is under way but also the work of one turn of the loop: they are given
back at the next turn, and whoever came meanwhile has been heard by then.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import time
from typing import Any

from navarch.apiserver.contracts import Lookup, RequestInfo, UserInfo
from navarch.apiserver.flowcontrol.levels import Level, adjust, divide, level_spec
from navarch.apiserver.flowcontrol.matching import Schema, schema_of
from navarch.apiserver.flowcontrol.objects import LEVELS, SCHEMAS
from navarch.apiserver.flowcontrol.queues import deal, hash_of
from navarch.apiserver.http.call import Call

Object = dict[str, Any]

MAX_KEPT = 4096
MAX_KEPT_LENGTH = 512
ADJUST_SECONDS = 10.0
WAIT_BUCKETS = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0)


@dataclass(eq=False, slots=True)
class Tally:
    """What the metrics tell about a schema's requests in a level."""

    dispatched: int = 0
    executing: int = 0
    executing_seats: int = 0
    waiting: int = 0
    waiting_seats: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    waits: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BUCKETS) + 1))
    """Of those that waited, by how long."""
    waited_seconds: float = 0.0


@dataclass(eq=False, slots=True)
class Flow:
    """Requests that are alike to flow control: one schema, one level, one distinguisher."""

    schema: Schema
    level: Level
    distinguisher: str
    hand: tuple[int, ...]
    marks: tuple[str, str]
    """UIDs of the schema and of the level, for the response's headers."""
    tally: Tally


@dataclass(eq=False, slots=True)
class Waiter:
    """A request in a queue."""

    call: Call
    flow: Flow
    woken: asyncio.Future[bool]
    seats: int
    arrived: float = field(default_factory=time)


class FlowControl:
    """The levels, the schemas, and everything that waits."""

    def __init__(self, lookup: Lookup, server_seats: int, patience: float = 15.0) -> None:
        self._lookup = lookup
        self.server_seats = server_seats
        self.patience = patience
        """Seconds that a request waits at most."""
        self.levels: dict[str, Level] = {}
        self.schemas: list[Schema] = []
        self.executing: set[Call] = set()
        self.tallies: dict[tuple[str, str], Tally] = {}
        """By level and schema."""
        self._kept: dict[tuple[Any, ...], Flow | None] = {}
        self._is_stale = True
        self._freed: list[Level] = []
        self._loop = asyncio.get_running_loop()
        for resource in (SCHEMAS, LEVELS):
            lookup.subscribe(resource, self._changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if old is None or new is None or old.get("spec") != new.get("spec"):
            self._is_stale = True

    # ---- configuration

    def refresh(self) -> None:
        """Take up the objects as they are now."""
        self._is_stale = False
        self._kept.clear()
        there = {each["metadata"]["name"]: each for each in self._lookup.list(LEVELS)}
        stranded: list[tuple[Waiter, int]] = []
        for name, obj in there.items():
            uid, spec = obj["metadata"].get("uid", ""), level_spec(obj)
            level = self.levels.get(name)
            if level is None:
                self.levels[name] = Level(name, uid, spec)
            elif (level.uid, level.spec) != (uid, spec):
                stranded += level.configure(uid, spec)
        for name in [name for name in self.levels if name not in there]:
            level = self.levels.pop(name)
            if level.queues is not None:
                stranded += level.queues.drain()
        divide(self.levels.values(), self.server_seats)
        found = (schema_of(each) for each in self._lookup.list(SCHEMAS))
        self.schemas = sorted(found, key=lambda each: (each.precedence, each.name))
        for waiter, seats in stranded:
            # Its queue is no more; it has waited enough.
            self._start(waiter, seats)

    def adjust(self) -> None:
        """Let levels borrow from each other, by their demand since the last time."""
        if self._is_stale:
            self.refresh()
        adjust(self.levels.values())
        for level in self.levels.values():
            self._dispatch(level)

    # ---- classification

    def classify(self, user: UserInfo, info: RequestInfo) -> Flow | None:
        """The flow of a request; None while there is nothing to go by."""
        if self._is_stale:
            self.refresh()
        where = info.resource if info.is_resource else info.path
        key = (
            user.name,
            user.groups,
            info.verb,
            info.group,
            where,
            info.subresource,
            info.namespace,
        )
        try:
            return self._kept[key]
        except KeyError:
            flow = self._find(user, info)
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            if len(info.path) < MAX_KEPT_LENGTH:
                self._kept[key] = flow
            return flow

    def _find(self, user: UserInfo, info: RequestInfo) -> Flow | None:
        for schema in self.schemas:
            level = self.levels.get(schema.level)
            if level is not None and schema.matches(user, info):
                distinguisher = schema.flow_of(user, info)
                spec = level.spec
                hand = deal(hash_of(schema.name, distinguisher), spec.queues, spec.hand_size)
                tally = self.tallies.setdefault((level.name, schema.name), Tally())
                return Flow(schema, level, distinguisher, hand, (schema.uid, level.uid), tally)
        return None

    # ---- seats

    def enter(self, call: Call, flow: Flow, seats: int) -> bool:
        """Take seats if there are any and nobody waits for them."""
        level = flow.level
        if not level.is_exempt:
            queues = level.queues
            if queues is not None and queues.waiting:
                return False
            if level.in_use and level.in_use + seats > level.limit:
                return False
        self._occupy(call, flow, seats)
        return True

    def _occupy(self, call: Call, flow: Flow, seats: int) -> None:
        level, tally = flow.level, flow.tally
        level.in_use += seats
        level.executing += 1
        if level.in_use > level.peak:
            level.peak = level.in_use
        tally.dispatched += 1
        tally.executing += 1
        tally.executing_seats += seats
        call.flow = flow
        call.seats = seats
        self.executing.add(call)

    def leave(self, call: Call) -> None:
        """Give a request's seats back; to do so twice is harmless."""
        seats, flow = call.seats, call.flow
        if not seats or flow is None:
            return
        call.seats = 0
        self.executing.discard(call)
        level, tally = flow.level, flow.tally
        level.executing -= 1
        tally.executing -= 1
        tally.executing_seats -= seats
        if not level.freed:
            if not self._freed:
                self._loop.call_soon(self._flush)
            self._freed.append(level)
        level.freed += seats

    def _flush(self) -> None:
        freed, self._freed = self._freed, []
        for level in freed:
            level.in_use -= level.freed
            level.freed = 0
            if level.queues is not None and level.queues.waiting:
                self._dispatch(level)

    def _dispatch(self, level: Level) -> None:
        """Start whoever is next, as long as there are seats."""
        queues = level.queues
        while queues is not None and (found := queues.peek()) is not None:
            if not level.fits(found[1]):
                return
            queues.take()
            self._start(*found)

    def _start(self, waiter: Waiter, seats: int) -> None:
        if not waiter.woken.done():
            self._occupy(waiter.call, waiter.flow, seats)
            waiter.woken.set_result(True)

    async def wait(self, call: Call, flow: Flow, seats: int) -> bool:
        """Queue up for seats; False when the queue is full, or when it takes too long."""
        level, tally = flow.level, flow.tally
        queues = level.queues
        if queues is None:
            tally.rejected["concurrency-limit"] += 1
            return False
        seats = min(seats, max(level.limit, 1))
        waiter = Waiter(call, flow, self._loop.create_future(), seats)
        index = queues.add(flow.hand, waiter, seats)
        if index < 0:
            tally.rejected["queue-full"] += 1
            return False
        level.peak = max(level.peak, level.demand)
        tally.waiting += 1
        tally.waiting_seats += seats
        timer = self._loop.call_later(self.patience, _give_up, waiter.woken)
        connection = call.connection
        give_up: Callable[[], Any] = waiter.woken.cancel
        connection.on_lost.add(give_up)
        try:
            is_served = await waiter.woken
        except asyncio.CancelledError:
            tally.rejected["cancelled"] += 1
            self.leave(call)
            if connection.transport is None:
                raise ConnectionResetError("the client left while its request waited") from None
            raise
        finally:
            timer.cancel()
            connection.on_lost.discard(give_up)
            queues.remove(index, waiter)
            tally.waiting -= 1
            tally.waiting_seats -= seats
        if not is_served:
            tally.rejected["time-out"] += 1
            return False
        waited = time() - waiter.arrived
        tally.waits[bisect_left(WAIT_BUCKETS, waited)] += 1
        tally.waited_seconds += waited
        return True


def _give_up(woken: asyncio.Future[bool]) -> None:
    if not woken.done():
        woken.set_result(False)
