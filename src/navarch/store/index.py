"""The state of a store in memory: every current key with its value, and the outline of the history.

Current values are kept once, as the bytes that were written, so a GET or a LIST touches no disk and
decodes nothing. Of the history only its outline is here: for each revision the key, the revision of
that key before it, and the revision that created it, some 24 bytes a revision. That is enough to
say which revisions make up any past state; superseded values are read from the engine's log.

Because each write takes the next revision without a gap, the outline is three arrays and a revision
is its position. A deletion is an entry with `created` 0.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from navarch.store.contract import Event, KeyValue, RangeResult
from navarch.store.keys import SortedKeys, prefix_end

FIRST_REVISION = 1
"""Revision of a store that was never written to. Not 0, as in etcd, because resource version "0"
means "any" to Kubernetes clients."""


class Damaged(Exception):
    """Stored records contradict each other, or their checksums."""


def tombstone(key: str, revision: int) -> KeyValue:
    """The log's record of a deletion. Never handed to a reader."""
    return KeyValue(key, b"", 0, revision)


def is_tombstone(record: KeyValue) -> bool:
    return record.create_revision == 0


class Change(msgspec.Struct, frozen=True, gc=False):
    """One entry of the history: the key, its revision, the key's revision before (0: absent)."""

    key: str
    revision: int
    previous: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class PastRange:
    """The keys of a past range in order, each with its revision then, and how many lie beyond."""

    found: Sequence[tuple[str, int]]
    remaining: int


class Index:
    """Current state and history outline. Synchronous and without I/O."""

    def __init__(self, compacted: int = 0) -> None:
        self.current: dict[str, KeyValue] = {}
        self.compacted = compacted
        """The oldest revision that can be read."""
        self.leftovers: list[int] = []
        """Records in the engine's log that no reader can ask for any more."""
        self._keys = SortedKeys()
        self._base = max(compacted, FIRST_REVISION)
        """Revision before the first entry of the outline. At most `compacted`, save at first."""
        self._log_keys: list[str] = []
        self._log_previous = array("q")
        self._log_created = array("q")

    @property
    def revision(self) -> int:
        return self._base + len(self._log_keys)

    # Building up

    def load(self, records: Sequence[KeyValue]) -> None:
        """Take in records of the log, in order, when a store is opened. Up to the compacted
        revision they may have gaps; above it a gap means that something was lost. Call
        `finish_loading` after the last."""
        for record in records:
            if record.mod_revision > self._base:
                if record.mod_revision != self.revision + 1:
                    raise Damaged(f"revision {self.revision + 1} is missing")
                self._remember(record, self.current.get(record.key))
            else:
                self._forget_superseded(record)
            if is_tombstone(record):
                self.current.pop(record.key, None)
            else:
                self.current[record.key] = record

    def finish_loading(self) -> None:
        self._keys = SortedKeys(self.current)

    def _forget_superseded(self, record: KeyValue) -> None:
        """A compaction that was cut short leaves records behind; find them again."""
        old = self.current.get(record.key)
        if old is not None:
            self.leftovers.append(old.mod_revision)
        if is_tombstone(record):
            self.leftovers.append(record.mod_revision)

    def apply(self, record: KeyValue) -> Event:
        """Make a durable write visible."""
        key = record.key
        old = self.current.get(key)
        self._remember(record, old)
        if is_tombstone(record):
            del self.current[key]
            self._keys.remove(key)
            return Event(record.mod_revision, key, None, old)
        if old is None:
            self._keys.add(key)
        self.current[key] = record
        return Event(record.mod_revision, key, record, old)

    def _remember(self, record: KeyValue, old: KeyValue | None) -> None:
        self._log_keys.append(record.key if old is None else old.key)  # one string for all
        self._log_previous.append(0 if old is None else old.mod_revision)
        self._log_created.append(record.create_revision)

    # Reading

    def range(self, prefix: str, start: str, limit: int) -> RangeResult:
        """The current state of the keys with a prefix."""
        low, high = max(prefix, start), prefix_end(prefix)
        current = self.current
        if not limit:
            keys = self._keys.between(low, high)
            return RangeResult([current[key] for key in keys], self.revision, 0)
        keys = self._keys.page(low, high, limit)
        remaining = self._keys.count(low, high) - len(keys) if len(keys) == limit else 0
        return RangeResult([current[key] for key in keys], self.revision, remaining)

    def range_at(self, prefix: str, start: str, limit: int, revision: int) -> PastRange:
        """The revisions that the keys with a prefix had at a past revision."""
        low, high = max(prefix, start), prefix_end(prefix)
        first = revision - self._base
        # The first change of a key after the revision knows the state before it. Walking backwards
        # lets that change be the last to be written into the map.
        before = {
            key: previous
            for key, previous in zip(
                reversed(self._log_keys[first:]), reversed(self._log_previous[first:]), strict=True
            )
            if key >= low and (high is None or key < high)
        }
        current = self.current
        created = sum(1 for key, previous in before.items() if not previous and key in current)
        # Of the keys there are, so many suffice: a page must not cost a look at all of them.
        keys = (
            self._keys.page(low, high, limit + created) if limit else self._keys.between(low, high)
        )
        now = {key: before.get(key, current[key].mod_revision) for key in keys}
        then = {key: revision for key, revision in now.items() if revision}
        gone = {key: at for key, at in before.items() if at and key not in current}
        shown = sorted((then | gone).items())
        if not limit:
            return PastRange(shown, 0)
        total = self._keys.count(low, high) - created + len(gone)
        return PastRange(shown[:limit], max(0, total - limit))

    def revision_of(self, key: str, revision: int) -> int:
        """The revision that a key had at a past revision; 0 when it was absent."""
        now = self.current.get(key)
        if now is not None and now.mod_revision <= revision:
            return now.mod_revision
        try:
            at = self._log_keys.index(key, revision - self._base)
        except ValueError:
            return 0
        return self._log_previous[at]

    def changes(self, after: int, until: int, prefix: str) -> list[Change]:
        """The entries of the outline above `after` up to `until` whose key has the prefix."""
        begin, end = max(after - self._base, 0), until - self._base
        return [
            Change(key, self._base + begin + at + 1, self._log_previous[begin + at], not created)
            for at, (key, created) in enumerate(
                zip(self._log_keys[begin:end], self._log_created[begin:end], strict=True)
            )
            if key.startswith(prefix)
        ]

    # Compaction

    def compact(self, revision: int) -> None:
        """Refuse reads before a revision from now on; `trim` then lets go of what they needed."""
        self.compacted = revision

    def trim(self, limit: int) -> bool:
        """Shorten the outline towards the compacted revision by at most `limit` entries, adding to
        `leftovers` what the log no longer needs. True when there is more to do."""
        count = min(self.compacted - self._base, limit)
        if count <= 0:
            return False
        previous, created = self._log_previous[:count], self._log_created[:count]
        self.leftovers += [revision for revision in previous if revision]
        self.leftovers += [
            self._base + 1 + at for at, revision in enumerate(created) if not revision
        ]
        del self._log_keys[:count], self._log_previous[:count], self._log_created[:count]
        self._base += count
        return self._base < self.compacted
