"""Virtual time and seeded chance: a whole control plane as one repeatable computation.

The event loop's clock stands still while anything can run and jumps to the next timer when nothing
can, so a back-off of minutes takes no time, and who comes first is decided by the program and the
seed alone. Nothing here waits for sockets or threads: connections are in memory (`wire`), and what
would go to a thread is done at once.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from typing import Any, TypeVar
from unittest.mock import patch

T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)


class Deadlock(RuntimeError):
    """Nothing can run, and no timer is set."""


class _Selector(selectors.SelectSelector):
    """Does not wait: it lets time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds take no time."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        result: asyncio.Future[T] = self.create_future()
        try:
            result.set_result(func(*args))
        except Exception as error:
            result.set_exception(error)
        return result


class LoopClock:
    """The running loop's time, for components."""

    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, seconds), callback)


class _VirtualDatetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return LoopClock().now().astimezone(tz)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Whoever takes a generator of chance without a seed gets one that this run always gives."""
    seeds = count(seed * 1_000_003)

    class Seeded(random.Random):
        def __init__(self, x: Any = None) -> None:
            super().__init__(next(seeds) if x is None else x)

    def seeded_uuid() -> uuid.UUID:
        return uuid.UUID(int=random.getrandbits(128), version=4)

    state = random.getstate()
    random.seed(seed)
    try:
        with (
            patch("random.Random", Seeded),
            patch("random.SystemRandom", Seeded),
            patch("uuid.uuid4", seeded_uuid),
        ):
            yield
    finally:
        random.setstate(state)


def run_virtually(work: Coroutine[Any, Any, T], seed: int) -> T:
    """Run to the end, in virtual time that begins at `START`."""
    with (
        _seeded(seed),
        patch("navarch.api.times.datetime", _VirtualDatetime),
        # How long a turn of the processor was decides who comes next: here none takes any time.
        patch("time.perf_counter", lambda: 0.0),
        patch("navarch.apiserver.http.turns.perf_counter", lambda: 0.0),
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        return runner.run(work)
