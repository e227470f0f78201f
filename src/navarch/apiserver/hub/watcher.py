"""One watch: what it selects, and the bounded queue between the hub and its connection.

The hub offers changes synchronously and never waits; the connection's coroutine takes what has
gathered. A watcher that does not keep up is closed, and its client lists again: waiting for it
would hold up everybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from navarch.apiserver.hub.change import Change
from navarch.apiserver.hub.entry import Entry

MAX_PENDING_BYTES = 32 * 1024 * 1024
MAX_PENDING_EVENTS = 50_000
TAKEN_BYTES = 256 * 1024


def select_all(entry: Entry) -> bool:
    """The selector of a watch without selectors."""
    return True


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list or watch wants: a namespace ("" is all), and a predicate on the rest.

    `name` and `indexed` are equality requirements of the field selector that narrow the search
    before the predicate is asked: one object's name, and the value of the kind's index field (pods:
    the node). The predicate covers them as well."""

    namespace: str = ""
    matches: Callable[[Entry], bool] = select_all
    name: str = ""
    indexed: str | None = None

    @property
    def everything(self) -> bool:
        return self.matches is select_all

    @property
    def broad(self) -> Selection:
        """What of this can be asked before an object is converted: its place and its name."""
        if not self.name:
            return Selection(self.namespace)
        return Selection(self.namespace, lambda entry: entry.name == self.name, self.name)

    def covers(self, entry: Entry) -> bool:
        return (not self.namespace or entry.namespace == self.namespace) and self.matches(entry)


@dataclass(frozen=True, slots=True)
class Form:
    """In which shape a watcher wants its events. `name` identifies it among all forms of the same
    resource; `encode(event, entry)` makes a line; `bookmark(revision, initial_end)` a bookmark."""

    name: str
    encode: Callable[[str, Entry], bytes]
    bookmark: Callable[[int, bool], bytes]
    later: Form | None = None
    """The form of all events after the first: tables name their columns only once."""


class Watcher:
    """A registered watch. `after` is the revision up to which its client knows everything."""

    def __init__(self, selection: Selection, form: Form, after: int, bookmarks: bool) -> None:
        self.selection = selection
        self.form = form
        self.after = after
        self.bookmarks = bookmarks
        self.closed = False
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._wake: asyncio.Future[None] | None = None

    def offer(self, change: Change) -> None:
        """Queue the event that this change is for this watcher, if it is one."""
        if change.revision > self.after and not self.closed:
            self._select(change)

    def _select(self, change: Change) -> None:
        covers = self.selection.covers
        new, old = change.new, change.old
        is_selected = new is not None and covers(new)
        was_selected = old is not None and covers(old)
        if is_selected:
            event = "MODIFIED" if was_selected else "ADDED"
        elif was_selected:
            event = "DELETED"
        else:
            return
        self._queue(change.render(event, self.form.name, self.form.encode))
        self.form = self.form.later or self.form

    def bookmark(self, revision: int) -> None:
        """Tell a watcher that asked for bookmarks how far the hub is."""
        if self.bookmarks and not self.closed and revision >= self.after:
            self._queue(self.form.bookmark(revision, False))

    def _queue(self, line: bytes) -> None:
        self._pending.append(line)
        self._pending_bytes += len(line)
        if self._pending_bytes > MAX_PENDING_BYTES or len(self._pending) > MAX_PENDING_EVENTS:
            self.close()
        self._notify()

    def close(self) -> None:
        """End the watch: what is queued is dropped."""
        self.closed = True
        self._pending.clear()
        self._notify()

    def finish(self) -> None:
        """End the watch after what is queued: its time is over."""
        self.closed = True
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _woken(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    async def take(self) -> bytes:
        """The lines that are queued, waiting for the first; b"" once the watch is closed. Not all
        of very many: queued, watchers share their bytes, and joined they do not."""
        while not self._pending:
            if self.closed:
                return b""
            await self._woken()
        pending = self._pending
        number, size = len(pending), self._pending_bytes
        if size > TAKEN_BYTES:
            number = size = 0
            while size < TAKEN_BYTES:
                size += len(pending[number])
                number += 1
        lines = b"".join(pending[:number])
        del pending[:number]
        self._pending_bytes -= size
        return lines


Views = Callable[[Sequence[Entry]], Awaitable[Sequence[Entry]]]


class ConvertingWatcher(Watcher):
    """A watch of objects that a webhook has to convert first. The hub does not wait for webhooks,
    so what is queued are the changes; the connection converts all that have gathered at once, and
    selects by what comes out."""

    def __init__(
        self, selection: Selection, form: Form, after: int, bookmarks: bool, views: Views
    ) -> None:
        super().__init__(selection, form, after, bookmarks)
        self._views = views
        self._changes: list[Change | int] = []
        """Changes, and revisions to send bookmarks of."""

    def offer(self, change: Change) -> None:
        if change.revision <= self.after or self.closed:
            return
        self._changes.append(change)
        self._pending_bytes += change.size
        if self._pending_bytes > MAX_PENDING_BYTES or len(self._changes) > MAX_PENDING_EVENTS:
            self.close()
        self._notify()

    def bookmark(self, revision: int) -> None:
        if self.bookmarks and not self.closed and revision >= self.after:
            self._changes.append(revision)
            self._notify()

    def close(self) -> None:
        self._changes.clear()
        super().close()

    async def take(self) -> bytes:
        """As that of every watcher. Raises what a failed conversion raises."""
        while True:
            while not self._changes:
                if self.closed:
                    return b""
                await self._woken()
            changes, self._changes = self._changes, []
            self._pending_bytes = 0
            await self._convert(changes)
            if self._pending:
                return await super().take()

    async def _convert(self, changes: Sequence[Change | int]) -> None:
        entries = {
            entry: None
            for change in changes
            if isinstance(change, Change)
            for entry in (change.old, change.new)
            if entry is not None
        }
        views = dict(zip(entries, await self._views(list(entries)), strict=True))
        for change in changes:
            if isinstance(change, int):
                self._queue(self.form.bookmark(change, False))
                continue
            old, new = (views[each] if each else None for each in (change.old, change.new))
            self._select(Change(change.revision, old, new, change.when))
