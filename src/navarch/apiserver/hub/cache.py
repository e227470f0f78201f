"""All objects of one stored resource, in key order, with the recent past.

The cache is written by the hub alone, in revision order, and read by everybody. Reading is
synchronous, so a reader sees one revision.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from navarch.apiserver.hub.change import Change
from navarch.apiserver.hub.entry import Entry, StoredKind
from navarch.apiserver.hub.watcher import Selection, Watcher
from navarch.store.contract import KeyValue

HISTORY_SECONDS = 600.0
HISTORY_EVENTS = 20_000
HISTORY_BYTES = 24 * 1024 * 1024

Listener = Callable[[Entry | None, Entry | None], None]
_ALL = ("all", "")


class Expired(Exception):
    """A watch wants to start further back than history reaches."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest})")


@dataclass(slots=True)
class KeptPage:
    """A list that was asked for and may be again. `version` is the newest revision in what it
    lists; `joined` are its items as bytes, by what stands before each item."""

    version: int
    entries: Sequence[Entry]
    next_key: str
    remaining: int
    joined: dict[bytes, list[bytes]] = field(default_factory=dict)


class _Namespace:
    """The objects of one namespace; the name order is made when somebody lists."""

    __slots__ = ("entries", "ordered", "revision", "sorted")

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        """Of the newest change in here."""
        self.ordered: list[str] = []
        self.sorted = True

    def names(self) -> list[str]:
        if not self.sorted:
            self.ordered = sorted(self.entries)
            self.sorted = True
        return self.ordered


