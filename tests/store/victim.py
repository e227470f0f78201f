"""A process that writes to a store and is killed for it. Run by the crash tests.

`victim.py nursery PATH` forks a writer for each line that it reads, so that a hundred deaths do not
cost a hundred starts of the interpreter. `victim.py script PATH COUNT` does that many writes, one
after the other, and ends.

What a writer says on its standard output, one line each and each written at once:

    pid N                        a writer has started
    ack REVISION KEY VALUE       a put was acknowledged; VALUE is - for a deletion
    failed                       the store has failed
    over                         a writer has ended, however it ended

A killed writer may leave the beginning of a line behind it, which the `over` then ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from pathlib import Path

from navarch.store.contract import CasFailed, Store, StoreFailed
from navarch.store.database import SqliteOptions
from navarch.store.sqlite import open_sqlite_store

WRITERS = 16


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def write_for_ever(store: Store, name: str, chance: random.Random) -> None:
    count = 0
    while True:
        count += 1
        key = f"/victim/{chance.randrange(60):02}"
        try:
            if chance.random() < 0.2:
                say(f"ack {await store.delete(key)} {key} -")
            else:
                value = f"{name}-{count}-" + "x" * chance.choice([0, 50, 9000])
                say(f"ack {await store.put(key, value.encode())} {key} {value}")
        except CasFailed:
            continue


async def compact_for_ever(store: Store, until: int) -> None:
    """Compact in steps up to what the test has already checked."""
    revision = store.statistics().compacted_revision
    while True:
        revision = min(revision + 20, until)
        await store.compact(revision)
        await asyncio.sleep(0.001)


async def die_writing(path: str, seed: int) -> None:
    store = await open_sqlite_store(
        SqliteOptions(Path(path), reserve_bytes=0, checkpoint_pages=100, vacuum_pages=20)
    )
    chance = random.Random(seed)
    until = await store.revision()
    async with asyncio.TaskGroup() as tasks:
        for number in range(WRITERS):
            tasks.create_task(write_for_ever(store, f"{seed}-{number}", chance))
        tasks.create_task(compact_for_ever(store, until))


def nursery(path: str) -> None:
    for seed, _ in enumerate(sys.stdin):
        child = os.fork()
        if not child:
            say(f"pid {os.getpid()}")
            asyncio.run(die_writing(path, seed))
        os.waitpid(child, 0)
        say("over")


async def script(path: str, count: int) -> None:
    store = await open_sqlite_store(SqliteOptions(Path(path), reserve_bytes=0))
    say("open")
    try:
        for number in range(count):
            value = f"{number}"
            say(f"ack {await store.put('/script', value.encode())} /script {value}")
    except StoreFailed:
        say("failed")
        try:
            await store.put("/script", b"after the failure")
            say("ack 0 /script after the failure")
        except StoreFailed:
            pass
    await store.close()
    say("over")


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    if sys.argv[1] == "nursery":
        nursery(sys.argv[2])
    else:
        asyncio.run(script(sys.argv[2], int(sys.argv[3])))
