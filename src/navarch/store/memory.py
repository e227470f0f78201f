"""The memory engine: for tests and for clusters that need not outlive their process.

Its log is a map. Everything else it shares with the engine on disk, so what a test learns from it
holds there as well."""

from __future__ import annotations

from collections.abc import Sequence

from navarch.store.contract import KeyValue, StoreError
from navarch.store.engine import LogStore, Sizes
from navarch.store.index import Index


class MemoryLog:
    """Records by revision."""

    needs_tidying = False

    def __init__(self) -> None:
        self._records: dict[int, KeyValue] = {}

    async def append(self, records: Sequence[KeyValue]) -> None:
        self._records.update((record.mod_revision, record) for record in records)

    def is_stale(self, key: str) -> bool:
        return False

    async def read(self, revisions: Sequence[int]) -> Sequence[KeyValue]:
        return [self._records[revision] for revision in revisions if revision in self._records]

    async def mark_compacted(self, revision: int) -> None:
        """Nothing outlives the process, so there is nothing to mark."""

    async def forget(self, revisions: Sequence[int]) -> None:
        for revision in revisions:
            del self._records[revision]

    async def tidy(self) -> bool:
        return False

    async def make_room(self) -> bool:
        return True

    def sizes(self) -> Sizes:
        return Sizes()

    async def backup(self, path: str) -> int:
        raise StoreError("the memory store has no backup: it keeps nothing on disk")

    async def close(self, keys: int, revision: int) -> None:
        self._records.clear()


def open_memory_store() -> LogStore:
    """A new, empty store. Needs a running event loop."""
    return LogStore(MemoryLog(), Index())
