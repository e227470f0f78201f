"""The files beside the database: the lock that keeps a second server out, and the reserve."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from navarch.store.contract import StoreUnusable

OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def beside(database: Path, suffix: str) -> Path:
    return database.with_name(database.name + suffix)


def sync_directory(path: Path) -> None:
    """Make the creation or renaming of a file in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """Held by the one process that uses a database; the kernel lets go of it when that process
    ends, however it ends. A file of its own, because closing any descriptor of the database itself
    would give up SQLite's locks on it. The file stays: removing it would let two processes lock
    two files of the same name."""

    def __init__(self, database: Path) -> None:
        self._descriptor = os.open(beside(database, "-lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self._descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StoreUnusable(
                f"{database} is in use by another process (pid {owner}); stop it first"
            ) from error
        # Who holds the lock is told for convenience only: no room for it is no reason to stop.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


class Reserve:
    """Disk space kept aside for the day when the disk is full: a deletion has to be written, too,
    before it can free anything."""

    def __init__(self, database: Path, size: int) -> None:
        self._path = beside(database, "-reserve")
        self._size = size

    def hold(self) -> bool:
        """Keep the space aside; False, holding nothing, when there is not that much."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if self._size:
                os.posix_fallocate(descriptor, 0, self._size)
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            os.ftruncate(descriptor, 0)
            return False
        finally:
            os.close(descriptor)
        return True

    def release(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self._path, 0)

    def space_left(self) -> bool:
        """Whether as much again is free beside what is held, so that the next put will not be
        refused at once."""
        status = os.statvfs(self._path.parent)
        return status.f_bavail * status.f_frsize >= self._size