class Cache:
    """The objects, history and watchers of one stored resource."""

    def __init__(self, stored: StoredKind, index_field: str = "") -> None:
        self.stored = stored
        self.loaded = False
        self.buffered: list[tuple[int, KeyValue | None, str]] = []
        self.revision = 0
        """Of the newest change of this resource."""
        self.count = 0
        self.size = 0
        self.history: deque[Change] = deque()
        self.oldest = 0
        """A watch can start after this revision or a later one."""
        self._history_bytes = 0
        self._namespaces: dict[str, _Namespace] = {}
        self._namespace_order: list[str] | None = None
        self.pages: dict[tuple[str, int], KeptPage] = {}
        """First pages by namespace and limit; kept by the list handler."""
        self._watchers: dict[tuple[str, str], dict[Watcher, None]] = {}
        """In the order in which they came, so that the same requests have the same effects."""
        self._listeners: list[Listener] = []
        names = stored.field_names
        self._index = names.index(index_field) if index_field in names else -1
        self.index_field = index_field
        self._indexed: dict[str, set[Entry]] = {}
        """By the value of that field, where there is one."""

    # ---- reading

    def get(self, namespace: str, name: str) -> Entry | None:
        bucket = self._namespaces.get(namespace)
        return bucket.entries.get(name) if bucket else None

    def scan(self, namespace: str = "", after: str = "") -> Iterator[Entry]:
        """Entries in key order (bytewise by `namespace/name`), those with a path above `after`."""
        if namespace or not self.stored.namespaced:
            chosen = [namespace] if namespace in self._namespaces else []
        else:
            chosen = self._ordered_namespaces()
        for each in chosen:
            bucket = self._namespaces[each]
            names = bucket.names()
            start = 0
            if after:
                space, _, name = after.rpartition("/")
                if each and each + "/" < space + "/":
                    continue
                if each == space:
                    start = bisect_left(names, name)
                    if start < len(names) and names[start] == name:
                        start += 1
            entries = bucket.entries
            for index in range(start, len(names)):
                yield entries[names[index]]

    def count_in(self, namespace: str) -> int:
        """The number of objects in a namespace ("" for all)."""
        if not namespace:
            return self.count
        bucket = self._namespaces.get(namespace)
        return len(bucket.entries) if bucket else 0

    def count_after(self, namespace: str, path: str) -> int:
        """How many objects of a namespace ("" for all) come after a path: counted, not listed."""
        if not path:
            return self.count_in(namespace)
        space, _, name = path.rpartition("/")
        found = 0
        for each in [namespace] if namespace else self._ordered_namespaces():
            bucket = self._namespaces.get(each)
            if bucket is None or (each != space and each + "/" < space + "/"):
                continue
            number = len(bucket.entries)
            found += number - (bisect_right(bucket.names(), name) if each == space else 0)
        return found

    def audience(self, namespace: str) -> int:
        """How many watch everything, or everything in a namespace: they hear of every change. Those
        who watch one object or one node's hardly ever do."""
        found = self._watchers
        return len(found.get(_ALL, ())) + len(found.get(("namespace", namespace), ()))

    def snapshot(self, selection: Selection, after: str = "") -> list[Entry]:
        """The entries that a selection may cover, before its predicate is asked, those with a path
        above `after`. Entries never change, so whoever asks may take all the time it needs and
        still sees one revision."""
        if selection.name and not after:
            return self._named(selection)
        if selection.indexed and self._index >= 0:
            found = self._indexed.get(selection.indexed, ())
            inside = (each for each in found if selection.namespace in ("", each.namespace))
            return sorted((each for each in inside if each.path > after), key=lambda e: e.path)
        return list(self.scan(selection.namespace, after))

    def revision_in(self, namespace: str) -> int:
        """Of the newest change in a namespace ("" for all); 0 when nothing is there."""
        if not namespace:
            return self.revision
        bucket = self._namespaces.get(namespace)
        return bucket.revision if bucket else 0

    def select(self, selection: Selection) -> Iterable[Entry]:
        """The entries of a selection in key order."""
        if selection.name:
            return self._named(selection)
        entries = self.scan(selection.namespace)
        return entries if selection.everything else filter(selection.matches, entries)

    def _named(self, selection: Selection) -> list[Entry]:
        spaces = [selection.namespace] if selection.namespace else self._ordered_namespaces()
        found = [self.get(space, selection.name) for space in spaces]
        return [entry for entry in found if entry is not None and selection.covers(entry)]

    def _ordered_namespaces(self) -> list[str]:
        if self._namespace_order is None:
            self._namespace_order = sorted(self._namespaces, key=lambda each: each + "/")
        return self._namespace_order

    # ---- writing, by the hub only

    def put(self, entry: Entry) -> Entry | None:
        """Set an entry; returns the one that was there."""
        bucket = self._namespaces.get(entry.namespace)
        if bucket is None:
            bucket = self._namespaces[entry.namespace] = _Namespace()
            self._namespace_order = None
        old = bucket.entries.get(entry.name)
        if old is None:
            if bucket.sorted and bucket.ordered and entry.name < bucket.ordered[-1]:
                bucket.sorted = False
            elif bucket.sorted:
                bucket.ordered.append(entry.name)
            self.count += 1
        else:
            self.size -= old.tail_size
            self._unindex(old)
        bucket.entries[entry.name] = entry
        if self._index >= 0 and (value := entry.facts.fields[self._index]):
            self._indexed.setdefault(value, set()).add(entry)
        bucket.revision = entry.revision
        self.size += entry.tail_size
        return old

    def remove(self, namespace: str, name: str, revision: int) -> Entry | None:
        bucket = self._namespaces.get(namespace)
        old = bucket.entries.pop(name, None) if bucket else None
        if bucket is None or old is None:
            return None
        if not bucket.entries:
            del self._namespaces[namespace]
            self._namespace_order = None
        else:
            bucket.sorted = False
            bucket.revision = revision
        self.count -= 1
        self.size -= old.tail_size
        self._unindex(old)
        return old

    def _unindex(self, entry: Entry) -> None:
        if self._index >= 0 and (value := entry.facts.fields[self._index]):
            alike = self._indexed[value]
            alike.discard(entry)
            if not alike:
                del self._indexed[value]

    def record(self, change: Change) -> None:
        """Keep a change for late watchers and tell everybody who listens: they all read one decoded
        copy, which the hub drops afterwards."""
        self.revision = change.revision
        self.history.append(change)
        self._history_bytes += change.size
        self.trim(change.when)
        for watcher in self._interested(change):
            watcher.offer(change)
        # Late watchers are few: for them it is encoded again rather than kept for all the history.
        change.rendered = None
        if self._listeners:
            for listener in self._listeners:
                listener(change.old, change.new)

    def prepend(self, changes: Sequence[Change], after: int) -> None:
        """Lengthen the history by all changes between a revision and `oldest`."""
        self.history.extendleft(reversed(changes))
        self._history_bytes += sum(change.size for change in changes)
        self.oldest = after

    def trim(self, now: float) -> None:
        """Forget history beyond its bounds in time, number and bytes."""
        history = self.history
        while history and (
            len(history) > HISTORY_EVENTS
            or self._history_bytes > HISTORY_BYTES
            or now - history[0].when > HISTORY_SECONDS
        ):
            gone = history.popleft()
            self._history_bytes -= gone.size
            self.oldest = gone.revision

    def fill(self, entries: Iterable[Entry], revision: int) -> None:
        """Show exactly these objects from now on. Until then the last state is shown: an empty one
        would deny what exists. Whoever listens is told what differs. Watches end, because nobody
        knows what happened in between."""
        self._end_watches()
        gone = {entry.path: entry for entry in self.scan()}
        changes: list[tuple[Entry | None, Entry | None]] = []
        for entry in entries:
            old = gone.pop(entry.path, None)
            if old is None or old.revision != entry.revision:
                self.put(entry)
                changes.append((old, entry))
        for old in gone.values():
            self.remove(old.namespace, old.name, revision)
            changes.append((old, None))
        self.oldest = self.revision = revision
        self.loaded = True
        for before, after in changes if self._listeners else ():
            for listener in self._listeners:
                listener(before, after)
            for entry in filter(None, (before, after)):
                entry.forget()

    def reset(self) -> None:
        """Forget everything, end all watches: the resource is not served any more."""
        self._end_watches()
        self._namespaces.clear()
        self._indexed.clear()
        self._namespace_order = None
        self.count = self.size = 0
        self.loaded = False
        self.buffered.clear()

    def _end_watches(self) -> None:
        for watcher in self.watchers():
            watcher.close()
        self._watchers.clear()
        self.pages.clear()
        self.history.clear()
        self._history_bytes = 0

    # ---- watching

    def watchers(self) -> list[Watcher]:
        return [watcher for bucket in self._watchers.values() for watcher in bucket]

    def add_watcher(self, watcher: Watcher) -> None:
        """Register a watch and replay to it what it has missed. Raises `Expired`."""
        after = watcher.after
        if after < self.oldest:
            raise Expired(after, self.oldest)
        if self.history and after < self.history[-1].revision:
            for change in self._since(after):
                watcher.offer(change)
        self._watchers.setdefault(self._bucket_of(watcher.selection), {})[watcher] = None

    def _since(self, revision: int) -> Iterator[Change]:
        """The changes after a revision, oldest first, found from the young end."""
        newer = 0
        for change in reversed(self.history):
            if change.revision <= revision:
                break
            newer += 1
        for index in range(len(self.history) - newer, len(self.history)):
            yield self.history[index]

    def remove_watcher(self, watcher: Watcher) -> None:
        bucket_name = self._bucket_of(watcher.selection)
        bucket = self._watchers.get(bucket_name)
        if bucket is not None and watcher in bucket:
            del bucket[watcher]
            if not bucket:
                del self._watchers[bucket_name]

    def _bucket_of(self, selection: Selection) -> tuple[str, str]:
        if selection.name:
            return "name", selection.name
        if selection.indexed is not None and self._index >= 0:
            return "index", selection.indexed
        if selection.namespace:
            return "namespace", selection.namespace
        return _ALL

    def _interested(self, change: Change) -> list[Watcher]:
        """The watchers this change may concern. With one watch per node on pods, asking all of them
        at each change would be quadratic in the size of the cluster."""
        known = self._watchers
        if not known:
            return []
        entry = change.entry
        found = [*known.get(_ALL, ())]
        if len(known) > 1 or not found:
            keys = [("namespace", entry.namespace), ("name", entry.name)]
            if self._index >= 0:
                states = (each for each in (change.old, change.new) if each is not None)
                values = dict.fromkeys(each.facts.fields[self._index] for each in states)
                keys += [("index", value) for value in values]
            for key in keys:
                found += known.get(key, ())
        return found

    def add_listener(self, listener: Listener) -> None:
        """Call `listener(old, new)` at each change, in revision order, inside the hub's turn."""
        self._listeners.append(listener)
