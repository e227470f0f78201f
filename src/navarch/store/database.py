"""The SQLite file: everything that is SQL. Synchronous; runs in the log's thread.

One connection does everything. It holds the file exclusively, so the index of the write-ahead log
is in its own memory: no shared-memory file that could fail to grow on a full disk, no reader that
keeps a checkpoint from finishing, no other connection with which SQLite before 3.51.3 could race
in resetting the log (sqlite.org/wal.html#walresetbug), and no "database is locked".

One table holds the records, appended in the order of their revisions without any secondary index,
so a commit touches the last page and a new one now and then. A group commit is one INSERT outside
of any transaction, hence one call into SQLite, one sync, and the interpreter lock is taken up again
once and not once a row: the event loop may be busy meanwhile.

Each record carries a checksum. SQLite finds damage to its own structure, not to what it stores.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import apsw

from navarch.store.contract import KeyValue, StoreError, StoreFailed, StoreFull, StoreUnusable
from navarch.store.engine import Sizes
from navarch.store.files import OUT_OF_SPACE, Lock, Reserve, beside, sync_directory
from navarch.store.index import Damaged, Index, is_tombstone
from navarch.store.sealing import Sealer, Seals

APPLICATION_ID = 0x4E415652  # "NAVR"
SCHEMA_VERSION = 1
SCHEMA = (
    "CREATE TABLE log (revision INTEGER PRIMARY KEY, created INTEGER NOT NULL,"
    " checksum INTEGER NOT NULL, key TEXT NOT NULL, value BLOB) STRICT",
    "CREATE TABLE state (id INTEGER PRIMARY KEY, compacted INTEGER NOT NULL,"
    " revision INTEGER NOT NULL, keys INTEGER NOT NULL, checksum INTEGER NOT NULL) STRICT",
)
SET_STATE = "INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?)"
SELECT_STATE = "SELECT compacted, revision, keys, checksum FROM state"
SELECT = "SELECT revision, created, checksum, key, value FROM log"

LOAD_RECORDS = 1000
VACUUM_PAGES = 256


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """Where the database is and how much room it may take."""

    path: Path
    quota_bytes: int = 8 * 1024**3
    """Puts are refused when the data in use takes more than this (etcd's suggested maximum)."""
    reserve_bytes: int = 16 * 1024 * 1024
    """Space kept aside so that deletions go on when the disk is full. At least as much as the
    write-ahead log may hold, because checkpointing it can enlarge the database by that."""
    checkpoint_pages: int = 2000
    """Length of the write-ahead log, in pages, at which it is copied into the database."""
    vacuum_pages: int = 2560
    """Free pages (10 MB) which the database may keep, whatever its size, for use again."""
    sealer: Sealer | None = None
    """Seals values on their way to the disk."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a database beside its records."""

    compacted: int = 0
    revision: int = 0
    """Revision at the last orderly close, 0 if there was none, and the keys that there were."""
    keys: int = 0

    def row(self) -> tuple[int, int, int, int]:
        return self.compacted, self.revision, self.keys, self._checksum()

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Any]]) -> State:
        """The one row that there is, verified."""
        if len(rows) != 1:
            raise Damaged("its state is missing")
        state = cls(*rows[0][:3])
        if state._checksum() != rows[0][3]:
            raise Damaged("the checksum of its state does not match")
        return state

    def _checksum(self) -> int:
        return zlib.crc32(f"{self.compacted} {self.revision} {self.keys}".encode())


def checksum(record: KeyValue) -> int:
    head = f"{record.mod_revision} {record.create_revision} {record.key}".encode()
    return zlib.crc32(record.value, zlib.crc32(head))


def record_from_row(row: Sequence[Any]) -> KeyValue:
    """The record that a row of the log holds, verified."""
    revision, created, expected, key, value = row
    record = KeyValue(key, b"" if value is None else value, created, revision)
    if checksum(record) != expected or is_tombstone(record) != (value is None):
        raise Damaged(f"the checksum of revision {revision} does not match")
    return record


def insertion(records: Sequence[KeyValue]) -> tuple[str, list[Any]]:
    """The statement that appends records, and its parameters. The number of rows is rounded up to
    a power of two by rows that are not inserted, so that a few prepared statements serve for all
    sizes of commits."""
    parameters: list[Any] = []
    for record in records:
        parameters += (
            record.mod_revision,
            record.create_revision,
            checksum(record),
            record.key,
            None if is_tombstone(record) else record.value,
        )
    rows = 1 << (len(records) - 1).bit_length()
    parameters += [None] * (5 * (rows - len(records)))
    return _insertion_of(rows), parameters


