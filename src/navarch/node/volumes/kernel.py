"""The system calls that volumes need and Python does not offer: mount, umount2, openat2.

This is the one place of the node agent that changes mounts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND = 4096
_MNT_DETACH = 2
_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08

_libc = ctypes.CDLL(None, use_errno=True)
_ESCAPE = re.compile(r"\\([0-7]{3})")


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


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


def mount_tmpfs(target: Path, *, mode: int, size: int = 0) -> None:
    """An in-memory file system; without a size the kernel allows half of the memory."""
    options = f"mode={mode:o}" + (f",size={size}" if size else "")
    mount("tmpfs", target, "tmpfs", 0, options)


def bind_descriptor(descriptor: int, target: Path) -> None:
    """Makes what an open descriptor stands for appear at `target`, whatever its path is by now."""
    mount(f"/proc/self/fd/{descriptor}", target, flags=MS_BIND)


def unmount(target: Path) -> None:
    """Takes a mount away at once; processes that still use it keep it until they end. No mount
    there is as good: where mounts propagate, taking one away takes its copies along."""
    result = _libc.umount2(os.fsencode(target), _MNT_DETACH)
    if result < 0 and ctypes.get_errno() == errno.EINVAL:
        return
    _check(result, f"unmount {target}")


def mounts_under(directory: Path) -> list[Path]:
    """Mount points at or under a directory, deepest and latest first, so they can be undone."""
    prefix = str(directory)
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split(" ", 5)[4])
            if point == prefix or point.startswith(prefix + "/"):
                found.append(Path(point))
    return found[::-1]


def open_beneath(root: int, path: str, flags: int) -> int:
    """Opens `path` relative to `root` and never outside of it, following symbolic links.

    A container can swap a directory of its volume for a symbolic link at any moment; only the
    kernel can resolve a path and hold on to it in one step.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    result = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(root),
        os.fsencode(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    return _check(result, path)
