"""The audit log's file: rotated, bounded, whole lines only; and what a full queue or disk does."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from navarch.apiserver.audit import backend
from navarch.apiserver.audit.backend import AuditLog, LogOptions, RotatedFile


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "MEGABYTE", 100)


@pytest.mark.usefixtures("small")
def test_a_full_file_makes_way_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    file = RotatedFile(LogOptions(str(path), max_megabytes=1, max_backups=2))
    for number in range(40):
        file.write([b"%039d" % number])
    file.close()
    backups = sorted(tmp_path.glob("audit-*.log"))
    assert len(backups) == 2
    lines = [line for each in [*backups, path] for line in each.read_bytes().splitlines()]
    assert [int(line) for line in lines] == list(range(40 - len(lines), 40))
    assert all(len(each.read_bytes()) <= 100 for each in [*backups, path])
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("small")
def test_old_files_are_packed_and_go_with_age(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    old = tmp_path / "audit-2001.log"
    old.write_bytes(b"old\n")
    os.utime(old, (1, 1))
    file = RotatedFile(LogOptions(str(path), max_megabytes=1, compress=True))
    file.write([b"x" * 60])
    file.write([b"y" * 60])
    file.close()
    assert not old.exists()
    (packed,) = tmp_path.glob("audit-*.log.gz")
    assert gzip.decompress(packed.read_bytes()) == b"x" * 60 + b"\n"


async def test_what_was_put_is_written_by_the_end(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "audit.log"
    log = AuditLog(LogOptions(str(path)))
    await log.start()
    for number in range(1000):
        log.put(b"%d" % number)
    await log.close()
    assert path.read_bytes().splitlines() == [b"%d" % number for number in range(1000)]
    assert (log.written, log.dropped) == (1000, 0)


class SlowSink:
    """Writes when it is let."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.is_busy = threading.Event()
        self.lines: list[bytes] = []
        self.problem: OSError | None = None

    def open(self) -> None:
        return None

    def write(self, lines: Sequence[bytes]) -> None:
        self.is_busy.set()
        self.gate.wait(20)
        if self.problem is not None:
            raise self.problem
        self.lines += lines

    def close(self) -> None:
        return None


async def with_slow_sink(mode: str) -> tuple[AuditLog, SlowSink]:
    log = AuditLog(LogOptions("-", mode=mode, buffer_size=2))
    sink = SlowSink()
    log._sink = sink  # type: ignore[assignment]
    await log.start()
    log.put(b"0")
    assert await asyncio.to_thread(sink.is_busy.wait, 20)
    return log, sink


async def test_a_full_queue_drops_in_batch_mode() -> None:
    log, sink = await with_slow_sink("batch")
    for text in (b"1", b"2", b"3", b"4"):
        log.put(text)
    await asyncio.wait_for(log.room(), 60)
    sink.gate.set()
    await log.close()
    assert (sink.lines, log.dropped) == ([b"0", b"1", b"2"], 2)


async def test_a_full_queue_makes_requests_wait_in_blocking_mode() -> None:
    log, sink = await with_slow_sink("blocking")
    log.put(b"1")
    await asyncio.wait_for(log.room(), 60)
    log.put(b"2")
    waiting = asyncio.create_task(log.room())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    sink.gate.set()
    await asyncio.wait_for(waiting, 60)
    await log.close()
    assert (sink.lines, log.dropped) == ([b"0", b"1", b"2"], 0)


async def test_a_full_disk_is_told_to_those_who_ask_and_stops_nobody_else() -> None:
    log, sink = await with_slow_sink("blocking-strict")
    sink.problem = OSError(28, "No space left on device")
    sink.gate.set()
    log.put(b"1")
    assert not await asyncio.wait_for(log.flushed(), 60)
    sink.problem = None
    log.put(b"2")
    assert await asyncio.wait_for(log.flushed(), 60)
    await log.close()
    assert (sink.lines, log.dropped) == ([b"2"], 2)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid audit log mode"):
        AuditLog(LogOptions("-", mode="sometimes"))
