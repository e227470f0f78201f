"""History that ends, and the faults of watches and compaction that etcd once had: rows 5 and 10."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench.reliability import victim
from bench.reliability.process import Process
from bench.reliability.serving import PATH, ask, config_map, revision_of
from navarch.store.backup import restore_backup
from navarch.store.contract import Compacted, Event, WatchTooSlow
from navarch.store.database import SqliteOptions
from navarch.store.engine import LogStore
from navarch.store.sqlite import open_sqlite_store
from navarch.store.watch import QUEUE_EVENTS

QUIET_SECONDS = 20.0
COMPACTED_SECONDS = 30.0
KILLS = 20


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[LogStore]:
    store = await open_sqlite_store(SqliteOptions(path, reserve_bytes=0))
    try:
        yield store
    finally:
        await store.close()


async def told(watch: AsyncIterator[Sequence[Event]], until: int) -> list[int]:
    """The revisions that a watch tells, up to one."""
    found: list[int] = []
    async with asyncio.timeout(30):
        while not found or found[-1] < until:
            found += [event.revision for event in await anext(watch)]
    return found


async def is_compacted(watch: AsyncIterator[Sequence[Event]]) -> bool:
    try:
        await anext(watch)
    except Compacted:
        return True
    return False


# Row 5


async def slow_reader(directory: Path, chance: random.Random) -> bool:
    """A watcher that fell behind is told so, and goes on without a gap."""
    async with opened(directory / "store.db") as store:
        watch = store.watch("/", after_revision=await store.revision())
        first = await store.put("/first", b"")
        found = await told(watch, first)
        writes = (store.put(f"/{at % 100}", b"") for at in range(QUEUE_EVENTS + 5000))
        await asyncio.gather(*writes)
        try:
            await anext(watch)
            return False
        except WatchTooSlow:
            newest = await store.revision()
            found += await told(store.watch("/", after_revision=first), newest)
            return found == list(range(first, newest + 1))


async def compaction_on_a_delete(directory: Path, chance: random.Random) -> bool:
    """Compacted just before a deletion, the store still tells it; compacted at it, it refuses to
    tell what came after the revision before."""
    async with opened(directory / "store.db") as store:
        await store.put("/a", b"1")
        before = await store.put("/b", b"1")
        deleted = await store.delete("/a")
        await store.compact(before)
        await store.settle()
        [event] = await anext(store.watch("/", after_revision=before))
        is_told = event.revision == deleted and event.current is None and event.key == "/a"
        await store.compact(deleted)
        await store.settle()
        return is_told and await is_compacted(store.watch("/", after_revision=before))


async def watch_at_the_compacted_revision(directory: Path, chance: random.Random) -> bool:
    """Who knows it is told all that follows; who knows less is told to list anew."""
    async with opened(directory / "store.db") as store:
        revisions = [await store.put(f"/{at % 3}", b"%d" % at) for at in range(20)]
        await store.compact(revisions[10])
        await store.settle()
        found = await told(store.watch("/", after_revision=revisions[10]), revisions[-1])
        is_refused = await is_compacted(store.watch("/", after_revision=revisions[9]))
        return found == revisions[11:] and is_refused


async def crashes(directory: Path, chance: random.Random) -> bool:
    """Killed while it forgets history and gives room back, again and again: the revision does not
    fall, and all that should be there is there, whole."""
    path, newest = directory / "store.db", 0
    for turn in range(KILLS):
        argv = [sys.executable, "-m", "bench.reliability.victim", str(path), str(turn)]
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        line = await process.stdout.readline()
        await asyncio.sleep(chance.random() ** 2 * 0.1)
        process.kill()
        await process.wait()
        revision, newest = newest, int(line)
        if newest <= revision:
            return False
        async with opened(path) as store:
            if await store.revision() != newest:
                return False
            items = {each.key: each.value for each in (await store.range("")).items}
        kept = [at for at in range(victim.KEYS) if at % 3 != turn % 3]
        if items != {f"/{at}": victim.value(at, turn) for at in kept}:
            return False
    return True


async def future_revision(directory: Path, chance: random.Random) -> bool:
    """A watch from a revision that is not reached yet is told nothing that lies before it."""
    async with opened(directory / "store.db") as store:
        newest = await store.put("/a", b"1")
        watch = store.watch("/", after_revision=newest + 20)
        await asyncio.gather(*(store.put("/a", b"%d" % at) for at in range(30)))
        return await told(watch, newest + 30) == list(range(newest + 21, newest + 31))


async def moved_back(directory: Path, chance: random.Random) -> bool:
    """Who has seen more than a restored store has is sent to list anew, not told old events."""
    async with opened(directory / "store.db") as store:
        await store.put("/a", b"1")
        await store.backup(str(directory / "backup.db"))
        seen = [await store.put("/a", b"%d" % at) for at in range(10)]
    restore_backup(directory / "backup.db", directory / "restored.db")
    async with opened(directory / "restored.db") as store:
        refused = [await is_compacted(store.watch("/", after_revision=each)) for each in seen]
        return all(refused) and await store.put("/a", b"") > seen[-1]


SCENARIOS: dict[str, Callable[[Path, random.Random], Awaitable[bool]]] = {
    "slow reader": slow_reader,
    "compaction on a delete": compaction_on_a_delete,
    "watch at the compacted revision": watch_at_the_compacted_revision,
    "crash in compaction and vacuum": crashes,
    "future revision": future_revision,
    "moved back": moved_back,
}


# Row 10


async def read_events(session: aiohttp.ClientSession, revision: str) -> list[dict[str, Any]]:
    """Everything that a watch answers until it ends; nothing when it goes on in silence."""
    query = {"watch": "1", "resourceVersion": revision}
    events = []
    async with session.get(PATH, params=query) as response:
        assert response.status == 200, await response.text()
        try:
            async with asyncio.timeout(QUIET_SECONDS):
                async for line in response.content:
                    events.append(msgspec.json.decode(line))
        except TimeoutError:
            return []
    return events


async def expire(process: Process, session: aiohttp.ClientSession) -> tuple[int, list[str]]:
    """Outlive a compaction with a list of the past, a page and a watch; what went wrong. The
    server keeps what watches may have missed longer than that, in memory, so it starts anew."""
    for at in range(10):
        await ask(session, "POST", PATH, config_map(f"old-{at}", value="1"))
    _, first = await ask(session, "GET", PATH, limit="4")
    then, requests, status = str(revision_of(first)), 0, 200
    exact = {"resourceVersion": then, "resourceVersionMatch": "Exact"}
    faults: list[str] = []
    async with asyncio.timeout(COMPACTED_SECONDS):
        while status == 200:
            requests += 1
            await ask(session, "PUT", f"{PATH}/old-9", config_map("old-9", value=str(requests)))
            status, answer = await ask(session, "GET", PATH, **exact)
            await asyncio.sleep(0.05)
    if (status, answer.get("reason")) != (410, "Expired"):
        faults.append(f"a list of the past: {status} {answer}")
    await process.kill()
    await process.start(session)
    events = await read_events(session, then)
    if [each["type"] for each in events] != ["ERROR"]:
        faults.append(f"a watch of the compacted past told {events}")
    elif (events[0]["object"]["code"], events[0]["object"]["reason"]) != (410, "Expired"):
        faults.append(f"it ended with {events[0]}")
    page = {"limit": "4", "continue": first["metadata"]["continue"]}
    status, answer = await ask(session, "GET", PATH, **page)
    token = answer["metadata"].get("continue", "")
    if (status, answer.get("reason")) != (410, "Expired") or not token:
        faults.append(f"a page of the past: {status} {answer}")
    status, answer = await ask(session, "GET", PATH, **{"continue": token})
    names = [each["metadata"]["name"] for each in answer.get("items", [])]
    if names != [f"old-{at}" for at in range(10)][-len(names) :] or len(names) < 6:
        faults.append(f"the token that came with 410 leads to {status} {names}")
    return requests + 3, faults
