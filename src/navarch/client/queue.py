"""The work queue: which keys need work, each at most once, never two workers on one key.

Adding a key that already waits does nothing. Adding a key that is being worked on remembers it, and
it comes back when that work is done, so that no change is missed and work on one key is serial
(client-go's `workqueue`; the idea of level-triggered controllers). The queue is bounded by the
number of keys there are, because it holds each at most once; it never drops one.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque

from navarch.client import metrics
from navarch.client.clock import Clock, RealClock, Timer
from navarch.client.ratelimit import TokenBucket, exponential

BASE_DELAY = 0.005
MAX_DELAY = 1000.0
BUCKET_RATE = 10.0
BUCKET_BURST = 100.0
TURN_SECONDS = 0.01
"""So long keys are handed out before the event loop gets a turn. Work on a key that needs nothing
never waits: a hundred thousand of them, as after a start, would let no heartbeat, watch or timer
through until the last was done."""


class QueueShutDown(Exception):
    """The queue is shut down and empty: the worker may end."""


class WorkQueue:
    """A set of keys in order of their first addition. Not for use from several threads."""

    def __init__(
        self,
        name: str = "",
        *,
        clock: Clock | None = None,
        base_delay: float = BASE_DELAY,
        max_delay: float = MAX_DELAY,
        bucket: TokenBucket | None = None,
    ) -> None:
        self.name = name
        self._clock: Clock = clock or RealClock()
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._bucket = bucket or TokenBucket(BUCKET_RATE, BUCKET_BURST)
        self._ready: deque[str] = deque()
        # _dirty: keys that need work, waiting or to be queued again when done.
        self._dirty: dict[str, float] = {}
        self._processing: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._due: dict[str, float] = {}
        self._delayed: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._shutting_down = False
        self._turn_began: float | None = None
        """When the first key of this turn of the event loop was handed out."""
        self._instruments = _Instruments(self) if name else None

    def __len__(self) -> int:
        """Keys that wait for a worker (delayed ones and those under work do not count)."""
        return len(self._ready)

    def add(self, key: str, *, urgent: bool = False) -> None:
        """This key needs work; `urgent` puts it before all that wait."""
        if self._shutting_down or key in self._dirty:
            return
        self._dirty[key] = self._clock.monotonic()
        if self._instruments:
            self._instruments.adds.inc()
        if key not in self._processing:
            (self._ready.appendleft if urgent else self._ready.append)(key)
            self._wake_one()

    def add_after(self, key: str, seconds: float) -> None:
        """This key needs work in `seconds`. Of several delays of one key the shortest counts."""
        if seconds <= 0:
            self.add(key)
            return
        if self._shutting_down:
            return
        due = self._clock.monotonic() + seconds
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._delayed, (due, next(self._order), key))
        if self._delayed[0][2] == key:
            self._set_timer()

    def add_rate_limited(self, key: str) -> None:
        """This key's work failed: again after a delay that doubles with each failure, and not
        faster than the bucket that all keys share."""
        if self._instruments:
            self._instruments.retries.inc()
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        own = exponential(self._base_delay, self._max_delay, failures)
        self.add_after(key, max(own, self._bucket.reserve(self._clock.monotonic())))

    def forget(self, key: str) -> None:
        """This key's work went well: its next failure starts with the shortest delay."""
        self._failures.pop(key, None)

    def retries(self, key: str) -> int:
        """How often the key failed since it was last forgotten."""
        return self._failures.get(key, 0)

    async def get(self) -> str:
        """The next key, which the caller must give back with `done`. Raises `QueueShutDown`."""
        loop = asyncio.get_running_loop()
        while not self._ready or self._turn_is_over(loop):
            if self._shutting_down and not self._ready:
                raise QueueShutDown
            getter: asyncio.Future[None] = loop.create_future()
            if self._ready:
                loop.call_soon(_wake, getter)
            else:
                self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                if getter in self._getters:
                    self._getters.remove(getter)
                elif self._ready:
                    self._wake_one()  # the wake-up meant for us must not be lost
                raise
        key = self._ready.popleft()
        now = self._clock.monotonic()
        added = self._dirty.pop(key)
        self._processing[key] = now
        if self._instruments:
            self._instruments.wait.observe(max(0.0, now - added))
        return key

    def _turn_is_over(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether all that the event loop still has to call in this turn, other workers among it,
        is to leave the waiting keys to the next."""
        now = self._clock.monotonic()
        if self._turn_began is None:
            self._turn_began = now
            loop.call_soon(self._begin_turn)
        return now - self._turn_began >= TURN_SECONDS

    def _begin_turn(self) -> None:
        self._turn_began = None

    def done(self, key: str) -> None:
        """The work on the key has ended, well or not."""
        started = self._processing.pop(key)
        if self._instruments:
            self._instruments.work.observe(max(0.0, self._clock.monotonic() - started))
        if key in self._dirty:
            self._ready.append(key)
            self._wake_one()

    def shut_down(self) -> None:
        """Take no more keys; `get` hands out what waits, then raises. Delayed keys are dropped:
        whoever starts next sees every object anew."""
        self._shutting_down = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._delayed.clear()
        self._due.clear()
        while self._getters:
            self._wake_one()

    def unfinished_seconds(self) -> list[float]:
        """How long each key under work has been worked on."""
        now = self._clock.monotonic()
        return [max(0.0, now - started) for started in self._processing.values()]

    def _wake_one(self) -> None:
        while self._getters:
            if _wake(self._getters.popleft()):
                return

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._delayed:
            delay = self._delayed[0][0] - self._clock.monotonic()
            self._timer = self._clock.call_later(delay, self._release_due)

    def _release_due(self) -> None:
        now = self._clock.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            due, _, key = heapq.heappop(self._delayed)
            # An entry that a shorter delay has replaced is stale.
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._timer = None
        self._set_timer()


def _wake(getter: asyncio.Future[None]) -> bool:
    if getter.done():
        return False
    getter.set_result(None)
    return True


class _Instruments:
    """The Prometheus series of one queue."""

    def __init__(self, queue: WorkQueue) -> None:
        name = queue.name
        self.adds = metrics.queue_adds.labels(name)
        self.retries = metrics.queue_retries.labels(name)
        self.wait = metrics.queue_wait.labels(name)
        self.work = metrics.queue_work.labels(name)
        metrics.queue_depth.labels(name).set_function(lambda: len(queue))
        metrics.queue_unfinished.labels(name).set_function(lambda: sum(queue.unfinished_seconds()))
        metrics.queue_longest.labels(name).set_function(
            lambda: max(queue.unfinished_seconds(), default=0.0)
        )
