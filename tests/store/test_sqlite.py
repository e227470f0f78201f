"""What only the engine on disk promises."""

# Small files on a local disk are no reason for a thread.
# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import apsw
import pytest

from navarch.store import open_store
from navarch.store.backup import restore_backup
from navarch.store.contract import (
    Compacted,
    KeyValue,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreUnusable,
)
from navarch.store.database import Database, SqliteOptions
from navarch.store.engine import LogStore
from navarch.store.sqlite import open_sqlite_store

SEED = 20_261_121


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[LogStore]:
    store = await open_sqlite_store(SqliteOptions(path))
    yield store
    await store.close()


async def contents(store: LogStore) -> list[KeyValue]:
    return list((await store.range("")).items)


async def fill(store: LogStore, keys: int, writes: int, size: int = 1000) -> None:
    await asyncio.gather(
        *(store.put(f"/fill/{i % keys:05}", b"%d" % i * (size // 5)) for i in range(writes))
    )


def query(path: Path, sql: str) -> object:
    connection = apsw.Connection(str(path))
    try:
        return connection.execute(sql).get
    finally:
        connection.close()


# Opening


async def test_a_url_names_the_file(path: Path) -> None:
    store = await open_store(f"sqlite://{path}")
    await store.close()
    assert path.exists()
    for wrong in ("sqlite:", "sqlite://", "postgres://host/db", "memory", str(path)):
        with pytest.raises(ValueError, match="names no store"):
            await open_store(wrong)


async def test_the_files_are_for_their_owner_only(store: LogStore, path: Path) -> None:
    await store.put("/secret", b"1")
    files = await asyncio.to_thread(
        lambda: {file.name: file.stat() for file in path.parent.iterdir()}
    )
    assert set(files) == {"store.db", "store.db-wal", "store.db-lock", "store.db-reserve"}
    assert {stat.S_IMODE(status.st_mode) for status in files.values()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert files["store.db-reserve"].st_blocks * 512 >= SqliteOptions(path).reserve_bytes


async def test_durability_is_set(store: LogStore) -> None:
    pragma = store._log._database.connection.pragma  # type: ignore[attr-defined]
    assert pragma("synchronous") == 2
    assert pragma("journal_mode") == "wal"
    assert pragma("locking_mode") == "exclusive"
    assert pragma("wal_autocheckpoint") == 0
    assert pragma("auto_vacuum") == 2
    assert pragma("mmap_size") in (0, None)
    version = tuple(map(int, apsw.sqlite_lib_version().split(".")))
    assert version >= (3, 51, 3), "this SQLite can damage a database that has a write-ahead log"


async def test_everything_is_there_again(path: Path) -> None:
    store = await open_sqlite_store(SqliteOptions(path))
    await fill(store, 100, 300)
    await store.delete("/fill/00000")
    before = await contents(store)
    await store.close()
    assert not Path(f"{path}-wal").exists()
    store = await open_sqlite_store(SqliteOptions(path))
    assert await store.revision() == 302
    assert await contents(store) == before
    assert await store.get("/fill/00000", at_revision=301) is not None
    assert await store.put("/fill/00000", b"") == 303
    await store.compact(303)
    await store.delete("/fill/00000")
    await store.compact(304)
    await store.close()
    store = await open_sqlite_store(SqliteOptions(path))
    assert await store.revision() == 304, "a compacted deletion must not lower the revision"
    assert await contents(store) == before
    with pytest.raises(Compacted):
        await store.range("", at_revision=303)
    await store.close()


async def test_a_second_server_is_refused(store: LogStore, path: Path) -> None:
    with pytest.raises(StoreUnusable, match=rf"in use by another process \(pid {os.getpid()}\)"):
        await open_sqlite_store(SqliteOptions(path))
    await store.put("/still", b"works")


async def test_another_user_of_the_file_is_noticed(path: Path) -> None:
    store = await open_sqlite_store(SqliteOptions(path))
    await store.close()
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnusable, match="in use"):
        await open_sqlite_store(SqliteOptions(path))
    other.close()
    store = await open_sqlite_store(SqliteOptions(path))
    await store.close()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        pytest.param("PRAGMA user_version = 2", "newer Navarch", id="newer schema"),
        pytest.param("PRAGMA application_id = 1", "not a database of Navarch", id="foreign"),
        pytest.param("CREATE INDEX more ON log (key)", "damaged", id="other schema"),
        pytest.param("UPDATE log SET value = x'00' WHERE revision = 3", "revision 3", id="value"),
        pytest.param("UPDATE log SET key = '/' WHERE revision = 3", "revision 3", id="key"),
        pytest.param("UPDATE log SET revision = 9 WHERE revision = 3", "revision", id="revision"),
        pytest.param("DELETE FROM log WHERE revision = 3", "revision 3", id="lost in history"),
        pytest.param("DELETE FROM log WHERE revision = 2", "keys are missing", id="lost before"),
        pytest.param(
            "DELETE FROM log WHERE revision = 4", "keys are missing", id="lost at the end"
        ),
        pytest.param("UPDATE state SET compacted = 3", "state", id="compacted"),
        pytest.param("DELETE FROM state", "state", id="state"),
    ],
)
async def test_what_is_not_right_is_refused(path: Path, sql: str, message: str) -> None:
    store = await open_sqlite_store(SqliteOptions(path))
    for i in range(3):
        await store.put(f"/{i}", b"1")
    await store.compact(2)
    await store.close()
    query(path, sql)
    with pytest.raises(StoreUnusable, match=message):
        await open_sqlite_store(SqliteOptions(path))
    with pytest.raises(StoreUnusable, match=message):  # and the lock was given back
        await open_sqlite_store(SqliteOptions(path))


async def test_what_is_no_database_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello" * 1000)
    with pytest.raises(StoreUnusable, match="move it away and restore a backup"):
        await open_sqlite_store(SqliteOptions(tmp_path / "text"))
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        await open_sqlite_store(SqliteOptions(tmp_path))
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        await open_sqlite_store(SqliteOptions(tmp_path / "text" / "store.db"))


@pytest.mark.parametrize("is_clean", [True, False])
async def test_damage_is_found_and_not_served(tmp_path: Path, is_clean: bool) -> None:
    """One flipped bit, anywhere: the store does not open, or serves the right data."""
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    options = SqliteOptions(path, reserve_bytes=0)
    store = await open_sqlite_store(options)
    await fill(store, 60, 150, 3000)
    await store.compact(80)
    await store.settle()
    await fill(store, 20, 40, 500)
    right = await contents(store)
    await store.close()
    content = path.read_bytes()
    log = Path(f"{copy}-wal")
    chance = random.Random(SEED)
    detected = 0
    for _ in range(400):
        flipped = bytearray(content)
        at = chance.randrange(len(content) // 4096) * 4096
        at += chance.choice([chance.randrange(4096), chance.randrange(100)])
        flipped[at] ^= 1 << chance.randrange(8)
        copy.write_bytes(flipped)
        log.unlink(missing_ok=True)
        if not is_clean:
            log.write_bytes(b"cut off")
        try:
            store = await open_sqlite_store(SqliteOptions(copy, reserve_bytes=0))
        except (StoreUnusable, StoreFailed):
            detected += 1
            continue
        assert await contents(store) == right, f"bit flipped in byte {at}"
        await store.close()
    assert detected > 150


async def test_damage_in_the_history_is_fatal_when_it_is_met(
    store: LogStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    await store.put("/a", b"1")
    await store.put("/a", b"2")
    store._log._database.connection.execute(  # type: ignore[attr-defined]
        "UPDATE log SET value = x'33' WHERE revision = 2"
    )
    with pytest.raises(StoreFailed, match="revision 2"):
        await store.get("/a", at_revision=2)
    assert "revision 2" in str(await store.wait_failed())
    with pytest.raises(StoreFailed):
        await store.put("/b", b"")


# Size


async def test_files_stay_small(path: Path) -> None:
    """Many generations of the same keys: the database and its log are as large as the keys and
    what has happened since the last compaction, not as all that ever happened."""
    options = SqliteOptions(path, checkpoint_pages=200, vacuum_pages=100)
    store = await open_sqlite_store(options)
    largest = largest_log = 0
    for _ in range(12):
        await fill(store, 100, 2000)
        await store.compact(await store.revision())
        await store.settle()
        statistics = store.statistics()
        largest = max(largest, statistics.database_bytes)
        largest_log = max(largest_log, statistics.log_bytes)
    assert statistics.revision == 24_001
    assert statistics.keys == 100
    generation = 2000 * 1500
    assert largest < 2 * generation
    assert largest_log < 3 * generation
    assert statistics.database_bytes < 1_500_000
    assert statistics.free_bytes < 600_000
    await store.close()
    assert path.stat().st_size < 1_500_000
    store = await open_sqlite_store(options)
    assert len(await contents(store)) == 100
    await store.close()


async def test_a_compaction_that_was_cut_short_is_finished(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_sqlite_store(SqliteOptions(path))
    for i in range(50):
        await store.put(f"/{i % 5}", b"%d" % i)
    await store.delete("/0")
    with monkeypatch.context() as patch:
        patch.setattr(Database, "forget", lambda self, revisions: None)
        await store.compact(51)
        await store.settle()
        await store.close()
    assert query(path, "SELECT count(*) FROM log") == 51
    store = await open_sqlite_store(SqliteOptions(path))
    await store.settle()
    assert [item.value for item in await contents(store)] == [b"46", b"47", b"48", b"49"]
    before = await store.get("/0", at_revision=51)
    assert before is not None and before.value == b"45"
    await store.close()
    assert query(path, "SELECT count(*) FROM log") == 6


async def test_the_quota_refuses_puts_until_there_is_room(path: Path) -> None:
    options = SqliteOptions(path, quota_bytes=1_000_000, checkpoint_pages=20, vacuum_pages=20)
    store = await open_sqlite_store(options)
    count = 0
    with pytest.raises(StoreFull, match="quota of 1000000 bytes"):
        while count < 1000:
            await store.put(f"/{count}", bytes(10_000))
            count += 1
    assert 50 < count < 150
    assert store.statistics().full
    assert len(await contents(store)) == count
    for i in range(count // 2):
        await store.delete(f"/{i}")
    await store.compact(await store.revision())
    await store.settle()
    async with asyncio.timeout(60):
        await until_it_takes_puts(store)
    await store.close()


async def until_it_takes_puts(store: LogStore) -> None:
    """Recovery is noticed by itself, within about a second."""
    while True:
        try:
            await store.put("/recovered", b"1")
            return
        except StoreFull:
            await asyncio.sleep(0.05)


# Backup


async def test_backup_under_load_and_restore(store: LogStore, path: Path, tmp_path: Path) -> None:
    await fill(store, 1000, 3000, 4000)
    await store.compact(1500)
    is_over = False
    acked: dict[int, str] = {}

    async def write(part: int) -> None:
        count = 0
        while not is_over:
            count += 1
            acked[await store.put(f"/load/{part}/{count % 50}", b"%d" % count)] = f"/load/{part}"

    before = await store.revision()
    writers = [asyncio.create_task(write(part)) for part in range(8)]
    revision = await store.backup(str(tmp_path / "backup.db"))
    after = await store.revision()
    is_over = True
    await asyncio.gather(*writers)
    assert before < revision <= after
    assert not (tmp_path / "backup.db-partial").exists()

    restored_path = tmp_path / "restored" / "store.db"
    assert restore_backup(tmp_path / "backup.db", restored_path) == revision + 1_000_000_000
    restored = await open_sqlite_store(SqliteOptions(restored_path))
    then = await store.range("", at_revision=revision)
    assert await contents(restored) == list(then.items)
    # Nobody who saw the store after the backup is told something else of the same revision.
    assert await restored.revision() == revision + 1_000_000_000
    for seen in (revision - 1, revision, after, after + 100_000):
        with pytest.raises(Compacted):
            await anext(restored.watch("", after_revision=seen))
        with pytest.raises(Compacted):
            await restored.range("", at_revision=seen)
    events = restored.watch("", after_revision=await restored.revision())
    assert await restored.put("/new", b"") == revision + 1_000_000_001
    assert len(await anext(events)) == 1
    await restored.settle()
    await restored.close()


async def test_restore_overwrites_nothing(store: LogStore, path: Path, tmp_path: Path) -> None:
    await store.put("/a", b"1")
    backup = tmp_path / "backup.db"
    await store.backup(str(backup))
    with pytest.raises(StoreUnusable, match="in use"):
        restore_backup(backup, path)
    await store.close()
    with pytest.raises(StoreError, match="move it away"):
        restore_backup(backup, path)
    path.rename(tmp_path / "old.db")
    Path(f"{path}-wal").write_bytes(b"of the database that was here before")
    restore_backup(backup, path)
    again = await open_sqlite_store(SqliteOptions(path))
    assert await contents(again) == [KeyValue("/a", b"1", 2, 2)]
    await again.close()


async def test_a_bad_backup_is_not_restored(store: LogStore, tmp_path: Path) -> None:
    await fill(store, 50, 50)
    backup, target = tmp_path / "backup.db", tmp_path / "target.db"
    await store.backup(str(backup))
    query(backup, "UPDATE log SET value = x'00' WHERE revision = 7")
    with pytest.raises(StoreError, match="revision 7"):
        restore_backup(backup, target)
    backup.write_bytes(b"no backup")
    with pytest.raises(StoreError):
        restore_backup(backup, target)
    assert not target.exists()


async def test_a_backup_that_cannot_be_written_does_no_harm(
    store: LogStore, tmp_path: Path
) -> None:
    await fill(store, 50, 50)
    with pytest.raises(StoreError):
        await store.backup(str(tmp_path / "nowhere" / "backup.db"))
    if Path("/dev/full").exists():
        (tmp_path / "full.db-partial").symlink_to("/dev/full")
        with pytest.raises(StoreError):
            await store.backup(str(tmp_path / "full.db"))
    assert await store.put("/a", b"1") == 52
    assert not store.statistics().full
    running = asyncio.create_task(store.backup(str(tmp_path / "cancelled.db")))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await store.backup(str(tmp_path / "good.db"))
    assert [file.name for file in tmp_path.glob("*.db*")] == ["good.db"]


async def test_the_store_can_close_during_a_backup(path: Path, tmp_path: Path) -> None:
    store = await open_sqlite_store(SqliteOptions(path))
    await fill(store, 1000, 3000, 4000)
    running = asyncio.create_task(store.backup(str(tmp_path / "backup.db")))
    await asyncio.sleep(0.005)
    await store.close()
    (outcome,) = await asyncio.gather(running, return_exceptions=True)
    assert isinstance(outcome, StoreError | int)
    again = await open_sqlite_store(SqliteOptions(path))
    assert await again.revision() == 3001
    await again.close()


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() or not mount or not umount:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.spawnv(os.P_WAIT, mount, ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]):
        pytest.skip("mounting is not permitted here")
    yield disk
    os.spawnv(os.P_WAIT, umount, ["umount", "--lazy", str(disk)])


def fill_up(file: Path) -> None:
    """What somebody else does to the disk."""
    with open(file, "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(65536))
        except OSError:
            pass


async def put_until_full(store: LogStore) -> int:
    count = 0
    with pytest.raises(StoreFull):
        while count < 10_000:
            await asyncio.gather(*(store.put(f"/{count + i:05}", bytes(2000)) for i in range(8)))
            count += 8
    return count


@pytest.mark.parametrize("by_whom", ["the store", "others"])
async def test_a_full_disk(small_disk: Path, by_whom: str) -> None:
    options = SqliteOptions(
        small_disk / "store.db", reserve_bytes=2_500_000, checkpoint_pages=300, vacuum_pages=100
    )
    store = await open_sqlite_store(options)
    await asyncio.gather(*(store.put(f"/{i:05}", bytes(2000)) for i in range(300)))
    filler = small_disk / "filler"
    if by_whom == "others":
        await asyncio.to_thread(fill_up, filler)
    count = await put_until_full(store)
    assert store.statistics().full

    # Reads and deletions go on; nothing that was refused is there.
    present = await contents(store)
    assert len(present) >= count
    for item in present[:150]:
        assert await store.delete(item.key) == await store.revision()
    assert await contents(store) == present[150:]
    with pytest.raises(StoreFull):
        await store.put("/refused", bytes(2000))
    await store.compact(await store.revision())
    await store.settle()

    if by_whom == "others":
        filler.unlink()
    else:
        await asyncio.gather(*(store.delete(item.key) for item in present[150:]))
        await store.compact(await store.revision())
    async with asyncio.timeout(60):
        await until_it_takes_puts(store)
    assert not store.statistics().full
    before, revision = await contents(store), await store.revision()
    await store.close()
    store = await open_sqlite_store(options)
    assert await contents(store) == before
    assert await store.revision() == revision
    await store.close()


async def test_a_store_opens_on_a_full_disk(small_disk: Path) -> None:
    options = SqliteOptions(small_disk / "store.db", reserve_bytes=1_000_000)
    store = await open_sqlite_store(options)
    await asyncio.gather(*(store.put(f"/{i:05}", bytes(2000)) for i in range(300)))
    await store.close()
    (small_disk / "store.db-reserve").unlink()
    filler = small_disk / "filler"
    await asyncio.to_thread(fill_up, filler)
    store = await open_sqlite_store(options)
    assert len(await contents(store)) == 300
    with pytest.raises(StoreFull):
        await store.put("/refused", bytes(2000))
    filler.unlink()
    async with asyncio.timeout(60):
        await until_it_takes_puts(store)
    await store.close()
