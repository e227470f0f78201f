"""The audit log: events to a file that is rotated, off the event loop.

Events queue up in memory and one task hands them to a thread in batches, so a disk that is slow for
a moment costs no request anything. What happens when the queue is full is the mode's to say, in
upstream's names: `batch` drops events and counts them, `blocking` lets requests wait for room,
`blocking-strict` besides refuses a request whose receipt could not be written. A disk that is full
stops the API in the last mode only; in the others the loss is counted and logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

MODES = ("batch", "blocking", "blocking-strict")
MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Where the log is and how it is rotated. `path` "-" is standard output. A maximum of 0 keeps
    everything."""

    path: str
    max_megabytes: int = 100
    max_backups: int = 100
    max_days: int = 366
    compress: bool = False
    mode: str = "blocking"
    buffer_size: int = 10_000
    """Events that may wait."""


class RotatedFile:
    """A file that is renamed when it is full: `audit.log` becomes `audit-<time>.log`. Old ones go
    by age and number. All of it runs in the writer's thread."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._path = Path(options.path)
        self._file: BinaryIO | None = None
        self._size = 0
        self._rotated_at = datetime.fromtimestamp(0, UTC)

    def open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._size = self._path.stat().st_size

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, whole ones only: what a full disk cuts off is taken back."""
        limit = (self._options.max_megabytes or 100) * MEGABYTE
        batch: list[bytes] = []
        size = self._size
        for line in lines:
            if size and size + len(line) + 1 > limit:
                self._append(batch)
                batch = []
                self._rotate()
                size = 0
            batch.append(line)
            size += len(line) + 1
        self._append(batch)

    def _append(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        if self._file is None:
            self.open()
        assert self._file is not None
        data = memoryview(b"".join(part for line in lines for part in (line, b"\n")))
        start = self._size
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), start)
            raise
        self._size = os.fstat(self._file.fileno()).st_size

    def _rotate(self) -> None:
        self.close()
        # Stamps only grow, or a backup could get the name of an older one that has just gone.
        now = max(datetime.now(UTC), self._rotated_at + timedelta(milliseconds=1))
        while (target := self._backup_at(now)).exists() or _packed(target).exists():
            now += timedelta(milliseconds=1)
        self._rotated_at = now
        self._path.rename(target)
        if self._options.compress:
            _compress(target)
        self._forget_old(now)
        self.open()

    def _backup_at(self, now: datetime) -> Path:
        stamp = f"{now:%Y-%m-%dT%H-%M-%S}.{now.microsecond // 1000:03d}"
        return self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")

    def _forget_old(self, now: datetime) -> None:
        """By number, the newest stay; by age, counted from the rotation."""
        stem, suffix = self._path.stem, self._path.suffix
        backups = sorted(
            (
                each
                for pattern in (f"{stem}-*{suffix}", f"{stem}-*{suffix}.gz")
                for each in self._path.parent.glob(pattern)
            ),
            # Files of one moment are told apart by the stamp in their names.
            key=lambda each: (each.stat().st_mtime_ns, each.name),
            reverse=True,
        )
        options = self._options
        surplus = backups[options.max_backups :] if options.max_backups else []
        if options.max_days:
            oldest = (now - timedelta(days=options.max_days)).timestamp()
            surplus += [each for each in backups if each.stat().st_mtime < oldest]
        for each in surplus:
            each.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def _compress(path: Path) -> None:
    packed = _packed(path)
    descriptor = os.open(packed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with (
        os.fdopen(descriptor, "wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb") as target,
        path.open("rb") as source,
    ):
        shutil.copyfileobj(source, target)
    path.unlink()


class StandardOutput:
    def open(self) -> None:
        return None

    def write(self, lines: Sequence[bytes]) -> None:
        sys.stdout.buffer.write(b"".join(part for line in lines for part in (line, b"\n")))
        sys.stdout.buffer.flush()

    def close(self) -> None:
        return None


class AuditLog:
    """The queue and the task that empties it."""

    def __init__(self, options: LogOptions) -> None:
        if options.mode not in MODES:
            raise ValueError(f"invalid audit log mode {options.mode!r}: use {', '.join(MODES)}")
        self.options = options
        self.dropped = 0
        """Events lost: the queue was full, or the disk."""
        self.written = 0
        self._sink = StandardOutput() if options.path == "-" else RotatedFile(options)
        self._lines: list[bytes] = []
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._turn: asyncio.Future[bool] | None = None
        self._is_writing = False
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None
        self._complained = 0.0

    async def start(self) -> None:
        """Raises OSError when the file cannot be written."""
        await asyncio.to_thread(self._sink.open)
        self._task = asyncio.create_task(self._run(), name="audit log")

    def put(self, line: bytes) -> None:
        if len(self._lines) >= self.options.buffer_size and self.options.mode == "batch":
            self.dropped += 1
            return
        self._lines.append(line)
        if len(self._lines) >= self.options.buffer_size:
            self._room.clear()
        self._wake.set()

    async def room(self) -> None:
        """Wait until events can be taken; called before a request is served."""
        if not self._room.is_set() and self.options.mode != "batch":
            await self._room.wait()

    async def flushed(self) -> bool:
        """Wait until what was put is on disk. False when it could not be written."""
        if not (self._lines or self._is_writing):
            return True
        turn = asyncio.get_running_loop().create_future() if self._turn is None else self._turn
        self._turn = turn
        self._wake.set()
        return await asyncio.shield(turn)

    async def _run(self) -> None:
        while not self._is_closing:
            await self._wake.wait()
            self._wake.clear()
            await self._write()

    async def _write(self) -> None:
        lines, self._lines = self._lines, []
        turn, self._turn = self._turn, None
        self._room.set()
        is_good = self._is_writing = True
        try:
            await asyncio.to_thread(self._sink.write, lines)
            self.written += len(lines)
        except OSError as error:
            is_good = False
            self.dropped += len(lines)
            if time.monotonic() - self._complained > 10:
                self._complained = time.monotonic()
                log.error("audit events are lost, %d up to now: %s", self.dropped, error)
        self._is_writing = False
        if turn is not None and not turn.done():
            turn.set_result(is_good)

    async def close(self) -> None:
        """Write what is there, then close. A write under way is waited for, because its thread
        cannot be stopped and the next one would overtake it."""
        if self._task is not None:
            self._is_closing = True
            self._wake.set()
            await self._task
            await self._write()
            self._sink.close()
