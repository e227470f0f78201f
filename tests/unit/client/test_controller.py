"""The machinery around `reconcile`: keys from events, retries, an end that is seen."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from navarch.api.errors import ApiError, conflict
from navarch.api.types.core_v1 import ConfigMap
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.clock import FakeClock
from navarch.client.controller import Controller, ControllerContext
from navarch.client.events import EventRecorder
from navarch.client.informer import Informer, InformerFactory
from navarch.client.objects import Codec


class Factory:
    """Stands in for an `InformerFactory`."""

    def __init__(self) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def join(self) -> None:
        await self.failure


class Recording(Controller):
    name = "recording"
    workers = 2

    def __init__(self, context: ControllerContext, informer: Informer[ConfigMap]) -> None:
        super().__init__(context)
        self.reconciled: list[str] = []
        self.failures: list[Exception] = []
        self.watch(informer)
        self.watch(informer, lambda obj: [f"by-data/{value}" for value in obj.data.values()])

    async def reconcile(self, key: str) -> None:
        self.reconciled.append(key)
        if self.failures:
            raise self.failures.pop(0)


class Stage:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.factory = Factory()
        client = SimpleNamespace(clock=self.clock)
        resource = SimpleNamespace(client=client, path="configmaps", codec=Codec(ConfigMap))
        self.informer: Informer[ConfigMap] = Informer(cast("object", resource))  # type: ignore[arg-type]
        context = ControllerContext(
            cast("Client", client), cast("InformerFactory", self.factory), self.clock
        )
        self.controller = Recording(context, self.informer)
        self.task = asyncio.create_task(self.controller.run())

    def store(self, name: str, revision: int, value: str) -> None:
        meta = ObjectMeta(name=name, namespace="ns", uid=name, resourceVersion=str(revision))
        self.informer._apply(ConfigMap(metadata=meta, data={"v": value}))

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_work_begins_when_synced_and_a_change_wakes_old_and_new_keys() -> None:
    stage = Stage()
    stage.store("a", 1, "old")
    await stage.clock.advance(1)
    assert stage.controller.reconciled == []
    stage.informer._synced.set()
    await stage.clock.settle()
    assert sorted(stage.controller.reconciled) == ["by-data/old", "ns/a"]
    stage.controller.reconciled.clear()
    stage.store("a", 2, "new")
    await stage.clock.settle()
    assert sorted(stage.controller.reconciled) == ["by-data/new", "by-data/old", "ns/a"]
    await stage.stop()


@pytest.mark.parametrize(
    "failure",
    [
        conflict("configmaps", "", "a", "modified"),
        ApiError(500, "InternalError", "down"),
        ZeroDivisionError("a bug"),
    ],
)
async def test_a_failed_key_comes_back_with_growing_delays(failure: Exception) -> None:
    stage = Stage()
    stage.informer._synced.set()
    stage.controller.failures = [failure] * 3
    stage.controller.enqueue("k")
    await stage.clock.advance(0.004)
    assert stage.controller.reconciled == ["k"]
    await stage.clock.advance(0.002)
    assert stage.controller.reconciled == ["k"] * 2
    await stage.clock.advance(0.1)
    assert stage.controller.reconciled == ["k"] * 4
    assert stage.controller.queue.retries("k") == 0
    await stage.stop()


async def test_an_end_counts_though_a_request_fails_in_the_same_moment() -> None:
    class Stubborn(Recording):
        async def reconcile(self, key: str) -> None:
            self.reconciled.append(key)
            try:
                await asyncio.Event().wait()
            finally:
                raise ApiError(500, "InternalError", "down")

    stage = Stage()
    stage.controller.__class__ = Stubborn
    stage.informer._synced.set()
    stage.controller.enqueue("k")
    await stage.clock.settle()
    assert stage.controller.reconciled == ["k"]
    stage.task.cancel()
    done, _ = await asyncio.wait([stage.task], timeout=1)
    assert done and stage.task.cancelled()


async def test_a_failed_informer_ends_the_controller() -> None:
    stage = Stage()
    await stage.clock.settle()
    stage.factory.failure.set_exception(RuntimeError("an informer failed"))
    with pytest.raises(ExceptionGroup) as caught:
        await stage.task
    assert caught.group_contains(RuntimeError, match="an informer failed")


async def test_closing_waits_for_all_recorders_at_once_and_stops_the_informers() -> None:
    clock = FakeClock()
    closed: list[str] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        async def close(self) -> None:
            await clock.sleep(5.0)
            closed.append(self.name)
            if self.name == "broken":
                raise ZeroDivisionError

    class Informers:
        async def stop(self) -> None:
            closed.append("informers")

    context = ControllerContext(
        cast("Client", SimpleNamespace(clock=clock)),
        cast("InformerFactory", Informers()),
        clock,
        "",
        cast("dict[str, EventRecorder]", {name: Recorder(name) for name in ("a", "broken", "c")}),
    )
    task = asyncio.create_task(context.close())
    await clock.advance(5.0)
    assert closed == ["a", "broken", "c", "informers"]
    with pytest.raises(ZeroDivisionError):
        await task
