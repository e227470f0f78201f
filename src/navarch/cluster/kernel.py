"""The few system calls about namespaces and mounts that Python does not offer, by ctypes.

`os.setns` and `os.unshare` exist from Python 3.12 on; 3.11 is supported, so these go to the C
library directly. Nothing else of this project calls the C library for cluster matters.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    _check(_libc().unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int, kind: int) -> None:
    _check(_libc().setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def sethostname(name: str) -> None:
    encoded = name.encode()
    _check(_libc().sethostname(encoded, ctypes.c_size_t(len(encoded))), "sethostname")


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    result = _libc().mount(
        source.encode(),
        str(target).encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(result, str(target))


def umount(target: Path | str, flags: int = 0) -> None:
    _check(_libc().umount2(str(target).encode(), ctypes.c_int(flags)), str(target))
