"""Changes of files as they happen, from the kernel (inotify(7)), for an asyncio loop."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Self

_HEAD = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Mask(IntFlag):
    MODIFY = 0x002
    CLOSE_WRITE = 0x008
    MOVED_FROM = 0x040
    MOVED_TO = 0x080
    CREATE = 0x100
    DELETE = 0x200


@dataclass(frozen=True, slots=True)
class Change:
    """One event: which watch, what happened, and the file's name where a directory is watched."""

    watch: int
    mask: Mask
    name: str


class Watcher:
    """Watches files or directories; closes its descriptor on exit."""

    def __init__(self) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._changed = asyncio.Event()

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._fd, self._changed.set)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def add(self, path: str, mask: Mask) -> int:
        """Watch a path and return the number that its changes carry. Raises OSError."""
        watch = int(_libc.inotify_add_watch(self._fd, os.fsencode(path), int(mask)))
        if watch < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return watch

    async def wait(self, timeout: float | None = None) -> list[Change]:
        """What has changed; an empty list when `timeout` seconds pass without a change."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return []
        self._changed.clear()
        try:
            data = os.read(self._fd, 64 * 1024)
        except BlockingIOError:
            return []
        changes = []
        position = 0
        while position < len(data):
            watch, mask, _, size = _HEAD.unpack_from(data, position)
            position += _HEAD.size
            name = data[position : position + size].rstrip(b"\0")
            position += size
            changes.append(Change(watch, Mask(mask & 0xFFF), os.fsdecode(name)))
        return changes
