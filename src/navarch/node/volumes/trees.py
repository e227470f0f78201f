"""Walks, measures and removes directories that containers have written to.

Nothing in such a tree can be trusted: directories are swapped for links while somebody walks, nest
thousands deep, or have another file system mounted on them. So every step goes through an open
directory, follows no link and, when something is to be removed, crosses no mount.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .kernel import open_within
from .plugin import VolumeUsage

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_DEPTH = 64
"""How many directories are held open: each is one of the whole agent's open files. What lies deeper
is brought to the top to be removed; who only looks closes what is far above, and finds it again."""


def remove_tree(root: Path) -> None:
    """Deletes a directory and what is in it, but never through a mount: that would be somebody's
    data. Raises EBUSY for it, when everything around it may be gone already."""
    parent = os.open(root.parent, _DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            top = _enter(parent, root.name)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            os.unlink(root.name, dir_fd=parent)
            return
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(root.name, dir_fd=parent)
    finally:
        os.close(parent)


def _enter(directory: int, name: str) -> int:
    try:
        return open_within(directory, name, _DIRECTORY)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, "a symbolic link", name) from None
        if error.errno == errno.EXDEV:
            raise OSError(errno.EBUSY, "something is mounted here", name) from None
        raise


def _empty(top: int) -> None:
    stack: list[tuple[int, str, list[str]]] = [(top, "", [])]
    moved = 0
    try:
        while stack:
            directory, name, below = stack[-1]
            if not below:
                below.extend(_delete_files(directory))
            if not below:
                stack.pop()
                if stack:
                    os.close(directory)
                    os.rmdir(name, dir_fd=stack[-1][0])
                continue
            entry = below.pop()
            opened = _enter(directory, entry)
            if len(stack) < _DEPTH:
                stack.append((opened, entry, []))
                continue
            os.close(opened)
            moved += 1
            os.rename(entry, f".deep-{os.getpid()}-{moved}",
                      src_dir_fd=directory, dst_dir_fd=top)  # fmt: skip
    finally:
        for directory, _, _ in stack[1:]:
            os.close(directory)


def _delete_files(directory: int) -> list[str]:
    """Deletes what is no directory; returns the directories."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found.append(entry.name)
                continue
            try:
                os.unlink(entry.name, dir_fd=directory)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise OSError(errno.EBUSY, "something is mounted here", entry.name) from None
                if error.errno != errno.ENOENT:
                    raise
    return found


@dataclass(slots=True)
class _Level:
    """A directory on the way down."""

    opened: int
    """Its descriptor; -1 while it is closed, because many lie below it."""
    name: str
    names: Iterator[str]
    identity: tuple[int, int]

    @classmethod
    def of(cls, opened: int, name: str) -> _Level:
        try:
            status = os.fstat(opened)
            return cls(opened, name, iter(os.listdir(opened)), (status.st_dev, status.st_ino))
        except OSError:
            os.close(opened)
            raise

    def close(self) -> None:
        if self.opened >= 0:
            os.close(self.opened)
            self.opened = -1

    def reopen(self, below: int) -> None:
        """From a directory in it, which may have been moved elsewhere by now."""
        if self.opened >= 0:
            return
        self.opened = os.open("..", _DIRECTORY | os.O_CLOEXEC, dir_fd=below)
        status = os.fstat(self.opened)
        if (status.st_dev, status.st_ino) != self.identity:
            raise OSError(errno.ESTALE, "directories were moved while they were looked at")


def walk(root: Path) -> Iterator[tuple[int, str]]:
    """Every entry below a directory as (open directory, name), contents before their directory.

    What vanishes meanwhile is passed over. A tree whose deep parts are moved meanwhile is an
    `OSError` (ESTALE): there is no way back to where the walk came from.
    """
    top = os.open(root, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    levels = [_Level.of(top, "")]
    try:
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                if len(levels) > 1:
                    levels[-2].reopen(level.opened)
                levels.pop().close()
                if levels:
                    yield levels[-1].opened, level.name
                continue
            flags = _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                opened = os.open(name, flags, dir_fd=level.opened)
            except (NotADirectoryError, FileNotFoundError):
                yield level.opened, name
                continue
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                yield level.opened, name
                continue
            levels.append(_Level.of(opened, name))
            if len(levels) > _DEPTH:
                levels[-_DEPTH - 1].close()
    finally:
        for level in levels:
            level.close()


def measure(root: Path) -> VolumeUsage:
    """What a directory (or file) on a shared file system takes, as `du` counts: blocks, each inode
    once, and nothing of what is mounted below it; beside it what the file system has left."""
    whole, own = file_system(root), os.lstat(root)
    used, count, linked = own.st_blocks * 512, 1, {own.st_ino}
    try:
        for directory, name in walk(root) if stat.S_ISDIR(own.st_mode) else ():
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if status.st_dev != own.st_dev or status.st_ino in linked:
                continue
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                linked.add(status.st_ino)  # only these are met twice
            count += 1
            used += status.st_blocks * 512
    except OSError as error:
        # Somebody moves its parts about: what has been seen counts.
        if error.errno != errno.ESTALE:
            raise
    return VolumeUsage(
        used, whole.capacity, whole.available, count, whole.inodes, whole.inodes_free
    )


def file_system(path: Path) -> VolumeUsage:
    """What a whole file system holds, by statfs."""
    found = os.statvfs(path)
    return VolumeUsage(
        used=(found.f_blocks - found.f_bfree) * found.f_frsize,
        capacity=found.f_blocks * found.f_frsize,
        available=found.f_bavail * found.f_frsize,
        inodes_used=found.f_files - found.f_ffree,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
    )


def is_directory(path: Path) -> bool:
    """Whether there is a directory, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
