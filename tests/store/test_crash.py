"""An acknowledged write survives: the process is killed, the write-ahead log is cut as by a power
loss, the disk reports errors."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from navarch.store.contract import KeyValue, Store
from navarch.store.database import SqliteOptions
from navarch.store.sqlite import open_sqlite_store

VICTIM = Path(__file__).with_name("victim.py")
KILLS = 100
SEED = 20_261_121


@dataclass(frozen=True)
class Ack:
    revision: int
    key: str
    value: str

    @classmethod
    def parse(cls, line: str) -> Ack:
        _, revision, key, value = line.split(" ", 3)
        return cls(int(revision), key, value)


class Checker:
    """Follows a store over its crashes. Knows the state up to a revision, checks what has been
    added since, and takes it over."""

    def __init__(self) -> None:
        self.revision = 1
        self.state: dict[str, KeyValue] = {}
        self.checked = 0

    async def check(self, store: Store, acks: Sequence[Ack]) -> None:
        now = await store.revision()
        assert now >= max([self.revision, *(ack.revision for ack in acks)])
        written: dict[int, tuple[str, str]] = {}
        events = store.watch("", after_revision=self.revision)
        while self.revision < now:
            for event in await anext(events):
                assert event.revision == self.revision + 1, "a gap in the revisions"
                self.revision = event.revision
                assert event.previous == self.state.get(event.key)
                if event.current is None:
                    del self.state[event.key]
                    written[event.revision] = (event.key, "-")
                else:
                    self.state[event.key] = event.current
                    written[event.revision] = (event.key, event.current.value.decode())
        for ack in acks:
            assert written[ack.revision] == (ack.key, ack.value)
        expected = [self.state[key] for key in sorted(self.state)]
        assert list((await store.range("")).items) == expected
        self.checked += len(acks)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, VICTIM, "nursery", tmp_path / "store.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with process:
        yield process


def let_die(nursery: subprocess.Popen[str], after_acks: int) -> list[Ack]:
    """One writer's life: what was acknowledged to it until it was killed and all that it had still
    said was read."""
    assert nursery.stdin and nursery.stdout
    nursery.stdin.write("\n")
    pid = int(nursery.stdout.readline().removeprefix("pid "))
    acks: list[Ack] = []
    for line in nursery.stdout:
        if line.endswith("over\n"):
            break
        acks.append(Ack.parse(line.rstrip("\n")))
        if len(acks) == after_acks:
            os.kill(pid, signal.SIGKILL)
    return acks


async def test_acknowledged_writes_survive_a_hundred_kills(
    nursery: subprocess.Popen[str], tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    checker = Checker()
    for _ in range(KILLS):
        # In this thread, where a time limit can end it.
        acks = let_die(nursery, chance.randrange(1, 400))
        store = await open_sqlite_store(
            SqliteOptions(tmp_path / "store.db", reserve_bytes=0, checkpoint_pages=100)
        )
        await checker.check(store, acks)
        await store.close()
    assert checker.checked > 50 * KILLS


@dataclass(frozen=True)
class Live:
    """Files of a store, copied while it worked; for each write how long the log was when it was
    acknowledged; and the state at each revision."""

    database: bytes
    log: bytes
    acks: list[tuple[int, int]]
    states: dict[int, dict[str, bytes]]


async def live(path: Path) -> Live:
    store = await open_sqlite_store(
        SqliteOptions(path, reserve_bytes=0, checkpoint_pages=1_000_000)
    )
    acks: list[tuple[int, int]] = [(0, 1)]
    states: dict[int, dict[str, bytes]] = {1: {}}

    async def put(key: str, value: bytes) -> None:
        revision = await store.put(key, value)
        acks.append((store.statistics().log_bytes, revision))
        states[revision] = {key: value}

    for round_ in range(12):
        await asyncio.gather(
            *(put(f"/{i}", b"%d" % round_ * (3000 if i == 3 else 5)) for i in range(round_ + 1))
        )
    for revision in range(2, len(states) + 1):
        states[revision] = states[revision - 1] | states[revision]
    # Another process reads, because closing a descriptor of the file here would give up the locks
    # that SQLite holds on it.
    read = [
        await asyncio.create_subprocess_exec("cat", name, stdout=asyncio.subprocess.PIPE)
        for name in (str(path), f"{path}-wal")
    ]
    database, log = [(await process.communicate())[0] for process in read]
    await store.close()
    return Live(database, log, acks, states)


def lay_out(path: Path, database: bytes, log: bytes) -> None:
    path.write_bytes(database)
    Path(f"{path}-wal").write_bytes(log)


async def test_a_cut_write_ahead_log_keeps_what_was_acknowledged_before(tmp_path: Path) -> None:
    """Power loss: the log reaches up to some byte. Everything that was acknowledged when the log
    was that long, or shorter, is there, and what is there is some past state, whole."""
    files = await live(tmp_path / "live.db")
    frame = 24 + 4096
    chance = random.Random(SEED)
    cuts = {*range(32, len(files.log) + 1, frame), len(files.log)}
    cuts |= {chance.randrange(len(files.log)) for _ in range(40)}
    assert len(cuts) > 60
    path = tmp_path / "store.db"
    for cut in sorted(cuts):
        lay_out(path, files.database, files.log[:cut])
        store = await open_sqlite_store(SqliteOptions(path, reserve_bytes=0))
        revision = await store.revision()
        assert revision >= max(ack for length, ack in files.acks if length <= cut)
        found = {item.key: item.value for item in (await store.range("")).items}
        assert found == files.states[revision]
        await store.close()
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        assert connection.pragma("integrity_check") == "ok"
        connection.close()


async def test_a_damaged_write_ahead_log_ends_at_the_last_good_commit(tmp_path: Path) -> None:
    files = await live(tmp_path / "live.db")
    chance = random.Random(SEED)
    path = tmp_path / "store.db"
    for _ in range(30):
        log = bytearray(files.log)
        at = chance.randrange(32, len(log))
        log[at] ^= 1 << chance.randrange(8)
        lay_out(path, files.database, bytes(log))
        store = await open_sqlite_store(SqliteOptions(path, reserve_bytes=0))
        revision = await store.revision()
        assert revision >= max(ack for length, ack in files.acks if length <= at)
        found = {item.key: item.value for item in (await store.range("")).items}
        assert found == files.states[revision]
        await store.close()


# With strace


def traced(path: Path, count: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the victim's script under strace; skip where that is not possible."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    victim = [sys.executable, str(VICTIM), "script", str(path), str(count)]
    command = [strace, "-f", "-qq", *options, *victim]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "ptrace" in result.stderr and "Operation not permitted" in result.stderr:
        pytest.skip("tracing is not permitted here")
    return result


def acks_of(result: subprocess.CompletedProcess[str]) -> list[Ack]:
    return [Ack.parse(line) for line in result.stdout.splitlines() if line.startswith("ack")]


async def check_after(path: Path, acks: Sequence[Ack]) -> None:
    store = await open_sqlite_store(SqliteOptions(path, reserve_bytes=0))
    await Checker().check(store, acks)
    assert await store.put("/afterwards", b"1") >= len(acks) + 2
    await store.close()


async def test_one_sync_for_each_commit(tmp_path: Path) -> None:
    calls = {}
    for count in (10, 60):
        trace = tmp_path / f"trace{count}"
        path = tmp_path / f"{count}.db"
        result = await asyncio.to_thread(
            traced, path, count, "-e", "trace=fdatasync,fsync", "-o", str(trace)
        )
        assert len(acks_of(result)) == count
        lines = trace.read_text().splitlines()
        # One line a call, except where another thread's call comes between beginning and end.
        calls[count] = sum("sync(" in line for line in lines)
    assert calls[60] - calls[10] == 50


@pytest.mark.parametrize("for_ever", [False, True])
async def test_a_failed_sync_is_fatal(tmp_path: Path, for_ever: bool) -> None:
    path = tmp_path / "store.db"
    await asyncio.to_thread(traced, path, 3, "-e", "trace=none")
    when = "when=5+" if for_ever else "when=5"
    result = await asyncio.to_thread(
        traced, path, 20, "-e", "trace=fdatasync", "-e", f"inject=fdatasync:error=EIO:{when}"
    )
    lines = result.stdout.splitlines()
    assert "failed" in lines
    assert lines[-2:] == ["failed", "over"], "something was acknowledged after the failure"
    assert (tmp_path / "store.db-wal").stat().st_size > 0, "the log is the only good copy"
    store = await open_sqlite_store(SqliteOptions(path, reserve_bytes=0))
    revision = await store.revision()
    acks = acks_of(result)
    assert revision in (acks[-1].revision if acks else 4, (acks[-1].revision if acks else 4) + 1)
    for ack in acks:
        found = await store.get("/script", at_revision=ack.revision)
        assert found is not None and found.value == ack.value.encode()
    await store.close()


@pytest.mark.parametrize(
    ("call", "when"),
    [("fdatasync", n) for n in (1, 2, 3, 4, 6)] + [("pwrite64", n) for n in (1, 3, 6, 9, 13, 18)],
)
async def test_a_kill_inside_a_commit(tmp_path: Path, call: str, when: int) -> None:
    """The n-th system call of a kind is the last thing that the process does."""
    path = tmp_path / "store.db"
    result = await asyncio.to_thread(
        traced, path, 8, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"
    )
    assert "over" not in result.stdout
    await check_after(path, acks_of(result))