@lru_cache(maxsize=16)
def _insertion_of(rows: int) -> str:
    values = ",".join(["(?,?,?,?,?)"] * rows)
    return f"INSERT INTO log SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"


class Database:
    """The open database, its lock and its reserve."""

    def __init__(self, options: SqliteOptions) -> None:
        self._options = options
        self._path = options.path
        self.seals = Seals(options.sealer)
        self._reserve = Reserve(options.path, options.reserve_bytes)
        self._state = State()
        self._broken = False
        self._is_vacuuming = False
        self._page_size = 4096
        self._pages = self._free_pages = 0
        self.log_pages = 0
        """Pages in the write-ahead log since it was last copied into the database."""

    # Opening and closing

    def open(self) -> Index:
        """Open or create the database and read the current state into memory. Raises
        `StoreUnusable` with what to do."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = Lock(self._path)
        except OSError as error:
            raise StoreUnusable(f"{self._path} cannot be opened: {error}") from error
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            with self._explained():
                self._connection = self._connect()
                undo.callback(self._close_connection, checkpoint=False)
                index = self._load()
            undo.pop_all()
        return index

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in terms of the store why a database does not open."""
        try:
            yield
        except apsw.FullError as error:
            raise StoreFull(f"no room to open {self._path}") from error
        except (apsw.BusyError, apsw.LockedError) as error:
            raise StoreUnusable(f"{self._path} is in use by another process") from error
        except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError, OSError) as error:
            raise StoreUnusable(f"{self._path} cannot be opened: {error}") from error
        except apsw.IOError as error:
            raise StoreFailed(f"{self._path} cannot be read: {error}") from error
        except (apsw.Error, Damaged, UnicodeError, TypeError) as error:
            raise StoreUnusable(
                f"{self._path} is damaged ({error}); move it away and restore a backup"
            ) from error

    def _connect(self) -> apsw.Connection:
        write_ahead_log = beside(self._path, "-wal")
        self._is_unclean = write_ahead_log.exists() and write_ahead_log.stat().st_size > 0
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._is_new = self._path.stat().st_size == 0
        sync_directory(self._path.parent)
        flags = apsw.SQLITE_OPEN_READWRITE
        return apsw.Connection(str(self._path), flags=flags, statementcachesize=64)

    def _load(self) -> Index:
        self._configure()
        self._prepare_schema()
        if self._is_unclean:
            verdict = self._connection.pragma("quick_check", 1)
            if verdict != "ok":
                raise Damaged(str(verdict))
        self._state = State.from_rows(self._connection.execute(SELECT_STATE).fetchall())
        index = Index(self._state.compacted)
        cursor = self._connection.execute(f"{SELECT} ORDER BY revision")
        while records := [record_from_row(row) for row in islice(cursor, LOAD_RECORDS)]:
            index.load([self.seals.loaded(record) for record in records])
        index.finish_loading()
        self.seals.check_loaded()
        index.compacted = max(index.compacted, self.seals.lost_before)
        lost = index.revision < self._state.revision
        if lost or (
            index.revision == self._state.revision and len(index.current) != self._state.keys
        ):
            raise Damaged("some of its keys are missing")
        self._measure()
        return index

    def _configure(self) -> None:
        pragma = self._connection.pragma
        pragma("locking_mode", "exclusive")
        if self._is_new:  # on another, setting these may write, and the disk may be full
            pragma("page_size", self._page_size)
            pragma("auto_vacuum", "incremental")
        if pragma("journal_mode", "wal") != "wal":
            raise StoreUnusable(f"{self._path} does not support a write-ahead log")
        pragma("synchronous", "full")
        pragma("wal_autocheckpoint", 0)
        pragma("journal_size_limit", 4 * self._options.checkpoint_pages * self._page_size)
        pragma("mmap_size", 0)
        pragma("cache_size", -8192)
        pragma("cell_size_check", True)
        pragma("trusted_schema", False)
        self._page_size = pragma("page_size")
        self._connection.set_wal_hook(self._committed)

    def _committed(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.log_pages = pages
        return apsw.SQLITE_OK

    def _prepare_schema(self) -> None:
        pragma = self._connection.pragma
        if not self._connection.execute("SELECT 1 FROM sqlite_master").fetchall():
            with self._connection:
                pragma("application_id", APPLICATION_ID)
                pragma("user_version", SCHEMA_VERSION)
                for statement in SCHEMA:
                    self._connection.execute(statement)
                self._connection.execute(SET_STATE, State().row())
        if pragma("application_id") != APPLICATION_ID:
            raise StoreUnusable(f"{self._path} is not a database of Navarch")
        version = pragma("user_version")
        if version > SCHEMA_VERSION:
            raise StoreUnusable(
                f"{self._path} was written by a newer Navarch (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); use that one"
            )
        found = self._connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
        if tuple(sql for (sql,) in found) != SCHEMA:
            raise Damaged("its schema is not the one that was created")

    def close(self, keys: int, revision: int) -> None:
        """Close in order; the next start then need not look for damage page by page."""
        if not self._broken:
            # Without this note and with the write-ahead log left behind, the next start is only
            # more careful.
            with contextlib.suppress(StoreError), self._guarded():
                self._set_state(State(self._state.compacted, revision, keys))
        self._close_connection(checkpoint=not self._broken)
        self._lock.release()

    def _close_connection(self, *, checkpoint: bool) -> None:
        # After a fault the write-ahead log has to stay: SQLite would copy it, be told that a
        # repeated sync went well, and remove the only good copy.
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(not checkpoint))
        self._connection.close()

    # Working

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Tell a full disk, after which the database goes on, from every other fault, after which
        nothing it says can be relied on."""
        if self._broken:
            raise StoreFailed(f"{self._path} has failed")
        try:
            yield
        except apsw.FullError as error:
            self._reserve.release()
            raise StoreFull("the disk is full") from error
        except apsw.IOError as error:
            is_write = getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_WRITE
            if is_write and self._connection.system_errno in OUT_OF_SPACE:
                self._reserve.release()
                raise StoreFull("the disk quota is used up") from error
            self._broken = True
            raise StoreFailed(f"{self._path}: {error}") from error
        except (apsw.Error, Damaged, OSError) as error:
            self._broken = True
            raise StoreFailed(f"{self._path}: {error}") from error

    def insert(self, statement: str, parameters: Sequence[Any]) -> None:
        with self._guarded():
            self._connection.execute(statement, parameters)

    def read(self, revisions: Sequence[int]) -> list[KeyValue]:
        with self._guarded():
            rows = self._connection.execute(
                f"{SELECT} WHERE revision IN (SELECT value FROM json_each(?))",
                (json.dumps(revisions),),
            )
            return self.seals.readable(record_from_row(row) for row in rows)

    def mark_compacted(self, revision: int) -> None:
        with self._guarded():
            self._set_state(State(revision, self._state.revision, self._state.keys))

    def _set_state(self, state: State) -> None:
        self._connection.execute(SET_STATE, state.row())
        self._state = state

    def forget(self, revisions: Sequence[int]) -> None:
        with self._guarded():
            self._connection.execute(
                "DELETE FROM log WHERE revision IN (SELECT value FROM json_each(?))",
                (json.dumps(revisions),),
            )
            self._checkpoint_if_due()

    # Upkeep

    def tidy(self) -> bool:
        """Copy the write-ahead log into the database when it is long, and give pages back when
        too many are free, some at a time. True when there is more to give back."""
        with self._guarded():
            self._measure()
            spare = max(self._options.vacuum_pages, self._pages // 4)
            was_vacuuming = self._is_vacuuming
            self._is_vacuuming = self._free_pages > (spare // 2 if was_vacuuming else spare)
            if self._is_vacuuming:
                self._connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
            elif was_vacuuming:
                self._checkpoint()  # which is what makes the file shorter
            self._checkpoint_if_due()
            return self._is_vacuuming

    def make_room(self) -> bool:
        """Whether puts can go on after the disk was full or the quota used up: the reserve is
        held again, and there is room beside it."""
        try:
            with self._guarded():
                self._checkpoint()
                self._measure()
                if self.used_bytes > self._options.quota_bytes * 0.95:
                    return False
                return self._reserve.hold() and self._reserve.space_left()
        except StoreFull:
            return False

    def hold_reserve(self) -> bool:
        with self._guarded():
            return self._reserve.hold()

    def _checkpoint_if_due(self) -> None:
        if self.log_pages >= self._options.checkpoint_pages:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.log_pages = 0

    def _measure(self) -> None:
        self._pages = self._connection.pragma("page_count")
        self._free_pages = self._connection.pragma("freelist_count")

    @property
    def used_bytes(self) -> int:
        return (self._pages - self._free_pages) * self._page_size

    def sizes(self) -> Sizes:
        return Sizes(
            self._size_of(self._path),
            self._free_pages * self._page_size,
            self._size_of(beside(self._path, "-wal")),
        )

    @staticmethod
    def _size_of(path: Path) -> int:
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size
        return 0

    @property
    def connection(self) -> apsw.Connection:
        """For a backup, which reads through the one connection that there is."""
        return self._connection
