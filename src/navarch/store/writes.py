"""Deciding writes: which of those that wait go into the next commit, and what becomes of each.

Writes are decided in the order in which they were submitted, against the durable state plus what
the same commit already holds, at the moment when the commit is put together. Only one commit is
under way at a time, so nothing is ever decided on a state that may yet fail to become durable, and
a failed commit leaves nothing to undo: no revision is used up and no later write was misled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from navarch.store.contract import CasFailed, KeyValue, StoreError, StoreFull
from navarch.store.index import Index, is_tombstone, tombstone

COMMIT_WRITES = 1024
COMMIT_BYTES = 8 * 1024 * 1024
"""Bounds of one commit, so that its writers do not wait long for each other."""


@dataclass(slots=True, eq=False)
class Write:
    """A put, or with `value` None a deletion, and who waits for its revision."""

    key: str
    value: bytes | None
    expected: int | None
    result: asyncio.Future[int]

    def refuse(self, error: StoreError) -> None:
        if not self.result.done():
            self.result.set_exception(error)

    def acknowledge(self, revision: int) -> None:
        if not self.result.done():
            self.result.set_result(revision)


@dataclass(slots=True)
class Batch:
    """The writes of one commit. A refusal, too, is told only when the commit is durable, because
    it may be due to another write of the same commit."""

    records: list[KeyValue] = field(default_factory=list)
    accepted: list[Write] = field(default_factory=list)
    refused: list[tuple[Write, StoreError]] = field(default_factory=list)


def take_writes(waiting: deque[Write]) -> list[Write]:
    """Take from the queue what fits into one commit."""
    taken: list[Write] = []
    size = 0
    while waiting and len(taken) < COMMIT_WRITES and size < COMMIT_BYTES:
        write = waiting.popleft()
        size += len(write.value or b"")
        taken.append(write)
    return taken


def plan_batch(writes: Sequence[Write], index: Index, full: str) -> Batch:
    """Decide writes. With `full`, the reason why there is no room, only deletions go on."""
    batch = Batch()
    changed: dict[str, KeyValue] = {}
    revision = index.revision
    for write in writes:
        if write.result.done():  # the writer went away while it waited
            continue
        key, expected = write.key, write.expected
        existing = changed.get(key) or index.current.get(key)
        if existing is not None and is_tombstone(existing):
            existing = None
        at = existing.mod_revision if existing is not None else 0
        if (expected is not None and expected != at) or (write.value is None and not at):
            batch.refused.append((write, CasFailed(key, existing)))
            continue
        if write.value is None:
            record = tombstone(key, revision + 1)
        elif full:
            batch.refused.append((write, StoreFull(full)))
            continue
        else:
            created = existing.create_revision if existing is not None else revision + 1
            record = KeyValue(key, write.value, created, revision + 1)
        revision += 1
        changed[key] = record
        batch.records.append(record)
        batch.accepted.append(write)
    return batch
