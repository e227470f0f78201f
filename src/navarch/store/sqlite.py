"""The SQLite engine: the default. An acknowledged write survives `kill -9` and power loss.

The database works in a thread of its own, so a slow disk makes writers wait and nobody else; reads
of the current state never go there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from navarch.store.backup import Copy, complete
from navarch.store.contract import KeyValue, StoreClosed, StoreFull
from navarch.store.database import Database, SqliteOptions, insertion
from navarch.store.engine import LogStore, Sizes
from navarch.store.files import beside
from navarch.store.index import is_tombstone
from navarch.store.worker import Worker

DISK_FULL = "the disk is full"


class SqliteLog:
    """Records in a database, reached through a thread."""

    def __init__(self, database: Database, worker: Worker, options: SqliteOptions) -> None:
        self._database = database
        self._worker = worker
        self._options = options
        self._backing_up = asyncio.Lock()
        self._copy: Copy | None = None
        self._is_closed = False

    async def append(self, records: Sequence[KeyValue]) -> None:
        quota = self._options.quota_bytes
        if self._database.used_bytes > quota and not all(map(is_tombstone, records)):
            raise StoreFull(f"the database has reached its quota of {quota} bytes")
        seals = self._database.seals
        sealed = seals.sealed(records)
        await self._worker.run(partial(self._database.insert, *insertion(sealed)))
        seals.written(sealed)

    def is_stale(self, key: str) -> bool:
        return self._database.seals.is_stale(key)

    async def read(self, revisions: Sequence[int]) -> Sequence[KeyValue]:
        return await self._worker.run(partial(self._database.read, revisions))

    async def mark_compacted(self, revision: int) -> None:
        await self._worker.run(partial(self._database.mark_compacted, revision))

    async def forget(self, revisions: Sequence[int]) -> None:
        await self._worker.run(partial(self._database.forget, revisions))

    @property
    def needs_tidying(self) -> bool:
        return self._database.log_pages >= self._options.checkpoint_pages

    async def tidy(self) -> bool:
        return await self._worker.run(self._database.tidy)

    async def make_room(self) -> bool:
        return await self._worker.run(self._database.make_room)

    def sizes(self) -> Sizes:
        return self._database.sizes()

    async def backup(self, path: str) -> int:
        target = Path(path)
        unfinished = beside(target, "-partial")
        async with self._backing_up:
            try:
                await self._worker.run(partial(self._start_copy, unfinished))
                while await self._worker.run(self._continue_copy):
                    pass
                return await asyncio.to_thread(complete, unfinished, target)
            finally:
                if not self._is_closed:
                    await self._worker.run(self._end_copy)
                unfinished.unlink(missing_ok=True)

    def _start_copy(self, unfinished: Path) -> None:
        self._copy = Copy(self._database.connection, unfinished)

    def _continue_copy(self) -> bool:
        if self._copy is None:
            raise StoreClosed("the store was closed during a backup")
        return self._copy.step()

    def _end_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    async def close(self, keys: int, revision: int) -> None:
        self._is_closed = True
        try:
            await self._worker.run(partial(self._close, keys, revision))
        finally:
            self._worker.stop()

    def _close(self, keys: int, revision: int) -> None:
        self._end_copy()
        self._database.close(keys, revision)


async def open_sqlite_store(options: SqliteOptions) -> LogStore:
    """Open a database, or make a new one. Raises `StoreUnusable` with what to do."""
    worker = Worker("store log")
    try:
        database = Database(options)
        index = await worker.run(database.open)
    except BaseException:
        worker.stop()
        raise
    full = "" if await worker.run(database.hold_reserve) else DISK_FULL
    return LogStore(SqliteLog(database, worker, options), index, full)
