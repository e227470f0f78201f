"""Events that several informers of one process follow, decoded once.

Controllers and scheduler share a process but not their credentials, so each follows pods and nodes
over a watch of its own. The server sends both the very same bytes: the first to receive an event
decodes it, the other takes the object over, which then is in memory once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from navarch.client.objects import Codec, WatchEvent
from navarch.client.watch import decode_event

T = TypeVar("T")

LIMIT_BYTES = 8 * 1024 * 1024
"""So much may wait for an informer that lags behind; it decodes for itself what is older."""


class Decoder(Generic[T]):
    """Decodes and transforms events for all informers with the same type and transform. Each calls
    `join` before it begins and `leave` when it ends."""

    def __init__(self, codec: Codec[T], transform: Callable[[T], T]) -> None:
        self._codec = codec
        self._transform = transform
        self._followers = 0
        self._waiting: dict[bytes, tuple[WatchEvent[T], int]] = {}
        """By line: the event, and how many have still to ask for it."""
        self._size = 0

    def join(self) -> None:
        self._followers += 1

    def leave(self) -> None:
        self._followers -= 1
        if self._followers < 2:
            self._waiting.clear()
            self._size = 0

    def decode(self, line: bytes) -> WatchEvent[T]:
        """Raises the `ApiError` that an ERROR event tells of."""
        if self._followers < 2:
            return self._decoded(line)
        known = self._waiting.pop(line, None)
        if known is None:
            event, left = self._decoded(line), self._followers - 1
            self._size += len(line)
        else:
            event, left = known[0], known[1] - 1
        if left:
            self._waiting[line] = event, left
            while self._size > LIMIT_BYTES:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                self._size -= len(oldest)
        else:
            self._size -= len(line)
        return event

    def _decoded(self, line: bytes) -> WatchEvent[T]:
        event = decode_event(line, self._codec)
        if event.type == "BOOKMARK":
            return event
        return WatchEvent(event.type, self._transform(event.object))


_decoders: dict[tuple[Any, Any], Decoder[Any]] = {}


def decoder_of(codec: Codec[T], transform: Callable[[T], T]) -> Decoder[T]:
    """The one for this type and transform; dicts and slim types have one of their own each."""
    if not hasattr(codec.item_type, "GROUP_VERSION_KIND"):
        return Decoder(codec, transform)
    key = codec.item_type, transform
    found = _decoders.get(key)
    if found is None:
        found = _decoders[key] = Decoder(codec, transform)
    return found
