"""The client machinery against the real API server, some of it through connections that break."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from navarch.api.errors import ApiError
from navarch.api.selectors import label_selector_from_object
from navarch.api.types.apps_v1 import ReplicaSet, ReplicaSetSpec
from navarch.api.types.core_v1 import (
    ConfigMap,
    Container,
    Event,
    Pod,
    PodSpec,
    PodTemplateSpec,
)
from navarch.api.types.meta_v1 import LabelSelector, ObjectMeta
from navarch.apiserver.server import Server
from navarch.client import (
    ApiConnectionError,
    Claimant,
    Client,
    ClientConfig,
    EventRecorder,
    Informer,
    InformerFactory,
    LeaderElector,
    LeadershipLost,
    LeaseTiming,
    PatchType,
    claim,
    controller_of,
    copy_object,
)


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with Client(ClientConfig(api_server.url)) as client:
        yield client


def config_map(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data=data)


class BreakingProxy:
    """Passes bytes to the server and aborts each connection after a random number of them."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self.port = port
        self.rng = rng
        self.cuts = 0
        self.is_breaking = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port)
            writers.append(up_writer)
            async with asyncio.TaskGroup() as group:
                forth = group.create_task(self._forth(reader, up_writer))
                await self._back(up_reader, writer)
                forth.cancel()
        except* OSError:
            pass  # either side is gone; so is this connection
        finally:
            for each in writers:
                each.transport.abort()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.rng.randint(300, 6000)
        while data := await reader.read(4096):
            if self.is_breaking and len(data) > left:
                writer.write(data[:left])
                await writer.drain()
                self.cuts += 1
                return
            left -= len(data)
            writer.write(data)
            await writer.drain()

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def breaking_proxy(server: Server, seed: int) -> AsyncIterator[tuple[str, BreakingProxy]]:
    proxy = BreakingProxy(server.port, random.Random(seed))
    handlers: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        handlers.add(task)
        task.add_done_callback(handlers.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", proxy
    finally:
        listener.close()
        for task in [*handlers]:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


class Log:
    """What an informer tells, per object, as (kind of event, resourceVersion)."""

    def __init__(self, informer: Informer[ConfigMap]) -> None:
        self.events: dict[str, list[tuple[str, str]]] = {}
        self.changed = asyncio.Event()
        informer.add_handler(
            lambda obj: self._note("+", obj),
            lambda old, new: self._note("~", new),
            lambda obj: self._note("-", obj),
        )

    def _note(self, kind: str, obj: ConfigMap) -> None:
        events = self.events.setdefault(obj.metadata.name, [])
        events.append((kind, obj.metadata.resourceVersion))
        self.changed.set()

    async def until_last_is(self, name: str, kind: str) -> None:
        async with asyncio.timeout(60):
            while self.events.get(name, [("", "")])[-1][0] != kind:
                self.changed.clear()
                await self.changed.wait()


async def random_writes(client: Client, seed: int, count: int) -> None:
    rng = random.Random(seed)
    maps = client.resource(ConfigMap)
    for number in range(count):
        name = f"m{rng.randrange(12)}"
        try:
            match rng.randrange(3):
                case 0:
                    await maps.create(config_map(name, n=str(number), pad="x" * rng.randrange(400)))
                case 1:
                    await maps.patch(name, "default", {"data": {"n": f"{seed}-{number}"}})
                case _:
                    await maps.delete(name, "default")
        except ApiError as error:
            assert error.status in (404, 409), error


async def test_a_broken_and_a_healthy_informer_are_told_exactly_the_same(
    api_server: Server, client: Client
) -> None:
    async with (
        breaking_proxy(api_server, seed=3) as (url, proxy),
        Client(ClientConfig(url)) as broken_client,
        InformerFactory(client) as healthy_factory,
        InformerFactory(broken_client) as broken_factory,
    ):
        healthy = healthy_factory.informer(ConfigMap)
        broken = broken_factory.informer(ConfigMap)
        expected, found = Log(healthy), Log(broken)
        for factory in (healthy_factory, broken_factory):
            await factory.start()
            await factory.wait_synced()
        seeds = itertools.count()
        while proxy.cuts < 12:
            await asyncio.gather(*(random_writes(client, next(seeds), 20) for _ in range(4)))
        proxy.is_breaking = False
        last = await client.resource(ConfigMap).create(config_map("last"))
        await client.resource(ConfigMap).delete("last", "default", uid=last.metadata.uid)
        await expected.until_last_is("last", "-")
        await found.until_last_is("last", "-")
        assert found.events == expected.events
        assert broken.cache.keys() == healthy.cache.keys()
        versions = [int(rv) for events in found.events.values() for _, rv in events]
        assert len(versions) == len(set(versions)) > 100


async def test_after_history_is_gone_the_difference_is_told_once(
    api_server: Server, client: Client
) -> None:
    maps = client.resource(ConfigMap)
    for name in ("kept", "changed", "deleted", "anew"):
        await maps.create(config_map(name))
    async with (
        breaking_proxy(api_server, seed=1) as (url, proxy),
        Client(ClientConfig(url)) as far_client,
        InformerFactory(far_client) as factory,
    ):
        proxy.is_breaking = False
        informer = factory.informer(ConfigMap, "default")
        log = Log(informer)
        await factory.start()
        await factory.wait_synced()
        proxy.port, real_port = 9, proxy.port  # nobody listens there: the network is cut
        await far_client.close()
        await far_client.start()
        await maps.patch("changed", "default", {"data": {"v": "2"}})
        await maps.delete("deleted", "default")
        await maps.delete("anew", "default")
        await maps.create(config_map("anew"))
        for cache in api_server.core.hub.caches():
            cache.trim(float("inf"))
        proxy.port = real_port
        await log.until_last_is("deleted", "-")
        kinds = {name: "".join(kind for kind, _ in told) for name, told in log.events.items()}
    assert kinds == {"kept": "+", "changed": "+~", "deleted": "+-", "anew": "+-+"}


async def test_lists_come_in_pages_of_one_snapshot(api_server: Server, client: Client) -> None:
    maps = client.resource(ConfigMap)
    await asyncio.gather(*(maps.create(config_map(f"m{number:02}")) for number in range(25)))
    first = await maps.list("default", limit=10)
    await maps.delete("m24", "default")
    second = await maps.list("default", limit=10, continue_=first.continue_)
    third = await maps.list("default", limit=10, continue_=second.continue_)
    names = [obj.metadata.name for page in (first, second, third) for obj in page.items]
    assert names == [f"m{number:02}" for number in range(25)]
    assert (first.remaining, second.remaining, third.continue_) == (15, 5, "")
    assert first.resource_version == third.resource_version
    informer = Informer(maps, page_size=10)
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(informer.wait_synced(), 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(informer.cache.list("default")) == 24


async def test_no_increment_is_lost(client: Client) -> None:
    maps = client.resource(ConfigMap)
    await maps.create(config_map("counter", value="0"))
    conflicts = 0

    async def increment(times: int) -> None:
        nonlocal conflicts
        while times:
            current = await maps.get("counter", "default")
            current.data["value"] = str(int(current.data["value"]) + 1)
            try:
                await maps.update(current)
                times -= 1
            except ApiError as error:
                assert error.is_conflict
                conflicts += 1

    await asyncio.gather(*(increment(4) for _ in range(25)))
    assert (await maps.get("counter", "default")).data["value"] == "100"
    assert conflicts > 0


async def test_errors_patches_and_preconditions(client: Client) -> None:
    maps = client.resource(ConfigMap)
    with pytest.raises(ApiError) as caught:
        await maps.get("none", "default")
    assert caught.value.is_not_found
    created = await maps.create(config_map("m", a="1"), field_manager="creator")
    with pytest.raises(ApiError) as caught:
        await maps.create(config_map("m"))
    assert caught.value.is_already_exists
    assert (await maps.create(config_map("dry"), dry_run=True)).metadata.uid
    operation = {"op": "replace", "path": "/data/a", "value": "2"}
    await maps.patch("m", "default", [operation], patch_type=PatchType.JSON)
    await maps.patch("m", "default", {"data": {"b": "3"}}, patch_type=PatchType.STRATEGIC)
    merged = await maps.patch("m", "default", {"data": {"c": "4"}})
    assert merged.data == {"a": "2", "b": "3", "c": "4"}
    stale = created.metadata.resourceVersion
    for uid, version in (("other", ""), ("", stale)):
        with pytest.raises(ApiError) as caught:
            await maps.delete("m", "default", uid=uid, resource_version=version)
        assert caught.value.is_conflict
    await maps.delete("m", "default", uid=created.metadata.uid)
    assert [obj.metadata.name for obj in (await maps.list("default")).items] == []


async def test_server_side_apply(client: Client) -> None:
    maps = client.resource(ConfigMap)
    await maps.create(config_map("m", a="1"), field_manager="creator")
    mine = config_map("m", a="5")
    with pytest.raises(ApiError) as caught:
        await maps.patch("m", "default", mine, patch_type=PatchType.APPLY, field_manager="me")
    assert caught.value.is_conflict
    applied = await maps.patch(
        "m", "default", mine, patch_type=PatchType.APPLY, field_manager="me", force=True
    )
    assert applied.data["a"] == "5"
    assert applied.metadata.managedFields


def replica_set(app: str) -> ReplicaSet:
    template = PodTemplateSpec(metadata=ObjectMeta(labels={"app": app}), spec=pod_spec())
    return ReplicaSet(
        metadata=ObjectMeta(name=app, namespace="default"),
        spec=ReplicaSetSpec(selector=LabelSelector(matchLabels={"app": app}), template=template),
    )


def pod_spec() -> PodSpec:
    return PodSpec(containers=[Container(name="c", image="i")])


async def test_pods_are_adopted_and_released(client: Client) -> None:
    pods, sets = client.resource(Pod), client.resource(ReplicaSet)
    web = await sets.create(replica_set("web"))
    meta = ObjectMeta(name="p", namespace="default", labels={"app": "web"})
    pod = await pods.create(Pod(metadata=meta, spec=pod_spec()))

    async def confirm() -> ReplicaSet:
        return await sets.get("web", "default")

    selector = label_selector_from_object(web.spec.selector)
    claimant: Claimant[Pod] = Claimant(
        web, lambda obj: selector.matches(obj.metadata.labels), confirm, finalizers=("a.io/track",)
    )
    (adopted,) = await claim(pods, claimant, [pod])
    reference = controller_of(adopted)
    assert reference is not None
    assert (reference.kind, reference.uid) == ("ReplicaSet", web.metadata.uid)
    assert adopted.metadata.finalizers == ["a.io/track"]
    moved = await pods.patch("p", "default", {"metadata": {"labels": {"app": "other"}}})
    assert await claim(pods, claimant, [moved]) == []
    released = await pods.get("p", "default")
    assert controller_of(released) is None
    assert released.metadata.finalizers == []


async def test_events_are_stored_and_counted(client: Client) -> None:
    target = await client.resource(ConfigMap).create(config_map("m"))
    recorder = EventRecorder(client, "tester", "here")
    recorder.event(target, "Warning", "Odd", "it is odd")
    await recorder.flush()
    recorder.event(target, "Warning", "Odd", "it is odd")
    recorder.event(target, "Normal", "Fine", "it is fine")
    await recorder.close()
    stored = {event.reason: event for event in (await client.resource(Event).list("default")).items}
    assert {reason: event.count for reason, event in stored.items()} == {"Odd": 2, "Fine": 1}
    assert stored["Odd"].involvedObject.uid == target.metadata.uid
    assert stored["Odd"].source.host == "here"


async def test_a_lease_has_one_holder_and_refuses_the_stale_one(client: Client) -> None:
    timing = LeaseTiming(duration=0.9, renew=0.6, retry=0.1)
    first, second = (
        LeaderElector(client, "l", name, namespace="default", timing=timing) for name in "ab"
    )
    leads: asyncio.Queue[str] = asyncio.Queue()

    async def work(name: str) -> None:
        await leads.put(name)
        await asyncio.Event().wait()

    one = asyncio.create_task(first.run(lambda: work("a")))
    assert await asyncio.wait_for(leads.get(), 60) == "a"
    stale = copy_object(first._seen) if first._seen else None
    assert stale is not None
    two = asyncio.create_task(second.run(lambda: work("b")))
    # The leader freezes: it does not renew, and does not know.
    first._held_until = float("inf")
    first._try_to_lead = lambda: asyncio.sleep(60, True)  # type: ignore[method-assign]
    assert await asyncio.wait_for(leads.get(), 60) == "b"
    with pytest.raises(ApiError) as caught:
        await first._leases.update(stale)
    assert caught.value.is_conflict
    for task in (one, two):
        task.cancel()
    results = await asyncio.gather(one, two, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError | LeadershipLost) for each in results)


async def test_a_watch_ends_with_its_time_and_sees_what_came_before(client: Client) -> None:
    maps = client.resource(ConfigMap)
    listed = await maps.list("default")
    await maps.create(config_map("seen", v="1"))
    await maps.create(config_map("unseen"))
    await maps.delete("seen", "default")
    selector = "metadata.name=seen"
    version = listed.resource_version
    seen = [
        (event.type, event.object.metadata.name)
        async for event in maps.watch(
            "default", resource_version=version, field_selector=selector, timeout_seconds=1
        )
    ]
    assert seen == [("ADDED", "seen"), ("DELETED", "seen")]
    initial = []
    async for event in maps.watch("default", send_initial_events=True):
        initial.append((event.type, event.object.metadata.name))
        if event.type == "BOOKMARK":
            assert event.object.metadata.annotations == {"k8s.io/initial-events-end": "true"}
            break
    assert initial == [("ADDED", "unseen"), ("BOOKMARK", "")]


async def test_a_stopped_server_is_a_connection_error(
    api_server: Server, client: Client, tmp_path: Path
) -> None:
    await api_server.stop()
    with pytest.raises(ApiConnectionError):
        await client.resource(ConfigMap).get("m", "default")
