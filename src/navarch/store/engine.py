"""The store itself, whatever it keeps its log in.

An engine is this class over a `Log`: an append-only list of records, one for each revision, from
which compaction removes what no reader can ask for. Everything that makes it a store is here or
beside it, once: the state in memory (`index`), deciding writes (`writes`), watches (`watch`).

Two tasks belong to a store. The *committer* takes the writes that wait, decides them, has the log
make them durable, and only then makes them visible, tells the watches, and acknowledges, in that
order. Writers that come while a commit is under way share the next one. The *housekeeper* lets go
of compacted history, gives room back and tests whether a full disk has room again, in steps so
small that writers hardly notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from navarch.store.contract import (
    Compacted,
    Event,
    FutureRevision,
    KeyValue,
    RangeResult,
    Statistics,
    StoreClosed,
    StoreFailed,
    StoreFull,
)
from navarch.store.index import Change, Index
from navarch.store.watch import Watch, WatchHub
from navarch.store.writes import Batch, Write, plan_batch, take_writes

logger = logging.getLogger(__name__)

TRIM_REVISIONS = 5000
FORGET_RECORDS = 500
HISTORY_REVISIONS = 20_000
HISTORY_EVENTS = 256
"""Sizes of single steps: none keeps the event loop or the log's thread for more than some ms."""

