"""Stored objects for readers inside the API server: authorizers, admission, allocators.

Objects are decoded on demand; a bounded number stays decoded, so that hot ones (roles, namespaces,
service accounts) cost nothing and ten thousand pods do not fill the memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from navarch.apiserver.hub.cache import Cache
from navarch.apiserver.hub.entry import Entry
from navarch.apiserver.hub.hub import Hub

Object = dict[str, Any]
Subscriber = Callable[[Object | None, Object | None], None]

KEPT_DECODED = 1024


class HubLookup:
    """Implements `Lookup` on the hub's caches; `cache_of` finds the cache of a resource name."""

    def __init__(self, hub: Hub, cache_of: Callable[[str], Cache | None]) -> None:
        self._hub = hub
        self._cache_of = cache_of
        self._caches: dict[str, Cache] = {}
        self._decoded: OrderedDict[Entry, None] = OrderedDict()

    def cache(self, resource: str) -> Cache | None:
        found = self._caches.get(resource)
        if found is None:
            found = self._cache_of(resource)
            if found is not None:
                self._caches[resource] = found
        return found

    def forget(self) -> None:
        """Custom resources came or went: find caches anew."""
        self._caches.clear()

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        cache = self.cache(resource)
        entry = cache.get(namespace, name) if cache is not None else None
        if cache is None or entry is None:
            return None
        return self._shared(cache, entry)

    def labels(self, resource: str, namespace: str, name: str) -> Mapping[str, str]:
        cache = self.cache(resource)
        entry = cache.get(namespace, name) if cache is not None else None
        return entry.facts.labels if entry is not None else {}

    def list(self, resource: str, namespace: str = "") -> Iterator[Object]:
        cache = self.cache(resource)
        if cache is None or not cache.count_in(namespace):
            return
        for entry in list(cache.scan(namespace)):
            yield self._shared(cache, entry)

    def _shared(self, cache: Cache, entry: Entry) -> Object:
        obj = entry.shared(cache.stored)
        decoded = self._decoded
        if entry in decoded:
            decoded.move_to_end(entry)
        else:
            decoded[entry] = None
            if len(decoded) > KEPT_DECODED:
                decoded.popitem(last=False)[0].forget()
        return obj

    def follow(self, resource: str, callback: Callable[[str, str, Object | None], None]) -> None:
        cache = self._known_cache(resource)
        stored = cache.stored

        def tell(old: Entry | None, new: Entry | None) -> None:
            entry = new or old
            assert entry is not None
            shown = new.shared(stored) if new is not None else None
            callback(entry.namespace, entry.name, shown)

        for entry in cache.scan():
            callback(entry.namespace, entry.name, entry.decode(stored))
        cache.add_listener(tell)

    def _known_cache(self, resource: str) -> Cache:
        cache = self.cache(resource)
        if cache is None:
            raise KeyError(resource)
        return cache

    def subscribe(self, resource: str, callback: Subscriber) -> None:
        cache = self._known_cache(resource)
        stored = cache.stored

        def tell(old: Entry | None, new: Entry | None) -> None:
            callback(
                old.shared(stored) if old is not None else None,
                new.shared(stored) if new is not None else None,
            )

        for entry in cache.scan():
            callback(None, entry.decode(stored))
        cache.add_listener(tell)
