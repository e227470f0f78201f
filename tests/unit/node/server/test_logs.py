"""Container logs: the tail, the options of the query, and following through rotation."""

import asyncio
import gzip
import io
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from navarch.api.errors import ApiError
from navarch.node.server import logs
from navarch.node.server.backend import ServerBackend
from navarch.node.server.logs import (
    BLOCK,
    STATE_CHECK_SECONDS,
    LogOptions,
    Renderer,
    read_log,
    tail_offset,
)
from navarch.node.server.pod_paths import PodPaths, channels_of, log_options, wanted_streams
from navarch.streaming.channels import Channel


def entry(second: int, text: str, stream: str = "stdout", tag: str = "F") -> bytes:
    return f"2026-01-02T03:04:{second:02}.123456789Z {stream} {tag} {text}\n".encode()


THREE = entry(1, "one") + entry(2, "two", "stderr") + entry(3, "three")


@pytest.mark.parametrize(
    ("text", "lines", "rest"),
    [
        pytest.param(b"a\nb\nc\n", 0, b"", id="none"),
        pytest.param(b"a\nb\nc\n", 1, b"c\n", id="one"),
        pytest.param(b"a\nb\nc\n", 2, b"b\nc\n", id="two"),
        pytest.param(b"a\nb\nc\n", 3, b"a\nb\nc\n", id="all"),
        pytest.param(b"a\nb\nc\n", 9, b"a\nb\nc\n", id="more than there are"),
        pytest.param(b"a\nb\nc", 1, b"c", id="no newline at the end"),
        pytest.param(b"", 3, b"", id="empty"),
        pytest.param(b"x" * BLOCK + b"\nlast\n", 1, b"last\n", id="across blocks"),
        pytest.param(b"a\n" * BLOCK + b"b\n", 2, b"a\nb\n", id="many blocks"),
        pytest.param(b"x" * (BLOCK - 1) + b"\n" + b"y" * BLOCK, 1, b"y" * BLOCK, id="on the edge"),
    ],
)
def test_tail(text: bytes, lines: int, rest: bytes) -> None:
    assert text[tail_offset(io.BytesIO(text), lines) :] == rest


def at(second: int) -> datetime:
    return datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC)


LONG = entry(1, "a" * 9, tag="P") + entry(2, "b" * 9, tag="P:x") + entry(3, "c") + entry(4, "d")
SHORT_TIME = b"2026-01-02T03:04:01.5+01:00 stdout F a\n2026-01-02T03:04:02Z stderr F b\n"
STAMP = "2026-01-02T03:04:{:02}.123456789Z "


@pytest.mark.parametrize(
    ("block", "options", "shown"),
    [
        pytest.param(THREE, LogOptions(), "one\ntwo\nthree\n", id="plain"),
        pytest.param(entry(1, "") * 2, LogOptions(), "\n\n", id="empty lines"),
        pytest.param(entry(1, " a  b "), LogOptions(), " a  b \n", id="spaces"),
        pytest.param(entry(1, "a\r") + entry(2, "b\x0b\x85"), LogOptions(), "a\r\nb\x0b\x85\n",
                     id="other line ends are text"),
        pytest.param(entry(1, entry(2, "x").decode().strip() + " stdout F y"), LogOptions(),
                     STAMP.format(2) + "stdout F x stdout F y\n", id="text that looks like a head"),
        pytest.param(LONG, LogOptions(), "a" * 9 + "b" * 9 + "c\nd\n", id="parts join"),
        pytest.param(LONG, LogOptions(timestamps=True),
                     STAMP.format(1) + "a" * 9 + "b" * 9 + "c\n" + STAMP.format(4) + "d\n",
                     id="one time for a line in parts"),
        pytest.param(THREE, LogOptions(timestamps=True),
                     "".join(STAMP.format(n) + text for n, text in
                             ((1, "one\n"), (2, "two\n"), (3, "three\n"))), id="times"),
        pytest.param(SHORT_TIME, LogOptions(timestamps=True),
                     "2026-01-02T03:04:01.500000000+01:00 a\n2026-01-02T03:04:02.000000000Z b\n",
                     id="times have nine digits"),
        pytest.param(SHORT_TIME, LogOptions(), "a\nb\n", id="short times"),
        pytest.param(THREE, LogOptions(stream="stdout"), "one\nthree\n", id="one stream"),
        pytest.param(THREE, LogOptions(since=at(2)), "two\nthree\n", id="since"),
        pytest.param(THREE, LogOptions(since=at(1)), "one\ntwo\nthree\n", id="since all"),
        pytest.param(THREE, LogOptions(since=at(9)), "", id="since later"),
        pytest.param(THREE[:-6] + b"\ngarbage\n\n2026 stdin F x\n", LogOptions(), "one\ntwo\n\n",
                     id="what is no entry is left out"),
    ],
)  # fmt: skip
def test_render(block: bytes, options: LogOptions, shown: str) -> None:
    assert Renderer(options).render(block).decode() == shown
    slowly = Renderer(options)
    lines = [each + b"\n" for each in block[:-1].split(b"\n")]
    assert b"".join(map(slowly.entry, lines)).decode() == shown


