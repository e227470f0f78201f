"""A process that is killed while its store compacts and gives room back:
`python -m bench.reliability.victim DATABASE ROUND`.

It prints the revision up to which all is durable, and what then is there follows from the round."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from navarch.store.database import SqliteOptions
from navarch.store.sqlite import open_sqlite_store

KEYS = 300
VALUE = 4000


def value(number: int, turn: int) -> bytes:
    return f"{number}-{turn}".encode().ljust(VALUE, b".")


async def main(path: Path, turn: int) -> None:
    options = SqliteOptions(path, reserve_bytes=0, checkpoint_pages=50, vacuum_pages=1)
    store = await open_sqlite_store(options)
    await asyncio.gather(*(store.put(f"/{at}", value(at, turn)) for at in range(KEYS)))
    await asyncio.gather(*(store.delete(f"/{at}") for at in range(KEYS) if at % 3 == turn % 3))
    # The last thing that happens is a deletion: nothing but the state remembers its revision.
    await store.put("/last", b"")
    newest = await store.delete("/last")
    print(newest, flush=True)
    await store.compact(newest)
    await store.settle()
    print("settled", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
