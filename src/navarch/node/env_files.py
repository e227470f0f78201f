"""Environment files (KEP-3721): variables that an init container has written into an emptyDir.

The format is a strict part of the shell's: `NAME='any text, also of several lines'`, with blank
lines and comments between. Whoever writes the file is a container: it is opened inside its volume
only, never waited for (a FIFO would hang), and read up to a limit.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from navarch.api.types.core_v1 import Container

from .volumes.kernel import open_beneath

FILE_LIMIT = 64 * 1024


class EnvFile(NamedTuple):
    """The variables of a file. What stands before a mistake in it counts, as for a shell."""

    values: Mapping[str, str]
    is_whole: bool = True


EnvFiles = Mapping[tuple[str, str], EnvFile]
"""Files by volume and path."""

UNREADABLE = EnvFile({}, is_whole=False)

_ENTRY = re.compile(
    r"[ \t]*+(?:"
    r"(?:#[^\n]*)?|"
    # Space after the equals sign makes the value empty, whatever follows; before it is an error.
    r"(?P<empty>[^\n=]*[^\n= \t])=[ \t][^\n]*|"
    r"(?P<name>[^\n=]*[^\n= \t])='(?P<value>[^']*)'[ \t]*(?:#[^\n]*)?"
    r")(?:\n|\Z)"
)


def parse_env_file(text: str) -> EnvFile:
    """The variables of a file; the first of a name counts."""
    found: dict[str, str] = {}
    text = text.replace("\r\n", "\n")
    position = 0
    while position < len(text):
        entry = _ENTRY.match(text, position)
        if entry is None:
            return EnvFile(found, is_whole=False)
        if name := entry["name"] or entry["empty"]:
            found.setdefault(name, entry["value"] or "")
        position = entry.end()
    return EnvFile(found)


def env_file_references(container: Container) -> set[tuple[str, str]]:
    """The files (volume, path) that variables of the container are taken from."""
    chosen = [each.valueFrom.fileKeyRef for each in container.env if each.valueFrom is not None]
    return {(each.volumeName, each.path) for each in chosen if each is not None}


def read_env_file(volume: Path, path: str) -> EnvFile:
    """The variables of one file."""
    try:
        root = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            descriptor = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK)
        finally:
            os.close(root)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return UNREADABLE
            data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            return UNREADABLE
    except OSError:
        return UNREADABLE
    return parse_env_file(data.decode("utf-8", "surrogateescape"))
