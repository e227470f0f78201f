"""Files that an agent has to find again, whatever happens to the machine."""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, blob: bytes) -> None:
    """Replaces the file: old or new after a power loss, never half of each."""
    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "wb") as stream:
        stream.write(blob)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
