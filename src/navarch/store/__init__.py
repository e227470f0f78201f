"""A revisioned key-value store with watch. Knows no kinds, no HTTP. See `contract`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from navarch.store.contract import Store

if TYPE_CHECKING:
    from navarch.store.database import SqliteOptions

__all__ = ["open_store"]


async def open_store(where: str | SqliteOptions) -> Store:
    """Open the store that a URL names: `sqlite:///var/lib/x/store.db` (what follows `sqlite://` is
    the path, so an absolute one makes three slashes) or `memory:`. `SqliteOptions` says more.
    Raises `StoreUnusable` with what to do when the data cannot be opened."""
    if where == "memory:":
        from navarch.store.memory import open_memory_store

        return open_memory_store()
    from navarch.store.database import SqliteOptions
    from navarch.store.sqlite import open_sqlite_store

    if isinstance(where, str):
        scheme, separator, path = where.partition("://")
        if scheme != "sqlite" or not separator or not path:
            raise ValueError(f"{where!r} names no store: give sqlite:///path or memory:")
        where = SqliteOptions(Path(path))
    return await open_sqlite_store(where)
