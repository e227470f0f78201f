"""Termination messages: what a container leaves behind to explain its end."""

from __future__ import annotations

import os
from pathlib import Path

from .cri.values import TERMINATION_PATH, TERMINATION_POLICY, ContainerRecord
from .server.logs import open_log
from .volumes.kernel import open_plain

MESSAGE_LIMIT = 4096
LOG_LIMIT = 2048
LOG_LINES = 80
TOTAL_LIMIT = 12 * 1024
"""For all containers of a pod together; with many containers each gets its share."""


def termination_log_path(pod_directory: Path, container: str, attempt: int) -> Path:
    """The file that is mounted at an instance's terminationMessagePath."""
    return pod_directory / "containers" / container / f"{attempt}.message"


def prepare_termination_log(path: Path) -> Path:
    """An empty file that any user in the container may write to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    path.chmod(0o666)
    return path


def read_message(record: ContainerRecord, pod_directory: Path, containers: int) -> str:
    """The message of an ended instance: its file, or the end of its log where that is wanted."""
    limit = min(MESSAGE_LIMIT, TOTAL_LIMIT // max(containers, 1))
    text = ""
    if record.annotations.get(TERMINATION_PATH):
        path = termination_log_path(pod_directory, record.name, record.attempt)
        text = _head(path, limit)
    if text or record.exit_code == 0:
        return text
    if record.annotations.get(TERMINATION_POLICY) == "FallbackToLogsOnError":
        return log_tail(Path(record.log_path), min(LOG_LIMIT, limit))
    return text


def _head(path: Path, limit: int) -> str:
    try:
        with open(open_plain(path), "rb") as file:
            return file.read(limit).decode(errors="replace")
    except OSError:
        return ""


def log_tail(path: Path, limit: int) -> str:
    """The last lines of a container's log, without the runtime's prefixes."""
    try:
        with open_log(path) as file:
            size = file.seek(0, os.SEEK_END)
            # Each line has a prefix of some forty bytes; empty lines are nothing but prefix.
            file.seek(max(0, size - limit - LOG_LINES * 64))
            data = file.read()
    except OSError:
        return ""
    lines = data.splitlines()
    if size > len(data):
        lines = lines[1:]
    out = b"".join(_content(line) for line in lines[-LOG_LINES:])
    return out[-limit:].decode(errors="replace")


def _content(line: bytes) -> bytes:
    parts = line.split(b" ", 3)
    if len(parts) < 4:
        return b""
    return parts[3] + (b"" if parts[2].startswith(b"P") else b"\n")
