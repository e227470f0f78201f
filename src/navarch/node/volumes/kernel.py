"""The system calls that volumes need and Python does not offer: mount, umount2, openat2.

This is the one place of the node agent that changes mounts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import subprocess
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC = 32, 4096, 16384
_MNT_FORCE, _MNT_DETACH = 1, 2
_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 1, 2, 4, 8
_MAXIMUM_LINKS = 40

_libc = ctypes.CDLL(None, use_errno=True)
_ESCAPE = re.compile(r"\\([0-7]{3})")


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    data = options.encode() if options else None
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), data
    )
    _check(result, f"mount {target}")


def mount_memory(target: Path, *, mode: int, size: int = 0, group: int | None = None) -> None:
    """An in-memory file system; without a size the kernel allows half of the memory.

    Where the kernel can, its pages are never swapped out: secrets must not reach a disk.
    """
    wanted = f"mode={mode:o}" + (f",size={size}" if size else "")
    wanted += f",gid={group}" if group is not None else ""
    try:
        mount("tmpfs", target, "tmpfs", 0, f"{wanted},noswap")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mount("tmpfs", target, "tmpfs", 0, wanted)


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Makes a directory or file of the node appear a second time."""
    mount(str(source), target, flags=MS_BIND | MS_REC)
    if read_only:
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def bind_descriptor(descriptor: int, target: Path) -> None:
    """Makes what an open descriptor stands for appear at `target`, whatever its path is by now."""
    mount(f"/proc/self/fd/{descriptor}", target, flags=MS_BIND)


def unmount(target: Path, *, lazily: bool = True, by_force: bool = False) -> None:
    """Takes a mount away. Lazily: at once, and processes that still use it keep it until they end.
    No mount there is as good: where mounts propagate, taking one away takes its copies along."""
    flags = (_MNT_DETACH if lazily else 0) | (_MNT_FORCE if by_force else 0)
    result = _libc.umount2(os.fsencode(target), flags)
    if result < 0 and ctypes.get_errno() in (errno.EINVAL, errno.ENOENT):
        return
    _check(result, f"unmount {target}")


def run_command(*command: str) -> str:
    """Runs a tool of the machine (mount, mkfs, losetup...); its complaint becomes an `OSError`."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise OSError(errno.ENOENT, f'executable file "{command[0]}" not found') from None
    if done.returncode:
        output = (done.stderr or done.stdout).strip()
        raise OSError(errno.EIO, f"{command[0]}: exit status {done.returncode}: {output}")
    return done.stdout.strip()


def _mount_lines() -> list[list[str]]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return [line.split() for line in lines]


def _unescaped(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)


def mounts_under(directory: Path) -> list[Path]:
    """Mount points at or under a directory, deepest and latest first, so they can be undone."""
    prefix = str(directory)
    points = [_unescaped(line[4]) for line in _mount_lines()]
    return [
        Path(point)
        for point in reversed(points)
        if point == prefix or point.startswith(prefix + "/")
    ]


def open_beneath(root: int, path: str, flags: int) -> int:
    """Opens `path` relative to `root` and never outside of it, following symbolic links.

    A container can swap a directory of its volume for a symbolic link at any moment; only the
    kernel can resolve a path and hold on to it in one step.
    """
    try:
        return _openat2(root, path, flags, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    return open_stepwise(root, path, flags)


def open_within(directory: int, name: str, flags: int) -> int:
    """Opens an entry of a directory: not through a link, and not what is mounted on it (EXDEV)."""
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_XDEV
    try:
        return _openat2(directory, name, flags | os.O_NOFOLLOW, resolve)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    opened = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    if os.fstat(opened).st_dev != os.fstat(directory).st_dev:
        os.close(opened)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return opened


def open_plain(path: Path, depth: int = 1) -> int:
    """Opens a file to be read where others may write too: the last `depth` names of its path lead
    through no link and no mount, and what is no file (a pipe, a device) is never opened."""
    *directories, name = path.parts[-depth:]
    held = os.open(Path(*path.parts[:-depth]), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for each in (*directories, name):
            kind = 0 if each is name else os.O_DIRECTORY
            inner = open_within(held, each, os.O_PATH | kind)
            os.close(held)
            held = inner
        if not stat.S_ISREG(os.fstat(held).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(held)


def _openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    # EAGAIN: something was renamed while the kernel went upwards, so it cannot vouch for the way.
    for _ in range(100):
        result = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(directory),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if result >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(result, path)


def open_stepwise(root: int, path: str, flags: int) -> int:
    """`open_beneath` for kernels without openat2: one component at a time, no link followed by the
    kernel, and `..` leads back to the directory that was open before, never to the file system's
    idea of a parent, which somebody may be moving."""
    held = [os.dup(root)]
    names = path.split("/")[::-1]
    links = 0
    try:
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(held) == 1:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
                os.close(held.pop())
                continue
            entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held[-1])
            held.append(entry)
            if not stat.S_ISLNK(os.fstat(entry).st_mode):
                continue
            target = os.readlink("", dir_fd=entry)
            os.close(held.pop())
            links += 1
            if target.startswith("/"):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
            if links > _MAXIMUM_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            names.extend(target.split("/")[::-1])
        if flags & os.O_PATH:
            return os.dup(held[-1])
        # Opens just what is held, whatever lies at its path by now.
        return os.open(f"/proc/self/fd/{held[-1]}", flags | os.O_CLOEXEC)
    finally:
        for each in held:
            os.close(each)