async def collect(path: Path, options: LogOptions) -> bytes:
    return b"".join([chunk async for chunk in read_log(path, options, lambda: True)])


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        pytest.param(LogOptions(), b"one\ntwo\nthree\n", id="all"),
        pytest.param(LogOptions(tail=1), b"three\n", id="tail"),
        pytest.param(LogOptions(limit=5), b"one\nt", id="limit in bytes"),
        pytest.param(LogOptions(stream="stderr"), b"two\n", id="stderr"),
    ],
)
async def test_read(tmp_path: Path, options: LogOptions, shown: bytes) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(THREE)
    assert await collect(path, options) == shown


async def test_follow_through_rotation_until_the_container_ends(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(entry(1, "one"))
    running = True
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def follow() -> None:
        async for chunk in read_log(path, LogOptions(follow=True), lambda: running):
            seen.put_nowait(chunk)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(follow())
        assert await seen.get() == b"one\n"
        with path.open("ab") as file:
            file.write(entry(2, "two")[:-3])
            file.flush()
            file.write(entry(2, "two")[-3:])
        assert await seen.get() == b"two\n"
        path.rename(tmp_path / "0.log.20260102")
        path.write_bytes(entry(3, "three"))
        assert await seen.get() == b"three\n"
        with path.open("ab") as file:
            file.write(entry(4, "last words"))
        running = False
        assert await seen.get() == b"last words\n"


async def test_the_old_file_is_read_until_the_new_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the runtime takes from making the new file to using it."""
    monkeypatch.setattr(logs, "SWITCH_SECONDS", 0)
    path, old = tmp_path / "0.log", tmp_path / "0.log.20260102"
    path.write_bytes(entry(1, "one"))
    reader = read_log(path, LogOptions(follow=True), lambda: True)
    assert await anext(reader) == b"one\n"
    path.rename(old)
    path.touch()
    following = asyncio.ensure_future(anext(reader))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not following.done()
    old.write_bytes(entry(1, "one") + entry(2, "two"))
    path.write_bytes(entry(3, "three"))
    async with asyncio.timeout(60):
        assert await following + await anext(reader) == b"two\nthree\n"
    await reader.aclose()


async def test_the_last_entry_of_the_dead_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(entry(1, "one") + entry(2, "cut off")[:-1])
    chunks = read_log(path, LogOptions(follow=True), lambda: False)
    assert b"".join([chunk async for chunk in chunks]) == b"one\ncut off\n"


async def test_no_line_is_lost_or_repeated_however_often_a_file_is_rotated(
    tmp_path: Path,
) -> None:
    """The reader is kept waiting in the middle of the first file while two more are filled, the
    first ones compressed and a fourth begun; meanwhile the runtime goes on in the one it left."""
    path = tmp_path / "0.log"
    number = 0

    def lines(count: int) -> bytes:
        nonlocal number
        number += count
        return b"".join(entry(n % 60, f"{n} " + "x" * 90) for n in range(number - count, number))

    def rotate(stamp: str) -> None:
        path.rename(tmp_path / f"0.log.{stamp}")
        path.touch()

    path.write_bytes(lines(5000))
    running = True
    reader = read_log(path, LogOptions(follow=True), lambda: running)
    seen = await anext(reader)
    for stamp in ("20260102-030400", "20260102-030410"):
        rotate(stamp)
        path.write_bytes(lines(3000))
        rotated = tmp_path / f"0.log.{stamp}"
        with gzip.open(f"{rotated}.gz", "wb") as packed:
            packed.write(rotated.read_bytes())
        rotated.unlink()
    rotate("20260102-030420")
    late = lines(3)
    with (tmp_path / "0.log.20260102-030420").open("ab") as left:
        left.write(late)
    path.write_bytes(lines(10))
    async with asyncio.timeout(60):
        async for chunk in reader:
            seen += chunk
            running = not seen.endswith(b"\n%d " % (number - 1) + b"x" * 90 + b"\n")
    assert [int(line.split()[0]) for line in seen.splitlines()] == list(range(number))


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
async def test_a_reader_is_led_to_nothing_else(tmp_path: Path, kind: str) -> None:
    """Neither by what a log was replaced with before it was opened, nor by what seems to follow."""
    path, bad = tmp_path / "0.log", tmp_path / "0.log.20260102-000000"
    (tmp_path / "secret").write_bytes(entry(1, "of the node"))
    if kind == "link":
        bad.symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(bad)
    else:
        bad.mkdir()
    path.write_bytes(entry(1, "one"))
    reader = read_log(path, LogOptions(follow=True), lambda: True)
    async with asyncio.timeout(60):
        assert await anext(reader) == b"one\n"
        path.rename(tmp_path / "0.log.20260101-000000")
        assert [chunk async for chunk in reader] == []
        with pytest.raises(OSError, match=r"not a regular file|directory"):
            await anext(read_log(bad, LogOptions(), lambda: False))


async def test_an_entry_without_end_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LONGEST_ENTRY", 300_000)
    path = tmp_path / "0.log"
    path.write_bytes(b"x" * 1_000_000 + b"\n" + entry(1, "one"))
    shown = [chunk async for chunk in read_log(path, LogOptions(), lambda: False)]
    assert b"".join(shown) == b"one\n"


@pytest.mark.parametrize(
    "query", [{"tailLines": "x"}, {"sinceTime": "yesterday"}, {"stream": "Both"}]
)
def test_bad_queries(query: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        log_options(query, datetime.now(UTC))
    assert caught.value.status == 400


def test_streams_of_a_query() -> None:
    wanted = wanted_streams({"input": "1", "output": "1", "error": "1", "tty": "1"})
    assert channels_of(wanted) == {Channel.STDIN, Channel.STDOUT, Channel.RESIZE}
    with pytest.raises(ApiError):
        wanted_streams({"tty": "1"})


class OneLog:
    """A backend with one silent container."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, 0

    def log_file(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path:
        return self.path

    def is_running(self, namespace: str, pod: str, container: str) -> bool:
        self.asked += 1
        return True


async def test_nobody_reads_for_a_client_that_has_left(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(entry(1, "one"))
    backend = OneLog(path)
    app = web.Application()
    PodPaths(cast("ServerBackend", backend)).add_to(app.router, checkpoint=False)
    async with TestServer(app, port=0) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET /containerLogs/a/b/c?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"one\n")
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(60):
            asked = -1
            while asked != backend.asked:
                asked = backend.asked
                await asyncio.sleep(3 * STATE_CHECK_SECONDS)
