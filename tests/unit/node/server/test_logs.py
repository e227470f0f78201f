"""Container logs: the tail, the options of the query, and following through rotation."""

import asyncio
import io
from datetime import UTC, datetime
from pathlib import Path

import pytest

from navarch.api.errors import ApiError
from navarch.node.server.logs import BLOCK, LogOptions, read_log, render, tail_offset
from navarch.node.server.server import channels_of, log_options, wanted_streams
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


@pytest.mark.parametrize(
    ("line", "options", "shown"),
    [
        pytest.param(entry(1, "a b"), LogOptions(), b"a b\n", id="plain"),
        pytest.param(entry(1, "a", tag="P"), LogOptions(), b"a", id="a part keeps no newline"),
        pytest.param(
            entry(1, "a"),
            LogOptions(timestamps=True),
            b"2026-01-02T03:04:01.123456789Z a\n",
            id="timestamps",
        ),
        pytest.param(entry(1, "a", "stderr"), LogOptions(stream="stdout"), b"", id="other stream"),
        pytest.param(
            entry(1, "a"),
            LogOptions(since=datetime(2026, 1, 2, 3, 4, 2, tzinfo=UTC)),
            b"",
            id="before since",
        ),
        pytest.param(b"garbage\n", LogOptions(), b"", id="no entry"),
    ],
)
def test_render(line: bytes, options: LogOptions, shown: bytes) -> None:
    assert render(line, options) == shown


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

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
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
