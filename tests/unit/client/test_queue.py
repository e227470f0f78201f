"""The work queue: deduplicated, serial per key, nothing lost, delays as promised."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from navarch.client.clock import FakeClock, RealClock
from navarch.client.queue import QueueShutDown, WorkQueue
from navarch.client.ratelimit import TokenBucket


async def drain(queue: WorkQueue) -> list[str]:
    keys = []
    while len(queue):
        keys.append(await queue.get())
        queue.done(keys[-1])
    return keys


async def test_a_waiting_key_is_held_once_and_keeps_its_place() -> None:
    queue = WorkQueue(clock=FakeClock())
    for key in ("a", "b", "a", "c", "b"):
        queue.add(key)
    assert await drain(queue) == ["a", "b", "c"]


async def test_a_key_added_during_its_work_comes_back_when_done() -> None:
    queue = WorkQueue(clock=FakeClock())
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await drain(queue) == ["a"]


async def test_delays_wake_on_time_and_the_shortest_counts() -> None:
    clock = FakeClock()
    queue = WorkQueue(clock=clock)
    queue.add_after("slow", 10.0)
    queue.add_after("slow", 20.0)
    queue.add_after("quick", 5.0)
    queue.add_after("quick", 1.0)
    queue.add_after("now", 0.0)
    assert await drain(queue) == ["now"]
    await clock.advance(1.0)
    assert await drain(queue) == ["quick"]
    queue.add_after("quick", 100.0)
    await clock.advance(8.9)
    assert len(queue) == 0
    await clock.advance(0.1)
    assert await drain(queue) == ["slow"]
    await clock.advance(80.0)
    assert len(queue) == 0
    await clock.advance(20.0)
    assert await drain(queue) == ["quick"]


class Ticking(RealClock):
    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


async def test_work_that_never_waits_gives_way() -> None:
    """Thousands of keys that need nothing, in the hands of many workers: the loop turns every 10 ms
    all the same, and whoever is cancelled while giving way leaves its key to another."""
    clock = Ticking()
    queue = WorkQueue(clock=clock)
    for number in range(1000):
        queue.add(str(number))
    queue.shut_down()
    done: list[str] = []
    between: list[int] = []

    async def work() -> None:
        with suppress(QueueShutDown):
            while True:
                done.append(key := await queue.get())
                clock.seconds += 0.001
                queue.done(key)

    async def beat() -> None:
        while len(done) < 1000:
            before = len(done)
            await asyncio.sleep(0)
            between.append(len(done) - before)

    workers = [asyncio.create_task(work()) for _ in range(32)]
    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    workers.pop().cancel()
    async with asyncio.timeout(60):
        await asyncio.gather(*workers, beating)
    assert len({*done}) == len(done) == 1000
    assert max(between) <= 20


async def test_failures_double_the_delay_until_forgotten() -> None:
    clock = FakeClock()
    queue = WorkQueue(clock=clock, base_delay=1.0, max_delay=5.0)
    for expected in (1.0, 2.0, 4.0, 5.0, 5.0):
        queue.add_rate_limited("a")
        await clock.advance(expected - 0.01)
        assert len(queue) == 0
        await clock.advance(0.02)
        assert await drain(queue) == ["a"]
    assert queue.retries("a") == 5
    queue.forget("a")
    assert queue.retries("a") == 0
    queue.add_rate_limited("a")
    await clock.advance(1.0)
    assert await drain(queue) == ["a"]


async def test_all_keys_share_the_bucket() -> None:
    clock = FakeClock()
    queue = WorkQueue(clock=clock, base_delay=0.001, bucket=TokenBucket(rate=1.0, burst=2.0))
    for key in ("a", "b", "c", "d"):
        queue.add_rate_limited(key)
    await clock.advance(0.01)
    assert await drain(queue) == ["a", "b"]
    await clock.advance(1.0)
    assert await drain(queue) == ["c"]
    await clock.advance(1.0)
    assert await drain(queue) == ["d"]


async def test_shut_down_hands_out_what_waits_then_ends_every_worker() -> None:
    clock = FakeClock()
    queue = WorkQueue(clock=clock)
    idle = [asyncio.create_task(queue.get()) for _ in range(3)]
    await clock.settle()
    queue.add("last")
    queue.add_after("dropped", 1.0)
    queue.shut_down()
    queue.add("late")
    await clock.advance(2.0)
    results = await asyncio.gather(*idle, return_exceptions=True)
    assert sorted(str(result) for result in results) == ["", "", "last"]
    assert sum(isinstance(result, QueueShutDown) for result in results) == 2


async def test_a_worker_cancelled_while_woken_passes_the_key_on() -> None:
    queue = WorkQueue(clock=FakeClock())
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await asyncio.wait_for(second, 60) == "a"


@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 4),
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "after", "limited"]), st.sampled_from("abcd")),
        max_size=40,
    ),
)
@settings(max_examples=60, deadline=None)
def test_never_twice_at_once_and_never_lost(
    seed: int, workers: int, steps: list[tuple[str, str]]
) -> None:
    """Whatever is added, by whichever way and at whatever moment: no two workers hold one key, and
    after each addition the key is worked on at least once more."""
    rng = random.Random(seed)
    clock = FakeClock()
    running: set[str] = set()
    added: dict[str, int] = {}
    seen: dict[str, int] = {}

    async def work(queue: WorkQueue) -> None:
        while True:
            try:
                key = await queue.get()
            except QueueShutDown:
                return
            assert key not in running
            running.add(key)
            seen[key] = added[key]  # every addition up to now is served by this round
            await clock.sleep(rng.choice((0.0, 0.5, 3.0)))
            running.discard(key)
            queue.done(key)

    async def story() -> None:
        queue = WorkQueue(clock=clock, bucket=TokenBucket(1.0, 2.0))
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work(queue))
            for how, key in steps:
                added[key] = added.get(key, 0) + 1
                if how == "add":
                    queue.add(key)
                elif how == "after":
                    queue.add_after(key, rng.random() * 4.0)
                else:
                    queue.add_rate_limited(key)
                if rng.random() < 0.5:
                    await clock.advance(rng.random() * 2.0)
            await clock.advance(2000.0)
            queue.shut_down()
        assert seen == added

    asyncio.run(story())
