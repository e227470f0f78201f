"""Writes a volume's files so that a container sees either all of the old or all of the new.

The files lie in a directory with a name of its own; `..data` is a symbolic link to it, and every
name a container sees is a symbolic link through `..data`. Changing the content means writing a new
directory and renaming a new link over `..data`, which the kernel does in one step.

Containers get these volumes read-only, but a privileged one can change that. So the writer believes
nothing it finds: it works in the opened directory only, follows no link, and removes nothing but
directories with the names it gives itself.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .ownership import Ownership
from .plugin import VolumeProblem
from .trees import is_directory, remove_tree

DATA = "..data"
_NEW_DATA = "..data_tmp"
_MAXIMUM_PATH, _MAXIMUM_NAME = 4096, 255


@dataclass(frozen=True, slots=True)
class FileContent:
    """One file of a volume: its bytes, permission bits and, if not root, its owner."""

    data: bytes
    mode: int = 0o644
    owner: int | None = None


Payload = Mapping[str, FileContent]


def check_path(path: str) -> None:
    """A file's path must stay in its volume and clear of the writer's own names."""
    parts = path.split("/")
    if not path:
        raise VolumeProblem('invalid path: must not be empty: ""')
    if path.startswith("/"):
        raise VolumeProblem(f"invalid path: must be relative path: {path}")
    if len(path) > _MAXIMUM_PATH:
        raise VolumeProblem(
            f"invalid path: must be less than or equal to {_MAXIMUM_PATH} characters"
        )
    if ".." in parts or "\0" in path:
        raise VolumeProblem(f"invalid path: must not contain '..': {path}")
    if any(len(os.fsencode(part)) > _MAXIMUM_NAME for part in parts):
        raise VolumeProblem(
            f"invalid path: filenames must be less than or equal to {_MAXIMUM_NAME} characters"
        )
    if path.startswith(".."):
        raise VolumeProblem(f"invalid path: must not start with '..': {path}")


def write_payload(target: Path, payload: Payload, ownership: Ownership, stamp: str = "") -> bool:
    """Brings the directory `target` to show exactly `payload`; True if something changed.

    `stamp` (the time) becomes part of the directory's name. Directories that other volumes are
    mounted on are left alone, if no file of the payload has their name.
    """
    for name in payload:
        check_path(name)
    current = _current(target)
    if current is not None and _same(current, payload, ownership):
        _show_names(target, payload)
        _remove_leftovers(target, current.name)
        return False
    fresh = target / f"..{stamp}.{secrets.randbelow(10**9):09d}"
    os.mkdir(fresh, 0o755)
    try:
        os.chmod(fresh, 0o755)
        _write_files(fresh, payload)
        ownership.give(fresh)
    except BaseException:
        remove_tree(fresh)  # a full disk would be fuller after each attempt
        raise
    new_link = target / _NEW_DATA
    _remove_entry(new_link)
    new_link.symlink_to(fresh.name)
    if is_directory(target / DATA):
        remove_tree(target / DATA)
    new_link.rename(target / DATA)
    _show_names(target, payload)
    _remove_leftovers(target, fresh.name)
    return True


def _write_files(fresh: Path, payload: Payload) -> None:
    for name, content in payload.items():
        path = fresh / name
        try:
            _make_parents(fresh, path)
            with open(path, "xb") as file:
                file.write(content.data)
                # By descriptor and after writing: the mode is exact whatever the umask says.
                os.fchmod(file.fileno(), content.mode)
                if content.owner is not None:
                    os.fchown(file.fileno(), content.owner, -1)
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise VolumeProblem(
                f"conflicting paths in the volume: {name} is a file and a directory"
            ) from error


def _make_parents(fresh: Path, path: Path) -> None:
    for parent in reversed(path.relative_to(fresh).parents[:-1]):
        directory = fresh / parent
        if not directory.is_dir():
            directory.mkdir()
            directory.chmod(0o755)


def _current(target: Path) -> Path | None:
    """The directory that is shown now; None if that is not one of the writer's."""
    try:
        name = os.readlink(target / DATA)
    except OSError:
        return None
    if "/" in name or not name.startswith("..") or name == "..":
        return None
    return target / name if is_directory(target / name) else None


def _same(current: Path, payload: Payload, ownership: Ownership) -> bool:
    present = {}
    for directory, below, names in os.walk(current):
        if any(os.path.islink(os.path.join(directory, name)) for name in below):
            return False
        for name in names:
            path = os.path.join(directory, name)
            present[os.path.relpath(path, current)] = path
    if present.keys() != payload.keys():
        return False
    bits = ownership.file_bits if ownership.group is not None else 0
    return all(_is(path, payload[name], bits) for name, path in present.items())


def _is(path: str, wanted: FileContent, bits: int) -> bool:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(opened, "rb") as file:
        status = os.fstat(opened)
        return (
            stat.S_ISREG(status.st_mode)
            and status.st_mode & 0o777 == (wanted.mode | bits) & 0o777
            and wanted.owner in (None, status.st_uid)
            and status.st_size == len(wanted.data)
            and file.read() == wanted.data
        )


def _show_names(target: Path, payload: Payload) -> None:
    """The visible names: one link per first path component; links of vanished files go last."""
    wanted = {name.split("/", 1)[0] for name in payload}
    for name in wanted:
        path, link = target / name, f"{DATA}/{name}"
        try:
            if os.readlink(path) == link:
                continue
        except OSError:
            pass
        _remove_entry(path)
        path.symlink_to(link)
    with os.scandir(target) as entries:
        gone = [
            entry.path
            for entry in entries
            if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in wanted
        ]
    for each in gone:
        os.unlink(each)


def _remove_leftovers(target: Path, current: str) -> None:
    """Directories of earlier contents, also of a write that was cut short."""
    for name in os.listdir(target):
        if name.startswith("..") and name not in (DATA, current):
            _remove_entry(target / name)


def _remove_entry(path: Path) -> None:
    if is_directory(path):
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
