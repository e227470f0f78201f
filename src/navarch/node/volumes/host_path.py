"""hostPath volumes: a place of the node itself, checked against the type the pod expects."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from .plugin import VolumeProblem

_CHECKS: dict[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "is not a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "is not a directory"),
    "File": (stat.S_ISREG, "is not a file"),
    "FileOrCreate": (stat.S_ISREG, "is not a file"),
    "Socket": (stat.S_ISSOCK, "is not a socket file"),
    "CharDevice": (stat.S_ISCHR, "is not a character device"),
    "BlockDevice": (stat.S_ISBLK, "is not a block device"),
}


def prepare_host_path(path: Path, kind: str) -> Path:
    """Makes what `...OrCreate` types ask for, and refuses what is of another type."""
    if kind == "DirectoryOrCreate" and not path.exists():
        path.mkdir(parents=True, mode=0o755)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    if not kind:
        return path
    if kind not in _CHECKS:
        raise VolumeProblem(f"hostPath type check failed: unknown type {kind}")
    check, complaint = _CHECKS[kind]
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0
    if not check(mode):
        raise VolumeProblem(f"hostPath type check failed: {path} {complaint}")
    return path
