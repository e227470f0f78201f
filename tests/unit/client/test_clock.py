"""Virtual time wakes sleepers in order, exactly on time, also those that sleep again."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from navarch.client.clock import FakeClock, RealClock, timeout


async def test_sleepers_wake_in_order_of_their_due_times() -> None:
    clock = FakeClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("late", 5.0))
        group.create_task(sleeper("often", 2.0, 2.0, 2.0))
        await clock.advance(5.0)
        assert woken == [("often", 2.0), ("often", 4.0), ("late", 5.0)]
        await clock.advance(1.0)
    assert woken[-1] == ("often", 6.0)


async def test_now_and_monotonic_advance_together_but_only_now_can_jump() -> None:
    clock = FakeClock()
    before = clock.now()
    await clock.advance(90.0)
    assert clock.now() - before == timedelta(seconds=90)
    clock.jump_wall_clock(-3600)
    assert clock.monotonic() == 90.0
    assert clock.now() - before == timedelta(seconds=90 - 3600)


async def test_a_cancelled_timer_does_not_fire() -> None:
    clock = FakeClock()
    fired: list[int] = []
    clock.call_later(1.0, lambda: fired.append(1)).cancel()
    clock.call_later(2.0, lambda: fired.append(2))
    await clock.advance(3.0)
    assert fired == [2]


async def test_timeout_on_virtual_time() -> None:
    clock = FakeClock()

    async def wait() -> None:
        async with timeout(clock, 10.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await clock.advance(9.0)
    assert not task.done()
    await clock.advance(1.0)
    with pytest.raises(TimeoutError):
        await task


async def test_the_real_clock_keeps_time_in_utc() -> None:
    clock = RealClock()
    begin = clock.monotonic()
    await clock.sleep(0.001)
    assert clock.monotonic() > begin
    assert clock.now().utcoffset() == timedelta(0)
