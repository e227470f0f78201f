"""Where pods wait, for how long, and what wakes them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from navarch.client import FakeClock
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.queue import AT_ONCE, CHANGES_ASKED, Hint, Place, SchedulingQueue

from .conftest import node, pod

INTERESTS = frozenset({(Subject.NODE, Action.ADD), (Subject.OWN_POD, Action.UPDATE)})
NODE_ADDED = Change(Subject.NODE, Action.ADD, None, node("n"))
NODE_GONE = Change(Subject.NODE, Action.DELETE, node("n"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> SchedulingQueue:
    """Plugin `yes` is helped by new nodes, `no` by nothing; `broken` fails to say."""

    def fail(info: PodInfo, change: Change) -> bool:
        raise ValueError("broken")

    hints = {
        "yes": Hint(INTERESTS, lambda info, change: True),
        "no": Hint(INTERESTS, lambda info, change: False),
        "broken": Hint(INTERESTS, fail),
    }
    return SchedulingQueue(clock, hints)


async def popped(queue: SchedulingQueue) -> str:
    async with asyncio.timeout(60):
        return (await queue.pop()).name


async def is_idle(queue: SchedulingQueue) -> bool:
    """Whether nothing is to be tried now."""
    task = asyncio.create_task(queue.pop())
    for _ in range(5):
        await asyncio.sleep(0)
    idle = not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return idle


async def parked(queue: SchedulingQueue, info: PodInfo, *plugins: str) -> None:
    """The pod, tried and rejected."""
    queue.add(info)
    assert await queue.pop() is info
    queue.put_back(info.uid, plugins)


async def test_by_priority_then_age(queue: SchedulingQueue, clock: FakeClock) -> None:
    for name, priority in (("low", 0), ("high", 10), ("middle", 5), ("later", 5)):
        queue.add(pod(name, priority=priority))
        await clock.advance(0.1)
    queue.remove(pod("low").uid)
    assert [await popped(queue) for _ in range(3)] == ["high", "middle", "later"]
    assert await is_idle(queue)


async def test_a_waiting_pop_gets_the_next_pod(queue: SchedulingQueue) -> None:
    task = asyncio.create_task(queue.pop())
    await asyncio.sleep(0)
    queue.add(pod("a"))
    assert (await task).name == "a"


async def test_gated_pods_are_left_alone(queue: SchedulingQueue) -> None:
    gated = pod("a", schedulingGates=[{"name": "g1"}, {"name": "g2"}])
    queue.add(gated)
    queue.changed(NODE_ADDED)
    queue.flush_leftovers()
    assert await is_idle(queue)
    fewer = pod("a", schedulingGates=[{"name": "g2"}])
    queue.update(gated, fewer)
    assert queue.place_of(gated.uid) is Place.GATED
    queue.update(fewer, pod("a"))
    assert await popped(queue) == "a"


@pytest.mark.parametrize(
    ("plugins", "change", "helps"),
    [
        (("yes",), NODE_ADDED, True),
        (("yes",), NODE_GONE, False),
        (("no",), NODE_ADDED, False),
        (("no", "yes"), NODE_ADDED, True),
        (("broken",), NODE_ADDED, True),
    ],
)
@pytest.mark.parametrize("meanwhile", [False, True])
async def test_only_changes_that_may_help_count(
    queue: SchedulingQueue, plugins: tuple[str, ...], change: Change, helps: bool, meanwhile: bool
) -> None:
    info = pod("a")
    queue.add(info)
    await queue.pop()
    if meanwhile:
        queue.changed(change)
        queue.put_back(info.uid, plugins)
    else:
        queue.put_back(info.uid, plugins)
        assert queue.place_of(info.uid) is Place.UNSCHEDULABLE
        queue.changed(change)
    assert queue.place_of(info.uid) is (Place.BACKOFF if helps else Place.UNSCHEDULABLE)


async def test_changes_before_the_attempt_do_not_count(queue: SchedulingQueue) -> None:
    first, second = pod("first"), pod("second")
    queue.add(first)
    queue.add(second)
    await queue.pop()
    queue.changed(NODE_ADDED)
    await queue.pop()
    queue.put_back(second.uid, ["yes"])
    queue.put_back(first.uid, ["yes"])
    assert queue.place_of(second.uid) is Place.UNSCHEDULABLE
    assert queue.place_of(first.uid) is Place.BACKOFF


async def test_after_the_delay_a_change_activates_at_once(
    queue: SchedulingQueue, clock: FakeClock
) -> None:
    info = pod("a")
    await parked(queue, info, "yes")
    await clock.advance(2.0)
    queue.changed(NODE_ADDED)
    assert queue.place_of(info.uid) is Place.ACTIVE


@pytest.mark.parametrize("failures", [1, 2, 3, 4, 5, 9])
async def test_delays_double_up_to_ten_seconds(
    queue: SchedulingQueue, clock: FakeClock, failures: int
) -> None:
    info = pod("a")
    queue.add(info)
    for number in range(failures):
        if number:
            # An idle scheduler tries the pod before its delay is over.
            queue.changed(NODE_ADDED)
        await queue.pop()
        queue.put_back(info.uid, ["yes"])
    queue.changed(NODE_ADDED)
    delay = min(2 ** (failures - 1), 10)
    await clock.advance(delay)
    queue.flush_backoff()
    assert queue.place_of(info.uid) is Place.BACKOFF
    await clock.advance(1.0)
    queue.flush_backoff()
    assert queue.place_of(info.uid) is Place.ACTIVE


async def test_errors_wait_even_if_nothing_else_is_to_do(
    queue: SchedulingQueue, clock: FakeClock
) -> None:
    info = pod("a")
    await parked(queue, info)
    assert queue.place_of(info.uid) is Place.BACKOFF
    assert await is_idle(queue)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(queue.run())
        await clock.advance(1.5)
        assert await is_idle(queue)
        await clock.advance(1.0)
        assert await popped(queue) == "a"
        task.cancel()


async def test_an_idle_scheduler_does_not_wait_for_delays(queue: SchedulingQueue) -> None:
    await parked(queue, pod("waits"), "yes")
    queue.changed(NODE_ADDED)
    queue.add(pod("new"))
    assert await popped(queue) == "new"
    assert await popped(queue) == "waits"


async def test_leftovers_are_tried_after_five_minutes(
    queue: SchedulingQueue, clock: FakeClock
) -> None:
    await parked(queue, pod("a"), "no")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(queue.run())
        await clock.advance(300)
        assert await is_idle(queue)
        await clock.advance(31)
        assert await popped(queue) == "a"
        task.cancel()


async def test_a_change_of_the_pod_itself(queue: SchedulingQueue) -> None:
    mine, other = pod("mine"), pod("other")
    await parked(queue, mine, "yes")
    await parked(queue, other, "yes")
    queue.update(mine, pod("mine", {"new": "label"}))
    assert queue.place_of(mine.uid) is Place.BACKOFF
    assert queue.place_of(other.uid) is Place.UNSCHEDULABLE
    assert await popped(queue) == "mine"


async def test_the_latest_state_is_tried(queue: SchedulingQueue) -> None:
    old = pod("a")
    queue.add(old)
    queue.add(pod("b", priority=1))
    new = pod("a", priority=2)
    queue.update(old, new)
    assert await queue.pop() is new


@pytest.mark.parametrize("place", ["active", "backoff", "parked", "in flight"])
async def test_a_pod_that_is_gone_does_not_come_back(
    queue: SchedulingQueue, clock: FakeClock, place: str
) -> None:
    info = pod("a")
    queue.add(info)
    if place != "active":
        await queue.pop()
    if place in ("backoff", "parked"):
        queue.put_back(info.uid, ["yes"])
    if place == "backoff":
        queue.changed(NODE_ADDED)
    queue.remove(info.uid)
    queue.put_back(info.uid, ["yes"])
    queue.changed(NODE_ADDED)
    await clock.advance(400)
    queue.flush_backoff()
    queue.flush_leftovers()
    assert await is_idle(queue)
    assert len(queue) == 0


async def test_changes_are_not_kept_for_nobody(queue: SchedulingQueue) -> None:
    infos = [pod(f"p{number}") for number in range(3)]
    for info in infos:
        queue.add(info)
    for _ in infos:
        await queue.pop()
        queue.changed(NODE_GONE)
    kept: Any = queue._changes
    assert len(kept) == 3
    queue.done(infos[0].uid)
    assert len(kept) == 2
    queue.done(infos[2].uid)
    queue.done(infos[1].uid)
    assert len(kept) == 0


async def test_a_pod_whose_node_is_chosen_may_take_its_time(
    queue: SchedulingQueue, clock: FakeClock
) -> None:
    """Nothing is kept for it, and if it fails after all it is tried again after a delay."""
    slow, other = pod("slow"), pod("other")
    for info in (slow, other):
        queue.add(info)
        await queue.pop()
    queue.decided(slow.uid)
    queue.changed(NODE_GONE)
    kept: Any = queue._changes
    assert len(kept) == 1
    queue.done(other.uid)
    assert len(kept) == 0
    queue.put_back(slow.uid, ())
    assert queue.place_of(slow.uid) is Place.BACKOFF
    await clock.advance(3)
    queue.flush_backoff()
    assert await popped(queue) == "slow"
    queue.decided(slow.uid)
    queue.done(slow.uid)
    assert len(queue) == 0


async def test_changes_that_concern_very_many_pods(clock: FakeClock) -> None:
    """They hold nothing up: pods are asked about in turns, and once for several changes."""
    asked: list[str] = []
    gone = Change(Subject.ASSIGNED_POD, Action.DELETE, pod("gone"))

    def helps(info: PodInfo, change: Change) -> bool:
        asked.append(info.name)
        return change is gone and not info.name.endswith("0")

    queue = SchedulingQueue(clock, {"Fit": Hint(frozenset({gone[:2]}), helps)})
    count = AT_ONCE + 500
    for number in range(count):
        queue.add(pod(f"p{number}"))
        queue.put_back((await queue.pop()).uid, ["Fit"])
    other = Change(Subject.ASSIGNED_POD, Action.DELETE, pod("other"))
    queue.changed(other)
    queue.changed(gone)
    assert not asked
    queue.remove("default-p1")
    task = asyncio.create_task(queue.sift())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(set(asked)) <= AT_ONCE
    # Whoever was tried meanwhile comes back after the change.
    queue.retry(f"default-p{count - 1}")
    await clock.settle()
    assert queue.counts()[Place.UNSCHEDULABLE] == count // 10
    assert queue.counts()[Place.BACKOFF] == count - count // 10 - 1
    assert asked.count("p2") == 2
    assert "p1" not in asked
    assert f"p{count - 1}" not in asked
    # Too many changes to ask about: all are tried again.
    for _ in range(CHANGES_ASKED + 1):
        queue._unsifted.setdefault("Fit", []).append(other)
    queue._sifting.set()
    await clock.settle()
    assert not queue.counts()[Place.UNSCHEDULABLE]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_delays_of_very_many_pods_end_in_turns(clock: FakeClock) -> None:
    queue = SchedulingQueue(clock, {})
    count = AT_ONCE + 10
    for number in range(count):
        queue.add(pod(f"p{number}"))
        queue.put_back((await queue.pop()).uid, ())
    await clock.advance(10)
    assert queue.flush_backoff()
    assert queue.counts()[Place.ACTIVE] == AT_ONCE
    assert not queue.flush_backoff()
    assert queue.counts()[Place.ACTIVE] == count
