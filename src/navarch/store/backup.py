"""Copies of a database: made while the store works, and put back.

A backup is one ordinary database file, complete and checked before it gets its name. Never copy the
files of a running store instead: what was acknowledged may be in the write-ahead log only.

A restored store must not hand out revisions again that clients have already seen with other
content. So a restore sets the revision far ahead and declares all history before it compacted:
whoever comes with an older resource version is told that it has expired, and lists anew."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import apsw

from navarch.store.contract import StoreError
from navarch.store.database import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    SELECT,
    SELECT_STATE,
    SET_STATE,
    State,
    record_from_row,
)
from navarch.store.files import Lock, beside, sync_directory
from navarch.store.index import Damaged

COPY_PAGES = 256
REVISION_GAP = 1_000_000_000
"""More writes than can have happened since the backup (what etcd's documentation recommends)."""


@contextlib.contextmanager
def _as_store_error(what: str) -> Iterator[None]:
    try:
        yield
    except (apsw.Error, OSError, Damaged, UnicodeError, TypeError) as error:
        raise StoreError(f"{what}: {error}") from error


class Copy:
    """A backup on its way. All of it runs in the log's thread, because it reads through the one
    connection. A fault of the copy's own file is no fault of the store."""

    def __init__(self, source: apsw.Connection, partial: Path) -> None:
        self._partial = partial
        with _as_store_error(f"cannot write {partial}"):
            os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
            self._target = apsw.Connection(str(partial))
            # It is of no use before it is finished, so there is nothing to roll back or to sync.
            self._target.pragma("journal_mode", "off")
            self._target.pragma("synchronous", "off")
            self._backup = self._target.backup("main", source, "main")

    def step(self) -> bool:
        """Copy some pages; True when there is more. What is written to the store in between is
        put into the copy by SQLite, since it goes through the same connection."""
        with _as_store_error(f"cannot write {self._partial}"):
            self._backup.step(COPY_PAGES)
            if not self._backup.done:
                return True
            self._backup.finish()
            self._target.pragma("journal_mode", "delete")  # a single file, no log beside it
            return False

    def close(self) -> None:
        self._backup.close(True)
        self._target.close(True)


def complete(partial: Path, path: Path) -> int:
    """Check a copy, make it durable, give it its name, and return its revision."""
    with _as_store_error(f"{partial} is not a good copy"):
        revision = _check(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)
        sync_directory(path.parent)
    return revision


def restore_backup(backup: Path, database: Path, *, revision_gap: int = REVISION_GAP) -> int:
    """Make a new database from a backup, for a store that is not running; return its revision.
    An existing database is not overwritten: move it away first."""
    database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = Lock(database)
    partial = beside(database, "-partial")
    try:
        if database.exists():
            raise StoreError(f"{database} exists; move it away first")
        with _as_store_error(f"{backup} cannot be restored"):
            # The log of the database that stood here before must not be taken for this one's.
            beside(database, "-wal").unlink(missing_ok=True)
            beside(database, "-shm").unlink(missing_ok=True)
            source = apsw.Connection(str(backup), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                copy = Copy(source, partial)
                while copy.step():
                    pass
                copy.close()
            finally:
                source.close()
            revision = _check(partial) + revision_gap
            target = apsw.Connection(str(partial))
            target.execute(SET_STATE, State(compacted=revision).row())
            target.close()
        complete(partial, database)
    finally:
        partial.unlink(missing_ok=True)
        lock.release()
    return revision


def _check(path: Path) -> int:
    """Read every record of a database that nobody uses; return its revision."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        if connection.pragma("application_id") != APPLICATION_ID:
            raise Damaged("not a database of Navarch")
        if connection.pragma("user_version") > SCHEMA_VERSION:
            raise Damaged("written by a newer Navarch")
        verdict = connection.pragma("quick_check", 1)
        if verdict != "ok":
            raise Damaged(str(verdict))
        revision = State.from_rows(connection.execute(SELECT_STATE).fetchall()).compacted
        for row in connection.execute(f"{SELECT} ORDER BY revision"):
            revision = max(revision, record_from_row(row).mod_revision)
        return revision
    finally:
        connection.close()
