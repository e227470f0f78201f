"""hostPath volumes: a place of the node itself, checked against the type the pod expects."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

from .plugin import PreparedVolume, VolumePlugin, VolumeProblem, VolumeSpec

_CHECKS: dict[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "is not a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "is not a directory"),
    "File": (stat.S_ISREG, "is not a file"),
    "FileOrCreate": (stat.S_ISREG, "is not a file"),
    "Socket": (stat.S_ISSOCK, "is not a socket file"),
    "CharDevice": (stat.S_ISCHR, "is not a character device"),
    "BlockDevice": (stat.S_ISBLK, "is not a block device"),
}


class HostPathPlugin(VolumePlugin):
    """Mounts nothing: containers get the node's directory as it is. No fsGroup, for the files are
    the node's, and no statistics."""

    name = "kubernetes.io/host-path"
    field = "hostPath"
    is_persistent = True

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        source = spec.source.hostPath
        assert source is not None
        path = await asyncio.to_thread(prepare_host_path, Path(source.path), source.type or "")
        return PreparedVolume(path, read_only=spec.read_only)


def prepare_host_path(path: Path, kind: str) -> Path:
    """Makes what `...OrCreate` types ask for, and refuses what is of another type."""
    if ".." in path.parts:
        raise VolumeProblem(f"invalid HostPath `{path}`: must not contain '..'")
    if not kind:
        return path
    if kind not in _CHECKS:
        raise VolumeProblem(f"{kind} is an invalid volume type")
    if kind == "DirectoryOrCreate" and not path.exists():
        path.mkdir(parents=True, mode=0o755)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    check, complaint = _CHECKS[kind]
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0
    if not check(mode):
        raise VolumeProblem(f"hostPath type check failed: {path} {complaint}")
    return path
