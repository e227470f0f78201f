"""Writes a volume's files so that a container sees either all of the old or all of the new.

The files lie in a directory with a name of its own; `..data` is a symbolic link to it, and every
name a container sees is a symbolic link through `..data`. Changing the content means writing a new
directory and renaming a new link over `..data`, which the kernel does in one step.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DATA = "..data"
_NEW_DATA = "..data_tmp"


@dataclass(frozen=True, slots=True)
class FileContent:
    """One file of a volume: its bytes, permission bits and, if not root, its owner."""

    data: bytes
    mode: int = 0o644
    owner: int | None = None


Payload = Mapping[str, FileContent]


@dataclass(frozen=True, slots=True)
class Ownership:
    """The group that gets access to a volume's files (a pod's fsGroup); None leaves root's."""

    group: int | None = None
    writable: bool = True


def write_payload(target: Path, payload: Payload, ownership: Ownership) -> bool:
    """Brings the directory `target` to show exactly `payload`; True if something changed."""
    link = target / DATA
    current = _current(link)
    if current is not None and _same(current, payload, ownership):
        return False
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=target))
    fresh.chmod(0o755)
    for name, content in payload.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with open(path, "xb") as file:
            file.write(content.data)
            # By descriptor and after writing: the mode is exact whatever the umask says.
            os.fchmod(file.fileno(), content.mode)
            if content.owner is not None:
                os.fchown(file.fileno(), content.owner, -1)
    if ownership.group is not None:
        give_to_group(fresh, ownership)
    new_link = target / _NEW_DATA
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(fresh.name)
    new_link.rename(link)
    _show_names(target, payload)
    if current is not None:
        shutil.rmtree(current, ignore_errors=True)
    return True


def _current(link: Path) -> Path | None:
    try:
        return link.parent / os.readlink(link)
    except FileNotFoundError:
        return None


def _same(current: Path, payload: Payload, ownership: Ownership) -> bool:
    present = {
        path.relative_to(current).as_posix(): path for path in current.rglob("*") if path.is_file()
    }
    if present.keys() != payload.keys():
        return False
    for name, path in present.items():
        wanted = payload[name]
        status = path.stat()
        mode = wanted.mode if ownership.group is None else wanted.mode | _file_bits(ownership)
        if status.st_mode & 0o777 != mode & 0o777 or path.read_bytes() != wanted.data:
            return False
        if wanted.owner is not None and status.st_uid != wanted.owner:
            return False
    return True


def _show_names(target: Path, payload: Payload) -> None:
    """The visible names: one link per first path component; links of vanished files go last."""
    wanted = {name.split("/", 1)[0] for name in payload}
    for name in wanted:
        path = target / name
        if not path.is_symlink():
            path.symlink_to(f"{DATA}/{name}")
    for entry in os.scandir(target):
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in wanted:
            os.unlink(entry.path)


def _file_bits(ownership: Ownership) -> int:
    return 0o660 if ownership.writable else 0o440


def give_to_group(root: Path, ownership: Ownership) -> None:
    """Hands a tree to a group: it may read (and write) everything, and new files are its own."""
    assert ownership.group is not None
    file_bits = _file_bits(ownership)
    for directory, _, names in os.walk(root):
        _change(directory, ownership.group, file_bits | 0o110 | 0o2000)
        for name in names:
            _change(os.path.join(directory, name), ownership.group, file_bits)


def _change(path: str, group: int, bits: int) -> None:
    status = os.lstat(path)
    if os.path.islink(path):
        return
    if status.st_gid != group:
        os.lchown(path, -1, group)
    # chown clears setgid, so the mode comes second.
    os.chmod(path, (status.st_mode & 0o7777) | bits)
