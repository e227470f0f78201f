"""The scheduler between informers that lag and a server that refuses, fails and loses answers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import Binding, Node, Pod
from navarch.client import ControllerContext, FakeClock
from navarch.scheduler.scheduler import BINDINGS_WAITING, Scheduler, Settings

from .conftest import node, pod


@dataclass
class FakeCache:
    objects: dict[str, Any] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        return self.objects.get(key)

    def list(self, namespace: str = "") -> list[Any]:
        return [*self.objects.values()]

    def by_index(self, index: str, value: str) -> tuple[Any, ...]:
        return ()


class FakeInformer:
    def __init__(self) -> None:
        self.cache = FakeCache()
        self.handlers: list[Any] = []

    def add_handler(self, on_add: Any = None, on_update: Any = None, on_delete: Any = None) -> None:
        self.handlers.append((on_add, on_update, on_delete))

    def add_index(self, name: str, function: Any) -> None:
        pass

    def set(self, key: str, obj: Any) -> None:
        old = self.cache.objects.get(key)
        if old is not None and old.metadata.uid != obj.metadata.uid:
            self.remove(key)
            old = None
        self.cache.objects[key] = obj
        for on_add, on_update, _ in self.handlers:
            if old is None:
                on_add(obj)
            else:
                on_update(old, obj)

    def remove(self, key: str) -> None:
        old = self.cache.objects.pop(key, None)
        if old is not None:
            for *_, on_delete in self.handlers:
                on_delete(old)


class FakeWorld:
    """The API server's truth about pods, and the events that informers have not seen yet."""

    def __init__(self, seed: int, trouble: float) -> None:
        self.rng = random.Random(seed)
        self.trouble = trouble
        self.clock = FakeClock()
        self.pods: dict[str, Pod] = {}
        self.bindings: Counter[str] = Counter()
        self.unseen: deque[Callable[[], None]] = deque()
        self.informers: dict[type, FakeInformer] = {}
        self.told: list[tuple[str, str, str]] = []
        self.conditions: dict[str, str] = {}
        self.version = 0
        self._stopped = asyncio.Event()

    def context(self) -> ControllerContext:
        client = SimpleNamespace(resource=lambda kind: self)
        informers = SimpleNamespace(
            informer=lambda kind, **_: self.informers.setdefault(kind, FakeInformer()),
            join=self._stopped.wait,
            wait_synced=self._nothing,
        )
        recorder = SimpleNamespace(event=self._event)
        context = SimpleNamespace(
            client=client,
            informers=informers,
            clock=self.clock,
            recorder=lambda component: recorder,
        )
        return cast("ControllerContext", context)

    async def _nothing(self) -> None:
        pass

    def _event(self, obj: Pod, kind: str, reason: str, message: str) -> None:
        self.told.append((obj.metadata.name, reason, message))

    def put(self, made: Pod) -> None:
        """A pod is created or changed."""
        self.version += 1
        made.metadata.resourceVersion = str(self.version)
        self.pods[made.metadata.name] = made
        key, seen = f"default/{made.metadata.name}", copy_object(made)
        self.unseen.append(lambda: self.informers[Pod].set(key, seen))

    def delete(self, name: str) -> None:
        if self.pods.pop(name, None) is not None:
            self.unseen.append(lambda: self.informers[Pod].remove(f"default/{name}"))

    def show(self, count: int | None = None) -> None:
        """Let informers see the next changes."""
        for _ in range(len(self.unseen) if count is None else min(count, len(self.unseen))):
            self.unseen.popleft()()

    async def post_subresource(
        self, name: str, namespace: str, subresource: str, binding: Binding
    ) -> bytes:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        outcome = self.rng.random()
        if outcome < self.trouble / 2:
            raise ApiError(500, "InternalError", "the server is unwell")
        found = self.pods.get(name)
        if found is None or found.metadata.uid != binding.metadata.uid:
            raise ApiError(404, "NotFound", "gone")
        if found.spec.nodeName:
            raise ApiError(409, "Conflict", f"already assigned to {found.spec.nodeName}")
        self.bindings[found.metadata.uid] += 1
        bound = copy_object(found)
        bound.spec.nodeName = binding.target.name
        self.put(bound)
        if outcome < self.trouble:
            raise ApiError(0, "", "the answer was lost")
        return b""

    async def patch(self, name: str, namespace: str, body: Any, **_: Any) -> None:
        found = self.pods.get(name)
        if found is None or found.metadata.uid != body["metadata"]["uid"]:
            raise ApiError(404, "NotFound", "gone")
        [condition] = body["status"]["conditions"]
        self.conditions[name] = condition["message"]


