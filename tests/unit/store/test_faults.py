"""What the store makes of a log that fails: no disk needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from navarch.store import engine
from navarch.store.contract import KeyValue, StoreFailed, StoreFull
from navarch.store.engine import LogStore
from navarch.store.index import Index, is_tombstone
from navarch.store.memory import MemoryLog


class FaultyLog(MemoryLog):
    """Fails as it is told to."""

    has_room = True
    has_room_for_deletions = True
    fault: Exception | None = None
    appended = 0

    def __init__(self) -> None:
        super().__init__()
        self.got_room = asyncio.Event()

    async def append(self, records: Sequence[KeyValue]) -> None:
        await asyncio.sleep(0)
        self.appended += 1
        if self.fault is not None:
            raise self.fault
        if not self.has_room and not all(map(is_tombstone, records)):
            raise StoreFull("the disk is full")
        if not self.has_room_for_deletions:
            raise StoreFull("the disk is very full")
        await super().append(records)

    async def make_room(self) -> bool:
        if self.has_room:
            self.got_room.set()
        return self.has_room


@pytest.fixture
async def log() -> FaultyLog:
    return FaultyLog()


@pytest.fixture
async def store(
    log: FaultyLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[LogStore]:
    monkeypatch.setattr(engine, "FULL_RETRY_SECONDS", 0.001)
    caplog.set_level(logging.CRITICAL + 1)
    store = LogStore(log, Index())
    yield store
    await store.close()


async def test_on_a_full_disk_deletions_go_on(store: LogStore, log: FaultyLog) -> None:
    await store.put("/a", b"1")
    await store.put("/b", b"1")
    log.has_room = False
    outcome = await asyncio.gather(
        store.put("/c", b""), store.delete("/a"), store.put("/b", b""), return_exceptions=True
    )
    assert isinstance(outcome[0], StoreFull)
    assert outcome[1] == 4  # the refused put took no revision
    assert isinstance(outcome[2], StoreFull)
    assert [item.key for item in (await store.range("/")).items] == ["/b"]
    assert store.statistics().full
    appended = log.appended
    with pytest.raises(StoreFull):
        await store.put("/d", b"")
    assert log.appended == appended  # refused without trying the disk
    assert await store.delete("/b") == 5
    log.has_room = True
    async with asyncio.timeout(60):
        await log.got_room.wait()
    assert not store.statistics().full
    assert await store.put("/e", b"") == 6


async def test_a_disk_without_room_for_deletions_refuses_them_too(
    store: LogStore, log: FaultyLog
) -> None:
    await store.put("/a", b"1")
    log.has_room = log.has_room_for_deletions = False
    with pytest.raises(StoreFull):
        await store.delete("/a")
    log.has_room_for_deletions = True
    assert await store.delete("/a") == 3


@pytest.mark.parametrize("fault", [StoreFailed("sync failed"), ZeroDivisionError("a mistake")])
async def test_a_fault_ends_everything(store: LogStore, log: FaultyLog, fault: Exception) -> None:
    await store.put("/a", b"1")
    events = store.watch("/", after_revision=2)
    failed = asyncio.create_task(store.wait_failed())
    log.fault = fault
    first = asyncio.create_task(store.put("/b", b""))
    await asyncio.sleep(0)
    second = asyncio.create_task(store.put("/c", b""))
    for write in (first, second):
        with pytest.raises(StoreFailed):
            await write
    assert str(fault) in str(await failed)
    log.fault = None
    appended = log.appended
    for operation in (store.put("/d", b""), store.get("/a"), store.range("/"), anext(events)):
        with pytest.raises(StoreFailed):
            await operation
    assert log.appended == appended


async def test_a_refusal_due_to_a_write_that_fails_is_no_refusal(
    store: LogStore, log: FaultyLog
) -> None:
    """The second write lost only against the first, which never happened."""
    log.has_room = False
    outcome = await asyncio.gather(
        store.put("/a", b"1", expected=0),
        store.put("/a", b"2", expected=0),
        return_exceptions=True,
    )
    assert [type(error) for error in outcome] == [StoreFull, StoreFull]


async def test_a_compaction_that_finds_no_room_is_taken_up_again(
    store: LogStore, log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(10):
        await store.put("/a", b"%d" % i)

    async def no_room(_revisions: Sequence[int]) -> None:
        raise StoreFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(log, "forget", no_room)
        log.has_room = False
        await store.compact(11)
        await store.settle()
        assert store.statistics().full
        assert len(await log.read(range(2, 12))) == 10
    log.has_room = True
    async with asyncio.timeout(60):
        await log.got_room.wait()
    await store.settle()
    assert [record.mod_revision for record in await log.read(range(2, 12))] == [11]


async def test_compaction_may_use_the_reserve_of_a_full_disk(
    store: LogStore, log: FaultyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("/a", b"1")
    attempts: list[int] = []

    async def refuse_once(revision: int) -> None:
        attempts.append(revision)
        if len(attempts) == 1:
            raise StoreFull("the disk is full")

    monkeypatch.setattr(log, "mark_compacted", refuse_once)
    log.has_room = False
    await store.compact(2)
    assert attempts == [2, 2]
    assert store.statistics().compacted_revision == 2
    assert store.statistics().full
