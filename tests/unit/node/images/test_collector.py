"""Which images go when room is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from tests.unit.node.builders import make_pod, record
from tests.unit.node.fake_runtime import FakeRuntime
from tests.unit.node.images.test_puller import Told

from navarch.client.clock import FakeClock
from navarch.node.cri import runtime_pb2 as pb
from navarch.node.cri.values import CONTAINER_NAME, POD_UID, ImageRecord, PodState
from navarch.node.images.collector import (
    CollectionFailed,
    CollectionPolicy,
    Disk,
    ImageCollector,
    format_size,
    used_images,
    wanted_bytes,
)
from navarch.node.images.records import PullRecords, used

MIB = 1 << 20


@pytest.mark.parametrize(
    ("used_percent", "wanted"),
    [(84, 0), (85, 5), (90, 10), (100, 20), (100 + 7, 20)],
)
def test_how_much_must_go(used_percent: int, wanted: int) -> None:
    disk = Disk(capacity=1000, available=max(0, 1000 - 10 * used_percent))
    assert wanted_bytes(disk, CollectionPolicy()) == wanted * 10


def counted(reason: str) -> float:
    """How many images went for a reason."""
    name = "kubelet_image_garbage_collected_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


@dataclass
class Node:
    collector: ImageCollector
    runtime: FakeRuntime
    records: PullRecords
    told: Told
    clock: FakeClock
    disk: Disk

    async def pull(self, *names: str, size: int = MIB, **fields: Any) -> None:
        for name in names:
            self.runtime.image_table[f"sha256:{name}"] = ImageRecord(
                f"sha256:{name}", (f"r.example/{name}:1",), size=size, **fields
            )
            await self.records.pulled(f"r.example/{name}:1", f"sha256:{name}", used(None, ""),
                                      self.clock.now())  # fmt: skip

    async def run(self, name: str) -> str:
        meta = pb.PodSandboxMetadata(name="p", namespace="default", uid=f"u-{name}")
        sandbox = pb.PodSandboxConfig(metadata=meta)
        sandbox_id = await self.runtime.run_sandbox(sandbox, "")
        config = pb.ContainerConfig(
            image=pb.ImageSpec(image=f"sha256:{name}"),
            labels={CONTAINER_NAME: "main", POD_UID: f"u-{name}"},
        )
        return await self.runtime.create_container(sandbox_id, config, sandbox)

    @property
    def left(self) -> list[str]:
        return sorted(each.removeprefix("sha256:") for each in self.runtime.image_table)


@asynccontextmanager
async def node(directory: Path, **policy: Any) -> AsyncIterator[Node]:
    clock, told, runtime = FakeClock(), Told(), FakeRuntime()
    records = PullRecords(directory)
    await records.load([])
    collector = ImageCollector(runtime, runtime, records, told, clock, CollectionPolicy(**policy))
    here = Node(collector, runtime, records, told, clock, Disk(100 * MIB, 50 * MIB))

    async def disk() -> Disk:
        return here.disk

    collector._disk = disk  # type: ignore[method-assign]
    yield here


async def test_room_is_made_by_those_unused_for_longest(tmp_path: Path) -> None:
    before = counted("space")
    async with node(tmp_path) as here:
        began = here.clock.now()
        await here.pull("old", "once", "used")
        container = await here.run("once")
        await here.run("used")
        await here.collector.collect(began)
        await here.clock.advance(130)
        await here.pull("young")
        await here.collector.collect(began)
        await here.runtime.remove_container(container)
        await here.clock.advance(1)
        assert here.left == ["old", "once", "used", "young"]
        assert await here.collector.free(1) == MIB
        assert here.left == ["once", "used", "young"]
        # One that has just come is about to be used.
        assert await here.collector.free() == MIB
        assert here.left == ["used", "young"]
        assert counted("space") == before + 2
        assert here.records.find("sha256:old") is None


async def test_what_never_goes(tmp_path: Path) -> None:
    async with node(tmp_path, minimum_age=0) as here:
        await here.pull("pinned", pinned=True)
        await here.pull("ended", "volume")
        here.runtime.finish(await here.run("ended"))
        here.collector.in_volumes = lambda: {"sha256:volume"}
        here.runtime.image_table["sha256:loaded"] = ImageRecord(
            "sha256:loaded", ("loaded:1",), size=MIB
        )
        assert await here.collector.free() == 0
        await here.clock.advance(1)
        assert await here.collector.free() == 0
        assert here.left == ["ended", "loaded", "pinned", "volume"]


async def test_what_was_loaded_goes_when_its_name_is_anothers(tmp_path: Path) -> None:
    async with node(tmp_path, minimum_age=0) as here:
        here.runtime.image_table["sha256:old"] = ImageRecord("sha256:old", size=MIB)
        here.runtime.image_table["sha256:new"] = ImageRecord("sha256:new", ("web:1",), size=MIB)
        await here.clock.advance(1)
        assert await here.collector.free() == MIB
        assert here.left == ["new"]


async def test_a_full_disk(tmp_path: Path) -> None:
    async with node(tmp_path, minimum_age=0) as here:
        began = here.clock.now()
        await here.pull("a", "b", "c", size=4 * MIB)
        await here.clock.advance(1)
        here.disk = Disk(100 * MIB, 13 * MIB)
        await here.collector.collect(began)  # down to 80 %: 7 MiB
        assert here.left == ["c"]
        with pytest.raises(CollectionFailed):
            here.disk = Disk(100 * MIB, 0)
            await here.clock.advance(1)
            await here.collector.collect(began)
        assert here.left == []
        assert here.told.events == [
            "node Warning FreeDiskSpaceFailed: Insufficient free disk space on the node's image "
            "filesystem (100% of 100.0 MiB used). Failed to free sufficient space by deleting "
            "unused images (freed 4194304 bytes). Investigate disk usage, as it could be used by "
            "active images, logs, volumes, or other data."
        ]


async def test_old_images_go_whatever_the_disk(tmp_path: Path) -> None:
    before = counted("age")
    async with node(tmp_path, maximum_age=1000) as here:
        began = here.clock.now()
        await here.pull("old", "used")
        container = await here.run("used")
        await here.collector.collect(began)
        await here.clock.advance(900)
        await here.collector.collect(began)
        await here.runtime.remove_container(container)
        await here.clock.advance(101)
        await here.collector.collect(began)
        assert here.left == ["used"]
        # The age counts from the last use, and an agent that has just begun has seen no use yet.
        await here.clock.advance(1000)
        await here.collector.collect(here.clock.now())
        assert here.left == ["used"]
        await here.collector.collect(began)
        assert here.left == []
        assert counted("age") == before + 2


async def test_an_image_that_cannot_be_removed_keeps_none_of_the_others(tmp_path: Path) -> None:
    async with node(tmp_path, minimum_age=0) as here:
        await here.pull("a", "b")
        await here.clock.advance(1)
        here.runtime.fail_next("remove_image", "read-only file system")
        with pytest.raises(CollectionFailed, match="read-only file system"):
            await here.collector.free()
        assert len(here.left) == 1


async def test_failures_in_a_row_are_told(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        task = asyncio.create_task(here.collector.run())
        for _ in range(3):
            here.runtime.fail_next("images", "the runtime is away")
        for _ in range(3):
            await here.clock.advance(300)
        assert here.told.events == ["node Warning ImageGCFailed: the runtime is away"] * 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_no_collection_where_it_is_turned_off(tmp_path: Path) -> None:
    async with node(tmp_path, high_percent=100) as here:
        await asyncio.wait_for(here.collector.run(), 60)
        assert here.runtime.calls == []


def test_use_is_seen_by_id_digest_and_name() -> None:
    images = [
        ImageRecord("sha256:1", ("a:1",), ("a@sha256:d1",)),
        ImageRecord("sha256:2", (), ("b@sha256:d2",)),
        ImageRecord("sha256:3"),
    ]
    pod = make_pod({"name": "a"}, {"name": "b"}, {"name": "c"})
    seen = ("sha256:1", "b@sha256:d2", "elsewhere@sha256:d3")
    containers = tuple(
        record(pod, each.name, image_ref=ref)
        for each, ref in zip(pod.spec.containers, seen, strict=True)
    )
    state = PodState("u-1", "web", "default", (), containers)
    assert used_images(images, [state]) == {"sha256:1", "sha256:2"}


def test_sizes_in_words() -> None:
    assert [format_size(each) for each in (0, 1023, 1536, 5 * MIB << 20)] == [
        "0 B", "1023 B", "1.5 KiB", "5.0 TiB",
    ]  # fmt: skip
