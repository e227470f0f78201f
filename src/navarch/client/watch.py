"""The wire format of a watch: one JSON event per line, in a body that may never end.

An ERROR event carries a Status and ends the watch as an exception; 410 among them means that the
history asked for is gone and the reader must list again (API conventions, "Efficient detection of
changes").
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

import msgspec

from navarch.api.errors import ApiError
from navarch.client.objects import Codec, WatchEvent

T = TypeVar("T")

_ERROR = b'"ERROR"'


class LineSplitter:
    """Cuts a stream of chunks into lines; a line may span any number of chunks."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends and without empty ones."""
        head, newline, rest = chunk.partition(b"\n")
        if not newline:
            self._parts.append(chunk)
            return []
        lines = [b"".join([*self._parts, head]), *rest.split(b"\n")]
        last = lines.pop()
        self._parts = [last] if last else []
        return [line for line in lines if line.strip()]


class _Raw(msgspec.Struct):
    type: str
    object: msgspec.Raw


def decode_event(line: bytes, codec: Codec[T]) -> WatchEvent[T]:
    """One event; raises the `ApiError` that an ERROR event tells of."""
    # The type is the first member in what every server writes; searching its neighbourhood spares
    # the common events a second decoding.
    if _ERROR in line[:64]:
        raw = msgspec.json.decode(line, type=_Raw)
        if raw.type == "ERROR":
            raise ApiError.from_status(msgspec.json.decode(raw.object))
    return codec.decode_event(line)


async def read_watch(
    chunks: AsyncIterator[bytes], decode: Callable[[bytes], WatchEvent[T]]
) -> AsyncGenerator[WatchEvent[T], None]:
    """The events in a watch's body. A last line that was cut off is not an event: the watch is
    resumed before it."""
    splitter = LineSplitter()
    async for chunk in chunks:
        for line in splitter.feed(chunk):
            yield decode(line)
