"""The server's own steady work: bookmarks, compaction, old events, its own Service.

Each task is a loop of its own; a failure is logged and the loop goes on, for none of this may end
because of one bad turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from navarch.api.times import TimeError, parse_time
from navarch.apiserver.core import Core
from navarch.apiserver.hub.entry import Entry
from navarch.store.contract import CasFailed, StoreError

log = logging.getLogger(__name__)

BOOKMARK_SECONDS = 50.0
COMPACT_SECONDS = 300.0
EVENT_SECONDS = 15.0
REPAIR_SECONDS = 10.0
RENEWAL_SECONDS = 30.0
AGAIN_SECONDS = 0.5


async def forever(name: str, seconds: float, turn: Callable[[], Awaitable[None]]) -> None:
    """Call `turn` again and again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await turn()
        except Exception:
            log.exception("%s failed; it is tried again in %.0f s", name, seconds)


def told(task: asyncio.Task[None]) -> None:
    """Steady work does not end by itself; if it does, somebody has to hear of it."""
    if not task.cancelled():
        log.critical("%s has ended", task.get_name(), exc_info=task.exception())


async def ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Ends tasks. A turn whose clean-up fails puts its failure in the place of the end, and its
    loop goes on after any failure: so who does not end is told again."""
    left = {*tasks}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_SECONDS)


class Compaction:
    """Lets the store forget what is older than one interval: long enough for every list that is
    read in pages, short enough that the store stays small."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._mark = 0

    async def turn(self) -> None:
        mark, self._mark = self._mark, self._core.hub.revision
        if mark > 0:
            try:
                await self._core.store.compact(mark)
            except StoreError as error:
                log.warning("compaction failed: %s", error)


class FileWatch:
    """Takes changed files into use while the server runs: renewed certificates, new keys. What
    cannot be used is tried again with each turn, and the old goes on."""

    def __init__(
        self,
        files: Sequence[Path],
        renewed: Callable[[], None],
        told: str = "certificates were renewed",
    ) -> None:
        self._files = files
        self._renewed = renewed
        self._told = told
        self._times = self._read_times()

    def _read_times(self) -> list[int]:
        try:
            return [path.stat().st_mtime_ns for path in self._files]
        except FileNotFoundError:
            # In the middle of a renewal; the next turn finds both halves.
            return []

    async def turn(self) -> None:
        times = self._read_times()
        if times and times != self._times:
            self._renewed()
            self._times = times
            log.info("%s", self._told)


class EventExpiry:
    """Removes Events an hour after their last write, as upstream's leases do."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._resource = core.catalog.get("", "v1", "events")
        self._due: deque[tuple[float, str, str, int]] = deque()
        self._seconds = core.options.event_ttl_seconds

    def start(self) -> None:
        """Take up the events there are, by the time they were written, then every new one."""
        cache = self._resource.cache
        found = sorted(
            ((self._written(entry), entry) for entry in cache.scan()), key=lambda pair: pair[0]
        )
        for written, entry in found:
            self._due.append((written, entry.namespace, entry.name, entry.revision))
        cache.add_listener(self._changed)

    def _written(self, entry: Entry) -> float:
        obj = entry.decode(self._resource.stored_kind)
        times = (
            obj.get("lastTimestamp"),
            (obj.get("series") or {}).get("lastObservedTime"),
            obj.get("eventTime"),
            obj["metadata"].get("creationTimestamp"),
        )
        found = [0.0]
        for text in times:
            if text:
                try:
                    found.append(parse_time(text).timestamp())
                except TimeError:
                    continue
        return min(max(found), self._core.registry.now().timestamp())

    def _changed(self, old: Entry | None, new: Entry | None) -> None:
        if new is not None:
            now = self._core.registry.now().timestamp()
            self._due.append((now, new.namespace, new.name, new.revision))

    async def turn(self) -> None:
        limit = (self._core.registry.now() - timedelta(seconds=self._seconds)).timestamp()
        while self._due and self._due[0][0] <= limit:
            _, namespace, name, revision = self._due.popleft()
            entry = self._resource.cache.get(namespace, name)
            if entry is None or entry.revision != revision:
                continue
            try:
                await self._core.registry.remove(self._resource, entry)
            except CasFailed:
                continue
