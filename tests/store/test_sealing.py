"""Values sealed on disk: nothing plain in any file, keys that change, a refusal without them."""

# Small files on a local disk are no reason for a thread.
# ruff: noqa: ASYNC240

from __future__ import annotations

from pathlib import Path

import pytest

from navarch.store.backup import restore_backup
from navarch.store.contract import Compacted, StoreUnusable
from navarch.store.database import SqliteOptions
from navarch.store.engine import LogStore
from navarch.store.sealing import Unsealable, mark_of
from navarch.store.sqlite import open_sqlite_store

PLANTED = b"planted-value-that-nobody-may-find"


class Flip:
    """Seals what is below /s/ by turning bits over; knows a key by its name."""

    def __init__(self, name: str, *others: str) -> None:
        self.names = (name, *others)

    def mark(self, key: str) -> bytes:
        return f"k8s:enc:flip:v1:{self.names[0]}:".encode() if key.startswith("/s/") else b""

    def seal(self, key: str, value: bytes) -> bytes:
        return self.mark(key) + bytes(each ^ 255 for each in value)

    def unseal(self, key: str, value: bytes) -> bytes:
        mark = mark_of(value)
        if mark.split(b":")[4].decode() not in self.names:
            raise Unsealable("no such key")
        return bytes(each ^ 255 for each in value[len(mark) :])


async def opened(path: Path, *names: str) -> LogStore:
    return await open_sqlite_store(SqliteOptions(path, sealer=Flip(*names) if names else None))


def planted_in(directory: Path) -> list[str]:
    """The files of a directory that hold the planted value."""
    return [
        each.name for each in directory.iterdir() if each.is_file() and PLANTED in each.read_bytes()
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db" / "store.db"


async def value_of(store: LogStore, key: str) -> bytes:
    found = await store.get(key)
    assert found is not None
    return found.value


async def test_nothing_plain_reaches_the_disk(path: Path) -> None:
    store = await opened(path, "one")
    await store.put("/s/a", PLANTED)
    await store.put("/plain", b"readable")
    assert await value_of(store, "/s/a") == PLANTED
    assert not planted_in(path.parent)
    await store.backup(str(path.parent / "backup.db"))
    await store.close()
    assert not planted_in(path.parent)
    assert b"readable" in path.read_bytes()
    again = await opened(path, "one")
    assert await value_of(again, "/s/a") == PLANTED
    await again.close()


async def test_the_past_is_sealed_and_readable_too(path: Path) -> None:
    store = await opened(path, "one")
    first = await store.put("/s/a", PLANTED)
    await store.put("/s/a", b"newer")
    await store.close()
    store = await opened(path, "one")
    past = await store.get("/s/a", at_revision=first)
    assert past is not None and past.value == PLANTED
    await store.close()
    assert not planted_in(path.parent)


@pytest.mark.parametrize("names", [(), ("two",)])
async def test_without_the_key_the_store_does_not_open(path: Path, names: tuple[str, ...]) -> None:
    store = await opened(path, "one")
    await store.put("/s/a", PLANTED)
    await store.close()
    with pytest.raises(StoreUnusable, match=r"1 values are encrypted and cannot be read.*/s/a"):
        await opened(path, *names)
    store = await opened(path, "one")
    assert await value_of(store, "/s/a") == PLANTED
    await store.close()


async def test_keys_are_rotated_by_writing_anew(path: Path) -> None:
    store = await opened(path, "one")
    await store.put("/s/a", PLANTED)
    await store.put("/s/b", PLANTED)
    await store.delete("/s/b")
    assert not store.is_stale("/s/a") and not store.is_stale("/plain")
    await store.close()

    store = await opened(path, "two", "one")
    assert store.is_stale("/s/a")
    revision = await store.put("/s/a", PLANTED)
    assert not store.is_stale("/s/a")
    await store.close()

    # The old key may go now, though the past still lies sealed by it.
    store = await opened(path, "two")
    assert await value_of(store, "/s/a") == PLANTED
    with pytest.raises(Compacted):
        await store.get("/s/a", at_revision=revision - 2)
    await store.close()


async def test_sealing_begins_with_what_is_there(path: Path) -> None:
    store = await opened(path)
    await store.put("/s/a", PLANTED)
    await store.close()
    assert planted_in(path.parent)
    store = await opened(path, "one")
    assert store.is_stale("/s/a")
    assert await value_of(store, "/s/a") == PLANTED
    await store.close()


async def test_backups_are_restored_with_the_same_key(path: Path, tmp_path: Path) -> None:
    store = await opened(path, "one")
    await store.put("/s/a", PLANTED)
    await store.backup(str(tmp_path / "backup.db"))
    await store.close()
    restored = tmp_path / "restored" / "store.db"
    restore_backup(tmp_path / "backup.db", restored)
    assert not planted_in(tmp_path) and not planted_in(restored.parent)
    store = await opened(restored, "one")
    assert await value_of(store, "/s/a") == PLANTED
    await store.close()
