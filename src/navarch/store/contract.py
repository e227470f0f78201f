"""The contract of the store: a revisioned key-value store with watch.

It is what etcd is to upstream: every write gets the next revision of one global counter, reads can
ask for a past revision until it is compacted, and a watch tells every change after a revision in
revision order, without loss or repetition. It knows no kinds and no HTTP. Engines: `memory`,
`sqlite`; one contract test suite runs against all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """One key at one revision. `create_revision` is the revision of its first put since it was
    last absent, `mod_revision` that of its latest put."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class RangeResult:
    """Keys in order, the revision that the answer shows, and how many keys lie beyond the limit."""

    items: Sequence[KeyValue]
    revision: int
    remaining: int


class Event(msgspec.Struct, frozen=True):
    """One change. A put has `current` (and `previous` if the key existed); a delete has
    `current=None`, the last state in `previous`, and its own `revision`."""

    revision: int
    key: str
    current: KeyValue | None
    previous: KeyValue | None


class StoreError(Exception):
    """Something the store could not do; the write it was asked for did not happen."""


class CasFailed(StoreError):
    """The key was not at the expected revision; nothing was written. `current` is what is there."""

    def __init__(self, key: str, current: KeyValue | None) -> None:
        super().__init__(f"{key} is not at the expected revision")
        self.key = key
        self.current = current


class Compacted(StoreError):
    """The revision asked for is older than `compacted`, the oldest that can still be read."""

    def __init__(self, compacted: int) -> None:
        super().__init__(f"revisions before {compacted} are compacted")
        self.compacted = compacted


class FutureRevision(StoreError):
    """The revision asked for has not happened yet."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the store is at revision {current}")
        self.current = current


class StoreFull(StoreError):
    """The disk is full or the quota reached: writes fail, reads and deletes go on."""


class StoreFailed(StoreError):
    """The storage no longer does what it says (failed fsync, I/O error, damaged page). Fatal: from
    here on nothing is acknowledged or served, and the process has to exit and be started again.
    Whether the write that met the fault survived is unknown until then: asking the disk a second
    time proves nothing, because a kernel may forget the pages that it could not write."""


class StoreUnusable(StoreError):
    """The data cannot be opened: in use by another process, damaged, or written by a newer
    version. The message says which, and what to do."""


class StoreClosed(StoreError):
    """The store is closed, or closing."""


class WatchTooSlow(StoreError):
    """The watcher left its events unread until its queue was full, and was ended. It may watch
    again after the last revision that it saw."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the metrics tell about a store. Sizes are bytes; the memory engine has none."""

    revision: int
    compacted_revision: int
    keys: int
    watchers: int
    slow_watchers_ended: int
    pending_writes: int
    """Writes that wait for a commit or are in the one under way."""
    commits: int
    """Group commits, each of which made `writes / commits` writes durable on average."""
    writes: int
    commit_seconds: float
    """Time spent in all group commits together."""
    full: bool
    """Puts are refused because the disk is full or the quota reached."""
    database_bytes: int = 0
    free_bytes: int = 0
    """Part of `database_bytes` that holds nothing and is used again first."""
    log_bytes: int = 0
    """Size of the write-ahead log."""


class Store(Protocol):
    """All methods are safe to call concurrently from one event loop. A write is acknowledged (the
    coroutine returns) only when it is durable; writers that come together share one commit."""

    async def get(self, key: str, *, at_revision: int = 0) -> KeyValue | None: ...

    async def range(
        self, prefix: str, *, limit: int = 0, start: str = "", at_revision: int = 0
    ) -> RangeResult:
        """Keys that begin with `prefix`, from key `start` on (inclusive), at most `limit` (0: all),
        as of `at_revision` (0: now). Raises `Compacted`, `FutureRevision`."""
        ...

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int:
        """Write and return the new revision. `expected`: None writes whatever is there, 0 only if
        the key is absent, another only if the key's `mod_revision` is that. Raises `CasFailed`."""
        ...

    def is_stale(self, key: str) -> bool:
        """Whether the value on disk is not in the form in which it would be written now (sealed by
        an older key, or not at all): a write that changes nothing is then no waste."""
        ...

    async def delete(self, key: str, *, expected: int | None = None) -> int:
        """Remove and return the revision of the removal. Raises `CasFailed` (with `current=None`
        when the key is absent)."""
        ...

    def watch(self, prefix: str, *, after_revision: int) -> AsyncIterator[Sequence[Event]]:
        """Batches of events with a revision above `after_revision`, in order. Raises `Compacted`
        from the iterator when history does not reach back that far, `WatchTooSlow` when too many
        events were left unread, `StoreClosed` when the store closes. Every event of revision N is
        delivered to the iterator's queue before the `put` or `delete` that made N returns."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget the history before `revision`; the current state stays."""
        ...

    async def revision(self) -> int: ...

    def statistics(self) -> Statistics: ...

    async def backup(self, path: str) -> int:
        """Write a consistent copy of the store to a new file while it goes on working, and return
        the revision that the copy shows."""
        ...

    async def wait_failed(self) -> StoreFailed:
        """Return the fault when the storage fails; until then, wait. The process that owns the
        store awaits this and exits."""
        ...

    async def close(self) -> None: ...
