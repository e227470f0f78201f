"""A pod's fsGroup: gives the files of a volume to a group that every process of the pod is in.

As upstream (`pkg/volume/volume_linux.go`): everything gets the group, may be read (and, unless the
volume is read-only, written) by it, and directories hand the group on to new files (setgid). The
root comes last, so that `OnRootMismatch`, which looks at nothing else, never takes a walk that was
cut short for a finished one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .plugin import VolumeHost, VolumeSpec
from .trees import walk

log = logging.getLogger(__name__)

SLOW_SECONDS = 30.0
PROGRESS_SECONDS = 60.0
ON_ROOT_MISMATCH = "OnRootMismatch"
_HINT = (
    "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/"
    "#configure-volume-permission-and-ownership-change-policy-for-pods"
)


@dataclass(slots=True)
class Ownership:
    """The group that gets access to a volume's files; None leaves them as they are."""

    group: int | None = None
    writable: bool = True
    changed: int = 0
    """How many files have been seen to, for those who wait."""

    @property
    def file_bits(self) -> int:
        return 0o660 if self.writable else 0o440

    @property
    def directory_bits(self) -> int:
        return self.file_bits | 0o110 | stat.S_ISGID

    def is_given(self, root: Path) -> bool:
        """Whether the root of a tree looks as if the tree had been given to the group."""
        status = os.stat(root)
        bits = self.directory_bits
        return (
            stat.S_ISDIR(status.st_mode)
            and status.st_gid == self.group
            and status.st_mode & bits == bits
        )

    def give(self, root: Path) -> None:
        """Hands a tree over."""
        if self.group is None:
            return
        if stat.S_ISDIR(os.stat(root).st_mode):
            for directory, name in walk(root.resolve()):
                self._give_one(directory, name)
        parent = os.open(root.resolve().parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._give_one(parent, root.resolve().name)
        finally:
            os.close(parent)

    def _give_one(self, directory: int, name: str) -> None:
        assert self.group is not None
        try:
            held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            return
        try:
            status = os.fstat(held)
            if stat.S_ISLNK(status.st_mode):
                os.chown(name, -1, self.group, dir_fd=directory, follow_symlinks=False)
                return
            # Names the very inode that was looked at: a link put in its place is not followed.
            path = f"/proc/self/fd/{held}"
            if status.st_gid != self.group:
                os.chown(path, -1, self.group)
            bits = self.directory_bits if stat.S_ISDIR(status.st_mode) else self.file_bits
            # chown clears setuid and setgid, so the mode comes second.
            if status.st_mode & bits != bits or status.st_gid != self.group:
                os.chmod(path, stat.S_IMODE(status.st_mode) | bits)
        except PermissionError as error:
            # Some file systems (NFS) let nobody change owners; the pod then sees what they allow.
            log.warning("changing the group of %s: %s", name, error)
        finally:
            os.close(held)
            self.changed += 1


async def apply_fs_group(
    host: VolumeHost, spec: VolumeSpec, root: Path, *, by_policy: bool = True
) -> None:
    """Gives a volume to the pod's fsGroup, following its fsGroupChangePolicy, and tells the pod's
    owner when that takes long."""
    context = spec.pod.spec.securityContext
    if context is None or context.fsGroup is None:
        return
    ownership = Ownership(context.fsGroup)
    lazily = by_policy and context.fsGroupChangePolicy == ON_ROOT_MISMATCH
    if lazily and await asyncio.to_thread(ownership.is_given, root):
        return
    uid = spec.pod.metadata.uid
    shown = f"{uid}{str(root).partition(uid)[2]}" if uid in str(root) else str(root)

    def tell(text: str, following: Callable[[], None]) -> None:
        host.events.pod(spec.pod, "Warning", "VolumePermissionChangeInProgress", text)
        timers.append(host.clock.call_later(PROGRESS_SECONDS, following))

    def tell_slow() -> None:
        tell(f"Setting volume ownership for {shown} is taking longer than expected, "
             f"consider using OnRootMismatch - {_HINT}", tell_progress)  # fmt: skip

    def tell_progress() -> None:
        text = f"Setting volume ownership for {shown}, processed {ownership.changed} files."
        tell(text, tell_progress)

    timers = [host.clock.call_later(SLOW_SECONDS, tell_slow)]
    try:
        await asyncio.to_thread(ownership.give, root)
    finally:
        timers[-1].cancel()
