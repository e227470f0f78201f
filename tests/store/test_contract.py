"""The contract of the store, the same for every engine."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from navarch.store import open_store, watch
from navarch.store.contract import (
    CasFailed,
    Compacted,
    Event,
    FutureRevision,
    KeyValue,
    StoreClosed,
    WatchTooSlow,
)
from navarch.store.engine import LogStore

AtOnce = Callable[[Any], Any]


async def take(events: Any, count: int) -> list[Event]:
    """The next events of a watch: exactly so many."""
    taken: list[Event] = []
    async with asyncio.timeout(60):
        while len(taken) < count:
            taken += await anext(events)
    assert len(taken) == count
    return taken


def seen(events: list[Event]) -> list[tuple[int, str, bytes | None, bytes | None]]:
    return [
        (
            event.revision,
            event.key,
            event.current.value if event.current else None,
            event.previous.value if event.previous else None,
        )
        for event in events
    ]


async def story(store: LogStore) -> None:
    """/a/1 put at 2, changed at 4, deleted at 6, put again at 7; /a/2 put at 3; /b/1 put at 5."""
    await store.put("/a/1", b"one")
    await store.put("/a/2", b"two")
    await store.put("/a/1", b"ONE")
    await store.put("/b/1", b"other")
    await store.delete("/a/1")
    await store.put("/a/1", b"again")


STORY = [
    (2, "/a/1", b"one", None),
    (3, "/a/2", b"two", None),
    (4, "/a/1", b"ONE", b"one"),
    (5, "/b/1", b"other", None),
    (6, "/a/1", None, b"ONE"),
    (7, "/a/1", b"again", None),
]


# Writing and reading


async def test_every_write_takes_the_next_revision(store: LogStore) -> None:
    assert await store.revision() == 1
    assert await store.put("/a", b"1") == 2
    assert await store.put("/a", b"2") == 3
    assert await store.get("/a") == KeyValue("/a", b"2", 2, 3)
    assert await store.delete("/a") == 4
    assert await store.get("/a") is None
    assert await store.put("/a", b"3") == 5
    assert await store.get("/a") == KeyValue("/a", b"3", 5, 5)
    assert await store.revision() == 5


@pytest.mark.parametrize(
    ("present", "operation", "expected", "succeeds"),
    [
        pytest.param(False, "put", None, True, id="put anything on nothing"),
        pytest.param(True, "put", None, True, id="put anything on something"),
        pytest.param(False, "put", 0, True, id="create"),
        pytest.param(True, "put", 0, False, id="create what exists"),
        pytest.param(True, "put", 2, True, id="update"),
        pytest.param(True, "put", 1, False, id="update what has changed"),
        pytest.param(False, "put", 2, False, id="update what is gone"),
        pytest.param(True, "delete", None, True, id="delete"),
        pytest.param(True, "delete", 2, True, id="delete as seen"),
        pytest.param(True, "delete", 1, False, id="delete what has changed"),
        pytest.param(True, "delete", 0, False, id="delete if absent, present"),
        pytest.param(False, "delete", None, False, id="delete nothing"),
        pytest.param(False, "delete", 0, False, id="delete nothing if absent"),
        pytest.param(False, "delete", 2, False, id="delete what is gone"),
    ],
)
async def test_compare_and_swap(
    store: LogStore, present: bool, operation: str, expected: int | None, succeeds: bool
) -> None:
    if present:
        await store.put("/key", b"old")
    before = await store.get("/key")
    revision = await store.revision()
    write = (
        store.put("/key", b"new", expected=expected)
        if operation == "put"
        else store.delete("/key", expected=expected)
    )
    if succeeds:
        assert await write == revision + 1
        after = await store.get("/key")
        assert after is None if operation == "delete" else after and after.value == b"new"
    else:
        with pytest.raises(CasFailed) as failure:
            await write
        assert failure.value.current == before
        assert await store.get("/key") == before
        assert await store.revision() == revision


async def test_writers_of_one_commit_see_each_other(store: LogStore) -> None:
    outcome = await asyncio.gather(
        store.put("/a", b"first", expected=0),
        store.put("/a", b"second", expected=0),
        store.put("/a", b"third", expected=2),
        store.delete("/a", expected=3),
        store.delete("/a"),
        store.put("/a", b"last", expected=0),
        return_exceptions=True,
    )
    assert [o if isinstance(o, int) else type(o) for o in outcome] == [
        2,
        CasFailed,
        3,
        4,
        CasFailed,
        5,
    ]
    assert outcome[1].current == KeyValue("/a", b"first", 2, 2)  # type: ignore[union-attr]
    assert outcome[4].current is None  # type: ignore[union-attr]
    assert await store.get("/a") == KeyValue("/a", b"last", 5, 5)


async def test_no_update_is_lost(store: LogStore) -> None:
    await store.put("/counter", b"0")
    conflicts = 0

    async def increment(times: int) -> None:
        nonlocal conflicts
        done = 0
        while done < times:
            now = await store.get("/counter")
            assert now is not None
            try:
                await store.put("/counter", b"%d" % (int(now.value) + 1), expected=now.mod_revision)
                done += 1
            except CasFailed:
                conflicts += 1

    await asyncio.gather(*(increment(4) for _ in range(50)))
    final = await store.get("/counter")
    assert final is not None and final.value == b"200"
    assert conflicts > 0
    assert await store.revision() == 202


async def test_concurrent_writers_share_commits_and_leave_no_gap(store: LogStore) -> None:
    revisions = await asyncio.gather(*(store.put(f"/{i:04}", b"x") for i in range(3000)))
    assert revisions == list(range(2, 3002))
    statistics = store.statistics()
    assert statistics.writes == 3000
    assert statistics.commits < 10
    assert statistics.pending_writes == 0
    assert statistics.keys == 3000


async def test_a_bad_argument_hurts_only_its_caller(store: LogStore) -> None:
    outcome = await asyncio.gather(
        store.put("/good", b"1"),
        store.put("/text", "text"),  # type: ignore[arg-type]
        store.put("/surrogate\ud800", b"1"),
        store.put("", b"1"),
        store.put("/also good", b""),
        store.put("/schlüssel/€/\0/😀", bytes(range(256))),
        return_exceptions=True,
    )
    assert [o if isinstance(o, int) else type(o) for o in outcome] == [
        2, TypeError, UnicodeEncodeError, ValueError, 3, 4,
    ]  # fmt: skip
    assert (await store.range("")).items == [
        KeyValue("/also good", b"", 3, 3),
        KeyValue("/good", b"1", 2, 2),
        KeyValue("/schlüssel/€/\0/😀", bytes(range(256)), 4, 4),
    ]


async def test_a_writer_that_goes_away_holds_up_nobody(store: LogStore) -> None:
    gone = asyncio.create_task(store.put("/gone", b"1"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await store.put("/here", b"1") == await store.revision()
    with pytest.raises(asyncio.CancelledError):
        await gone


# Ranges


@pytest.mark.parametrize(
    ("prefix", "start", "limit", "keys", "remaining"),
    [
        pytest.param("", "", 0, ["/a", "/a/1", "/a/2", "/a/3", "/aa", "/b"], 0, id="all"),
        pytest.param("/a/", "", 0, ["/a/1", "/a/2", "/a/3"], 0, id="prefix"),
        pytest.param("/a", "", 0, ["/a", "/a/1", "/a/2", "/a/3", "/aa"], 0, id="a key is a prefix"),
        pytest.param("/a/", "", 2, ["/a/1", "/a/2"], 1, id="limit"),
        pytest.param("/a/", "", 3, ["/a/1", "/a/2", "/a/3"], 0, id="limit as many as there are"),
        pytest.param("/a/", "/a/2", 0, ["/a/2", "/a/3"], 0, id="start at a key"),
        pytest.param("/a/", "/a/1\0", 1, ["/a/2"], 1, id="start after a key"),
        pytest.param("/a/", "/", 1, ["/a/1"], 2, id="start before the prefix"),
        pytest.param("/a/", "/b", 0, [], 0, id="start after the prefix"),
        pytest.param("/c", "", 5, [], 0, id="nothing"),
        pytest.param("/a/1", "", 0, ["/a/1"], 0, id="one"),
    ],
)
@pytest.mark.parametrize("past", [False, True])
async def test_range(
    store: LogStore,
    past: bool,
    prefix: str,
    start: str,
    limit: int,
    keys: list[str],
    remaining: int,
) -> None:
    for key in ("/b", "/a/3", "/a", "/aa", "/a/2", "/a/1"):
        await store.put(key, key.encode())
    revision = 0
    if past:
        revision = await store.revision()
        await asyncio.gather(
            store.delete("/a/1"), store.put("/a/2", b"new"), store.put("/a/0", b"new"),
            store.put("/c", b"new"), store.delete("/aa"), store.put("/aa", b"new"),
        )  # fmt: skip
    result = await store.range(prefix, start=start, limit=limit, at_revision=revision)
    assert [item.key for item in result.items] == keys
    assert [item.value.decode() for item in result.items] == keys
    assert result.remaining == remaining
    assert result.revision == 7


@pytest.mark.parametrize(
    ("revision", "state"),
    [
        pytest.param(1, [], id="before anything"),
        pytest.param(2, [("/a/1", b"one", 2, 2)], id="created"),
        pytest.param(4, [("/a/1", b"ONE", 2, 4), ("/a/2", b"two", 3, 3)], id="changed"),
        pytest.param(6, [("/a/2", b"two", 3, 3)], id="deleted"),
        pytest.param(7, [("/a/1", b"again", 7, 7), ("/a/2", b"two", 3, 3)], id="now"),
    ],
)
async def test_the_past_can_be_read(
    store: LogStore, revision: int, state: list[tuple[str, bytes, int, int]]
) -> None:
    await story(store)
    expected = [KeyValue(*entry) for entry in state]
    assert (await store.range("/a/", at_revision=revision)).items == expected
    by_key = {entry.key: entry for entry in expected}
    for key in ("/a/1", "/a/2", "/nothing"):
        assert await store.get(key, at_revision=revision) == by_key.get(key)


async def test_pages_of_a_list_are_one_snapshot(store: LogStore) -> None:
    await asyncio.gather(*(store.put(f"/p/{i:03}", b"old") for i in range(100)))
    snapshot = await store.revision()
    start, keys = "", []
    while True:
        page = await store.range("/p/", limit=7, start=start, at_revision=snapshot)
        assert all(item.value == b"old" for item in page.items)
        keys += [item.key for item in page.items]
        assert len(keys) + page.remaining == 100
        if not page.remaining:
            break
        start = page.items[-1].key + "\0"
        await asyncio.gather(
            store.delete(page.items[0].key),
            store.put(f"/p/{len(keys):03}", b"new"),
            store.put(f"/p/{len(keys):03}/new", b"new"),
        )
    assert keys == [f"/p/{i:03}" for i in range(100)]


async def test_the_future_cannot_be_read(store: LogStore) -> None:
    await store.put("/a", b"1")
    with pytest.raises(FutureRevision) as failure:
        await store.range("/", at_revision=3)
    assert failure.value.current == 2
    with pytest.raises(FutureRevision):
        await store.get("/a", at_revision=3)
    with pytest.raises(FutureRevision):
        await store.compact(3)


# Watches


async def test_events_are_there_before_the_write_returns(store: LogStore, at_once: AtOnce) -> None:
    await store.put("/before", b"")
    events = store.watch("/a", after_revision=2)
    await store.put("/a", b"1")
    await store.put("/b", b"unwatched")
    await store.put("/a", b"2")
    assert seen(at_once(anext(events))) == [(3, "/a", b"1", None), (5, "/a", b"2", b"1")]
    await store.delete("/a")
    assert seen(at_once(anext(events))) == [(6, "/a", None, b"2")]


@pytest.mark.parametrize("after", range(8))
async def test_a_watch_resumes_anywhere(store: LogStore, after: int) -> None:
    await story(store)
    events = store.watch("", after_revision=after)
    await store.put("/z", b"next")
    expected = [event for event in [*STORY, (8, "/z", b"next", None)] if event[0] > after]
    assert seen(await take(events, len(expected))) == expected
    assert await store.put("/z", b"live") == 9
    assert seen(await take(events, 1)) == [(9, "/z", b"live", b"next")]


async def test_a_watch_of_the_past_gives_whole_events(store: LogStore) -> None:
    await story(store)
    one, two = KeyValue("/a/1", b"one", 2, 2), KeyValue("/a/1", b"ONE", 2, 4)
    assert await take(store.watch("/a/1", after_revision=3), 3) == [
        Event(4, "/a/1", two, one),
        Event(6, "/a/1", None, two),
        Event(7, "/a/1", KeyValue("/a/1", b"again", 7, 7), None),
    ]


async def test_a_prefix_shorter_than_another_gets_each_event_once(
    store: LogStore, at_once: AtOnce
) -> None:
    watches = {prefix: store.watch(prefix, after_revision=1) for prefix in ("", "/", "/a", "/a/1")}
    await store.put("/a", b"1")
    for prefix in ("", "/", "/a"):
        assert len(at_once(anext(watches[prefix]))) == 1
    await store.put("/a/1", b"1")
    for events in watches.values():
        assert len(at_once(anext(events))) == 1


async def test_a_watch_from_the_future_tells_nothing_old(store: LogStore) -> None:
    events = store.watch("", after_revision=4)
    for value in (b"2", b"3", b"4", b"5", b"6"):
        await store.put("/a", value)
    assert [event[0] for event in seen(await take(events, 2))] == [5, 6]


async def test_a_long_history_is_told_without_loss_or_repetition(store: LogStore) -> None:
    """Watches that start anywhere, under load, and are cut and resumed at their last revision."""
    total = 3000
    cut_every = [3, 50, 700, 100_000]

    async def follow(cut: int) -> list[int]:
        revisions: list[int] = []
        async with asyncio.timeout(60):
            while len(revisions) < total:
                count = 0
                after = revisions[-1] if revisions else 1
                async for batch in store.watch("/w/", after_revision=after):
                    revisions += [event.revision for event in batch]
                    count += 1
                    if count >= cut or len(revisions) >= total:
                        break
        return revisions

    async def write(part: int) -> None:
        for i in range(part, total, 10):
            await store.put(f"/w/{i % 97}", b"%d" % i)

    results = await asyncio.gather(
        *(follow(cut) for cut in cut_every), *(write(part) for part in range(10))
    )
    for revisions in results[: len(cut_every)]:
        assert revisions == list(range(2, total + 2))


async def test_a_slow_watcher_is_ended_and_nobody_else(
    store: LogStore, monkeypatch: pytest.MonkeyPatch, at_once: AtOnce
) -> None:
    monkeypatch.setattr(watch, "QUEUE_EVENTS", 5)
    slow = [store.watch("/", after_revision=1) for _ in range(3)]
    quick = store.watch("/", after_revision=1)
    for i in range(7):
        await store.put(f"/{i}", b"")
        assert len(at_once(anext(quick))) == 1
    for events in slow:
        with pytest.raises(WatchTooSlow):
            await anext(events)
        with pytest.raises(WatchTooSlow):
            await anext(events)
    assert store.statistics().slow_watchers_ended == 3
    assert store.statistics().watchers == 1
    assert len(await take(store.watch("/", after_revision=1), 7)) == 7


async def test_unread_events_are_bounded_in_bytes(
    store: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "QUEUE_BYTES", 10_000)
    slow = store.watch("/", after_revision=1)
    for _ in range(3):
        await store.put("/large", bytes(4000))
    with pytest.raises(WatchTooSlow):
        await anext(slow)


async def test_a_watch_that_nobody_holds_is_dropped(store: LogStore) -> None:
    dropped = store.watch("/", after_revision=1)
    closed: Any = store.watch("/", after_revision=1)
    assert store.statistics().watchers == 2
    await closed.aclose()
    assert store.statistics().watchers == 1
    del dropped
    gc.collect()
    await store.put("/a", b"")
    assert store.statistics().watchers == 0


async def test_a_cancelled_read_of_a_watch_loses_nothing(store: LogStore) -> None:
    events = store.watch("/", after_revision=1)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    waiting.cancel()
    await store.put("/a", b"1")
    assert len(await take(events, 1)) == 1


# Compaction


async def test_compaction_forgets_the_past_and_keeps_the_present(store: LogStore) -> None:
    await story(store)
    await store.compact(6)
    await store.settle()
    assert store.statistics().compacted_revision == 6
    with pytest.raises(Compacted) as failure:
        await store.range("/", at_revision=5)
    assert failure.value.compacted == 6
    with pytest.raises(Compacted):
        await store.get("/a/1", at_revision=1)
    assert [i.key for i in (await store.range("/", at_revision=6)).items] == ["/a/2", "/b/1"]
    assert [i.value for i in (await store.range("/")).items] == [b"again", b"two", b"other"]
    await store.compact(3)  # done long ago
    assert store.statistics().compacted_revision == 6


@pytest.mark.parametrize("after", range(8))
async def test_watches_around_the_compacted_revision(store: LogStore, after: int) -> None:
    """The compacted revision is a deletion here, whose record goes with the compaction."""
    await story(store)
    await store.compact(6)
    await store.settle()
    events = store.watch("", after_revision=after)
    if after < 6:
        with pytest.raises(Compacted) as failure:
            await anext(events)
        assert failure.value.compacted == 6
    else:
        await store.put("/z", b"")
        revisions = [event.revision for event in await take(events, 8 - after)]
        assert revisions == list(range(after + 1, 9))


async def test_a_watch_behind_is_told_when_compaction_overtakes_it(store: LogStore) -> None:
    for i in range(1000):
        await store.put(f"/{i % 10}", b"%d" % i)
    behind = store.watch("/", after_revision=1)
    first = await anext(behind)
    assert first[0].revision == 2
    live = store.watch("/", after_revision=1001)
    await store.compact(1001)
    with pytest.raises(Compacted):
        async with asyncio.timeout(60):
            async for _ in behind:
                pass
    await store.put("/0", b"")
    assert len(await take(live, 1)) == 1


async def test_compaction_under_load_disturbs_neither_readers_nor_writers(store: LogStore) -> None:
    live = store.watch("/", after_revision=1)

    async def write(part: int) -> None:
        for i in range(200):
            await store.put(f"/{part}/{i % 5}", b"%d" % i)

    async def compact() -> None:
        for _ in range(20):
            await store.compact(await store.revision())
            await asyncio.sleep(0)

    await asyncio.gather(compact(), *(write(part) for part in range(10)))
    assert [event.revision for event in await take(live, 2000)] == list(range(2, 2002))
    assert [item.value for item in (await store.range("/")).items] == [
        b"%d" % i for _ in range(10) for i in range(195, 200)
    ]
    await store.compact(2001)
    await store.settle()
    assert len((await store.range("/", at_revision=2001)).items) == 50


# The end


async def test_close_finishes_writes_and_ends_watches(where: str) -> None:
    store = await open_store(where)
    events = store.watch("/", after_revision=1)
    behind = store.watch("/", after_revision=0)
    reading = asyncio.ensure_future(anext(events))
    writes = [asyncio.create_task(store.put(f"/{i}", b"")) for i in range(10)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*writes) == list(range(2, 12))
    assert len(await reading) == 10
    for ended in (events, behind):
        with pytest.raises(StoreClosed):
            await anext(ended)
    for operation in (
        store.get("/a"), store.range("/"), store.put("/a", b""), store.delete("/a"),
        store.compact(2), store.revision(),
    ):  # fmt: skip
        with pytest.raises(StoreClosed):
            await operation
    await store.close()
