"""A guard for the rule that objects in informers' caches are never changed.

They share what they have in common, so that a change of one in place changes thousands, in a way
that shows somewhere else and much later. Here every cache remembers how each object looked when it
came, and `changed` tells what looks otherwise now.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from navarch.client.cache import Cache

_encode = msgspec.json.Encoder(enc_hook=lambda _: None).encode


class CacheGuard:
    """Looks at every cache of this process from now on."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Cache[Any], dict[str, bytes]] = WeakKeyDictionary()
        self._changed: list[str] = []
        put, remove = Cache.put, Cache.remove

        def guarded_put(cache: Cache[Any], key: str, obj: Any) -> None:
            put(cache, key, obj)
            self._known.setdefault(cache, {})[key] = _encode(obj)

        def guarded_remove(cache: Cache[Any], key: str) -> None:
            self._look(cache, key, self._known.get(cache, {}).pop(key, None))
            remove(cache, key)

        self._originals = put, remove
        setattr(Cache, "put", guarded_put)  # noqa: B010
        setattr(Cache, "remove", guarded_remove)  # noqa: B010

    def _look(self, cache: Cache[Any], key: str, before: bytes | None) -> None:
        obj = cache.get(key)
        if before is not None and obj is not None and before != (after := _encode(obj)):
            self._changed.append(f"{type(obj).__name__} {key}: {before!r} became {after!r}")

    def changed(self) -> list[str]:
        """What was changed since the last question, or since the beginning."""
        for cache, objects in [*self._known.items()]:
            for key, before in objects.items():
                self._look(cache, key, before)
        self._known.clear()
        found, self._changed = self._changed, []
        return found

    def stop(self) -> None:
        """Let caches be as they were."""
        put, remove = self._originals
        setattr(Cache, "put", put)  # noqa: B010
        setattr(Cache, "remove", remove)  # noqa: B010
