"""Mounts a part of a volume (`subPath`) so that no container can make it lead out of the volume.

What the path leads to is opened once, inside the volume only (`openat2` with RESOLVE_BENEATH), and
it is that open file or directory which is bound to a place of the agent's own, where the runtime
finds it. Missing directories are made on the way, in the same manner.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from .kernel import bind_descriptor, mounts_under, open_beneath, unmount
from .plugin import VolumeProblem


def bind_subpath(volume: Path, subpath: str, target: Path) -> Path:
    """Makes `subpath` of `volume` appear at `target` and returns it."""
    parts = PurePosixPath(subpath)
    if parts.is_absolute() or ".." in parts.parts:
        raise VolumeProblem(f"subPath {subpath} must be a relative path without '..'")
    root = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = _open(root, str(parts))
        try:
            _prepare_target(target, directory=stat.S_ISDIR(os.fstat(descriptor).st_mode))
            bind_descriptor(descriptor, target)
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise VolumeProblem(f"failed to prepare subPath {subpath}: {reason}") from error
    finally:
        os.close(root)
    return target


def _open(root: int, path: str) -> int:
    try:
        return open_beneath(root, path, os.O_PATH)
    except FileNotFoundError:
        pass
    parent, _, name = path.rpartition("/")
    directory = _open(root, parent) if parent else os.dup(root)
    try:
        # The new directory is as open as the volume it is in: fsGroup and emptyDir's 0777 go on.
        mode = stat.S_IMODE(os.fstat(root).st_mode)
        try:
            os.mkdir(name, mode, dir_fd=directory)
        except FileExistsError:
            pass  # somebody in the container was faster
        else:
            made = open_beneath(directory, name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fchmod(made, mode)
                if mode & stat.S_ISGID:
                    os.fchown(made, -1, os.fstat(root).st_gid)
                    os.fchmod(made, mode)
            finally:
                os.close(made)
        return open_beneath(directory, name, os.O_PATH)
    finally:
        os.close(directory)


def _prepare_target(target: Path, *, directory: bool) -> None:
    for point in mounts_under(target):
        unmount(point)
    if target.exists() and target.is_dir() != directory:
        if target.is_dir():
            target.rmdir()
        else:
            target.unlink()
    if directory:
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
