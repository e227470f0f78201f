"""The hub: every stored resource's cache, fed by one watch on the store.

One pump reads the store's events in revision order and applies each to the cache of its resource.
So there is one revision up to which the whole hub is complete, and a writer that waits for its own
revision afterwards reads its own write in every list, get and watch.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from navarch.apiserver.hub.cache import Cache
from navarch.apiserver.hub.change import Change
from navarch.apiserver.hub.entry import Entry, Facts, Object, StoredKind, entry_of
from navarch.store.contract import (
    Event,
    KeyValue,
    Store,
    StoreClosed,
    StoreError,
    StoreFailed,
    WatchTooSlow,
)

REGISTRY = "/registry/"
PAGE = 2000
MAX_HINTS = 4096
MAX_RECALLED = 20_000
MAX_LENT = 3000
"""Writes whose objects stay decoded for a moment: a pod is bound and gets its status within a
second of its creation, three writes in all, and each begins with what is there. In a burst a
thousand pods are on their way."""

log = logging.getLogger(__name__)


class Hint(NamedTuple):
    """What a writer knows of the value it puts: its facts and, when it is of the stored version,
    the object itself. `stays`: it is likely to be written again at once, and nobody changes what
    the writer has made."""

    value: bytes
    facts: Facts
    obj: Object | None
    stays: bool = False


class Hub:
    """Caches by key prefix, and the pump that feeds them."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self.clock = clock
        self.revision = 0
        """Every change up to here is in the caches."""
        self._caches: dict[str, Cache] = {}
        self._hints: dict[str, Hint] = {}
        self._lent: deque[Entry] = deque()
        self._lent_before = 0
        """How many of them were there when it was last looked at."""
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._pump: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    # ---- life

    async def start(self) -> None:
        """Load every registered cache and follow the store; returns when reads can be served."""
        self._pump = asyncio.create_task(self._run(), name="hub")
        ready = asyncio.create_task(self._ready.wait(), name="hub-ready")
        await asyncio.wait({self._pump, ready}, return_when=asyncio.FIRST_COMPLETED)
        if self._pump.done():
            ready.cancel()
            await self._pump

    async def stop(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        for cache in self._caches.values():
            for watcher in cache.watchers():
                watcher.close()

    @property
    def is_following(self) -> bool:
        """The caches are loaded and the pump is alive: what readiness asks."""
        return self._ready.is_set() and self._pump is not None and not self._pump.done()

    async def _run(self) -> None:
        """Follow the store. A watch that fell behind goes on where it was; after another break
        everything is read again. Until that is done, and for good when the store has failed or is
        closed, the caches stay as they are: what they show is durable, and an empty one would tell
        clients that nothing exists."""
        while True:
            try:
                await self._follow()
                return
            except (StoreFailed, StoreClosed):
                if not self._ready.is_set():
                    raise
                log.error("the store is gone; reads show its last state")
                return
            except StoreError as error:
                if isinstance(error, WatchTooSlow) and self._ready.is_set():
                    log.warning("the store's watch broke (%s); going on", error)
                    continue
                log.warning("the store's watch broke (%s); reading everything again", error)
                self._ready.clear()
                await asyncio.sleep(0.2)

    async def _follow(self) -> None:
        is_ready = self._ready.is_set()
        revision = self.revision if is_ready else await self.store.revision()
        batches = self.store.watch(REGISTRY, after_revision=revision)
        if not is_ready:
            for cache in list(self._caches.values()):
                await self._load(cache)
            self.revision = revision
            self._ready.set()
            self._release()
        async for batch in batches:
            self._apply_batch(batch)

    # ---- caches

    def register(self, stored: StoredKind, index_field: str = "") -> Cache:
        """The cache of a stored resource, made at the first call; `load` fills it when the hub
        runs already."""
        cache = self._caches.get(stored.prefix)
        if cache is None:
            cache = self._caches[stored.prefix] = Cache(stored, index_field)
        return cache

    async def load(self, cache: Cache) -> None:
        """Fill a cache that was registered while the hub runs (a new custom resource)."""
        if not cache.loaded:
            await self._load(cache)

    def unregister(self, prefix: str) -> None:
        """Forget a resource that is no longer served; its watches end."""
        cache = self._caches.pop(prefix, None)
        if cache is not None:
            cache.reset()

    def revision_of(self, cache: Cache) -> int:
        """The revision that a read of this cache shows (a fresh cache may be ahead of the pump)."""
        return max(self.revision, cache.revision)

    def caches(self) -> list[Cache]:
        return list(self._caches.values())

    async def _load(self, cache: Cache) -> None:
        """Read a cache's objects page by page at one revision, then what happened meanwhile."""
        stored = cache.stored
        start, revision = "", 0
        found: list[Entry] = []
        while True:
            page = await self.store.range(
                stored.prefix, limit=PAGE, start=start, at_revision=revision
            )
            revision = revision or page.revision
            found += (entry_of(kv, stored, None) for kv in page.items)
            if not page.remaining:
                break
            start = page.items[-1].key + "\0"
        if cache.loaded and revision <= cache.revision:
            return
        cache.fill(found, revision)
        now = self.clock()
        for event_revision, current, key in cache.buffered:
            if event_revision > revision:
                self._apply(cache, (event_revision, current, key), now)
        cache.buffered.clear()

    # ---- changes

    def hint(self, key: str, hint: Hint) -> None:
        """A writer's knowledge of what it is about to put, so that the hub need not decode it."""
        if len(self._hints) > MAX_HINTS:
            self._hints.clear()
        self._hints[key] = hint

    def _cache_of(self, key: str) -> Cache | None:
        """Prefixes have one segment (`/registry/pods/`) or two (`/registry/services/specs/`)."""
        first = key.index("/", len(REGISTRY)) + 1
        cache = self._caches.get(key[:first])
        if cache is None:
            second = key.find("/", first) + 1
            cache = self._caches.get(key[:second]) if second else None
        return cache

    def _apply_batch(self, batch: Sequence[Event]) -> None:
        now = self.clock()
        for event in batch:
            cache = self._cache_of(event.key)
            if cache is not None:
                change = (event.revision, event.current, event.key)
                if cache.loaded:
                    self._apply(cache, change, now)
                else:
                    cache.buffered.append(change)
        if batch:
            self.revision = max(self.revision, batch[-1].revision)
            self._release()

    def _apply(self, cache: Cache, change: tuple[int, KeyValue | None, str], now: float) -> None:
        revision, current, key = change
        if revision <= cache.revision:
            return
        if current is None:
            namespace, _, name = key[len(cache.stored.prefix) :].rpartition("/")
            old = cache.remove(namespace, name, revision)
            if old is not None:
                cache.record(Change(revision, old, None, now))
                old.forget()
            return
        hint = self._hints.pop(key, None)
        stays = False
        if hint is not None and hint.value == current.value:
            entry = entry_of(current, cache.stored, hint.facts)
            if hint.obj is not None:
                hint.obj["metadata"]["resourceVersion"] = str(revision)
                entry.lend(hint.obj)
                stays = hint.stays
        else:
            entry = entry_of(current, cache.stored, None)
        old = cache.put(entry)
        cache.record(Change(revision, old, entry, now))
        if old is not None:
            old.forget()
        if stays:
            self._lent.append(entry)
            while len(self._lent) > MAX_LENT:
                self._lent.popleft().forget()
        else:
            entry.forget()

    async def recall(self, cache: Cache, after: int) -> None:
        """Read into a cache's history what happened since a revision that only the store still
        knows, so that watches go on after a restart as if there had been none. What is compacted,
        or longer ago than is worth reading, stays forgotten."""
        oldest = cache.oldest
        if not 0 <= oldest - after <= MAX_RECALLED or after == oldest:
            return
        changes: list[Change] = []
        now = self.clock()
        # All keys are followed, because each revision has its event: the last one ends the wait.
        batches = self.store.watch("", after_revision=after)
        try:
            async for batch in batches:
                changes += (
                    self._change_of(cache, event, now)
                    for event in batch
                    if event.revision <= oldest and event.key.startswith(cache.stored.prefix)
                )
                if batch and batch[-1].revision >= oldest:
                    break
        except StoreError:
            return
        if cache.oldest == oldest:
            cache.prepend(changes, after)

    @staticmethod
    def _change_of(cache: Cache, event: Event, now: float) -> Change:
        old, new = (
            entry_of(kv, cache.stored, None) if kv is not None else None
            for kv in (event.previous, event.current)
        )
        return Change(event.revision, old, new, now)

    # ---- waiting

    def _release(self) -> None:
        while self._waiters and self._waiters[0][0] <= self.revision:
            future = heapq.heappop(self._waiters)[2]
            if not future.done():
                future.set_result(None)

    async def wait_for(self, revision: int) -> None:
        """Return when the caches show everything up to a revision."""
        if revision <= self.revision:
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (revision, next(self._order), future))
        await future

    def forget_lent(self) -> None:
        """Called every second or so: let go of what writers left a while ago."""
        for _ in range(min(self._lent_before, len(self._lent))):
            self._lent.popleft().forget()
        self._lent_before = len(self._lent)

    def tick(self) -> None:
        """Once in a while: trim what is kept for speed, and send bookmarks."""
        now = self.clock()
        for cache in self._caches.values():
            cache.trim(now)
            cache.pages.clear()
            for watcher in cache.watchers():
                watcher.bookmark(self.revision)
