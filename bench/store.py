"""How fast the store is, and how much memory it takes: `python bench/store.py [directory]`.

The directory decides which disk is measured (default: a temporary one). Everything runs in one
process with the event loop that the API server uses."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from navarch.store.contract import Store
from navarch.store.database import SqliteOptions
from navarch.store.memory import open_memory_store
from navarch.store.sqlite import open_sqlite_store

SECONDS = 2.0
VALUE = 1000
PODS, POD_BYTES = 10_700, 6_600
CONFIG_MAPS, CONFIG_MAP_BYTES = 20_000, 500


def show(what: str, value: float, unit: str) -> None:
    print(f"{what:<58} {value:>12,.2f} {unit}", flush=True)


def resident_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def quantile(sorted_values: list[float], share: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


async def puts(store: Store, engine: str, writers: int, busy_microseconds: int = 0) -> None:
    """Closed loop: each writer puts as soon as its last put is durable. `busy` keeps the event
    loop at work beside, as requests do that only read."""
    end = time.perf_counter() + SECONDS
    latencies: list[float] = []

    async def write(number: int) -> None:
        value, count = bytes(VALUE), 0
        while (begin := time.perf_counter()) < end:
            await store.put(f"/registry/pods/ns-{number}/pod-{count % 100}", value)
            latencies.append(time.perf_counter() - begin)
            count += 1

    async def keep_busy() -> None:
        while (begin := time.perf_counter()) < end:
            while time.perf_counter() < begin + busy_microseconds / 1e6:
                pass
            await asyncio.sleep(0)

    before = store.statistics()
    tasks = [write(number) for number in range(writers)]
    await asyncio.gather(*tasks, *([keep_busy()] if busy_microseconds else []))
    after = store.statistics()
    latencies.sort()
    name = f"{engine}, {writers} writers{', loop busy' if busy_microseconds else ''}"
    show(f"{name}: puts", len(latencies) / SECONDS, "1/s")
    show(f"{name}: latency p50", quantile(latencies, 0.5) * 1e3, "ms")
    show(f"{name}: latency p99", quantile(latencies, 0.99) * 1e3, "ms")
    commits = after.commits - before.commits
    show(f"{name}: writes a commit", (after.writes - before.writes) / commits, "")


async def timed(what: str, work: Callable[[], Awaitable[object]], times: int = 5) -> None:
    best = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        await work()
        best = min(best, time.perf_counter() - begin)
    show(what, best * 1e3, "ms")


async def fill(store: Store) -> None:
    async def write(kind: str, numbers: range, size: int) -> None:
        for number in numbers:
            value = number.to_bytes(4) * (size // 4)
            await store.put(f"/registry/{kind}/namespace-{number % 50}/name-{number:05}", value)

    await asyncio.gather(
        *(write("pods", range(part, PODS, 32), POD_BYTES) for part in range(32)),
        *(
            write("configmaps", range(part, CONFIG_MAPS, 32), CONFIG_MAP_BYTES)
            for part in range(32)
        ),
    )


async def reads(directory: Path) -> None:
    """10 700 pods and 20 000 config maps: starting with them, listing them, memory."""
    options = SqliteOptions(directory / "reads.db")
    store = await open_sqlite_store(options)
    await fill(store)
    past = await store.revision()
    for number in range(0, PODS, 10):
        await store.put(f"/registry/pods/namespace-{number % 50}/name-{number:05}", b"changed")
    await timed("list 10 700 pods", lambda: store.range("/registry/pods/"))
    await timed("list 30 700 objects", lambda: store.range("/registry/"))
    await timed("list 500 pods of many", lambda: store.range("/registry/pods/", limit=500))
    await timed(
        "list 10 700 pods, 1 070 of them changed since",
        lambda: store.range("/registry/pods/", at_revision=past),
    )
    begin = time.perf_counter()
    for _ in range(100_000):
        await store.get("/registry/pods/namespace-7/name-00007")
    show("get", 100_000 / (time.perf_counter() - begin), "1/s")
    await timed("backup", lambda: store.backup(str(directory / "backup.db")), 1)
    begin = time.perf_counter()
    await store.compact(await store.revision())
    await store.settle()
    show("compaction of 31 770 revisions", (time.perf_counter() - begin) * 1e3, "ms")
    await store.close()


async def memory(directory: Path) -> None:
    before = resident_megabytes()
    begin = time.perf_counter()
    store = await open_sqlite_store(SqliteOptions(directory / "reads.db"))
    show("start with 30 700 objects", (time.perf_counter() - begin) * 1e3, "ms")
    show("resident memory before", before, "MB")
    show("resident memory with 30 700 objects", resident_megabytes(), "MB")
    await store.close()


async def fan_out(watchers: int) -> None:
    store = open_memory_store()
    puts = 500

    async def listen() -> None:
        heard = 0
        async for batch in store.watch("/registry/pods/", after_revision=1):
            heard += len(batch)
            if heard == puts:
                return

    tasks = [asyncio.create_task(listen()) for _ in range(watchers)]
    await asyncio.sleep(0)
    begin = time.perf_counter()
    for number in range(puts):
        await store.put(f"/registry/pods/default/{number}", b"")
    await asyncio.gather(*tasks)
    show(f"events to {watchers} watchers", puts * watchers / (time.perf_counter() - begin), "1/s")
    await store.close()


async def measure(directory: Path) -> None:
    for engine in ("memory", "sqlite"):
        store = (
            open_memory_store()
            if engine == "memory"
            else await open_sqlite_store(SqliteOptions(directory / "puts.db"))
        )
        for writers in (1, 32, 256):
            await puts(store, engine, writers)
        if engine == "sqlite":
            await puts(store, engine, 1, busy_microseconds=200)
            await puts(store, engine, 32, busy_microseconds=200)
        await store.close()
    await fan_out(100)
    await reads(directory)
    # A new process, so that its memory is that of a server which has just started.
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, str(directory), "--memory"
    )
    if await process.wait():
        raise RuntimeError("the measurement of memory failed")


def main() -> None:
    arguments = sys.argv[1:]
    if "--memory" in arguments:
        uvloop.run(memory(Path(arguments[0])))
        return
    with tempfile.TemporaryDirectory(dir=arguments[0] if arguments else None) as directory:
        uvloop.run(measure(Path(directory)))


if __name__ == "__main__":
    main()