FULL_RETRY_SECONDS = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes on disk: see `Statistics`."""

    database: int = 0
    free: int = 0
    log: int = 0


class Log(Protocol):
    """Where records are kept. Raises `StoreFull` when there is no room and nothing was done,
    `StoreFailed` when it can no longer be relied on."""

    async def append(self, records: Sequence[KeyValue]) -> None:
        """Add records, all or none; on return they are durable."""
        ...

    def is_stale(self, key: str) -> bool:
        """Whether the current record of a key would be written in another form now."""
        ...

    async def read(self, revisions: Sequence[int]) -> Sequence[KeyValue]:
        """The records with these revisions; one that is gone is missing in the answer."""
        ...

    async def mark_compacted(self, revision: int) -> None:
        """Make durable that no reader is served from before this revision."""
        ...

    async def forget(self, revisions: Sequence[int]) -> None: ...

    @property
    def needs_tidying(self) -> bool: ...

    async def tidy(self) -> bool:
        """Do one small step of upkeep; True when there is more."""
        ...

    async def make_room(self) -> bool:
        """After `StoreFull`: whether puts can go on."""
        ...

    def sizes(self) -> Sizes: ...

    async def backup(self, path: str) -> int: ...

    async def close(self, keys: int, revision: int) -> None:
        """Close after the last use; `keys` is how many keys there are at `revision`."""
        ...


class LogStore:
    """A `Store` over a log. Made by `open_store`, inside a running event loop."""

    def __init__(self, log: Log, index: Index, full: str = "") -> None:
        self._log = log
        self._index = index
        self._hub = WatchHub()
        self._waiting: deque[Write] = deque()
        """Bounded by the writers: each waits for its own write."""
        self._in_commit = 0
        self._full = full
        """Why puts are refused; empty when they are not."""
        self._closing = False
        self._failure: StoreFailed | None = None
        self._failed: asyncio.Future[StoreFailed] = asyncio.get_running_loop().create_future()
        self._write_waits = asyncio.Event()
        self._chores = asyncio.Event()
        self._settled = asyncio.Event()
        """Set while the housekeeper has nothing to do; `_chores` wakes it."""
        self._tidying = True
        self._compacting = asyncio.Lock()
        self._commits = self._writes = 0
        self._commit_seconds = 0.0
        self._committer = asyncio.create_task(self._commit_writes(), name="store committer")
        self._housekeeper = asyncio.create_task(self._keep_house(), name="store housekeeper")

    # Reading

    @property
    def current_revision(self) -> int:
        return self._index.revision

    async def revision(self) -> int:
        self._check_open()
        return self._index.revision

    async def get(self, key: str, *, at_revision: int = 0) -> KeyValue | None:
        self._check_open()
        if not self._is_past(at_revision):
            return self._index.current.get(key)
        revision = self._index.revision_of(key, at_revision)
        if not revision:
            return None
        return (await self._fetch([(key, revision)], at_revision))[revision]

    async def range(
        self, prefix: str, *, limit: int = 0, start: str = "", at_revision: int = 0
    ) -> RangeResult:
        self._check_open()
        if not self._is_past(at_revision):
            return self._index.range(prefix, start, limit)
        past = self._index.range_at(prefix, start, limit, at_revision)
        values = await self._fetch(past.found, at_revision)
        items = [values[revision] for _, revision in past.found]
        return RangeResult(items, at_revision, past.remaining)

    def watch(self, prefix: str, *, after_revision: int) -> AsyncIterator[Sequence[Event]]:
        return Watch(self._hub, self, prefix, after_revision)

    async def history(self, after: int, prefix: str) -> tuple[Sequence[Event], int]:
        """Some events above a revision and up to where they reach (`watch.History`)."""
        while True:
            self._check_open()
            if after < self._index.compacted:
                raise Compacted(self._index.compacted)
            until = min(max(after, 0) + HISTORY_REVISIONS, self._index.revision)
            changes = self._index.changes(after, until, prefix)
            if changes or until == self._index.revision:
                break
            after = until
            await asyncio.sleep(0)
        if len(changes) > HISTORY_EVENTS:
            changes = changes[:HISTORY_EVENTS]
            until = changes[-1].revision
        return await self._past_events(changes, after), until

    async def _past_events(self, changes: Sequence[Change], after: int) -> Sequence[Event]:
        wanted = [(change.key, change.revision) for change in changes if not change.deleted]
        wanted += [(change.key, change.previous) for change in changes if change.previous]
        values = await self._fetch(wanted, after)
        return [
            Event(
                change.revision,
                change.key,
                None if change.deleted else values[change.revision],
                values[change.previous] if change.previous else None,
            )
            for change in changes
        ]

    def _is_past(self, revision: int) -> bool:
        if revision > self._index.revision:
            raise FutureRevision(self._index.revision)
        if revision and revision < self._index.compacted:
            raise Compacted(self._index.compacted)
        return 0 < revision < self._index.revision

    async def _fetch(self, wanted: Iterable[tuple[str, int]], needed: int) -> dict[int, KeyValue]:
        """The states of keys at revisions: from memory if they are current, else from the log.
        `needed` is the revision that must not be compacted for all of them to exist."""
        found: dict[int, KeyValue] = {}
        missing: list[int] = []
        for key, revision in wanted:
            now = self._index.current.get(key)
            if now is not None and now.mod_revision == revision:
                found[revision] = now
            else:
                missing.append(revision)
        for at in range(0, len(missing), HISTORY_EVENTS):
            revisions = missing[at : at + HISTORY_EVENTS]
            found.update(
                (record.mod_revision, record)
                for record in await self._guarded(self._log.read(revisions))
            )
        if any(revision not in found for revision in missing):
            if needed < self._index.compacted:
                raise Compacted(self._index.compacted)
            raise self._fail(StoreFailed("the log has lost a revision that is not compacted"))
        return found

    # Writing

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int:
        # A bad argument must hurt its own caller, not the commit that it would share.
        if not isinstance(value, bytes):
            raise TypeError(f"a value is bytes, not {type(value).__name__}")
        if not key.isascii():
            key.encode()
        elif not key:
            raise ValueError("a key is not empty")
        return await self._submit(key, value, expected)

    def is_stale(self, key: str) -> bool:
        return self._log.is_stale(key)

    async def delete(self, key: str, *, expected: int | None = None) -> int:
        return await self._submit(key, None, expected)

    def _submit(self, key: str, value: bytes | None, expected: int | None) -> asyncio.Future[int]:
        self._check_open()
        result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(Write(key, value, expected, result))
        self._write_waits.set()
        return result

    async def _commit_writes(self) -> None:
        """The committer."""
        while self._waiting or not self._closing:
            # Setting the event wakes this task only after every writer that is ready to run has
            # submitted, so that they go into one commit and not the first into one of its own.
            await self._write_waits.wait()
            self._write_waits.clear()
            while self._waiting:
                writes = take_writes(self._waiting)
                self._in_commit = len(writes)
                try:
                    await self._commit(writes)
                except Exception as error:
                    failure = self._fail(error)
                    for write in writes:
                        write.refuse(StoreFailed(str(failure)))
                    return
                finally:
                    self._in_commit = 0

    async def _commit(self, writes: Sequence[Write]) -> None:
        batch = plan_batch(writes, self._index, self._full)
        if batch.records:
            began = time.perf_counter()
            try:
                await self._log.append(batch.records)
            except StoreFull as error:
                if not self._full:
                    self._become_full(error)
                    await self._commit(writes)  # the deletions among them
                    return
                batch.refused += [(write, StoreFull(str(error))) for write in batch.accepted]
                batch.accepted.clear()
            else:
                self._commit_seconds += time.perf_counter() - began
                self._publish(batch)
        for write, refusal in batch.refused:
            write.refuse(refusal)
        if self._log.needs_tidying:
            self._tidying = True
            self._call_housekeeper()

    def _publish(self, batch: Batch) -> None:
        self._commits += 1
        self._writes += len(batch.records)
        self._hub.publish([self._index.apply(record) for record in batch.records])
        for write, record in zip(batch.accepted, batch.records, strict=True):
            write.acknowledge(record.mod_revision)

    # Upkeep

    async def compact(self, revision: int) -> None:
        """Forget the history before a revision. Returns when this is durable and reads of it are
        refused; the records themselves go step by step (`settle` waits for that). A revision that
        is compacted already is no error."""
        async with self._compacting:
            self._check_open()
            if revision > self._index.revision:
                raise FutureRevision(self._index.revision)
            if revision <= self._index.compacted:
                return
            try:
                await self._guarded(self._log.mark_compacted(revision))
            except StoreFull as error:
                # Compaction is what makes room, so it may use what the log has in reserve.
                self._become_full(error)
                await self._guarded(self._log.mark_compacted(revision))
            self._index.compact(revision)
            self._call_housekeeper()

    async def settle(self) -> None:
        """Wait until the housekeeper has nothing left to do."""
        await self._settled.wait()

    def _call_housekeeper(self) -> None:
        self._settled.clear()
        self._chores.set()

    async def _keep_house(self) -> None:
        while True:
            try:
                if await self._do_chore():
                    continue
            except StoreFull as error:
                self._become_full(error)
            except Exception as error:
                self._fail(error)
                return
            self._chores.clear()
            self._settled.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FULL_RETRY_SECONDS if self._full else None):
                    await self._chores.wait()

    async def _do_chore(self) -> bool:
        """One step; True when there may be more to do."""
        index = self._index
        if self._full and await self._log.make_room():
            logger.warning("the store has room again")
            self._full = ""
            self._tidying = True
        if index.leftovers:
            step = index.leftovers[:FORGET_RECORDS]
            await self._log.forget(step)
            del index.leftovers[: len(step)]
            self._tidying = True
            return True
        if index.trim(TRIM_REVISIONS) or index.leftovers:
            return True
        if self._tidying:
            self._tidying = False
            self._tidying |= await self._log.tidy()
        return self._tidying

    def _become_full(self, error: StoreFull) -> None:
        if not self._full:
            logger.error("the store is full, puts are refused: %s", error)
        self._full = str(error)
        self._call_housekeeper()

    def statistics(self) -> Statistics:
        sizes = self._log.sizes()
        return Statistics(
            revision=self._index.revision,
            compacted_revision=self._index.compacted,
            keys=len(self._index.current),
            watchers=self._hub.watchers,
            slow_watchers_ended=self._hub.slow_ended,
            pending_writes=len(self._waiting) + self._in_commit,
            commits=self._commits,
            writes=self._writes,
            commit_seconds=self._commit_seconds,
            full=bool(self._full),
            database_bytes=sizes.database,
            free_bytes=sizes.free,
            log_bytes=sizes.log,
        )

    async def backup(self, path: str) -> int:
        self._check_open()
        return await self._guarded(self._log.backup(path))

    # The end

    def _check_open(self) -> None:
        if self._failure is not None:
            raise StoreFailed(str(self._failure)) from self._failure
        if self._closing:
            raise StoreClosed("the store is closed")

    async def _guarded(self, operation: Coroutine[Any, Any, T]) -> T:
        try:
            return await operation
        except StoreFailed as error:
            self._fail(error)
            raise

    def _fail(self, error: Exception) -> StoreFailed:
        """Stop for good: nothing is acknowledged or served after a fault of the storage."""
        if self._failure is None:
            if not isinstance(error, StoreFailed):
                unexpected = StoreFailed(f"unexpected fault of the store: {error!r}")
                unexpected.__cause__ = error
                error = unexpected
            self._failure = error
            message = str(error)
            logger.critical("the store has failed: %s", message, exc_info=error)
            self._failed.set_result(error)
            while self._waiting:
                self._waiting.popleft().refuse(StoreFailed(message))
            self._hub.end_all(lambda: StoreFailed(message))
            self._settled.set()
        return self._failure

    async def wait_failed(self) -> StoreFailed:
        return await asyncio.shield(self._failed)

    async def close(self) -> None:
        """Finish the writes that wait, end the watches, and let go of the files."""
        if self._closing:
            return
        self._closing = True
        self._write_waits.set()
        await self._committer
        self._housekeeper.cancel()
        await asyncio.gather(self._housekeeper, return_exceptions=True)
        self._hub.end_all(lambda: StoreClosed("the store is closed"))
        await self._log.close(len(self._index.current), self._index.revision)
