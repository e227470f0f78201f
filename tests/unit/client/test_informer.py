"""Informers against a pretended server that pages, cuts, forgets history and makes objects anew.

The pretended resource keeps a history of revisions, so whatever the informer tells its handlers can
be compared with what really happened.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from navarch.api.errors import ApiError, gone
from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import ConfigMap
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import ApiConnectionError, Client
from navarch.client.clock import FakeClock
from navarch.client.informer import AT_ONCE, Informer, InformerFactory
from navarch.client.objects import ObjectList, WatchEvent
from navarch.client.resource import ResourceClient, ResourcePath


class PretendResource:
    """The part of `ResourceClient` that informers use, over a list of all changes so far."""

    path = ResourcePath("", "v1", "configmaps", True)
    codec = SimpleNamespace(item_type=ConfigMap)

    def __init__(self, clock: FakeClock) -> None:
        self.client = cast("Client", SimpleNamespace(clock=clock))
        self.revision = 10
        self.oldest = 10
        self.state: dict[str, ConfigMap] = {}
        self.history: list[tuple[int, str, ConfigMap]] = []
        self.snapshots: dict[int, dict[str, ConfigMap]] = {10: {}}
        self.lists = 0
        self.watches: list[str] = []
        self.refusals: list[ApiError] = []
        self._changed = asyncio.Event()
        self._cuts = 0
        self._uids = 0

    def set(self, name: str, value: str) -> None:
        old = self.state.get(name)
        if old is None:
            self._uids += 1
        uid = old.metadata.uid if old else f"uid-{self._uids}"
        meta = ObjectMeta(name=name, namespace="ns", uid=uid)
        self._record("MODIFIED" if old else "ADDED", ConfigMap(metadata=meta, data={"v": value}))

    def delete(self, name: str) -> None:
        if name in self.state:
            self._record("DELETED", copy_object(self.state[name]))

    def _record(self, kind: str, obj: ConfigMap) -> None:
        self.revision += 1
        obj.metadata.resourceVersion = str(self.revision)
        self.state = {**self.state, obj.metadata.name: obj}
        if kind == "DELETED":
            del self.state[obj.metadata.name]
        self.snapshots[self.revision] = self.state
        self.history.append((self.revision, kind, obj))
        self._wake()

    def cut(self) -> None:
        """Break every watch."""
        self._cuts += 1
        self._wake()

    def compact(self) -> None:
        """Forget all history up to now."""
        self.oldest = self.revision

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def list(
        self, namespace: str = "", *, limit: int = 0, continue_: str = "", **selectors: object
    ) -> ObjectList[ConfigMap]:
        await asyncio.sleep(0)
        if self.refusals:
            raise self.refusals.pop(0)
        if not continue_:
            self.lists += 1
        revision, _, start = (continue_ or f"{self.revision}/").partition("/")
        if int(revision) < self.oldest:
            raise gone("continue token expired")
        objects = self.snapshots[int(revision)]
        names = sorted(name for name in objects if name > start)
        page = names[: limit or None]
        token = f"{revision}/{page[-1]}" if len(page) < len(names) else ""
        return ObjectList([copy_object(objects[name]) for name in page], str(revision), token)

    async def watch(
        self, namespace: str = "", *, resource_version: str, **_: object
    ) -> AsyncGenerator[WatchEvent[ConfigMap], None]:
        self.watches.append(resource_version)
        await asyncio.sleep(0)
        if self.refusals:
            raise self.refusals.pop(0)
        cuts, after = self._cuts, int(resource_version)
        if after < self.oldest:
            raise gone("too old resource version")
        while True:
            for revision, kind, obj in self.history:
                if revision > after:
                    after = revision
                    yield WatchEvent(kind, copy_object(obj))
            if self._cuts != cuts:
                raise ApiConnectionError("cut")
            changed = self._changed
            if not self.history or self.history[-1][0] <= after:
                await changed.wait()


class Told:
    """Everything handlers were told, checked for consistency as it comes."""

    def __init__(self, informer: Informer[ConfigMap]) -> None:
        self.log: list[tuple[str, str, str]] = []
        self.known: dict[str, ConfigMap] = {}
        informer.add_handler(self.added, self.updated, self.deleted)

    def added(self, obj: ConfigMap) -> None:
        name = obj.metadata.name
        assert name not in self.known
        self.known[name] = obj
        self.log.append(("ADDED", name, obj.data["v"]))

    def updated(self, old: ConfigMap, new: ConfigMap) -> None:
        name = new.metadata.name
        assert self.known[name] is old
        assert old.metadata.uid == new.metadata.uid
        assert int(old.metadata.resourceVersion) < int(new.metadata.resourceVersion)
        self.known[name] = new
        self.log.append(("MODIFIED", name, new.data["v"]))

    def deleted(self, obj: ConfigMap) -> None:
        assert self.known.pop(obj.metadata.name).metadata.uid == obj.metadata.uid
        self.log.append(("DELETED", obj.metadata.name, obj.data["v"]))


def make_informer(resource: PretendResource, page_size: int = 2) -> Informer[ConfigMap]:
    real = cast("ResourceClient[ConfigMap]", resource)
    return Informer(real, page_size=page_size, rng=random.Random(1))


async def following(
    story: Callable[[PretendResource, Informer[ConfigMap], Told, FakeClock], Any],
    prepare: Callable[[PretendResource], None] = lambda resource: None,
) -> None:
    """Run a story while an informer follows."""
    clock = FakeClock()
    resource = PretendResource(clock)
    prepare(resource)
    informer = make_informer(resource)
    told = Told(informer)
    task = asyncio.create_task(informer.run())
    await clock.settle()
    try:
        await story(resource, informer, told, clock)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def five_objects(resource: PretendResource) -> None:
    for name in "abcde":
        resource.set(name, "1")


async def test_it_lists_in_pages_then_follows() -> None:
    async def story(
        resource: PretendResource, informer: Informer[ConfigMap], told: Told, clock: FakeClock
    ) -> None:
        assert informer.synced
        assert told.log == [("ADDED", name, "1") for name in "abcde"]
        resource.set("a", "2")
        resource.delete("b")
        await clock.settle()
        assert told.log[5:] == [("MODIFIED", "a", "2"), ("DELETED", "b", "1")]
        assert sorted(informer.cache.keys()) == ["ns/a", "ns/c", "ns/d", "ns/e"]
        assert resource.lists == 1

    await following(story, five_objects)


async def test_a_large_page_leaves_turns_to_others() -> None:
    resource = PretendResource(FakeClock())
    for number in range(5 * AT_ONCE):
        resource.set(str(number), "1")
    informer = make_informer(resource, page_size=0)
    reading = asyncio.create_task(informer.read())
    sizes = [0]
    while not reading.done():
        await asyncio.sleep(0)
        sizes.append(len(informer.cache))
    await reading
    assert sizes[-1] == 5 * AT_ONCE
    assert max(b - a for a, b in pairwise(sizes)) == AT_ONCE


async def test_a_cut_watch_is_resumed_without_a_list_and_without_loss() -> None:
    async def story(
        resource: PretendResource, informer: Informer[ConfigMap], told: Told, clock: FakeClock
    ) -> None:
        seen = len(told.log)
        resource.cut()
        resource.set("a", "2")
        resource.set("a", "3")
        resource.delete("a")
        await clock.advance(5.0)
        assert told.log[seen:] == [
            ("MODIFIED", "a", "2"),
            ("MODIFIED", "a", "3"),
            ("DELETED", "a", "3"),
        ]
        assert resource.lists == 1

    await following(story, five_objects)


async def test_after_410_it_lists_once_and_tells_the_difference() -> None:
    async def story(
        resource: PretendResource, informer: Informer[ConfigMap], told: Told, clock: FakeClock
    ) -> None:
        kept = informer.cache.get("ns/e")
        seen = len(told.log)
        resource.refusals.append(ApiConnectionError("down"))
        resource.cut()
        await clock.settle()
        resource.set("a", "2")
        resource.delete("b")
        resource.delete("c")
        resource.set("c", "anew")
        resource.set("f", "1")
        resource.compact()
        await clock.advance(10.0)
        assert told.log[seen:] == [
            ("MODIFIED", "a", "2"),
            ("DELETED", "c", "1"),
            ("ADDED", "c", "anew"),
            ("ADDED", "f", "1"),
            ("DELETED", "b", "1"),
        ]
        assert resource.lists == 2
        assert informer.cache.get("ns/e") is kept

    await following(story, five_objects)


async def test_a_snapshot_that_expires_between_pages_is_listed_in_one_piece() -> None:
    clock = FakeClock()
    resource = PretendResource(clock)
    five_objects(resource)
    informer = make_informer(resource)
    told = Told(informer)

    def lose_the_snapshot(obj: ConfigMap) -> None:
        if resource.lists == 1:
            resource.delete("a")
            resource.set("z", "1")
            resource.compact()

    informer.add_handler(on_add=lose_the_snapshot)
    task = asyncio.create_task(informer.run())
    await clock.settle()
    task.cancel()
    assert sorted(told.known) == ["b", "c", "d", "e", "z"]
    assert resource.lists == 2


@pytest.mark.parametrize(
    ("refusal", "lists"),
    [
        pytest.param(ApiConnectionError("refused"), 1, id="no answer"),
        pytest.param(ApiError(429, "TooManyRequests", "busy"), 1, id="busy"),
        pytest.param(ApiError(403, "Forbidden", "no"), 2, id="refused"),
        pytest.param(ApiError(504, "Timeout", "too large resource version"), 2, id="a lost future"),
    ],
)
async def test_a_refused_watch_is_tried_again(refusal: ApiError, lists: int) -> None:
    async def story(
        resource: PretendResource, informer: Informer[ConfigMap], told: Told, clock: FakeClock
    ) -> None:
        resource.refusals.append(refusal)
        resource.cut()
        resource.set("a", "2")
        resource.cut()
        await clock.advance(10.0)
        resource.set("a", "3")
        await clock.advance(1.0)
        assert told.known["a"].data == {"v": "3"}
        assert resource.lists == lists

    await following(story, five_objects)


async def test_attempts_become_rarer_while_the_server_is_away() -> None:
    async def story(
        resource: PretendResource, informer: Informer[ConfigMap], told: Told, clock: FakeClock
    ) -> None:
        resource.refusals.extend(ApiConnectionError("down") for _ in range(1000))
        resource.cut()
        await clock.advance(600.0)
        tried = 1000 - len(resource.refusals)
        assert 150 <= tried <= 400
        resource.refusals.clear()
        resource.set("a", "2")
        await clock.advance(60.0)
        assert told.known["a"].data == {"v": "2"}

    await following(story, five_objects)


async def test_a_late_handler_is_told_what_is_there_and_a_failing_one_harms_nobody() -> None:
    async def story(
        resource: PretendResource, informer: Informer[ConfigMap], told: Told, clock: FakeClock
    ) -> None:
        late: list[str] = []

        def failing(obj: ConfigMap) -> None:
            late.append(obj.metadata.name)
            raise KeyError("bug")

        informer.add_handler(on_add=failing)
        assert sorted(late) == [*"abcde"]
        resource.set("f", "1")
        resource.set("g", "1")
        await clock.settle()
        assert late[5:] == ["f", "g"]
        assert {"f", "g"} < told.known.keys()

    await following(story, five_objects)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.sampled_from("abcd")),
            st.tuples(st.just("delete"), st.sampled_from("abcd")),
            st.tuples(st.sampled_from(["cut", "compact", "advance", "settle"]), st.just("")),
        ),
        max_size=40,
    )
)
@settings(max_examples=80, deadline=None)
def test_no_event_is_lost_or_repeated(steps: list[tuple[str, str]]) -> None:
    """Whatever changes and breaks: in the end handlers know exactly what the server has, every step
    they were told is one from a state they knew, and without a compaction they were told each
    change exactly once, in order."""

    async def story(
        resource: PretendResource, informer: Informer[ConfigMap], told: Told, clock: FakeClock
    ) -> None:
        for number, (step, name) in enumerate(steps):
            if step == "set":
                resource.set(name, str(number))
            elif step == "delete":
                resource.delete(name)
            elif step == "advance":
                await clock.advance(3.0)
            elif step == "settle":
                await clock.settle()
            else:
                getattr(resource, step)()
        await clock.advance(200.0)
        assert {name: obj.data for name, obj in told.known.items()} == {
            name: obj.data for name, obj in resource.state.items()
        }
        assert {f"ns/{name}" for name in resource.state} == informer.cache.keys()
        if all(step != "compact" for step, _ in steps):
            happened = [
                (kind, obj.metadata.name, obj.data["v"]) for _, kind, obj in resource.history
            ]
            assert told.log == happened
            assert resource.lists == 1

    asyncio.run(following(story))


class PretendClient:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.pretended = PretendResource(clock)

    def resource(self, kind: type[Any]) -> PretendResource:
        return self.pretended

    def dynamic(self, *path: object) -> PretendResource:
        return self.pretended


async def test_a_factory_shares_starts_and_stops() -> None:
    client = PretendClient(FakeClock())
    five_objects(client.pretended)
    async with InformerFactory(cast("Client", client)) as factory:
        informer = factory.informer(ConfigMap)
        assert factory.informer(ConfigMap) is informer
        assert factory.informer(ConfigMap, "ns") is not informer
        await factory.start()
        await factory.wait_synced()
        assert len(informer.cache) == 5
        later = factory.informer(ConfigMap, label_selector="a=b")
        await factory.start()
        await factory.wait_synced()
        assert later.synced
        await factory.stop_informer(later)
        assert factory.informer(ConfigMap, label_selector="a=b") is not later
    await asyncio.wait_for(factory.join(), 60)


async def test_a_failed_informer_is_seen_by_whoever_depends_on_it() -> None:
    client = PretendClient(FakeClock())
    client.pretended.refusals.append(cast("ApiError", ZeroDivisionError("a bug")))
    async with InformerFactory(cast("Client", client)) as factory:
        factory.informer(ConfigMap)
        await factory.start()
        with pytest.raises(RuntimeError, match="an informer failed"):
            await asyncio.wait_for(factory.wait_synced(), 60)
        with pytest.raises(RuntimeError, match="an informer failed"):
            await factory.join()
