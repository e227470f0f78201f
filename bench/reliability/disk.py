"""Copies, restores and damage of the database: rows 12 to 14."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.reliability.history import opened, read_events
from bench.reliability.process import Process
from bench.reliability.serving import PATH, ask, config_map, revision_of
from navarch.store.backup import restore_backup
from navarch.store.contract import KeyValue, StoreFailed, StoreUnusable
from navarch.store.database import SqliteOptions
from navarch.store.sqlite import open_sqlite_store

OBJECTS = 2000
WRITES_PER_SECOND, GROUP = 500, 25
PAGE = 4096


def digest(items: Sequence[KeyValue]) -> str:
    found = hashlib.sha256()
    for item in items:
        found.update(f"{item.key} {item.create_revision} {item.mod_revision} ".encode())
        found.update(item.value)
    return found.hexdigest()


@dataclass(slots=True)
class Copies:
    backups: int = 0
    writes: int = 0
    objects: int = 0
    slowest: float = 0.0
    different: int = 0


async def copy_under_load(directory: Path, backups: int) -> Copies:
    """Row 12: each backup shows one revision of a store that takes 500 writes a second, and
    compacts in between; restored, it is that revision to the last byte."""
    found, is_over = Copies(), False
    loop = asyncio.get_running_loop()
    async with opened(directory / "store.db") as store:

        async def write() -> None:
            while not is_over:
                names = [
                    f"/{(found.writes + at) % OBJECTS}" for at in range(WRITES_PER_SECOND // 20)
                ]
                body = b"%d" % found.writes * 200
                await asyncio.gather(*(store.put(name, body) for name in names))
                found.writes += len(names)
                await asyncio.sleep(1 / 20)

        # Revision 0, that of an empty store, cannot be asked for: it stands for the newest.
        await store.put("/0", b"")
        writer = asyncio.create_task(write())
        for number in range(backups):
            began = loop.time()
            backup = directory / f"backup{number}.db"
            revision = await store.backup(str(backup))
            found.slowest = max(found.slowest, loop.time() - began)
            then = (await store.range("", at_revision=revision)).items
            restored = directory / f"restored{number}.db"
            await asyncio.to_thread(restore_backup, backup, restored)
            async with opened(restored) as copy:
                same = digest((await copy.range("")).items) == digest(then)
            found.different += not same
            found.backups += 1
            found.objects = len(then)
            await store.compact(revision)
            await asyncio.sleep(0.5)
        is_over = True
        await writer
    return found


async def restored_server(process: Process, directory: Path) -> tuple[int, list[str]]:
    """Row 13: clients that have seen more than the backup holds are told so, never something else
    under the same revision. Returns the checks made and what went wrong."""
    backup = directory / "backup.db"
    async with process.session() as session:
        await process.start(session)
        await _write(session, "kept", 20)
        await process.kill()
        async with opened(process.database) as store:
            await store.backup(str(backup))
        await process.start(session)
        seen = await _write(session, "gone", 20)
        await process.kill()
        # Of the write-ahead log that stays behind nothing may come back.
        os.rename(process.database, directory / "old.db")
        restore_backup(backup, process.database)
        await process.start(session)
        faults = []
        for revision in seen:
            events = await read_events(session, str(revision))
            if [(each["type"], each["object"].get("code")) for each in events] != [("ERROR", 410)]:
                faults.append(f"watch from {revision}: {events}")
            exact = {"resourceVersion": str(revision), "resourceVersionMatch": "Exact"}
            status, answer = await ask(session, "GET", PATH, **exact)
            if status != 410:
                faults.append(f"list at {revision}: {status} {answer}")
            least = {"resourceVersion": str(revision), "resourceVersionMatch": "NotOlderThan"}
            _, answer = await ask(session, "GET", PATH, **least)
            names = {each["metadata"]["name"] for each in answer["items"]}
            if names != {f"kept-{at}" for at in range(20)} or revision_of(answer) <= seen[-1]:
                faults.append(f"list not older than {revision}: {answer['metadata']} {names}")
        again = await _write(session, "new", 1)
        if again[0] <= seen[-1]:
            faults.append(f"revision {again[0]} after {seen[-1]}")
        await process.kill()
    return len(seen) * 3 + 1, faults


async def _write(session: aiohttp.ClientSession, name: str, number: int) -> list[int]:
    revisions = []
    for at in range(number):
        status, answer = await ask(session, "POST", PATH, config_map(f"{name}-{at}", value="1"))
        assert status == 201, answer
        revisions.append(revision_of(answer))
    return revisions


@dataclass(slots=True)
class Flips:
    flips: int = 0
    detected: int = 0
    harmless: int = 0
    wrong: int = 0


async def flip(process: Process, directory: Path, chance: random.Random, flips: int) -> Flips:
    """Row 14: one flipped bit in a copy of a server's database. Either the store does not open, or
    it serves what the undamaged one does."""
    async with process.session() as session:
        await process.start(session)
        await _write(session, "some", 100)
        await process.kill()
    async with opened(process.database) as store:
        right, revision = (await store.range("")).items, await store.revision()
    content = process.database.read_bytes()
    found, copy = Flips(), directory / "flipped.db"
    for _ in range(flips):
        damage(content, copy, chance)
        found.flips += 1
        try:
            store = await open_sqlite_store(SqliteOptions(copy, reserve_bytes=0))
        except (StoreUnusable, StoreFailed):
            found.detected += 1
            continue
        is_same = (await store.range("")).items == right and await store.revision() == revision
        found.harmless += is_same
        found.wrong += not is_same
        await store.close()
    return found


def damage(content: bytes, copy: Path, chance: random.Random) -> None:
    damaged = bytearray(content)
    at = chance.randrange(len(content) // PAGE) * PAGE + chance.randrange(PAGE)
    damaged[at] ^= 1 << chance.randrange(8)
    copy.write_bytes(damaged)
    Path(f"{copy}-wal").unlink(missing_ok=True)