@pytest.mark.parametrize("seed", range(12))
async def test_every_pod_is_bound_once_and_no_node_overcommitted(seed: int) -> None:
    world = FakeWorld(seed, trouble=0.4)
    rng = random.Random(seed)
    scheduler = Scheduler(world.context(), Settings(), random.Random(seed))
    task = asyncio.create_task(scheduler.run())
    for number in range(4):
        world.informers[Node].set(f"n{number}", node(f"n{number}", cpu="2", pods="20"))
    count = 0
    for _ in range(60):
        if rng.random() < 0.6:
            made = pod(f"p{count}", requests={"cpu": "250m"}).pod
            made.metadata.uid = f"u{count}"
            count += 1
            world.put(made)
        if rng.random() < 0.15 and world.pods:
            name = rng.choice(sorted(world.pods))
            world.delete(name)
            if rng.random() < 0.5:
                made = pod(name, requests={"cpu": "250m"}).pod
                made.metadata.uid = f"again{count}"
                world.put(made)
        world.show(rng.randrange(3))
        await world.clock.advance(rng.choice([0.0, 0.0, 0.3, 1.5]))
    world.trouble = 0.0
    for _ in range(40):
        world.show()
        await world.clock.advance(12.0)
    used = Counter(p.spec.nodeName for p in world.pods.values())
    waiting = used.pop("", 0)
    assert all(number <= 8 for number in used.values())
    assert not waiting or all(used[f"n{n}"] == 8 for n in range(4))
    assert max(world.bindings.values()) == 1
    truth = {p.metadata.uid: p.spec.nodeName for p in world.pods.values() if p.spec.nodeName}
    cluster = scheduler.cluster
    assert {uid: cluster.names[slot] for uid, (_, slot) in cluster.pods.items()} == truth
    assert len(scheduler.queue) == waiting
    assert not scheduler._assumed
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world() -> FakeWorld:
    return FakeWorld(1, trouble=0.0)


async def test_what_is_told(world: FakeWorld) -> None:
    scheduler = Scheduler(world.context(), Settings(), random.Random(1))
    task = asyncio.create_task(scheduler.run())
    world.informers[Node].set("n", node("n", cpu="1"))
    world.put(pod("fits", requests={"cpu": "1"}).pod)
    world.put(pod("waits", requests={"cpu": "1"}).pod)
    world.put(pod("other", schedulerName="somebody-else").pod)
    world.put(pod("gated", schedulingGates=[{"name": "g"}]).pod)
    world.put(pod("leaving", deleting=True).pod)
    world.show()
    await world.clock.advance(0.0)
    world.show()
    await world.clock.advance(0.0)
    message = (
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: "
        "0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )
    assert sorted(world.told) == [
        ("fits", "Scheduled", "Successfully assigned default/fits to n"),
        ("leaving", "FailedScheduling", "skip schedule deleting pod: default/leaving"),
        ("waits", "FailedScheduling", message),
    ]
    assert world.conditions == {"waits": message}
    assert {name for name, p in world.pods.items() if p.spec.nodeName} == {"fits"}
    # Room is made.
    world.delete("fits")
    world.show()
    await world.clock.advance(0.0)
    assert world.pods["waits"].spec.nodeName == "n"
    assert not world.pods["other"].spec.nodeName
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_long_messages_are_cut_for_events(world: FakeWorld) -> None:
    scheduler = Scheduler(world.context(), Settings(), random.Random(1))
    task = asyncio.create_task(scheduler.run())
    world.informers[Node].set("n", node("n"))
    requests = {f"example.com/{'x' * 50}{number}": "1" for number in range(30)}
    world.put(pod("p", requests=requests).pod)
    world.show()
    await world.clock.advance(0.0)
    [(_, _, message)] = world.told
    assert len(message) == 1024 and message.endswith(" ...")
    assert len(world.conditions["p"]) > 1500
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_room_is_kept_for_the_nominated(world: FakeWorld) -> None:
    """By whomever; and given to others when the pod it is kept for is gone."""
    scheduler = Scheduler(world.context(), Settings(), random.Random(1))
    task = asyncio.create_task(scheduler.run())
    world.informers[Node].set("n", node("n", cpu="1"))
    gates, told = [{"name": "g"}], {"nominatedNodeName": "n"}
    kept = pod("kept", requests={"cpu": "1"}, priority=5, schedulingGates=gates, status=told)
    world.put(kept.pod)
    world.put(pod("lower", requests={"cpu": "1"}).pod)
    world.show()
    await world.clock.advance(0.0)
    assert "1 Insufficient cpu" in world.conditions["lower"]
    world.delete("kept")
    world.show()
    await world.clock.advance(0.0)
    assert world.pods["lower"].spec.nodeName == "n"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_kept_for_a_pod_that_is_gone(world: FakeWorld) -> None:
    """It went after it was taken from the queue and before its victims were chosen."""
    scheduler = Scheduler(world.context(), Settings(), random.Random(1))
    for _ in range(BINDINGS_WAITING):
        await scheduler._waiting.acquire()
    task = asyncio.create_task(scheduler.run())
    world.informers[Node].set("n", node("n", cpu="1"))
    there = pod("there", requests={"cpu": "1"}, nodeName="n")
    world.put(there.pod)
    world.put(pod("new", requests={"cpu": "1"}, priority=5).pod)
    world.show()
    await world.clock.advance(0.0)
    world.delete("new")
    world.show()
    scheduler._waiting.release()
    await world.clock.advance(0.0)
    assert not [*scheduler.cluster.nominations.nodes] and not len(scheduler.queue)
    assert not world.conditions and not there.pod.status.conditions
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
