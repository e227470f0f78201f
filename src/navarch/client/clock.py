"""The one place where components read the time or sleep.

Time is handed in: whoever needs it takes a `Clock`. `RealClock` is the machine's, `FakeClock` is
virtual time for tests, which stands still until a test advances it. Durations are measured with
`monotonic()`, because the wall clock may jump (an administrator, NTP, a resumed machine) and must
not make leases, timeouts or back-offs fire; `now()` is only for what is written into objects and
for comparing with times found in objects.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

SETTLE_ROUNDS = 30
"""How many turns of the event loop `FakeClock.advance` grants after each timer, so that chains of
tasks waking tasks come to rest before time goes on."""


class Timer(Protocol):
    """A callback that will be called, unless cancelled first."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time as a component sees it."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never jumps."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the event loop once `seconds` have passed."""
        ...


class RealClock:
    """The machine's clock and the running event loop's timers."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, seconds), callback)


class _FakeTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """Virtual time. It stands still until `advance`; sleepers and timers wake in order of their
    due times, at exactly these times, and may sleep again within the same advance."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _FakeTimer]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = self.call_later(seconds, wake)
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (self._elapsed + max(0.0, seconds), next(self._order), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, then return once the tasks woken by that have come to rest."""
        target = self._elapsed + seconds
        await self.settle()
        while self._timers and self._timers[0][0] <= target:
            due, _, timer = heapq.heappop(self._timers)
            if timer.callback is None:
                continue
            self._elapsed = max(self._elapsed, due)
            timer.callback()
            await self.settle()
        self._elapsed = target
        await self.settle()

    def jump_wall_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator would; monotonic time goes on."""
        self._start += timedelta(seconds=seconds)

    async def settle(self) -> None:
        """Give every ready task its turns without letting time pass."""
        for _ in range(SETTLE_ROUNDS):
            await asyncio.sleep(0)


def end_if_told() -> None:
    """For loops that go on after whatever fails: ends the task if it was told to end. A clean-up
    that failed in that moment has put its own failure in the place of the end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@asynccontextmanager
async def timeout(clock: Clock, seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout` on the clock that is handed in: raises TimeoutError after `seconds`."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:
        timer = clock.call_later(seconds, lambda: scope.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()
