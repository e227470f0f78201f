"""Switches the kernel's forwarding of packets on while a cluster needs it, and back afterwards.

What was off before is noted in a file, so that it can be put back. Clusters of one machine share
their note, whosever they are: the first one switches forwarding on, and the last one to go, which
may be another user's, has to know of it. It lives in /run, as what it tells does not outlive a boot
either. Machines that are network namespaces have a note each.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from navarch.cluster.profile import write_json

DIRECTORY = Path("/run/navarch")
SETTINGS = Path("/proc/sys")


def machines_note() -> Path:
    """The note of the network namespace that this process is in."""
    return DIRECTORY / f"forwarding-{os.stat('/proc/self/ns/net').st_ino}.json"


def switch_on(names: Iterable[str], note: Path) -> None:
    """Bring settings (names below /proc/sys) to 1."""
    with locked(SETTINGS):
        changed = _read(note)
        for name in names:
            setting = SETTINGS / name
            if setting.read_text().strip() != "0":
                continue
            if name not in changed:
                changed.append(name)
                note.parent.mkdir(parents=True, exist_ok=True)
                write_json(note, changed)
            setting.write_text("1")


def switch_back(note: Path, is_needed: Callable[[], bool] = lambda: False) -> None:
    """Undo `switch_on`, unless somebody else needs it."""
    with locked(SETTINGS):
        if is_needed():
            return
        for name in _read(note):
            with suppress(FileNotFoundError):  # an interface that is gone
                (SETTINGS / name).write_text("0")
        note.unlink(missing_ok=True)
        if note.parent == DIRECTORY:
            with suppress(OSError):  # another one is there
                DIRECTORY.rmdir()


def _read(note: Path) -> list[str]:
    return list(json.loads(note.read_bytes())) if note.is_file() else []


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One at a time on this machine. The lock is on a directory that is always there, so it leaves
    no file."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
