"""`kubectl logs`: the container log files of the runtime, as their readers want them.

The runtime writes one line an entry: `2016-10-06T00:17:09.669794202Z stdout F the text`, with P for
a part of a line that was too long and F for its last part (CRI logging format). Reading follows the
file through rotation: the runtime renames it and opens a new one of the same name.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from navarch.api.times import parse_time
from navarch.node.inotify import Mask, Watcher

BLOCK = 64 * 1024
STATE_CHECK_SECONDS = 0.5
"""How often a silent container is asked whether it still runs."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The query of a log request. `since` hides what was written before it, `tail` (None: all) is
    counted in lines from the end, `limit` in bytes of output; `stream` empty means both."""

    follow: bool = False
    timestamps: bool = False
    since: datetime | None = None
    tail: int | None = None
    limit: int | None = None
    stream: str = ""


def tail_offset(file: BinaryIO, lines: int) -> int:
    """Where the last `lines` lines of a file begin."""
    end = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return end
    position = end
    wanted = lines
    while position > 0:
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        # The newline that ends the file ends the last line; it does not begin another.
        stop = size - 1 if position + size == end and block.endswith(b"\n") else size
        while (found := block.rfind(b"\n", 0, stop)) >= 0:
            wanted -= 1
            if wanted == 0:
                return position + found + 1
            stop = found
    return 0


def render(entry: bytes, options: LogOptions) -> bytes:
    """What one entry of the file shows to the reader: nothing where an option hides it."""
    head = entry.split(b" ", 3)
    if len(head) < 4:
        return b""
    time, stream, tag, text = head
    if options.stream and stream.decode("latin-1") != options.stream:
        return b""
    if options.since is not None:
        try:
            if parse_time(time.decode("latin-1")) < options.since:
                return b""
        except ValueError:
            return b""
    # A part keeps no newline, so that the parts of a long line join again.
    line = text if tag.startswith(b"F") else text.removesuffix(b"\n")
    return time + b" " + line if options.timestamps else line


class _Reader:
    """Whole entries of one open file; a half-written one waits for its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("rb")
        self._rest = b""

    def entries(self) -> Iterator[bytes]:
        while block := self.file.read(BLOCK):
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                yield line + b"\n"

    def is_replaced(self) -> bool:
        """Whether the path now names another file than the one that is open."""
        try:
            return os.stat(self.path).st_ino != os.fstat(self.file.fileno()).st_ino
        except FileNotFoundError:
            return False


async def read_log(
    path: Path, options: LogOptions, is_running: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Chunks of a container's log. With `follow` it goes on until the container has ended and all
    it wrote was read. Raises FileNotFoundError when there is no such file."""
    reader = _Reader(path)
    left = options.limit
    try:
        reader.file.seek(0 if options.tail is None else tail_offset(reader.file, options.tail))
        with Watcher() as watcher:
            if options.follow:
                watcher.add(str(path.parent), Mask.MODIFY | Mask.CREATE | Mask.MOVED_TO)
            while True:
                # Asked before reading: what an ended container wrote is complete in the file.
                running = options.follow and is_running()
                chunk = bytearray()
                for entry in reader.entries():
                    chunk += render(entry, options)
                    if left is not None and len(chunk) >= left:
                        yield bytes(chunk[:left])
                        return
                    if len(chunk) >= BLOCK:
                        yield bytes(chunk)
                        left = None if left is None else left - len(chunk)
                        chunk = bytearray()
                if chunk:
                    yield bytes(chunk)
                    left = None if left is None else left - len(chunk)
                if reader.is_replaced():
                    reader.file.close()
                    reader = _Reader(path)
                    continue
                if not running:
                    return
                await watcher.wait(STATE_CHECK_SECONDS)
    finally:
        reader.file.close()
